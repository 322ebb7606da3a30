"""The same handler and the same model functions, as an application has them under each scope.

The tests run them, and the report shows them side by side: each does what the others do.
"""
