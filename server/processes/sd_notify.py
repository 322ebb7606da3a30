"""What systemd is told of the service. https://www.freedesktop.org/software/systemd/man/sd_notify.html"""

from __future__ import annotations

import contextlib
import os
import socket

READY = "READY=1"
STOPPING = "STOPPING=1"


def notify(state: str) -> None:
    """Tell systemd, where it has asked for it (``Type=notify``); else nothing.

    Said by the main process alone. Whether anybody listens is no concern of the service.
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address[:1] not in ("/", "@"):
        return
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as messages:
        messages.connect("\0" + address[1:] if address[0] == "@" else address)
        messages.sendall(state.encode())
