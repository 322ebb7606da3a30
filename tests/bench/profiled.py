"""The service with a profile of each of its threads, in CPU time. Started by `tests.bench.profile`.

SIGUSR1 forgets what was noted until then. At its end the profiles go to the file of the environment's
``PROFILE``.
"""

from __future__ import annotations

import cProfile
import os
import pstats
import signal
import sys
import threading
import time

from server.cli import main

profiles: list[cProfile.Profile] = []


def begin(*event: object) -> None:
    """Profile the calling thread from now on."""
    profile = cProfile.Profile(time.thread_time)
    profiles.append(profile)
    profile.enable()


def forget(*signal: object) -> None:
    """Begin anew."""
    for profile in profiles:
        profile.clear()


def serve() -> int:
    """Serve as ever."""
    signal.signal(signal.SIGUSR1, forget)
    threading.setprofile(begin)
    begin()
    try:
        return main()
    finally:
        threading.setprofile(None)
        stats = pstats.Stats(profiles[0])
        for profile in profiles[1:]:
            if profile.getstats():
                stats.add(profile)
        stats.dump_stats(os.environ["PROFILE"])


if __name__ == "__main__":
    sys.exit(serve())
