"""Alembic's environment and the kernel's branch, in `kernel`. Run through `db.schema.migrate`."""
