from tables import clusters, join, table_of  # noqa: F401 - fixtures
