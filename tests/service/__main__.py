"""``python -m tests.service``: what ``python -m server`` does, with the routes of this service."""

from __future__ import annotations

import sys
from unittest import mock

from server.cli import main
from server.processes import lifecycle
from tests.service.app import make_service

if __name__ == "__main__":
    with mock.patch.object(lifecycle, "make_app", make_service):
        sys.exit(main())
