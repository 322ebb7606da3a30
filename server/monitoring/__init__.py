"""The monitoring of a running server: metrics, statistics, watchdog."""
