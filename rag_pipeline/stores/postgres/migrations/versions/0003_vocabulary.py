"""The words of the schema: a chunk is superseded, a month expires; comments in plain English.

`retired` stood for both. Nothing but names and comments changes; alerts follow the job that is renamed.

Revision ID: 0003
"""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

CHUNKS = """
ALTER TABLE document_chunks RENAME COLUMN retired TO superseded;

COMMENT ON COLUMN document_chunks.content_hash IS 'SHA-256 of what is embedded: chunks with equal hashes share vectors';
COMMENT ON COLUMN document_chunks.embedding_text IS 'what is embedded, if not the content itself';
COMMENT ON COLUMN document_chunks.live IS 'searches see this chunk; a new version''s chunks go live together';
COMMENT ON COLUMN document_chunks.superseded IS 'not in the document''s next version; deleted when that version goes live';
COMMENT ON COLUMN document_chunks.next_place IS
    'place in the next version of a chunk that stays; applied when that version goes live';
COMMENT ON COLUMN document_chunks.stored_position IS
    'position written to the collections; rewritten there if it differs from this row''s';
COMMENT ON COLUMN documents.retry_at IS 'when chunks that could not be embedded are retried; later with each failure';
"""

ITEMS = """
ALTER TABLE source_items DROP CONSTRAINT valid_state;
UPDATE source_items SET state = 'expired' WHERE state = 'retired';
ALTER TABLE source_items ADD CONSTRAINT valid_state
    CHECK (state IN ('pending', 'ingested', 'failed', 'gone', 'expired'));
DROP INDEX idx_source_items_retired;
CREATE INDEX idx_source_items_expired ON source_items (document_created_at) WHERE state = 'expired';

COMMENT ON TABLE source_items IS
    'what each source holds: the desired state, and the key that keeps (source_type, source_id) unique over all months';
COMMENT ON COLUMN source_items.state IS
    'expired: in a month older than the retention, so neither ingested nor deleted; see expiring_months';
COMMENT ON COLUMN source_items.retry_at IS 'when a quarantined item is retried; later with each failure';
COMMENT ON TABLE source_scans IS
    'how far the current pass over a source has come; what a complete pass does not see is gone';
COMMENT ON COLUMN source_scans.unlisted IS 'paths that could not be listed: items below them are not gone';
"""

MONTHS = """
ALTER TABLE retiring_months RENAME TO expiring_months;
ALTER INDEX retiring_months_pkey RENAME TO expiring_months_pkey;

COMMENT ON TABLE expiring_months IS
    'months that are being expired; a row is removed only after the month''s partitions are dropped in Milvus too';
COMMENT ON TABLE vector_deletions IS
    'outbox: chunks whose vectors have to leave Milvus; a row is removed only after Milvus has confirmed';
COMMENT ON TABLE term_statistics IS
    'number of live chunks of a month that contain a word; the empty word counts all live chunks';
"""

ALERTS = """
-- The job `retire_months`, and its schedule: `retire_months of <code location>`.
UPDATE alert_states SET name = regexp_replace(name, '^retire_months', 'expire_months')
WHERE kind IN ('run', 'schedule') AND name ~ '^retire_months( of |$)';
UPDATE alert_outbox SET name = regexp_replace(name, '^retire_months', 'expire_months')
WHERE kind IN ('run', 'schedule') AND name ~ '^retire_months( of |$)';

COMMENT ON TABLE alert_outbox IS 'alerts to be sent, one row for each event that changed a state';
COMMENT ON COLUMN alert_outbox.event_key IS 'the event in Dagster: reported once, however often it is read';
COMMENT ON COLUMN alert_outbox.since IS 'when the failure began, for a recovery too';
COMMENT ON TABLE alert_states IS
    'the last known state of a check, run or sensor that has ever failed';
COMMENT ON COLUMN alert_states.event_id IS 'the event that changed the state; older events change nothing';
COMMENT ON COLUMN alert_states.alert IS 'the alert that reported this state';
COMMENT ON TABLE alert_receivers IS 'the receivers, by the digest of their URL';
COMMENT ON COLUMN alert_receivers.after_alert IS
    'the newest alert when the receiver was added: of those before, it gets only what is still failing';
COMMENT ON TABLE alert_deliveries IS
    'which alerts went to a receiver in which message; written before it is sent, marked once it is accepted';
"""


def upgrade() -> None:
    connection = op.get_bind().connection.driver_connection
    assert connection is not None
    for sql in (CHUNKS, ITEMS, MONTHS, ALERTS):
        connection.execute(sql)
