"""A server whose pages are looked at."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

BROWSER: Mapping[str, str] = {
    "Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"
}
"""What a browser sends that opens a page."""

each_look = pytest.mark.parametrize(
    ("width", "scheme"), [(1280, "light"), (1280, "dark"), (390, "light"), (390, "dark")]
)
