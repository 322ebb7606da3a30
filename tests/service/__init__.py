"""A small service of the tests' own, on the kernel alone: what an application without the board would be."""
