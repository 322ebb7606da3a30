"""The schema's history, one module per revision in `db.migrations.versions`. Run through `db.migrate`."""
