"""Which kinds of vectors the chunks of each month are known to have, so that a kind that is added later is noticed.

Revision ID: 0004
"""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

BUILT_KINDS = """
CREATE TABLE built_kinds (
    month DATE PRIMARY KEY,
    kinds TEXT[] NOT NULL
);
COMMENT ON TABLE built_kinds IS
    'the kinds of vectors that every completed chunk of a month has; compared with RAG_VECTORS, without reading chunks';
"""


def upgrade() -> None:
    connection = op.get_bind().connection.driver_connection
    assert connection is not None
    connection.execute(BUILT_KINDS)
