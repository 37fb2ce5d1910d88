"""Alembic migrations, forward only: from an empty database and from every released version."""
