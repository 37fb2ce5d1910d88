"""The alerts: what is failing now, what to report, and who has been notified.

No table holds a receiver's URL, which is a secret; they hold its digest.

Revision ID: 0002
"""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

ALERTS = """
CREATE TABLE alert_cursors (
    log TEXT PRIMARY KEY,
    event_id BIGINT NOT NULL DEFAULT 0
);
COMMENT ON TABLE alert_cursors IS 'how far the event log of a Dagster instance has been read';

CREATE TABLE alert_outbox (
    id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    event_key TEXT NOT NULL UNIQUE,
    kind VARCHAR(20) NOT NULL,
    name TEXT NOT NULL,
    partition TEXT NOT NULL DEFAULT '',
    state VARCHAR(20) NOT NULL,
    occurred_at TIMESTAMP WITH TIME ZONE NOT NULL,
    since TIMESTAMP WITH TIME ZONE NOT NULL,
    details JSONB NOT NULL,
    recorded_at TIMESTAMP WITH TIME ZONE NOT NULL DEFAULT now(),

    CONSTRAINT valid_alert_kind CHECK (kind IN ('check', 'run', 'sensor', 'schedule')),
    CONSTRAINT valid_alert_state CHECK (state IN ('failing', 'warning', 'recovered'))
);
CREATE INDEX idx_alert_outbox_recorded ON alert_outbox (recorded_at);
COMMENT ON TABLE alert_outbox IS 'what people have to be told, one row an event that changed a state';
COMMENT ON COLUMN alert_outbox.event_key IS 'the event in Dagster: an event is told once, however often it is read';
COMMENT ON COLUMN alert_outbox.since IS 'when the failing began, for a recovery too';

CREATE TABLE alert_states (
    kind VARCHAR(20) NOT NULL,
    name TEXT NOT NULL,
    partition TEXT NOT NULL DEFAULT '',
    failing BOOLEAN NOT NULL,
    since TIMESTAMP WITH TIME ZONE NOT NULL,
    log TEXT NOT NULL,
    event_id BIGINT NOT NULL,
    alert BIGINT REFERENCES alert_outbox (id) ON DELETE SET NULL,
    PRIMARY KEY (kind, name, partition)
);
CREATE INDEX idx_alert_states_alert ON alert_states (alert);
COMMENT ON TABLE alert_states IS
    'the last known state of a check, run or sensor that has failed at some time; no row: it never has';
COMMENT ON COLUMN alert_states.event_id IS 'the event that changed the state; what is older changes nothing';
COMMENT ON COLUMN alert_states.alert IS 'the alert that told of this state';

CREATE TABLE alert_receivers (
    receiver TEXT PRIMARY KEY,
    after_alert BIGINT NOT NULL,
    failures INTEGER NOT NULL DEFAULT 0,
    next_try_at TIMESTAMP WITH TIME ZONE
);
COMMENT ON TABLE alert_receivers IS 'the receivers by the digest of their URL';
COMMENT ON COLUMN alert_receivers.after_alert IS
    'the newest alert when the receiver was added: of those before, it is told what is failing still';

CREATE TABLE alert_deliveries (
    alert BIGINT NOT NULL REFERENCES alert_outbox (id) ON DELETE CASCADE,
    receiver TEXT NOT NULL REFERENCES alert_receivers (receiver) ON DELETE CASCADE,
    message_key TEXT NOT NULL,
    turn BIGINT GENERATED ALWAYS AS IDENTITY,
    delivered_at TIMESTAMP WITH TIME ZONE,
    PRIMARY KEY (alert, receiver)
);
CREATE INDEX idx_alert_deliveries_open ON alert_deliveries (receiver, turn) WHERE delivered_at IS NULL;
COMMENT ON TABLE alert_deliveries IS
    'which alerts went to a receiver in which message; written before it is sent, marked when it was accepted';
COMMENT ON COLUMN alert_deliveries.turn IS 'the order in which messages are sent';
"""


def upgrade() -> None:
    connection = op.get_bind().connection.driver_connection
    assert connection is not None
    connection.execute(ALERTS)
