"""Alembic migrations, forward only: from an empty database and from every released version."""

import threading

ALEMBIC = threading.Lock()
"""Held while revisions run: `alembic.op` works on one connection of the whole process."""
