"""A MariaDB Galera cluster of three nodes under load, migrated, examined, and reached by several hosts."""
