"""The tables of the data model, the tables that keep it consistent, and the monthly partitions.

This differs from the first draft of the data model where the draft does not work:

- `documents` is partitioned by month, like `document_chunks`. A unique constraint on a partitioned table must contain
  the partition key, so (source_type, source_id) is unique in `source_items`, which `documents` references.
- PostgreSQL has no text search configuration `japanese`: it is created here, for text that a morphological analyser
  has split into words. The full-text vectors are stored, because their words come from outside.
- Vectors are deleted through an outbox, `vector_deletions`, filled by a trigger on the chunks: a trigger on
  `documents` would run after the cascade and see no chunks, and a database must not call out.
- The bounds of partitions are in UTC: bare dates would move with the session's time zone.

Revision ID: 0001
"""

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

JAPANESE = """
CREATE TEXT SEARCH CONFIGURATION japanese (COPY = simple);
COMMENT ON TEXT SEARCH CONFIGURATION japanese IS
    'for text that is already split into words by a Japanese morphological analyser';
"""

SOURCES = """
CREATE TABLE sources (
    id UUID PRIMARY KEY DEFAULT gen_random_uuid(),
    source_type VARCHAR(50) NOT NULL,
    name VARCHAR(255) NOT NULL,

    connection_config JSONB NOT NULL,
    credentials_encrypted TEXT,

    sync_schedule VARCHAR(100),
    last_sync_at TIMESTAMP WITH TIME ZONE,
    next_sync_at TIMESTAMP WITH TIME ZONE,
    sync_status VARCHAR(20) DEFAULT 'pending',

    total_documents INTEGER DEFAULT 0,
    successful_documents INTEGER DEFAULT 0,
    failed_documents INTEGER DEFAULT 0,

    is_active BOOLEAN DEFAULT true,
    error_count INTEGER DEFAULT 0,
    last_error TEXT,

    created_at TIMESTAMP WITH TIME ZONE DEFAULT NOW(),
    updated_at TIMESTAMP WITH TIME ZONE DEFAULT NOW(),

    CONSTRAINT valid_sync_status
        CHECK (sync_status IN ('pending', 'running', 'completed', 'failed'))
);
CREATE INDEX idx_sources_type ON sources (source_type);
CREATE INDEX idx_sources_active ON sources (is_active);
CREATE INDEX idx_sources_sync_schedule ON sources (next_sync_at) WHERE is_active = true;
CREATE UNIQUE INDEX idx_sources_name_type ON sources (source_type, name);
CREATE INDEX idx_sources_active_sync ON sources (next_sync_at, source_type) WHERE is_active = true;

CREATE TABLE source_scans (
    source UUID PRIMARY KEY REFERENCES sources (id) ON DELETE CASCADE,
    pass BIGINT NOT NULL DEFAULT 0,
    resume_after TEXT,
    started_at TIMESTAMP WITH TIME ZONE,
    finished_at TIMESTAMP WITH TIME ZONE,
    problems TEXT[] NOT NULL DEFAULT '{}',
    unlisted TEXT[] NOT NULL DEFAULT '{}'
);
COMMENT ON TABLE source_scans IS
    'how far the running pass over a source has come; what a complete pass did not see is gone';
COMMENT ON COLUMN source_scans.unlisted IS 'what begins with one of these could not be listed, and is not gone';

CREATE TABLE source_items (
    source_type VARCHAR(50) NOT NULL,
    source_id VARCHAR(255) NOT NULL,
    source UUID NOT NULL REFERENCES sources (id),

    name TEXT NOT NULL,
    locator TEXT NOT NULL,
    url TEXT,

    document_id UUID NOT NULL DEFAULT gen_random_uuid() UNIQUE,
    document_created_at TIMESTAMP WITH TIME ZONE NOT NULL,

    state VARCHAR(20) NOT NULL DEFAULT 'pending',
    error_message TEXT,
    failures INTEGER NOT NULL DEFAULT 0,
    retry_at TIMESTAMP WITH TIME ZONE,

    seen_fingerprint TEXT NOT NULL,
    seen_recipe TEXT NOT NULL,
    seen_pass BIGINT NOT NULL,
    ingested_fingerprint TEXT,
    ingested_recipe TEXT,
    content_hash CHAR(64),

    first_seen_at TIMESTAMP WITH TIME ZONE NOT NULL DEFAULT NOW(),
    last_seen_at TIMESTAMP WITH TIME ZONE NOT NULL DEFAULT NOW(),
    ingested_at TIMESTAMP WITH TIME ZONE,

    PRIMARY KEY (source_type, source_id),
    CONSTRAINT source_items_document_key UNIQUE (source_type, source_id, document_id, document_created_at),
    CONSTRAINT valid_state CHECK (state IN ('pending', 'ingested', 'failed', 'gone', 'retired'))
);
CREATE INDEX idx_source_items_source ON source_items (source, seen_pass);
CREATE INDEX idx_source_items_work ON source_items (document_created_at) WHERE state IN ('pending', 'gone');
CREATE INDEX idx_source_items_failed ON source_items (source) WHERE state = 'failed';
CREATE INDEX idx_source_items_retry ON source_items (retry_at) WHERE state = 'failed';
CREATE INDEX idx_source_items_retired ON source_items (document_created_at) WHERE state = 'retired';
COMMENT ON TABLE source_items IS
    'what each source holds: the desired state, and the key that keeps (source_type, source_id) unique over all months';
COMMENT ON COLUMN source_items.state IS
    'retired: older than the months that are kept, so it is neither ingested nor deleted; see retiring_months';
COMMENT ON COLUMN source_items.retry_at IS 'when an item that is set aside is tried again; later with each failure';

CREATE TABLE retiring_months (
    month DATE PRIMARY KEY,
    since TIMESTAMP WITH TIME ZONE NOT NULL DEFAULT NOW()
);
COMMENT ON TABLE retiring_months IS
    'months whose retirement is under way: a row goes only after the month''s partitions have left Milvus too';
"""

