"""The schema: tables and indexes of the data model, partitions, the outbox, and migrations of existing rows."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from uuid import uuid4

import psycopg
import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory

from rag_pipeline.errors import BusyError, RagError
from rag_pipeline.months import Month
from rag_pipeline.stores.postgres import schema
from rag_pipeline.stores.postgres.database import Connection, Database, value
from rag_pipeline_tests.support.databases import wait_for_blocked_session

JANUARY = Month(2024, 1)


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    database = Database(database_url, min_size=1)
    schema.migrate(database)
    yield database
    database.close()


def _item(connection: Connection, created_at: datetime, name: str = "a.md") -> tuple[object, datetime]:
    source = connection.execute(
        "INSERT INTO sources (source_type, name, connection_config) VALUES ('filesystem', 'docs', '{}') "
        "ON CONFLICT (source_type, name) DO UPDATE SET updated_at = now() RETURNING id"
    ).fetchone()
    assert source
    row = connection.execute(
        """
        INSERT INTO source_items (source_type, source_id, source, name, locator, document_created_at,
            seen_fingerprint, seen_recipe)
        VALUES ('filesystem', %s, %s, %s, %s, %s, 'f', 'r') RETURNING document_id
        """,
        (f"docs:{name}", source[0], name, name, created_at),
    ).fetchone()
    assert row
    connection.execute(
        "INSERT INTO documents (id, created_at, title, content, source_type, source_id) "
        "VALUES (%s, %s, 'T', 'C', 'filesystem', %s)",
        (row[0], created_at, f"docs:{name}"),
    )
    return row[0], created_at


def _chunks(connection: Connection, document: tuple[object, datetime], count: int, live: bool = True) -> None:
    for position in range(count):
        connection.execute(
            """
            INSERT INTO document_chunks (document_id, document_created_at, content, position, content_hash, live,
                content_words, multi_vector_count)
            VALUES (%s, %s, 'text', %s, '', %s, to_tsvector('japanese', '検索 索引'), 3)
            """,
            (*document, position, live),
        )


def test_head_is_the_newest_revision_and_migrating_twice_does_nothing(database: Database) -> None:
    config = Config()
    config.set_main_option("script_location", "rag_pipeline.stores.postgres:migrations")
    assert ScriptDirectory.from_config(config).get_current_head() == schema.HEAD
    assert schema.migrate(database) is False


def test_several_processes_can_migrate_at_once(database_url: str) -> None:
    databases = [Database(database_url, min_size=1) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(schema.migrate, databases))
    for database in databases:
        database.close()


def test_a_migration_does_not_make_searches_wait_behind_a_backup(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema, "_LOCK_MILLISECONDS", 200)
    database = Database(database_url, min_size=1)
    schema.migrate(database, "0006")
    with psycopg.connect(database_url) as backup:
        backup.execute("LOCK TABLE sources IN ACCESS SHARE MODE")  # as pg_dump does, until it ends
        with pytest.raises(BusyError, match="from 0006 to 0007 while a backup or another long"):
            schema.migrate(database, "0007")
        with psycopg.connect(database_url) as other:
            other.execute("SET lock_timeout = 100")
            other.execute("SELECT FROM sources")
    assert schema.migrate(database, "0007") is True
    database.close()


def test_what_one_migration_has_locked_is_free_while_a_later_one_waits(database_url: str) -> None:
    """Or builds an index. Whatever ends the later one, the schema is where the one before has left it."""
    database = Database(database_url, min_size=1)
    schema.migrate(database, "0005")
    with psycopg.connect(database_url) as other, ThreadPoolExecutor(1) as pool:
        other.execute("LOCK TABLE sources IN ACCESS SHARE MODE")  # which 0007 adds a column to
        migrating = pool.submit(schema.migrate, database, "0007")
        try:
            wait_for_blocked_session(database_url)
            other.execute("SET lock_timeout = 100")
            other.execute("SELECT missed_pass FROM source_items")  # which 0006 has added
            other.execute("SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
        finally:
            other.rollback()
        with pytest.raises(psycopg.errors.QueryCanceled):
            migrating.result()
    with database.connection() as connection:
        assert value(connection, f"SELECT version_num FROM {schema.VERSION_TABLE}") == "0006"
    assert schema.migrate(database, "0007") is True
    database.close()


def test_a_search_goes_on_while_the_indexes_that_it_reads_are_replaced(database_url: str) -> None:
    """It locks chunks, then documents: no revision may hold one of them while it waits for the other."""
    database = Database(database_url, min_size=1)
    schema.migrate(database, "0014")
    with psycopg.connect(database_url) as search, ThreadPoolExecutor(1) as pool:
        search.execute("SET lock_timeout = 3000")
        search.execute("SELECT FROM document_chunks")
        migrating = pool.submit(schema.migrate, database)
        try:
            wait_for_blocked_session(database_url)
            search.execute("SELECT FROM document_chunks JOIN documents ON true")
        finally:
            search.rollback()
        assert migrating.result() is True
    database.close()


def test_all_tables_and_indexes_of_the_data_model(database: Database) -> None:
    with database.connection() as connection:
        tables = {
            name for (name,) in connection.execute("SELECT relname FROM pg_class WHERE relkind IN ('r', 'p')")
        }
        indexes = {
            name for (name,) in connection.execute("SELECT relname FROM pg_class WHERE relkind IN ('i', 'I')")
        }
    assert {"documents", "document_chunks", "sources", "users", "api_keys"} <= tables
    assert {"source_items", "source_scans", "vector_deletions", "term_statistics"} <= tables
    assert {
        *("idx_documents_source", "idx_documents_status", "idx_documents_created", "idx_documents_language"),
        *("idx_documents_category", "idx_documents_tags", "idx_documents_fulltext"),
        *(
            "idx_chunks_document",
            "idx_chunks_embedding_status",
            "idx_chunks_vector_ids",
            "idx_chunks_hierarchy",
        ),
        *("idx_chunks_parent", "idx_chunks_fulltext", "idx_chunks_search_optimized"),
        *("idx_sources_type", "idx_sources_active", "idx_sources_sync_schedule", "idx_sources_name_type"),
        *("idx_sources_active_sync", "idx_users_email", "idx_users_role", "idx_users_active"),
        *("idx_users_permissions", "idx_api_keys_user", "idx_api_keys_active", "idx_api_keys_expires"),
    } <= indexes


def test_searches_of_live_chunks_use_the_full_text_index(database: Database) -> None:
    schema.ensure_months(database, [JANUARY])
    condition = "c.content_words @@ 'word'::tsquery AND c.document_created_at >= '2024-01-01Z'"
    with database.connection() as connection:
        connection.execute("SET LOCAL enable_seqscan = off")
        plan = connection.execute(f"EXPLAIN SELECT FROM document_chunks c WHERE c.live AND {condition}").fetchall()
    assert "document_chunks_2024_01_content_words_array_idx" in str(plan)


def test_bounds_of_partitions_are_utc_whatever_the_session(database: Database) -> None:
    connection = database.connect()
    connection.execute("SET timezone = 'Asia/Tokyo'")
    connection.execute("SELECT create_monthly_partition('2024-01-15')")
    connection.execute("SELECT create_monthly_partition('2024-01-01')")
    connection.execute("SET timezone = 'UTC'")
    bounds = connection.execute(
        "SELECT pg_get_expr(relpartbound, oid) FROM pg_class WHERE relname = 'documents_2024_01'"
    ).fetchone()
    connection.commit()
    connection.close()
    assert bounds == ("FOR VALUES FROM ('2024-01-01 00:00:00+00') TO ('2024-02-01 00:00:00+00')",)


def test_missing_months_are_created_once(database: Database) -> None:
    wanted = [Month(2024, 2), Month(2023, 12), Month(2024, 2)]
    assert schema.ensure_months(database, wanted) == [Month(2023, 12), Month(2024, 2)]
    assert schema.ensure_months(database, wanted) == []
    assert schema.existing_months(database) == [Month(2023, 12), Month(2024, 2)]


def test_a_source_id_is_unique_over_all_months(database: Database) -> None:
    schema.ensure_months(database, [JANUARY, JANUARY.next()])
    with database.connection() as connection:
        document, _ = _item(connection, JANUARY.start)
    with pytest.raises(psycopg.errors.UniqueViolation), database.connection() as connection:
        _item(connection, JANUARY.end)
    with pytest.raises(psycopg.errors.ForeignKeyViolation), database.connection() as connection:
        connection.execute(
            "INSERT INTO documents (id, created_at, title, content, source_type, source_id) "
            "VALUES (%s, %s, 'T', 'C', 'filesystem', 'docs:a.md')",
            (uuid4(), JANUARY.end),
        )
    assert document


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM source_items",
        "DELETE FROM documents",
        "DELETE FROM documents_2024_01",
        "DELETE FROM document_chunks",
        "DELETE FROM document_chunks_2024_01",
    ],
)
def test_deleted_chunks_reach_the_outbox_however_they_are_deleted(database: Database, statement: str) -> None:
    schema.ensure_months(database, [JANUARY])
    with database.connection() as connection:
        document = _item(connection, datetime(2024, 1, 31, 23, 59, tzinfo=UTC))
        _chunks(connection, document, 5)
        connection.execute("UPDATE document_chunks SET source = (SELECT id FROM sources)")
        connection.execute(
            "INSERT INTO term_statistics (term, month, source, chunks) "
            "SELECT term, '2024-01-01', id, 5 FROM sources CROSS JOIN unnest(ARRAY['検索', '']) term"
        )
    with database.connection() as connection:
        connection.execute(statement)  # type: ignore[call-overload]
        outbox = connection.execute("SELECT count(*), sum(multi_vector_count) FROM vector_deletions").fetchone()
        statistics = dict(connection.execute("SELECT term, chunks FROM term_statistics").fetchall())  # type: ignore[arg-type]
    assert outbox == (5, 15)
    assert statistics == {"検索": 0, "": 0}


@pytest.mark.parametrize(
    "tables",
    [
        "source_items CASCADE",
        "documents CASCADE",
        "documents_2024_01 CASCADE",
        "document_chunks",
        "document_chunks_2024_01 CASCADE",
    ],
)
def test_truncate_is_refused_because_it_would_leave_vectors_behind(database: Database, tables: str) -> None:
    schema.ensure_months(database, [JANUARY])
    with database.connection() as connection:
        _chunks(connection, _item(connection, JANUARY.start), 2)
    with pytest.raises(psycopg.errors.FeatureNotSupported) as caught, database.connection() as connection:
        connection.execute(f"TRUNCATE {tables}")  # type: ignore[call-overload]
    assert "Use DELETE" in (caught.value.diag.message_hint or "")
    with database.connection() as connection:
        assert connection.execute("SELECT count(*) FROM document_chunks").fetchone() == (2,)


def test_a_deletion_that_is_rolled_back_leaves_the_outbox_alone(database: Database) -> None:
    schema.ensure_months(database, [JANUARY])
    with database.connection() as connection:
        _chunks(connection, _item(connection, JANUARY.start), 2)
    with pytest.raises(RuntimeError), database.connection() as connection:
        connection.execute("DELETE FROM documents")
        raise RuntimeError
    with database.connection() as connection:
        assert connection.execute("SELECT count(*) FROM vector_deletions").fetchone() == (0,)
        assert connection.execute("SELECT count(*) FROM document_chunks").fetchone() == (2,)


def test_japanese_words_are_found_by_the_configuration(database: Database) -> None:
    with database.connection() as connection:
        row = connection.execute(
            "SELECT to_tsvector('japanese', '全文 検索 postgresql') @@ to_tsquery('japanese', '検索 & PostgreSQL')"
        ).fetchone()
    assert row == (True,)


@pytest.mark.parametrize("language", ["JA", "j", "日本"])
def test_constraints_of_the_data_model_hold(database: Database, language: str) -> None:
    schema.ensure_months(database, [JANUARY])
    with database.connection() as connection:
        _item(connection, JANUARY.start)
    with pytest.raises(psycopg.errors.CheckViolation), database.connection() as connection:
        connection.execute("UPDATE documents SET language = %s", (language,))


def test_a_database_in_another_encoding_is_refused(database_url: str) -> None:
    name = f"euc_jp_{uuid4().hex[:8]}"
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(
            f"CREATE DATABASE {name} ENCODING 'EUC_JP' LOCALE_PROVIDER libc LOCALE 'C' TEMPLATE template0"
        )
    database = Database(psycopg.conninfo.make_conninfo(database_url, dbname=name), min_size=1)
    try:
        with pytest.raises(RagError, match=f"{name} is encoded in EUC_JP: create one with ENCODING 'UTF8'"):
            schema.migrate(database)
    finally:
        database.close()
        with psycopg.connect(database_url, autocommit=True) as connection:
            connection.execute(f"DROP DATABASE {name}")


def test_rows_of_an_older_schema_are_found_under_the_new_names(database_url: str) -> None:
    database = Database(database_url, min_size=1)
    schema.migrate(database, "0002")
    schema.ensure_months(database, [JANUARY])
    with database.connection() as connection:
        connection.execute("ALTER TABLE source_items ALTER seen_pass SET DEFAULT 1")  # the column is gone by now
        document = _item(connection, JANUARY.start)
        _chunks(connection, document, 3)
        connection.execute("UPDATE document_chunks SET retired = true WHERE position = 1")
        _item(connection, JANUARY.start, "b.md")
        connection.execute("UPDATE source_items SET state = 'retired' WHERE name = 'a.md'")
        connection.execute("INSERT INTO retiring_months (month) VALUES ('2024-01-01')")
    assert schema.migrate(database) is True
    with database.connection() as connection:
        superseded = connection.execute("SELECT position FROM document_chunks_2024_01 WHERE superseded").fetchall()
        states = connection.execute("SELECT name, state FROM source_items ORDER BY name").fetchall()
        months = connection.execute("SELECT month::text FROM expiring_months").fetchall()
    assert superseded == [(1,)]
    assert states == [("a.md", "expired"), ("b.md", "pending")]
    assert months == [("2024-01-01",)]
    with pytest.raises(psycopg.errors.CheckViolation), database.connection() as connection:
        connection.execute("UPDATE source_items SET state = 'retired'")
    database.close()


def test_alerts_follow_the_job_that_was_renamed(database_url: str) -> None:
    database = Database(database_url, min_size=1)
    schema.migrate(database, "0002")
    subjects = [
        ("run", "retire_months"),
        ("run", "index_month"),
        ("schedule", "retire_months of rag_pipeline"),
        ("run", "retire_months_by_hand"),
    ]
    with database.connection() as connection:
        for number, (kind, name) in enumerate(subjects):
            connection.execute(
                """
                WITH alert AS (
                    INSERT INTO alert_outbox (event_key, kind, name, state, occurred_at, since, details)
                    VALUES (%s, %s, %s, 'failing', now(), now(), '{}') RETURNING id, kind, name)
                INSERT INTO alert_states (kind, name, failing, since, log, event_id, alert)
                SELECT kind, name, true, now(), 'log', %s, id FROM alert
                """,
                (str(number), kind, name, number),
            )
    schema.migrate(database)
    with database.connection() as connection:
        states = connection.execute("SELECT kind, name FROM alert_states ORDER BY event_id").fetchall()
        alerts = connection.execute("SELECT kind, name FROM alert_outbox ORDER BY id").fetchall()
    database.close()
    renamed = [("run", "expire_months"), subjects[1], ("schedule", "expire_months of rag_pipeline"), subjects[3]]
    assert states == renamed
    assert alerts == renamed
