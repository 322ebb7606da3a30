"""How the property tests run."""

from __future__ import annotations

from hypothesis import settings

# No deadline: on a busy machine an example may take any time, and no test is about that.
settings.register_profile("onfinish", deadline=None, max_examples=60)
settings.load_profile("onfinish")
