"""A migration that changes the tables of generations reaches every one of them."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest

from rag_pipeline.consistency.checker import DataConsistencyChecker
from rag_pipeline.generations import registry, switching
from rag_pipeline.stores.postgres import generation_tables, schema
from rag_pipeline.stores.postgres.database import Connection, value
from rag_pipeline.stores.postgres.migrations.in_each_generation import in_each_generation
from rag_pipeline_tests.support.generations import GenerationIndex
from rag_pipeline_tests.support.index import sections
from rag_pipeline_tests.support.stores import Stores

ADD_COLUMN = "ALTER TABLE documents ADD COLUMN probe TEXT"
FILL = "UPDATE documents SET probe = documents.title || (SELECT count(*) FROM source_items)"


@pytest.fixture
def index(tmp_path: Path, prepared_stores: Stores) -> GenerationIndex:
    """With three generations: 1 was live before, 2 is live, 3 is being built."""
    index = GenerationIndex(tmp_path, prepared_stores)
    index.write("a.md", sections("掃除"), "2024-01-31")
    index.write("b.md", sections("復元"), "2024-02-01")
    index.ingest()
    index.build()
    with index.opened() as pipeline:
        switching.switch(pipeline)
    index.build(embedder="rag_pipeline_tests.support.embedders:cheap", chunk_tokens=128)
    assert index.states() == {1: "previous", 2: "live", 3: "building"}
    return index


def test_a_change_reaches_every_generation_and_no_other_deployment(index: GenerationIndex) -> None:
    with psycopg.connect(index.endpoints.postgres_url) as connection:
        for schema in ("another_generation_3", "public_generation_x", "xpublic_generation_4"):
            connection.execute(f"CREATE SCHEMA {schema}")
            connection.execute(f"CREATE TABLE {schema}.documents (id INT) PARTITION BY RANGE (id)")
        connection.commit()
        path = connection.execute("SHOW search_path").fetchone()
        in_each_generation(connection, ADD_COLUMN, FILL)
        assert connection.execute("SHOW search_path").fetchone() == path
        connection.commit()
        having = connection.execute(
            "SELECT n.nspname FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid "
            "JOIN pg_namespace n ON n.oid = c.relnamespace WHERE a.attname = 'probe' AND c.relname = 'documents'"
        ).fetchall()
        assert sorted(having) == [("public",), ("public_generation_1",), ("public_generation_3",)]
        for (schema,) in having:
            filled = connection.execute(f"SELECT title || 2, probe FROM {schema}.documents").fetchall()
            assert len(filled) == 2
            assert all(wanted == found for wanted, found in filled)

    with index.opened() as pipeline:
        switching.switch(pipeline)
    assert index.states() == {1: "previous", 2: "previous", 3: "live"}
    index.write("c.md", sections("統計"), "2024-02-02")
    assert index.ingest().complete
    with index.opened() as pipeline:
        assert DataConsistencyChecker(pipeline).check_consistency().consistent
        assert {status.row.id for status in registry.statuses(pipeline)} >= {2, 3}


def test_without_other_generations_it_is_a_migration_like_any_other(
    tmp_path: Path, prepared_stores: Stores
) -> None:
    index = GenerationIndex(tmp_path, prepared_stores)
    with psycopg.connect(index.endpoints.postgres_url) as connection:
        in_each_generation(connection, ADD_COLUMN)
        assert connection.execute("SELECT probe FROM documents").fetchall() == []
        connection.rollback()


BEFORE_0012 = """
CREATE TABLE before AS SELECT term, month, sum(chunks)::integer AS chunks FROM term_statistics GROUP BY 1, 2;
DROP TABLE term_statistics;
ALTER TABLE before RENAME TO term_statistics;
ALTER TABLE term_statistics ADD PRIMARY KEY (term, month);
GRANT SELECT ON term_statistics TO PUBLIC;
ALTER TABLE document_chunks DROP COLUMN source;
ALTER TABLE documents DROP COLUMN source;
CREATE INDEX idx_documents_tags ON documents USING GIN (tags);
CREATE INDEX idx_chunks_fulltext ON document_chunks USING GIN (content_words) WHERE live;
"""
COUNTS = "SELECT term, month, source, chunks FROM term_statistics WHERE chunks > 0 ORDER BY 1, 2, 3"
SOURCES_OF_CHUNKS = "SELECT id, source, live FROM document_chunks ORDER BY id"
SOURCES_OF_DOCUMENTS = "SELECT id, source FROM documents ORDER BY id"
INDEXES = """SELECT tablename, indexname, indexdef FROM pg_indexes
    WHERE schemaname = current_schema() AND tablename IN ('documents', 'document_chunks') ORDER BY 1, 2"""
GRANTED = "SELECT relacl::text LIKE '%=r/%' FROM pg_class WHERE oid = 'term_statistics'::regclass"


def test_an_older_index_knows_sources_and_counts_words_by_them_in_every_generation(
    index: GenerationIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = index.folder / "more"
    more.mkdir()
    for name, text, date in (("c.md", "復元 統計", "2024-02-03"), ("d.md", "掃除", "2024-03-01")):
        more.joinpath(name).write_text(f"---\ndate: {date}\n---\n{sections(text)}", "utf-8")
    docs, hr = "{name: docs, type: filesystem, path: ./docs}", "{name: hr, type: filesystem, path: ./more}"
    index.sources.write_text(f"sources: [{docs}, {hr}]\n", "utf-8")
    index.ingest()
    index.build(embedder="rag_pipeline_tests.support.embedders:cheap", chunk_tokens=128)

    def in_each_schema(*queries: str) -> list[list[tuple[object, ...]]]:
        rows = []
        with psycopg.connect(index.endpoints.postgres_url) as connection:
            for schema_name in ("public", "public_generation_1", "public_generation_3"):
                connection.execute(f"SET LOCAL search_path TO {schema_name}, public")
                rows += [connection.execute(query).fetchall() for query in queries]
        return rows

    stored = COUNTS, SOURCES_OF_CHUNKS, SOURCES_OF_DOCUMENTS, INDEXES
    before = in_each_schema(*stored)
    assert len({row[2] for row in before[0]}) == 2
    assert len({row[1] for row in before[2]}) == 2
    with psycopg.connect(index.endpoints.postgres_url) as connection:
        in_each_generation(connection, BEFORE_0012)
        connection.execute(f"UPDATE {schema.VERSION_TABLE} SET version_num = '0011'")
    began: list[str] = []
    read: list[int] = []
    look_in = generation_tables.look_in

    def read_meanwhile(connection: Connection, schema_name: str, path: str) -> None:
        """While 0013, 0015 and 0016 work on the other two generations' tables, before the exchanges."""
        began.append(schema_name)
        if len(began) in {3, 4, 9, 10, 13, 14}:
            with psycopg.connect(index.endpoints.postgres_url, options="-c lock_timeout=5s") as other:
                joined = "SELECT count(*) FROM term_statistics, document_chunks, documents WHERE false"
                read.append(value(other, joined))
        look_in(connection, schema_name, path)

    with monkeypatch.context() as patch:
        patch.setattr(generation_tables, "look_in", read_meanwhile)
        with index.opened() as pipeline:
            assert schema.migrate(pipeline.stores.database) is False, "opening it has"
    assert len(began) == 16
    assert read == [0] * 6
    with index.opened() as pipeline:
        assert DataConsistencyChecker(pipeline).check_consistency().consistent
    assert in_each_schema(*stored) == before
    assert in_each_schema(GRANTED) == [[(True,)]] * 3

    index.rows("DELETE FROM documents WHERE source_id = 'hr:c.md' RETURNING id")
    (left,) = index.rows(
        "SELECT sum(chunks) FROM term_statistics t JOIN sources s ON s.id = t.source WHERE name = 'hr' AND term = '復元'"
    )
    assert left == (0,)
    assert index.ingest().complete
    with index.opened() as pipeline:
        assert DataConsistencyChecker(pipeline).check_consistency().consistent
    assert in_each_schema(COUNTS)[0] == before[0]
