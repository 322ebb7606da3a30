"""The look of all pages: templates, assets, and the bar at the top."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tornado.template import Loader

_FOLDER = Path(__file__).parent

_MEDIA_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}

ASSETS = "-/assets"

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""The ``Content-Security-Policy`` of a page: nothing inline, nothing of another origin, no form is sent."""


class Asset(NamedTuple):
    """A file that pages load."""

    body: bytes
    media_type: str


class Link(NamedTuple):
    """A link of the bar.

    ``path`` is relative to the root of the server, so that a path prefix of a proxy stays in front of it.
    """

    label: str
    path: str
    about: str = ""


class Site:
    """Templates, each compiled for the first page that needs it, and assets. Lives as long as the process."""

    def __init__(self) -> None:
        self._loader = Loader(str(_FOLDER / "templates"))
        self.assets: Mapping[str, Asset] = {
            path.name: Asset(path.read_bytes(), _MEDIA_TYPES[path.suffix])
            for path in sorted((_FOLDER / "assets").iterdir())
            if path.suffix in _MEDIA_TYPES
        }
        content = b"".join(name.encode() + asset.body for name, asset in self.assets.items())
        self.version = hashlib.sha256(content).hexdigest()[:16]
        """Part of the assets' addresses: a browser keeps them, and another version has other addresses."""

    def render(self, template: str, *, root: str, **values: Any) -> bytes:
        """A page.

        Args:
            root: the relative way from the page's address to the root of the server: ``../``.
        """
        assets = f"{root}{ASSETS}/{self.version}"
        return self._loader.load(template).generate(root=root, assets=assets, **values)

    def with_bar(self, page: bytes, *, root: str, links: list[Link], current: str) -> bytes:
        """A page that was made elsewhere, with the bar put at the top of its body.

        The page's policy has to allow ``style-src 'self'``.
        """
        assets = f"{root}{ASSETS}/{self.version}"
        bar = self._loader.load("bar.html").generate(root=root, links=links, current=current, where="")
        style = f'<link rel="stylesheet" href="{assets}/bar.css">'.encode()
        return page.replace(b"</head>", style + b"</head>", 1).replace(b"<body>", b"<body>" + bar, 1)


def root_of(path: str) -> str:
    """The relative way from a path to the root: ``./`` of ``/docs``, ``../`` of ``/-/live``."""
    return "../" * (path.count("/") - 1) or "./"
