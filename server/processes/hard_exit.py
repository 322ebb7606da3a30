"""The end of a process that does not end by itself."""

from __future__ import annotations

import logging
import os
import threading
import time

from server.monitoring.tracebacks import stack_of_thread

log = logging.getLogger("onfinish.server")


def end_after(seconds: float, *, status: int) -> None:
    """End this process so many seconds from now, whatever its threads do, unless it has ended by then.

    At its exit Python waits for every thread, and threads cannot be stopped: a function that hangs, on a lock
    or a socket of its own, would keep the process alive, and delay the start of its successor.
    """
    threading.Thread(target=_end, args=(seconds, status), name="onfinish-hard-exit", daemon=True).start()


def _end(seconds: float, status: int) -> None:
    time.sleep(seconds)
    main = threading.main_thread()
    hanging = [each for each in threading.enumerate() if not each.daemon and each is not main]
    tracebacks = [
        f"{each.name}:\n{stack_of_thread(each.ident)}".rstrip() for each in hanging if each.ident is not None
    ]
    log.error(
        "the process did not end within %g s of its stop signal and is terminated; %d threads hang:\n%s",
        seconds,
        len(tracebacks),
        "\n".join(tracebacks),
    )
    logging.shutdown()
    os._exit(status)
