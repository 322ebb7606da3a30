"""The picture of a request, as SVG: ``python -m tests.pictures`` writes it into ``docs/``.

The pictures of measurements and verdicts are made where those are: ``python -m tests.bench … --plot``,
`server.compare.picture`.
"""

from __future__ import annotations

from typing import NamedTuple
from xml.sax.saxutils import escape

from tests.documents import DOCS

COLUMNS = {
    "client": 70,
    "handler, on the event loop": 270,
    "model function": 520,
    "database": 740,
}
CLIENT, HANDLER, MODEL, DATABASE = COLUMNS.values()

_WIDTH, _TOP, _ROW = 820, 64, 30

_STYLE = (
    "text { font: 13px sans-serif; fill: #1d2126 } .name { font-weight: bold; text-anchor: middle } "
    ".hook { font: bold 13px monospace } .over { text-anchor: middle } "
    "line, path { stroke: #4b5560; fill: none } .life { stroke-dasharray: 2 4; stroke: #9aa3ad } "
    "rect { fill: #e4eefb; stroke: #2f6fb3 } .held { fill: #fdf0d5; stroke: #a86a00 } "
    "marker path { fill: #4b5560; stroke: none } "
    "@media (prefers-color-scheme: dark) { text { fill: #e4e6e8 } line, path { stroke: #aeb6bf } "
    "rect { fill: #17324d } .held { fill: #4a3608 } marker path { fill: #aeb6bf } }"
)


class Step(NamedTuple):
    """One line of the picture: an arrow between two columns, or a box on one."""

    start: int
    end: int
    text: str
    hook: str = ""
    """Tornado's, or the handler's own; it stands before the text."""
    kind: str = ""


STEPS = (
    Step(CLIENT, HANDLER, "POST /notes"),
    Step(HANDLER, HANDLER, "a session, no connection yet", "prepare"),
    Step(HANDLER, HANDLER, "await self.run(create_note, self.session, …)", "get/post/…"),
    Step(HANDLER, MODEL, "waits for a slot, not in the pool"),
    Step(MODEL, DATABASE, "BEGIN; INSERT"),
    Step(DATABASE, MODEL, "the row"),
    Step(MODEL, HANDLER, "what the function returns"),
    Step(HANDLER, HANDLER, "headers and body: the response is HELD", "finish()", "held"),
    Step(HANDLER, DATABASE, "COMMIT, or ROLLBACK from status 400 on; the loop goes on", "on_finish()"),
    Step(DATABASE, HANDLER, "committed"),
    Step(HANDLER, CLIENT, "201: the held response leaves"),
    Step(HANDLER, HANDLER, "a conflict: it is dropped, a fresh handler runs the request again", kind="else"),
    Step(HANDLER, HANDLER, "a failure: it is dropped, a fresh handler answers the error", kind="else"),
    Step(HANDLER, HANDLER, "connection checked in; the access line has the outcome", "closed"),
)


def svg() -> str:
    """A column for each of the four, time from top to bottom."""
    height = _TOP + _ROW * len(STEPS) + 10
    lines = [
        '<marker id="to" markerWidth="9" markerHeight="8" refX="8" refY="4" orient="auto">'
        '<path d="M0,0 L9,4 L0,8 z"/></marker>'
    ]
    for name, x in COLUMNS.items():
        lines.append(f'<text class="name" x="{x}" y="20">{escape(name)}</text>')
        lines.append(f'<line class="life" x1="{x}" y1="30" x2="{x}" y2="{height}"/>')
    for number, step in enumerate(STEPS):
        lines += _drawn(step, _TOP + _ROW * number)
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" '
    head += f'viewBox="0 0 {_WIDTH} {height}" role="img"><style>{_STYLE}</style>'
    return "\n".join([head, "<title>The way of a request</title>", *lines, "</svg>", ""])


def _drawn(step: Step, y: int) -> list[str]:
    hook = f'<tspan class="hook">{escape(step.hook)}</tspan>   ' if step.hook else ""
    if step.start == step.end:
        dash = ' stroke-dasharray="4 3"' if step.kind == "else" else ""
        size = 'width="500" height="24" rx="4"'
        box = f'<rect class="{step.kind}" x="{step.start - 70}" y="{y - 17}" {size}{dash}/>'
        return [
            box,
            f'<text x="{step.start - 60}" y="{y}" xml:space="preserve">{hook}{escape(step.text)}</text>',
        ]
    nearer = 4 if step.end > step.start else -4
    arrow = (
        f'<line x1="{step.start}" y1="{y + 2}" x2="{step.end - nearer}" y2="{y + 2}" marker-end="url(#to)"/>'
    )
    text = f'<text class="over" x="{(step.start + step.end) / 2:g}" y="{y - 4}" xml:space="preserve">'
    return [arrow, f"{text}{hook}{escape(step.text)}</text>"]


if __name__ == "__main__":
    (DOCS / "request.svg").write_text(svg())
