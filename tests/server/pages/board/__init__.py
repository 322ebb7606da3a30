"""Tests of what a browser shows of the board."""
