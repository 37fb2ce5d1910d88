"""The full-text index holds the live chunks only, which searches look for.

A row is written four times until it is live: added, claimed, mapped to its vectors, switched. With each version all its
words went into the index: half of what a version of a row cost.

Revision ID: 0005
"""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

# Searches go on while it is built; a DROP INDEX in front would make them wait too.
LIVE_WORDS = """
CREATE INDEX idx_chunks_fulltext_live ON document_chunks USING GIN (content_words) WHERE live;
DROP INDEX idx_chunks_fulltext;
ALTER INDEX idx_chunks_fulltext_live RENAME TO idx_chunks_fulltext;
"""


def upgrade() -> None:
    connection = op.get_bind().connection.driver_connection
    assert connection is not None
    connection.execute(LIVE_WORDS)
