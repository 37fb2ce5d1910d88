"""The search service: which permissions a source asks for, and epochs of the index for its cache of answers.

Revision ID: 0007
"""

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

ACCESS = """
ALTER TABLE sources ADD COLUMN access TEXT[] NOT NULL DEFAULT '{}';
COMMENT ON COLUMN sources.access IS 'the permissions that are needed, all of them, to find the documents';
"""

EPOCHS = """
CREATE TABLE index_epochs (
    month DATE PRIMARY KEY,
    epoch UUID NOT NULL
);
COMMENT ON TABLE index_epochs IS
    'another value, in the same transaction, with each change of a month that searches see; a row is never deleted';

CREATE OR REPLACE FUNCTION cleanup_document_vectors() RETURNS trigger AS $$
BEGIN
    INSERT INTO vector_deletions (chunk_id, document_created_at, multi_vector_count)
    SELECT id, document_created_at, multi_vector_count FROM deleted_chunks;

    WITH gone AS (
        SELECT date_trunc('month', document_created_at AT TIME ZONE 'UTC')::date AS month,
               word.term, count(*) AS chunks
        FROM deleted_chunks
        CROSS JOIN LATERAL unnest(tsvector_to_array(coalesce(content_words, '')) || ARRAY['']) AS word(term)
        WHERE live
        GROUP BY 1, 2
    ), locked AS (
        SELECT t.term, t.month, gone.chunks
        FROM term_statistics t JOIN gone USING (term, month)
        ORDER BY t.term, t.month
        FOR UPDATE OF t
    )
    UPDATE term_statistics t SET chunks = t.chunks - locked.chunks
    FROM locked WHERE t.term = locked.term AND t.month = locked.month;

    INSERT INTO index_epochs AS e (month, epoch)
    SELECT month, gen_random_uuid() FROM (
        SELECT DISTINCT date_trunc('month', document_created_at AT TIME ZONE 'UTC')::date AS month
        FROM deleted_chunks WHERE live ORDER BY 1
    ) months
    ON CONFLICT (month) DO UPDATE SET epoch = excluded.epoch;
    RETURN NULL;
END;
$$ LANGUAGE plpgsql;
"""


def upgrade() -> None:
    connection = op.get_bind().connection.driver_connection
    assert connection is not None
    for sql in (ACCESS, EPOCHS):
        connection.execute(sql)
