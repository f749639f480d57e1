"""Sources of Lockstep that give the rows of databases and tables: ``sql://``, ``delta://``, ``iceberg://``."""
