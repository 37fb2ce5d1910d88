"""What is done to a large month, or with a large outbox, batch by batch.

How far a month's documents are compared with other kinds of vectors or another chunker; and an index of the outbox, whose
chunks the checks look up.

Revision ID: 0010
"""

from alembic import op

from rag_pipeline.stores.postgres.migrations.in_each_generation import in_each_generation

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

COMPARED_TO = "ALTER TABLE built_kinds ADD COLUMN compared_to UUID"
COMMENT = """
COMMENT ON COLUMN built_kinds.compared_to IS
    'the last document that was compared with the kinds and the chunker of this row; NULL: all of the month were'
"""

OUTBOX = "CREATE INDEX idx_vector_deletions_chunk ON vector_deletions (chunk_id)"


def upgrade() -> None:
    connection = op.get_bind().connection.driver_connection
    assert connection is not None
    in_each_generation(connection, COMPARED_TO, COMMENT)
    connection.execute(OUTBOX)
