"""The words of live chunks are counted by source, so that a search can weigh them among what its asker may see.

Revision ID: 0013
"""

from alembic import op

from rag_pipeline.stores.postgres.migrations.in_each_generation import in_each_generation

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

# Searches go on until `EXCHANGE`. Nothing goes live meanwhile: it would be in neither count.
SOURCES = """
LOCK TABLE document_chunks IN SHARE ROW EXCLUSIVE MODE;
UPDATE document_chunks c SET source = i.source FROM source_items i WHERE i.document_id = c.document_id AND c.live;
"""

# A month of a single source has its counts already; to count words takes long.
STATISTICS = """
CREATE TEMPORARY TABLE sources_of_months AS
    SELECT date_trunc('month', d.created_at AT TIME ZONE 'UTC')::date AS month, array_agg(DISTINCT i.source) AS sources
    FROM documents d JOIN source_items i ON i.document_id = d.id GROUP BY 1;
CREATE TABLE term_statistics_by_source (
    term TEXT NOT NULL,
    month DATE NOT NULL,
    source UUID NOT NULL,
    chunks INTEGER NOT NULL
);
INSERT INTO term_statistics_by_source (term, month, source, chunks)
    SELECT t.term, t.month, m.sources[1], t.chunks FROM term_statistics t JOIN sources_of_months m USING (month)
    WHERE cardinality(m.sources) = 1 AND t.chunks > 0;
INSERT INTO term_statistics_by_source (term, month, source, chunks)
    SELECT word.term, m.month, c.source, count(*)
    FROM sources_of_months m
    JOIN document_chunks c ON c.document_created_at >= m.month::timestamp AT TIME ZONE 'UTC'
        AND c.document_created_at < (m.month + interval '1 month') AT TIME ZONE 'UTC'
    CROSS JOIN LATERAL unnest(tsvector_to_array(coalesce(c.content_words, '')) || ARRAY['']) AS word(term)
    WHERE cardinality(m.sources) > 1 AND c.live
    GROUP BY 1, 2, 3;
DROP TABLE sources_of_months;
ALTER TABLE term_statistics_by_source ADD CONSTRAINT term_statistics_by_source_pkey PRIMARY KEY (term, source, month);
DO $$
DECLARE
    granted RECORD;
BEGIN
    FOR granted IN
        SELECT a.privilege_type, coalesce(quote_ident(r.rolname), 'PUBLIC') AS role
        FROM pg_class c CROSS JOIN LATERAL aclexplode(c.relacl) a LEFT JOIN pg_roles r ON r.oid = a.grantee
        WHERE c.oid = 'term_statistics'::regclass AND a.grantee <> c.relowner
    LOOP
        EXECUTE format('GRANT %s ON term_statistics_by_source TO %s', granted.privilege_type, granted.role);
    END LOOP;
END $$;
COMMENT ON TABLE term_statistics_by_source IS
    'how many live chunks of a month and source hold a word; the empty word counts all live chunks';
"""

# Of all generations after all of them are counted: from here on searches of the live one wait.
EXCHANGE = """
DROP TABLE term_statistics;
ALTER TABLE term_statistics_by_source RENAME TO term_statistics;
ALTER TABLE term_statistics RENAME CONSTRAINT term_statistics_by_source_pkey TO term_statistics_pkey;
"""

CLEANUP = """
CREATE OR REPLACE FUNCTION cleanup_document_vectors() RETURNS trigger AS $$
BEGIN
    INSERT INTO vector_deletions (chunk_id, document_created_at, multi_vector_count)
    SELECT id, document_created_at, multi_vector_count FROM deleted_chunks;

    -- The tables beside the one of this trigger, whatever the session's search path finds first.
    EXECUTE format($statement$
        WITH gone AS (
            SELECT date_trunc('month', document_created_at AT TIME ZONE 'UTC')::date AS month,
                   source, word.term, count(*) AS chunks
            FROM deleted_chunks
            CROSS JOIN LATERAL unnest(tsvector_to_array(coalesce(content_words, '')) || ARRAY['']) AS word(term)
            WHERE live
            GROUP BY 1, 2, 3
        ), locked AS (
            SELECT t.term, t.source, t.month, gone.chunks
            FROM %1$I.term_statistics t JOIN gone USING (term, source, month)
            ORDER BY t.term, t.source, t.month
            FOR UPDATE OF t
        )
        UPDATE %1$I.term_statistics t SET chunks = t.chunks - locked.chunks
        FROM locked WHERE t.term = locked.term AND t.source = locked.source AND t.month = locked.month
    $statement$, TG_TABLE_SCHEMA);

    EXECUTE format($statement$
        INSERT INTO %1$I.index_epochs AS e (month, epoch)
        SELECT month, gen_random_uuid() FROM (
            SELECT DISTINCT date_trunc('month', document_created_at AT TIME ZONE 'UTC')::date AS month
            FROM deleted_chunks WHERE live ORDER BY 1
        ) months
        ON CONFLICT (month) DO UPDATE SET epoch = excluded.epoch
    $statement$, TG_TABLE_SCHEMA);
    RETURN NULL;
END;
$$ LANGUAGE plpgsql;
"""


def upgrade() -> None:
    connection = op.get_bind().connection.driver_connection
    assert connection is not None
    in_each_generation(connection, SOURCES, STATISTICS)
    in_each_generation(connection, EXCHANGE)
    connection.execute(CLEANUP)
