"""``python -m tests.situations``: what ``python -m server`` does, with the routes of this application."""

from __future__ import annotations

import sys
from unittest import mock

from server.cli import main
from server.processes import lifecycle
from tests.situations.handlers import make_situations

if __name__ == "__main__":
    with mock.patch.object(lifecycle, "make_app", make_situations):
        sys.exit(main())
