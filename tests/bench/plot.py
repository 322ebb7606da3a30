"""The plot of a comparison, as SVG to be read in light and in dark."""

from __future__ import annotations

import io
import logging
from pathlib import Path
from typing import Any

from tests.bench.calls import CALLS

_SHOWN = ("one", "list", "create", "patch")

# A page takes an SVG as an image, with no say in its colours: these are read on white and on black.
_INK = "#757d87"
_OURS, _THEIRS, _BY_HAND = "#2f9e6e", "#3f86d1", "#c98b1e"


def write(result: dict[str, Any], path: Path) -> None:
    """Draw the CPU of each call and subject, with the quartiles.

    Raises:
        ModuleNotFoundError: matplotlib is not installed; the extra ``report`` brings it.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    logging.getLogger("matplotlib").setLevel(logging.WARNING)
    medians, labels = result["calls"]["medians"], result["calls"]["labels"]
    by_hand = set(result["calls"]["by_hand"])
    shown = [call for call in _SHOWN if call in medians]
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
        figure = Figure(figsize=(9, 1.0 + 0.32 * len(labels)), layout="constrained")
        every = figure.subplots(1, len(shown), sharey=True, squeeze=False)[0]
        names = [*labels][::-1]
        for axes, call in zip(every, shown, strict=True):
            for row, name in enumerate(names):
                if name not in medians[call]:
                    continue
                one = medians[call][name]["cpu_us"]
                colour = _OURS if name.startswith("onfinish") else _BY_HAND if name in by_hand else _THEIRS
                axes.barh(row, one["median"], color=colour, height=0.6)
                axes.plot([one["low"], one["high"]], [row, row], color=_INK, linewidth=1.5)
            axes.set_title(CALLS[call].label, color=_INK, fontsize=9)
            axes.set_yticks(range(len(names)), [labels[name] for name in names])
        figure.supxlabel("server CPU per request, µs: median and quartiles", fontsize=9, color=_INK)
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    path.write_text(file.getvalue())
