"""Generations record how the names of their collections begin: in Milvus alone another prefix looks like a lost index.

Revision ID: 0011
"""

from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

ADD = """
ALTER TABLE generations ADD COLUMN milvus_prefix TEXT;
COMMENT ON COLUMN generations.milvus_prefix IS 'how the names of its collections in Milvus begin; NULL: not known yet';
"""


def upgrade() -> None:
    connection = op.get_bind().connection.driver_connection
    assert connection is not None
    connection.execute(ADD)
