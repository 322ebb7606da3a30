"""The life of a session: one unit of work, and the decision about it."""
