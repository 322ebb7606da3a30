"""Notifications to systemd. https://www.freedesktop.org/software/systemd/man/sd_notify.html"""

from __future__ import annotations

import contextlib
import os
import socket

READY = "READY=1"
STOPPING = "STOPPING=1"


def sd_notify(state: str) -> None:
    """Send a state to systemd, where the unit has ``Type=notify``; else do nothing.

    To be called by the main process only. Errors are ignored: the service runs without systemd too.
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address[:1] not in ("/", "@"):
        return
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as messages:
        messages.connect("\0" + address[1:] if address[0] == "@" else address)
        messages.sendall(state.encode())
