"""PostgreSQL: the connection pool, the migrations, and one module of queries for each table.

SQL works on sets and lives with its table; nothing outside this package contains any.
"""
