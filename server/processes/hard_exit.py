"""The end of a process that does not end by itself."""

from __future__ import annotations

import logging
import os
import threading
import time

from server.monitoring.tracebacks import stack_of_thread

log = logging.getLogger("onfinish.server")


def end_after(seconds: float, *, status: int) -> None:
    """End this process so many seconds from now, whatever its threads do, if it is still there by then.

    Python waits at its end for every thread, and nobody can stop one: a function that hangs, on a lock or a
    socket of its own, would hold a process that serves no more, and whoever is to start the next one.
    """
    threading.Thread(target=_end, args=(seconds, status), name="onfinish-last-resort", daemon=True).start()


def _end(seconds: float, status: int) -> None:
    time.sleep(seconds)
    main = threading.main_thread()
    hanging = [each for each in threading.enumerate() if not each.daemon and each is not main]
    stacks = [
        f"{each.name}:\n{stack_of_thread(each.ident)}".rstrip() for each in hanging if each.ident is not None
    ]
    log.error(
        "the process has not ended %g s after it was told to stop, and is ended; %d threads hang:\n%s",
        seconds,
        len(stacks),
        "\n".join(stacks),
    )
    logging.shutdown()
    os._exit(status)
