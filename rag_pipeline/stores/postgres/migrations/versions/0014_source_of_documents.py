"""A document's row knows its source. Revision 0015 fills that in: here searches would wait for it.

Revision ID: 0014
"""

from alembic import op

from rag_pipeline.stores.postgres.migrations.in_each_generation import in_each_generation

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

SOURCE = "ALTER TABLE documents ADD COLUMN source UUID"
COMMENT = """
COMMENT ON COLUMN documents.source IS
    'the row of sources that its item is of, for indexes that begin with it; whether it may be seen is the item''s to say'
"""


def upgrade() -> None:
    connection = op.get_bind().connection.driver_connection
    assert connection is not None
    in_each_generation(connection, SOURCE, COMMENT)
