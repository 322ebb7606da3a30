"""Tests of ``/-/requests``."""
