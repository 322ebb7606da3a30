"""The plots of the report, as SVG that takes its text's colour from the page."""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Callable
from typing import Any

from server.compare.findings import differences, figures

Result = dict[str, Any]

COLOURS = {
    "explicit": "#2f9e6e",
    "explicit, again": "#8bc7ae",
    "contextvar": "#3f86d1",
    "registry": "#c98b1e",
    "threadlocal": "#cf5340",
}
KIND_COLOURS = {"refused": "#c9a21e", "lost": "#e07b39", "mixed": "#b3261e"}
"""Of the parts of a bar: as in the picture."""

# Replaced by "currentColor", so that the same plot is legible in light and in dark.
_INK = "#010203"

# Narrow enough for a telephone without being shrunk; two stand side by side on a wider screen.
_WIDTH_IN, _HEIGHT_IN = 4.6, 2.7


def plots(result: Result) -> dict[str, str]:
    """Every plot for which there is data, by name, as SVG.

    Raises:
        ModuleNotFoundError: matplotlib is not installed; the extra ``report`` brings it.
    """
    import matplotlib as mpl

    logging.getLogger("matplotlib").setLevel(logging.WARNING)
    mpl.use("svg")
    drawn: dict[str, str] = {}
    if "lookups" in result:
        drawn["lookups"] = _draw(_lookups, result)
    if result.get("load"):
        for kind in ("read", "write"):
            if figures(result, "cpu_us", kind):
                drawn[f"cpu_{kind}"] = _draw(_cpu, result, kind)
        if differences(result, "read"):
            drawn["differences"] = _draw(_differences, result)
    if "commit" in result:
        drawn["commit"] = _draw(_commit, result)
    return drawn


def _draw(plot: Callable[..., None], result: Result, *arguments: Any) -> str:
    import matplotlib as mpl
    from matplotlib.figure import Figure

    style: dict[Any, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": "onfinish",
        "font.family": "sans-serif",
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        **dict.fromkeys(
            ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), _INK
        ),
    }
    with mpl.rc_context(style):
        figure = Figure(figsize=(_WIDTH_IN, _HEIGHT_IN), layout="constrained")
        plot(figure.subplots(), result, *arguments)
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _for_the_page(file.getvalue())


def _for_the_page(svg: str) -> str:
    """The SVG element alone, in the page's colour and font, as wide as its column."""
    svg = svg[svg.index("<svg") :].replace(_INK, "currentColor")
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"font-family: ?[^;\"]*|(?<=px|pt) 'DejaVu[^;\"]*", "font-family: inherit", svg)
    svg = re.sub(r"font: (\S+) [^;\"]*", r"font-size: \1", svg)
    # A plot is described by the table below it.
    return re.sub(r'<svg ([^>]*?)width="[\d.]+pt"', r'<svg aria-hidden="true" \1', svg, count=1).replace(
        ' height="194.4pt"', "", 1
    )


def on_bar(colour: str) -> str:
    """The colour of a number on a bar of that colour: the dark one, except on the darkest red."""
    return "#ffffff" if colour == KIND_COLOURS["mixed"] else "#0a0a0a"


def _lookups(axes: Any, result: Result) -> None:
    scopes = [*result["lookups"]][::-1]
    for offset, measure, alpha in ((0.2, "lookup", 1.0), (-0.2, "attribute", 0.55)):
        axes.barh(
            [number + offset for number in range(len(scopes))],
            [result["lookups"][scope][f"{measure}_ns"] for scope in scopes],
            height=0.38,
            color=[COLOURS[scope] for scope in scopes],
            alpha=alpha,
        )
    axes.set_yticks(range(len(scopes)), scopes)
    axes.set_xscale("log")
    axes.set_xlabel("nanoseconds (log): above the session, below one attribute")


def _cpu(axes: Any, result: Result, kind: str) -> None:
    found = figures(result, "cpu_us", kind)
    names = [*found][::-1]
    for row, name in enumerate(names):
        one = found[name]
        axes.plot([one["least"], one["most"]], [row, row], color=COLOURS[name], linewidth=5, alpha=0.35)
        axes.plot(one["median"], row, "o", color=COLOURS[name])
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(-0.6, len(names) - 0.4)
    axes.set_xlim(left=0)
    axes.set_xlabel("server CPU, µs: median, and all rounds")


def _differences(axes: Any, result: Result) -> None:
    rows = []
    for kind in ("read", "write"):
        for name, one in differences(result, kind).items():
            rows.append((f"{name}: {'GET' if kind == 'read' else 'POST'}", name, one))
    rows.reverse()
    for row, (_, name, one) in enumerate(rows):
        least, most = one["least"] * 100, one["most"] * 100
        axes.plot([least, most], [row, row], color=COLOURS[name], linewidth=5, alpha=0.35)
        axes.plot(one["median"] * 100, row, "o", color=COLOURS[name])
    axes.axvline(0, color=_INK, linewidth=0.8)
    axes.set_yticks(range(len(rows)), [label for label, _, _ in rows])
    axes.set_xlabel("CPU against explicit in the same round, %")


def _commit(axes: Any, result: Result) -> None:
    idioms = [*next(iter(result["commit"].values()))][::-1]
    parts = (
        ("lost", "acknowledged, lost", KIND_COLOURS["mixed"]),
        ("kept_though_refused", "refused, kept", KIND_COLOURS["lost"]),
        ("good_refused", "sound, refused", KIND_COLOURS["refused"]),
    )
    left = dict.fromkeys(idioms, 0)
    for field, label, colour in parts:
        counts = [sum(by[idiom][field] for by in result["commit"].values()) for idiom in idioms]
        bars = axes.barh(idioms, counts, left=[left[idiom] for idiom in idioms], color=colour, label=label)
        labels = [str(count) if count else "" for count in counts]
        axes.bar_label(bars, labels, label_type="center", color=on_bar(colour))
        for idiom, count in zip(idioms, counts, strict=True):
            left[idiom] += count
    for row, idiom in enumerate(idioms):
        if not left[idiom]:
            axes.text(0, row, " none", va="center")
    axes.set_xlabel("writes, over all faults")
    axes.legend(loc="upper center", bbox_to_anchor=(0.35, 1.22), ncols=3, frameon=False, handlelength=1)
