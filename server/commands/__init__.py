"""The commands of the command line, a module each: ``SUMMARY``, ``add_arguments`` and ``run``.

A module that is put here is a command; ``server.cli`` finds it by its name, unless that begins with ``_``.
What is slow to import, a module imports inside of ``run``, since all of them are read for ``--help``.
"""
