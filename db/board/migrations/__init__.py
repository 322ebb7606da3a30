"""The board's branch, oldest first by name: ``<number>_<what it does>.py``.

Up to 0005 one chain of revisions made the tables of the board and of the kernel. Those that made the kernel's
are empty here, and depend on the kernel's own. So a database at any of the five is at a revision of this
branch, which implies one of the kernel's, and a process of an older release finds the one that it expects.
"""
