"""The indexes that searches read know of which source a row is, so that they pass over what is hidden.

Revision ID: 0015
"""

from alembic import op

from rag_pipeline.stores.postgres.migrations.in_each_generation import in_each_generation

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

SOURCES = """
LOCK TABLE documents IN SHARE ROW EXCLUSIVE MODE;
UPDATE documents d SET source = i.source FROM source_items i WHERE i.document_id = d.id;
"""

# Searches go on while these are built. GIN knows arrays and no single values.
INDEXES = """
CREATE INDEX idx_documents_source_category ON documents (source, category) WHERE category IS NOT NULL;
CREATE INDEX idx_documents_source_author ON documents (source, author) WHERE author IS NOT NULL;
CREATE INDEX idx_documents_tags_and_source ON documents USING GIN (tags, (ARRAY[source]));
CREATE INDEX idx_chunks_fulltext_and_source ON document_chunks USING GIN (content_words, (ARRAY[source])) WHERE live;
"""

# Of all generations after all of them have theirs: from here on searches of the live one wait.
EXCHANGE = """
DROP INDEX idx_documents_tags, idx_chunks_fulltext;
ALTER INDEX idx_documents_tags_and_source RENAME TO idx_documents_tags;
ALTER INDEX idx_chunks_fulltext_and_source RENAME TO idx_chunks_fulltext;
"""


def upgrade() -> None:
    connection = op.get_bind().connection.driver_connection
    assert connection is not None
    in_each_generation(connection, SOURCES, INDEXES)
    in_each_generation(connection, EXCHANGE)
