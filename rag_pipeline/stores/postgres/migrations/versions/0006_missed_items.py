"""A scan writes what has changed: it marks what it misses, no longer everything that it sees.

Each pass over a source wrote all its items, to tell at its end which of them it had not seen. Now each slice of a pass
looks for what is stored between its first and its last item and was not listed.

Revision ID: 0006
"""

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

# An unfinished pass goes on: what its first slices missed is found by the next one.
MISSED_ITEMS = """
ALTER TABLE source_items ADD COLUMN missed_pass BIGINT;
COMMENT ON COLUMN source_items.missed_pass IS 'the last pass over the source that did not see the item';
DROP INDEX idx_source_items_source;
ALTER TABLE source_items DROP COLUMN seen_pass, DROP COLUMN last_seen_at;
CREATE INDEX idx_source_items_source ON source_items (source, left(locator, 200) COLLATE "C");
"""


def upgrade() -> None:
    connection = op.get_bind().connection.driver_connection
    assert connection is not None
    connection.execute(MISSED_ITEMS)
