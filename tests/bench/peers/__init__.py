"""The same five calls, written with other tools: each a small application as that tool's documentation tells.

Each runs in an environment of its own, from the requirements beside it, and imports nothing of this project
but `tests.bench.peers.contract`.
"""
