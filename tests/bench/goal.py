"""What the service is to reach: a ratio, what it is taken against, and how far it may go."""

from __future__ import annotations

from typing import Any, NamedTuple

from tests.bench.rounds import Spread


class Goal(NamedTuple):
    """One line of what is to be reached. A constant.

    Args:
        what: is measured.
        against: what it is divided by.
        bound: of the ratio's median.
        at_most: it may be no more; else no less.
    """

    what: str
    against: str
    bound: float
    at_most: bool = True

    def found(self, ratio: Spread) -> dict[str, Any]:
        """The goal, and what was measured of it."""
        reached = ratio.median <= self.bound if self.at_most else ratio.median >= self.bound
        return {**self._asdict(), "ratio": ratio.rounded(), "reached": reached}


def table(found: list[dict[str, Any]]) -> str:
    """Goals and what was measured of them, in Markdown."""
    lines = ["| | against | goal | measured | quartiles | |", "|---|---|---|---|---|---|"]
    for one in found:
        bound = f"at {'most' if one['at_most'] else 'least'} {one['bound']:g}"
        ratio, said = one["ratio"], "reached" if one["reached"] else "not reached"
        lines.append(
            f"| {one['what']} | {one['against']} | {bound} | **{ratio['median']:.2f}** "
            f"| {ratio['low']:.2f} to {ratio['high']:.2f} | {said} |"
        )
    return "\n".join(lines)
