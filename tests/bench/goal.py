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

    def found(self, ratio: Spread, *, bare: Spread | None = None, note: str = "") -> dict[str, Any]:
        """The goal, and what was measured of it.

        Args:
            bare: the same ratio of the bare handler: the same work with everything of ours taken out.
            note: what is to be known of it.
        """
        reached = ratio.median <= self.bound if self.at_most else ratio.median >= self.bound
        found = {**self._asdict(), "ratio": ratio.rounded(), "reached": reached}
        if bare is not None:
            found["bare"] = bare.rounded()
        return found | ({"note": note} if note else {})


def table(found: list[dict[str, Any]]) -> str:
    """Goals and what was measured of them, in Markdown.

    Of what is not reached, what the bare handler has, and the service divided by that.
    """
    lines = [
        "| | against | goal | measured | quartiles | | bare handler | to it |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for one in found:
        bound = f"at {'most' if one['at_most'] else 'least'} {one['bound']:g}"
        ratio, said = one["ratio"], "reached" if one["reached"] else "not reached"
        if "note" in one:
            said = f"{said}: {one['note']}"
        bare = one.get("bare") if not one["reached"] else None
        beside = ("", "") if bare is None else (bare["median"], ratio["median"] / bare["median"])
        cells = " | ".join(cell if isinstance(cell, str) else f"{cell:.2f}" for cell in beside)
        lines.append(
            f"| {one['what']} | {one['against']} | {bound} | **{ratio['median']:.2f}** "
            f"| {ratio['low']:.2f} to {ratio['high']:.2f} | {said} | {cells} |"
        )
    return "\n".join(lines)
