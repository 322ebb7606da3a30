"""A lending library in the board's place: `db`, `handlers`, `commands` are its folders in such a clone.

`tests/board/test_a_clone_without_the_board.py` makes that clone, as CONTRIBUTING.md says, and runs the
kernel's tests in it.
"""
