"""The fixtures, by subject; see the modules."""

pytest_plugins = [
    "tests.fixtures.loop",
    "tests.fixtures.postgres",
]