DOCUMENTS = """
CREATE TABLE documents (
    id UUID NOT NULL DEFAULT gen_random_uuid(),
    title VARCHAR(1000) NOT NULL,
    content TEXT NOT NULL,
    source_type VARCHAR(50) NOT NULL,
    source_id VARCHAR(255) NOT NULL,
    source_url TEXT,

    author VARCHAR(255),
    language CHAR(2) DEFAULT 'ja',
    category VARCHAR(100),
    tags TEXT[],

    word_count INTEGER DEFAULT 0,
    char_count INTEGER DEFAULT 0,
    chunk_count INTEGER DEFAULT 0,

    processing_status VARCHAR(20) DEFAULT 'pending',
    indexing_status VARCHAR(20) DEFAULT 'pending',
    error_message TEXT,

    created_at TIMESTAMP WITH TIME ZONE NOT NULL DEFAULT NOW(),
    updated_at TIMESTAMP WITH TIME ZONE DEFAULT NOW(),
    indexed_at TIMESTAMP WITH TIME ZONE,

    content_words TSVECTOR,
    chunked_with TEXT,
    failures INTEGER NOT NULL DEFAULT 0,
    retry_at TIMESTAMP WITH TIME ZONE,

    PRIMARY KEY (id, created_at),
    CONSTRAINT documents_source_item_fkey
        FOREIGN KEY (source_type, source_id, id, created_at)
        REFERENCES source_items (source_type, source_id, document_id, document_created_at) ON DELETE CASCADE,
    CONSTRAINT valid_processing_status
        CHECK (processing_status IN ('pending', 'processing', 'completed', 'failed')),
    CONSTRAINT valid_indexing_status
        CHECK (indexing_status IN ('pending', 'indexing', 'completed', 'failed')),
    CONSTRAINT valid_language
        CHECK (language ~ '^[a-z]{2}$'),
    CONSTRAINT positive_counts
        CHECK (word_count >= 0 AND char_count >= 0 AND chunk_count >= 0)
) PARTITION BY RANGE (created_at);

CREATE INDEX idx_documents_source ON documents (source_type, source_id);
CREATE INDEX idx_documents_status ON documents (processing_status, indexing_status);
CREATE INDEX idx_documents_created ON documents (created_at DESC);
CREATE INDEX idx_documents_language ON documents (language);
CREATE INDEX idx_documents_category ON documents (category);
CREATE INDEX idx_documents_tags ON documents USING GIN (tags);
CREATE INDEX idx_documents_fulltext ON documents USING GIN (content_words);
CREATE INDEX idx_documents_work ON documents (created_at)
    WHERE processing_status IN ('pending', 'processing') OR indexing_status IN ('pending', 'indexing', 'failed');

COMMENT ON COLUMN documents.retry_at IS
    'when chunks that could not be embedded are tried again; later with each failure';
"""

