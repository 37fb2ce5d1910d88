"""The indexes of documents that searches read know of which source each is, so that they pass over what is hidden.

Revision ID: 0015
"""

from alembic import op

from rag_pipeline.stores.postgres.migrations.in_each_generation import in_each_generation

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

# Who locks rows to change them later waits too: half-way, both would wait for each other.
SOURCES = """
LOCK TABLE documents IN EXCLUSIVE MODE;
UPDATE documents d SET source = i.source FROM source_items i WHERE i.document_id = d.id;
"""

# Searches go on while these are built. GIN knows arrays and no single values. The collation is one that the index of
# categories alone does not have, so that a query that names it cannot be answered by that one.
INDEXES = """
CREATE INDEX idx_documents_source_category ON documents (source, category COLLATE "C") WHERE category IS NOT NULL;
CREATE INDEX idx_documents_source_author ON documents (source, author) WHERE author IS NOT NULL;
CREATE INDEX idx_documents_tags_and_source ON documents USING GIN (tags, (ARRAY[source]));
"""

# Of all generations after all of them have theirs: from here on searches of the live one wait.
EXCHANGE = """
DROP INDEX idx_documents_tags;
ALTER INDEX idx_documents_tags_and_source RENAME TO idx_documents_tags;
"""


def upgrade() -> None:
    connection = op.get_bind().connection.driver_connection
    assert connection is not None
    in_each_generation(connection, SOURCES, INDEXES)
    in_each_generation(connection, EXCHANGE)
