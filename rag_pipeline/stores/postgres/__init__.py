"""PostgreSQL: the connection pool, the migrations, and one module of queries for each table.

SQL is set-wise and lives with its table; nothing outside this package writes any.
"""
