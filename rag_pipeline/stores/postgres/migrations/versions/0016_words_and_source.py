"""The index of words knows of which source each live chunk is.

Not in 0015: a search locks chunks and then documents, and would wait for a revision that locks both, as that for it.

Revision ID: 0016
"""

from alembic import op

from rag_pipeline.stores.postgres.migrations.in_each_generation import in_each_generation

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

# Searches go on while it is built.
WORDS = """
CREATE INDEX idx_chunks_fulltext_and_source ON document_chunks USING GIN (content_words, (ARRAY[source])) WHERE live;
"""

EXCHANGE = """
DROP INDEX idx_chunks_fulltext;
ALTER INDEX idx_chunks_fulltext_and_source RENAME TO idx_chunks_fulltext;
"""


def upgrade() -> None:
    connection = op.get_bind().connection.driver_connection
    assert connection is not None
    in_each_generation(connection, WORDS)
    in_each_generation(connection, EXCHANGE)
