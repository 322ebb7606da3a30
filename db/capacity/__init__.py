"""Admission: how many units of work run at once, and where their calls run."""