CHUNKS = """
CREATE TABLE document_chunks (
    id UUID NOT NULL DEFAULT gen_random_uuid(),
    document_id UUID NOT NULL,
    document_created_at TIMESTAMP WITH TIME ZONE NOT NULL,

    content TEXT NOT NULL,
    chunk_type VARCHAR(50) DEFAULT 'text',
    position INTEGER NOT NULL,

    section_title VARCHAR(500),
    hierarchy_level INTEGER DEFAULT 1,
    parent_chunk_id UUID,

    token_count INTEGER DEFAULT 0,
    char_count INTEGER DEFAULT 0,

    dense_vector_id VARCHAR(255),
    sparse_vector_id VARCHAR(255),
    multi_vector_id VARCHAR(255),

    embedding_status VARCHAR(20) DEFAULT 'pending',
    embedding_error TEXT,

    last_search_score FLOAT,
    search_count INTEGER DEFAULT 0,

    created_at TIMESTAMP WITH TIME ZONE DEFAULT NOW(),
    updated_at TIMESTAMP WITH TIME ZONE DEFAULT NOW(),
    embedded_at TIMESTAMP WITH TIME ZONE,

    content_hash CHAR(64) NOT NULL,
    embedding_text TEXT,
    content_words TSVECTOR,
    embedder VARCHAR(255),
    multi_vector_count INTEGER NOT NULL DEFAULT 0,

    live BOOLEAN NOT NULL DEFAULT false,
    retired BOOLEAN NOT NULL DEFAULT false,
    next_place JSONB,
    stored_position INTEGER,
    stored_language CHAR(2),

    PRIMARY KEY (id, document_created_at),
    CONSTRAINT document_chunks_document_fkey
        FOREIGN KEY (document_id, document_created_at) REFERENCES documents (id, created_at) ON DELETE CASCADE,
    CONSTRAINT document_chunks_parent_fkey
        FOREIGN KEY (parent_chunk_id, document_created_at) REFERENCES document_chunks (id, document_created_at)
        ON DELETE SET NULL (parent_chunk_id),
    CONSTRAINT valid_embedding_status
        CHECK (embedding_status IN ('pending', 'processing', 'completed', 'failed')),
    CONSTRAINT positive_position CHECK (position >= 0),
    CONSTRAINT positive_counts
        CHECK (token_count >= 0 AND char_count >= 0 AND hierarchy_level >= 1)
) PARTITION BY RANGE (document_created_at);

CREATE INDEX idx_chunks_document ON document_chunks (document_id, position);
CREATE INDEX idx_chunks_embedding_status ON document_chunks (embedding_status);
CREATE INDEX idx_chunks_vector_ids ON document_chunks (dense_vector_id, sparse_vector_id);
CREATE INDEX idx_chunks_hierarchy ON document_chunks (hierarchy_level, section_title);
CREATE INDEX idx_chunks_parent ON document_chunks (parent_chunk_id);
CREATE INDEX idx_chunks_fulltext ON document_chunks USING GIN (content_words);
CREATE INDEX idx_chunks_search_optimized
    ON document_chunks (embedding_status, document_id, position)
    WHERE embedding_status = 'completed';

COMMENT ON COLUMN document_chunks.content_hash IS 'SHA-256 of what is embedded: chunks with equal hashes share vectors';
COMMENT ON COLUMN document_chunks.embedding_text IS 'what is embedded, where it is not the content itself';
COMMENT ON COLUMN document_chunks.live IS 'searches see this chunk; a new version''s chunks become live all at once';
COMMENT ON COLUMN document_chunks.retired IS 'not in the document''s next version: deleted when that becomes live';
COMMENT ON COLUMN document_chunks.next_place IS 'place in the next version of a chunk that stays; applied when that becomes live';
COMMENT ON COLUMN document_chunks.stored_position IS 'position written in the collections; written anew where it is not this row''s';
"""

