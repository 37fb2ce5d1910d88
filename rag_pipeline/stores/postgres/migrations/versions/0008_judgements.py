"""Logged searches, what people judge of their hits, and what an evaluation is compared with.

Revision ID: 0008
"""

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

SEARCH_LOG = """
CREATE TABLE search_log (
    id UUID PRIMARY KEY DEFAULT gen_random_uuid(),
    searched_at TIMESTAMP WITH TIME ZONE NOT NULL,
    query TEXT NOT NULL,
    mode VARCHAR(20) NOT NULL,
    filters JSONB NOT NULL,
    hits INTEGER NOT NULL,
    seconds REAL NOT NULL
);
CREATE INDEX idx_search_log_searched_at ON search_log (searched_at);
COMMENT ON TABLE search_log IS 'searches, if RAG_SEARCH_LOG_DAYS asks for it; it does not say who searched';
"""

JUDGEMENTS = """
CREATE TABLE search_judgements (
    query TEXT NOT NULL,
    query_key UUID GENERATED ALWAYS AS (md5(query)::uuid) STORED,
    source_id TEXT NOT NULL,
    user_id UUID NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    is_helpful BOOLEAN NOT NULL,
    judged_at TIMESTAMP WITH TIME ZONE NOT NULL DEFAULT now(),
    PRIMARY KEY (query_key, source_id, user_id)
);
COMMENT ON TABLE search_judgements IS 'whether a document answers a query, by who clicked so on the search page';
"""

REFERENCE = """
CREATE TABLE evaluation_reference (
    mode VARCHAR(20) NOT NULL,
    query_key UUID NOT NULL,
    ndcg10 REAL NOT NULL,
    recall10 REAL NOT NULL,
    mrr REAL NOT NULL,
    evaluated_at TIMESTAMP WITH TIME ZONE NOT NULL,
    PRIMARY KEY (mode, query_key)
);
COMMENT ON TABLE evaluation_reference IS
    'the measures of each judged query with which later evaluations are compared; another judgement is another key';
"""


def upgrade() -> None:
    connection = op.get_bind().connection.driver_connection
    assert connection is not None
    for sql in (SEARCH_LOG, JUDGEMENTS, REFERENCE):
        connection.execute(sql)
