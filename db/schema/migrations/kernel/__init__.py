"""The kernel's branch, oldest first by name: ``kernel_<number>_<what it does>.py``."""
