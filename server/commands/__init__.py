"""The commands of the command line, a module each: ``SUMMARY``, ``add_arguments`` and ``run``.

Every module in this package, and in packages within it, is a command, unless its name begins with ``_``;
``server.cli`` finds it. An application has a package for its own, as the board has.
Slow imports belong inside of ``run``, since all modules are imported for ``--help``.
"""
