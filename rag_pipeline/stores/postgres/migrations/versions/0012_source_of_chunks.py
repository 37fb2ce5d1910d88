"""A live chunk knows its source. Revision 0013 fills that in: here searches would wait for it.

Revision ID: 0012
"""

from alembic import op

from rag_pipeline.stores.postgres.migrations.in_each_generation import in_each_generation

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

SOURCE = "ALTER TABLE document_chunks ADD COLUMN source UUID"
COMMENT = """
COMMENT ON COLUMN document_chunks.source IS
    'the row of sources that its document is of, since it went live: term_statistics counts its words there'
"""


def upgrade() -> None:
    connection = op.get_bind().connection.driver_connection
    assert connection is not None
    in_each_generation(connection, SOURCE, COMMENT)
