"""The sample's resources over HTTP: what a clone replaces by its own.

A resource is one module: its handlers, each method with its `operation`, and ``ROUTES``, which `routes`
lists. The models of its bodies, queries and answers stand in the same module (`teams`, `transfers`), or in
modules of their own where they are many (those of `tasks`).
"""
