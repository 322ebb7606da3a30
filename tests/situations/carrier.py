"""The other service: it answers when it is let to."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Carrier:
    """Books parcels, in threads of its own. Lives inside of its ``with``; answers when it is let to."""

    def __init__(self) -> None:
        go_on = self._go_on = threading.Event()

        class Parcels(BaseHTTPRequestHandler):
            """Lives as long as one request."""

            def do_GET(self) -> None:
                """A number, when it may be had."""
                go_on.wait(60)
                body = f"parcel-{self.path.rpartition('/')[2]}".encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_request(self, *_: Any) -> None:
                """Print nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Parcels)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def let_go(self) -> None:
        """Answer what waits, and what comes until `hold`."""
        self._go_on.set()

    def hold(self) -> None:
        """Let what comes wait."""
        self._go_on.clear()

    def __enter__(self) -> Carrier:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.let_go()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
