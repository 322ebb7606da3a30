"""The picture of the verdicts as SVG: one row a form, one cell a scenario."""

from __future__ import annotations

from typing import Any
from xml.sax.saxutils import escape, quoteattr

from server.compare import findings
from server.compare.columns import TITLES

_COLOURS = {
    "holds": "#1e7a52",
    "refused": "#7a6000",
    "leaked": "#7b4a94",
    "stale": "#9a3f7d",
    "broken": "#8a4b1f",
    "kept": "#b04c0f",
    "lost": "#b92b27",
    "mixed": "#8c1021",
}
"""As in the report, on light paper. White letters stand out from each."""

_NAME, _CELL, _ROW, _GAP = 150, 17, 22, 8

_STYLE = (
    "text { font: 13px sans-serif; fill: #1d2126 } "
    ".cell { font: bold 12px monospace; fill: #fff; text-anchor: middle } "
    "@media (prefers-color-scheme: dark) { text:not(.cell) { fill: #e4e6e8 } }"
)


def svg(result: dict[str, Any]) -> str:
    """A row a form, a lettered cell a scenario, the groups apart; the title of a cell says it in words."""
    groups, columns = findings.by_group(result), findings.scopes_of(result)
    lines, right = [], 0
    for row, column in enumerate(columns):
        top = row * _ROW
        lines.append(f'<text x="0" y="{top + 14}">{escape(TITLES[column])}</text>')
        left = _NAME
        for scenarios in groups.values():
            for scenario in scenarios.values():
                lines.append(_cell(scenario, column, left, top))
                left += _CELL
            left += _GAP
        lines.append(f'<text x="{left}" y="{top + 14}">{findings.wrong(result, column)} wrong</text>')
        right = left + 70
    size = f'width="{right}" height="{len(columns) * _ROW}" viewBox="0 0 {right} {len(columns) * _ROW}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img"><style>{_STYLE}</style>'
    return "\n".join([head, *lines, "</svg>", ""])


def _cell(scenario: dict[str, Any], column: str, left: int, top: int) -> str:
    verdict = scenario["verdicts"][column]
    title = f"{TITLES[column]}, {scenario['title']}: {findings.said(verdict)}"
    fill = quoteattr(_COLOURS.get(verdict["verdict"], _COLOURS["mixed"]))
    box = f'<rect x="{left}" y="{top}" width="{_CELL - 1}" height="18" rx="2" fill={fill}/>'
    text = (
        f'<text class="cell" x="{left + (_CELL - 1) / 2:g}" y="{top + 13}">{findings.letter(verdict)}</text>'
    )
    return f"<g><title>{escape(title)}</title>{box}{text}</g>"
