"""Generations: another index beside the live one, with tables of its own in a schema of its own.

Deletions are accounted for in the schema of the table that they happen in; the outbox is one for all.

Revision ID: 0009
"""

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

GENERATIONS = """
CREATE TABLE generations (
    id INTEGER GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    state VARCHAR(20) NOT NULL,
    embedder TEXT NOT NULL,
    dimension INTEGER NOT NULL,
    multi_dimension INTEGER NOT NULL,
    settings JSONB NOT NULL,
    collections VARCHAR(64) NOT NULL UNIQUE,
    own_aliases BOOLEAN NOT NULL,
    has_sources BOOLEAN NOT NULL,
    is_noted BOOLEAN NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE NOT NULL DEFAULT now(),
    live_since TIMESTAMP WITH TIME ZONE,
    announced_at TIMESTAMP WITH TIME ZONE,

    CONSTRAINT valid_generation_state CHECK (state IN ('live', 'building', 'previous', 'dropping'))
);
CREATE UNIQUE INDEX idx_generations_live ON generations (state) WHERE state = 'live';
CREATE UNIQUE INDEX idx_generations_building ON generations (state) WHERE state = 'building';
COMMENT ON TABLE generations IS
    'indexes of the same documents by different embedders or chunkers; searches use the live one';
COMMENT ON COLUMN generations.settings IS 'the settings that it is made with, none of them secret';
COMMENT ON COLUMN generations.collections IS 'how the names of its collections in Milvus end';
COMMENT ON COLUMN generations.own_aliases IS
    'whether searches reach its collections by aliases of its own, and not by those that always name the live ones';

COMMENT ON COLUMN generations.announced_at IS 'since when search services load its embedder, because it will go live';
COMMENT ON COLUMN generations.is_noted IS
    'whether the documents from before it was begun are in generation_changes, or taken over';
COMMENT ON COLUMN generations.has_sources IS
    'whether the rows of its collections say which source they are of; those written by older programs do not';

CREATE TABLE generation_changes (
    generation INTEGER NOT NULL REFERENCES generations (id) ON DELETE CASCADE,
    document_created_at TIMESTAMP WITH TIME ZONE NOT NULL,
    document_id UUID NOT NULL,
    PRIMARY KEY (generation, document_created_at, document_id)
);
COMMENT ON TABLE generation_changes IS
    'documents whose newest version a generation that is not live does not have yet; deletions reach it by themselves';
"""

CHUNKERS = """
ALTER TABLE built_kinds ADD COLUMN chunker TEXT;
COMMENT ON COLUMN built_kinds.chunker IS
    'the version and settings of the chunker that cut every document of the month; NULL: not known';
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
                   word.term, count(*) AS chunks
            FROM deleted_chunks
            CROSS JOIN LATERAL unnest(tsvector_to_array(coalesce(content_words, '')) || ARRAY['']) AS word(term)
            WHERE live
            GROUP BY 1, 2
        ), locked AS (
            SELECT t.term, t.month, gone.chunks
            FROM %1$I.term_statistics t JOIN gone USING (term, month)
            ORDER BY t.term, t.month
            FOR UPDATE OF t
        )
        UPDATE %1$I.term_statistics t SET chunks = t.chunks - locked.chunks
        FROM locked WHERE t.term = locked.term AND t.month = locked.month
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
    for sql in (GENERATIONS, CHUNKERS, CLEANUP):
        connection.execute(sql)
