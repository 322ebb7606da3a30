"""The report is one page that needs nothing else, and shows what was found."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from server.compare.plots import KIND_COLOURS, on_bar
from server.compare.report import render, write_report
from tests.server.compare.sample import comparison


@pytest.fixture(scope="module")
def html() -> str:
    return render(comparison()).decode()


def test_every_verdict_is_there_with_its_evidence(html):
    """In words, what was observed in a sentence, and the record folded behind it."""
    for title in ("plain handler", "a worker", "a kept object", "@gen.coroutine prepare"):
        assert f'<span class="title">{title}</span>' in html
    assert html.count('class="scope">registry</span>mixed') == 1
    assert html.count('class="scope">thread-local</span>lost, leaks') == 1
    assert "Whose row is refused." in html
    assert html.index("Whose row is refused.") < html.index("why refused")


def test_the_first_screen_decides(html):
    """The recommendation, then one row a form with one lettered cell a scenario, then the price."""
    order = [
        html.index(text)
        for text in ("Pass the &lt;b&gt;session", 'class="picture"', 'id="price"', 'id="words"')
    ]
    assert order == sorted(order)
    picture = re.findall(r'class="cell (\w+)" href="#(\w+)"[^>]*>(\w)</a>', html)
    assert len(picture) == 4 * 4
    assert picture[:4] == [
        ("holds", "plain", "H"),
        ("refused", "kept", "R"),
        ("holds", "prepare", "H"),
        ("holds", "worker", "H"),
    ]
    assert ("lost", "plain", "l") in picture, "in lower case where it leaks"


def test_scenarios_stand_together_by_what_one_does(html):
    assert (
        html.index("An ordinary request</h3>")
        < html.index('id="prepare"')
        < html.index("Background work</h3>")
    )
    assert html.index("Background work</h3>") < html.index('id="worker"')


def test_the_same_is_said_once(html):
    """Forms with the same verdict and sentence are named together."""
    assert '<b>contextvar; registry; thread-local</b>: <span class="verdict mixed">mixed</span>' in html


def test_it_needs_nothing_but_itself(html):
    """No script, no style sheet, image or font from elsewhere; links in the page alone."""
    assert not re.search(r"<(script|link|img|iframe|object)\b", html)
    assert not re.search(r"url\((?!#)|@import", html)
    assert set(re.findall(r'<a href="(.)', html)) == {"#"}


def test_what_was_measured_is_text_and_not_markup(html):
    assert "a &lt;fast&gt; one" in html
    assert "explicit &lt;b&gt;holds&lt;/b&gt;" in html


def test_plots_take_their_colour_from_the_page(html):
    """Else they would be black on black in the dark."""
    plots = re.findall(r"<svg.*?</svg>", html, flags=re.DOTALL)

    assert len(plots) == 5
    assert all("currentColor" in plot for plot in plots)
    assert not any(re.search(r"#000000|#010203", plot) for plot in plots)


@pytest.mark.parametrize("colour", KIND_COLOURS.values())
def test_a_number_stands_out_from_its_bar(colour):
    """https://www.w3.org/TR/WCAG22/#contrast-minimum"""
    darker, lighter = sorted(map(luminance, (colour, on_bar(colour))))

    assert (lighter + 0.05) / (darker + 0.05) >= 4.5


def luminance(colour: str) -> float:
    """https://www.w3.org/TR/WCAG22/#dfn-relative-luminance"""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_scopes_that_were_left_out_are_left_out(html):
    result = comparison()
    for scenario in result["scenarios"].values():
        del scenario["verdicts"]["contextvar"]
    result["load"].pop("contextvar")

    page = render(result).decode()

    assert "When a contextvar is the right choice" in html
    assert "When a contextvar is the right choice" not in page
    assert "--columns: 3" in page


def test_without_matplotlib_there_are_tables_and_a_way_to_the_plots(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)

    page = render(comparison()).decode()

    assert "<svg" not in page
    assert "pip install matplotlib" in page
    assert '<span class="title">a worker</span>' in page


def test_a_report_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch):
    """A reader meanwhile has the one before."""
    path = tmp_path / "reports" / "report.html"

    write_report(comparison(), path)

    assert path.read_bytes().endswith(b"</html>\n")
    assert [each.name for each in path.parent.iterdir()] == ["report.html"]