OUTBOX = """
CREATE TABLE vector_deletions (
    id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    chunk_id UUID NOT NULL,
    document_created_at TIMESTAMP WITH TIME ZONE NOT NULL,
    multi_vector_count INTEGER NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE NOT NULL DEFAULT NOW()
);
COMMENT ON TABLE vector_deletions IS
    'outbox: chunks whose vectors have to leave Milvus; a row goes only after Milvus has confirmed';
CREATE INDEX idx_vector_deletions_month ON vector_deletions (document_created_at);

CREATE TABLE term_statistics (
    term TEXT NOT NULL,
    month DATE NOT NULL,
    chunks INTEGER NOT NULL,
    PRIMARY KEY (term, month)
);
COMMENT ON TABLE term_statistics IS
    'how many live chunks of a month hold a word; the empty word counts all live chunks';

CREATE FUNCTION cleanup_document_vectors() RETURNS trigger AS $$
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
    RETURN NULL;
END;
$$ LANGUAGE plpgsql;
COMMENT ON FUNCTION cleanup_document_vectors() IS
    'puts the vectors of deleted chunks into the outbox, in the transaction that deletes the chunks';

CREATE TRIGGER cleanup_document_vectors AFTER DELETE ON document_chunks
    REFERENCING OLD TABLE AS deleted_chunks
    FOR EACH STATEMENT EXECUTE FUNCTION cleanup_document_vectors();

CREATE FUNCTION refuse_truncate() RETURNS trigger AS $$
BEGIN
    RAISE EXCEPTION 'TRUNCATE of % would leave its vectors in Milvus: it runs no trigger for the rows', TG_TABLE_NAME
        USING ERRCODE = 'feature_not_supported',
              HINT = 'Use DELETE, which puts the vectors into the outbox, or RAG_RETENTION_MONTHS for old months.';
END;
$$ LANGUAGE plpgsql;

CREATE TRIGGER refuse_truncate BEFORE TRUNCATE ON documents
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_truncate();
CREATE TRIGGER refuse_truncate BEFORE TRUNCATE ON document_chunks
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_truncate();
"""

PARTITIONS = """
CREATE FUNCTION create_monthly_partition(target_date DATE) RETURNS void AS $$
DECLARE
    start_at TIMESTAMP WITH TIME ZONE := date_trunc('month', target_date::timestamp) AT TIME ZONE 'UTC';
    end_at TIMESTAMP WITH TIME ZONE :=
        (date_trunc('month', target_date::timestamp) + INTERVAL '1 month') AT TIME ZONE 'UTC';
    parent TEXT;
    partition_name TEXT;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('create_monthly_partition'));
    FOREACH parent IN ARRAY ARRAY['documents', 'document_chunks'] LOOP
        partition_name := parent || '_' || to_char(target_date, 'YYYY_MM');
        IF EXISTS (
            SELECT FROM pg_inherits
            WHERE inhparent = parent::regclass AND inhrelid = to_regclass(partition_name)
        ) THEN
            CONTINUE;
        END IF;
        -- Attaching takes a lock that readers and writers of the other months do not feel; PARTITION OF would
        -- wait for every running query on the table, and everybody would wait behind it.
        EXECUTE format('CREATE TABLE IF NOT EXISTS %I (LIKE %I INCLUDING DEFAULTS INCLUDING CONSTRAINTS)',
                       partition_name, parent);
        EXECUTE format('ALTER TABLE %I ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)',
                       parent, partition_name, start_at, end_at);
        EXECUTE format('CREATE TRIGGER refuse_truncate BEFORE TRUNCATE ON %I
                        FOR EACH STATEMENT EXECUTE FUNCTION refuse_truncate()', partition_name);
        IF parent = 'document_chunks' THEN
            -- A statement on the parent fires the parent's trigger, a statement on the partition only its own.
            EXECUTE format('CREATE TRIGGER cleanup_document_vectors AFTER DELETE ON %I
                            REFERENCING OLD TABLE AS deleted_chunks
                            FOR EACH STATEMENT EXECUTE FUNCTION cleanup_document_vectors()', partition_name);
        END IF;
    END LOOP;
END;
$$ LANGUAGE plpgsql;
"""

