"""The same handler and the same model functions under each scope, as one writes them.

They are run by the tests, and shown side by side in the report: each does what the others do.
"""
