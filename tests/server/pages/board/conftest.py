"""What is served here is the board."""

from tests.fixtures.board.large import large_url
from tests.fixtures.board.service import client, make_application, service_module

__all__ = ["client", "large_url", "make_application", "service_module"]
