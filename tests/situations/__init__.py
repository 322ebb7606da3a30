"""An application that makes what pages for operators are for: locks, lazy loads, calls to another service."""
