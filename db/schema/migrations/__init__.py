"""The schema's history, one module per revision in `versions`. Run through `db.schema.migrate`."""