USERS = """
CREATE TABLE users (
    id UUID PRIMARY KEY DEFAULT gen_random_uuid(),
    email VARCHAR(255) NOT NULL UNIQUE,
    username VARCHAR(100) NOT NULL UNIQUE,
    password_hash VARCHAR(255) NOT NULL,

    full_name VARCHAR(255),
    avatar_url TEXT,
    timezone VARCHAR(50) DEFAULT 'Asia/Tokyo',

    role VARCHAR(50) DEFAULT 'viewer',
    permissions TEXT[],
    is_active BOOLEAN DEFAULT true,
    is_verified BOOLEAN DEFAULT false,

    failed_login_attempts INTEGER DEFAULT 0,
    locked_until TIMESTAMP WITH TIME ZONE,
    last_login_at TIMESTAMP WITH TIME ZONE,
    password_changed_at TIMESTAMP WITH TIME ZONE DEFAULT NOW(),

    created_at TIMESTAMP WITH TIME ZONE DEFAULT NOW(),
    updated_at TIMESTAMP WITH TIME ZONE DEFAULT NOW(),

    CONSTRAINT valid_role
        CHECK (role IN ('viewer', 'editor', 'admin', 'super_admin')),
    CONSTRAINT valid_email
        CHECK (email ~ '^[A-Za-z0-9._%+-]+@[A-Za-z0-9.-]+\\.[A-Za-z]{2,}$')
);
CREATE INDEX idx_users_email ON users (email);
CREATE INDEX idx_users_role ON users (role);
CREATE INDEX idx_users_active ON users (is_active);
CREATE INDEX idx_users_permissions ON users USING GIN (permissions);

CREATE TABLE api_keys (
    id UUID PRIMARY KEY DEFAULT gen_random_uuid(),
    user_id UUID NOT NULL REFERENCES users(id) ON DELETE CASCADE,

    key_hash VARCHAR(255) NOT NULL UNIQUE,
    key_prefix VARCHAR(20) NOT NULL,
    name VARCHAR(255) NOT NULL,
    description TEXT,

    permissions TEXT[] NOT NULL,
    rate_limit_per_minute INTEGER DEFAULT 100,

    usage_count INTEGER DEFAULT 0,
    last_used_at TIMESTAMP WITH TIME ZONE,

    is_active BOOLEAN DEFAULT true,
    expires_at TIMESTAMP WITH TIME ZONE,

    created_at TIMESTAMP WITH TIME ZONE DEFAULT NOW(),
    updated_at TIMESTAMP WITH TIME ZONE DEFAULT NOW(),

    CONSTRAINT positive_rate_limit CHECK (rate_limit_per_minute > 0)
);
CREATE INDEX idx_api_keys_user ON api_keys (user_id);
CREATE INDEX idx_api_keys_active ON api_keys (is_active);
CREATE INDEX idx_api_keys_expires ON api_keys (expires_at) WHERE expires_at IS NOT NULL;
"""


def upgrade() -> None:
    # The driver's connection: SQLAlchemy would take the `%` of format() for placeholders.
    connection = op.get_bind().connection.driver_connection
    assert connection is not None
    for sql in (JAPANESE, SOURCES, DOCUMENTS, CHUNKS, OUTBOX, PARTITIONS, USERS):
        connection.execute(sql)
