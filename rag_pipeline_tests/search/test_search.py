from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from rag_pipeline.embedding import bm25
from rag_pipeline.endpoints import Endpoints
from rag_pipeline.errors import ConfigError, DimensionMismatchError, RagError, StoreUnavailableError
from rag_pipeline.months import Month
from rag_pipeline.pipeline import Pipeline
from rag_pipeline.search import Filters, candidates, live_candidates, request, search
from rag_pipeline.search.terms import Terms
from rag_pipeline.stores.milvus.collections import vector_field
from rag_pipeline.stores.postgres import schema, term_statistics
from rag_pipeline.stores.postgres import search_queries as queries
from rag_pipeline.stores.postgres.database import Connection, value
from rag_pipeline_tests.support.milvus import drop_collections
from rag_pipeline_tests.support.search_index import SearchIndex, fill_library, new_index

MODES = ["hybrid", "dense", "sparse", "fulltext"]


def names(index: SearchIndex, query: str, **options: Any) -> list[str]:
    """Return the file names of the hits, best first."""
    return [hit.source_id.removeprefix("docs:") for hit in search(index.pipeline, query, **options).hits]


@pytest.mark.parametrize("mode", MODES)
def test_each_mode_finds_a_word_inside_a_japanese_sentence(shared: SearchIndex, mode):
    assert names(shared, "豆腐", mode=mode)[0] == "recipe.md"


def test_a_hit_names_its_origin(shared: SearchIndex):
    found = search(shared.pipeline, "不要になった行の領域")
    hit = found.hits[0]
    assert (hit.title, hit.section_title, hit.position, hit.source_type) == ("掃除", "掃除", 0, "filesystem")
    assert "領域を回収する。" in hit.content
    assert hit.source_url is not None
    assert all(score is not None for score in hit.scores.values())
    assert [hit.score for hit in found.hits] == sorted((hit.score for hit in found.hits), reverse=True)
    assert json.loads(json.dumps(found.as_json()))["hits"][0]["document_id"] == str(hit.document_id)
    assert found.seconds > 0


def test_rows_of_another_writer_do_not_hide_the_chunks_behind_them(index: SearchIndex):
    name = index.pipeline.collections.generations["dense"].name
    ((chunk,),) = index.execute("SELECT id FROM document_chunks WHERE content LIKE %s", "%豆腐%")
    nearest = index.pipeline.embedder.encode_query("豆腐", ["dense"]).dense
    with index.pipeline.stores.milvus.client() as client:
        (row,) = client.get(name, ids=[f"{chunk}_dense"])
        stray = [{**row, "id": f"zzz{number}", vector_field("dense"): nearest} for number in range(150)]
        client.upsert(name, stray, partition_name=Month(2024, 2).milvus_partition)
    assert "recipe.md" in names(index, "豆腐", mode="dense")


@pytest.mark.parametrize("mode", ["dense", "sparse", "fulltext"])
def test_a_mode_with_one_leg_has_no_scores_of_the_others(shared: SearchIndex, mode):
    scores = search(shared.pipeline, "豆腐", mode=mode).hits[0].scores
    assert {leg for leg, score in scores.items() if score is not None} == {mode} - {"fulltext"}


@pytest.mark.parametrize("mode", MODES)
def test_filters_apply_in_every_mode(shared: SearchIndex, mode):
    every = "VACUUM 複製 豆腐 train"

    def found(**filters: Any) -> set[str]:
        return set(names(shared, every, mode=mode, filters=Filters(**filters)))

    assert found() == {"vacuum.md", "backup.md", "recipe.md", "travel.md"}
    assert found(language="en") == {"travel.md"}
    assert found(language="ja", to_date=date(2024, 1, 31)) == {"vacuum.md"}
    assert found(language="xx") == set()
    assert found(source_type="filesystem", from_date=date(2024, 2, 1)) == {"backup.md", "recipe.md"}
    assert found(from_date=date(2024, 2, 1), to_date=date(2024, 2, 1)) == {"backup.md"}
    assert found(from_date=datetime(2024, 2, 1, 0, 0, 1, tzinfo=UTC), to_date=date(2024, 12, 31)) == {"recipe.md"}
    assert found(from_date=date(2025, 1, 1)) == set()
    assert found(source_type='x" or source_type != "') == set()
    assert found(source_type="x' OR ''='") == set()


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory, server_endpoints: Endpoints) -> Iterator[SearchIndex]:
    with new_index(tmp_path_factory.mktemp("library"), server_endpoints) as index:
        fill_library(index)
        yield index


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("filters", "condition"),
    [
        ({"source": "staff"}, "d.source_id LIKE 'staff:%%'"),
        ({"source": "nobody"}, "false"),
        ({"category": "人事"}, "d.category = '人事'"),
        ({"tags": ("社内",)}, "'社内' = ANY(d.tags)"),
        ({"tags": ("社内", "規程")}, "d.tags @> ARRAY['社内', '規程']"),
        ({"author": "花子"}, "d.author = '花子'"),
        ({"author": "花子", "source": "docs"}, "d.author = '花子' AND d.source_id LIKE 'docs:%%'"),
        ({"category": 'x" or category != "'}, "false"),
        (
            {"author": "花子", "from_date": date(2024, 2, 1), "to_date": date(2024, 2, 28)},
            "d.author = '花子' AND d.created_at >= '2024-02-01Z' AND d.created_at < '2024-02-29Z'",
        ),
    ],
)
def test_filters_find_what_postgresql_says_however_few(library: SearchIndex, mode, filters, condition):
    expected = {row[0] for row in library.execute(f"SELECT d.source_id FROM documents d WHERE {condition}")}
    found = search(library.pipeline, "休暇の取り方", mode=mode, limit=100, filters=Filters(**filters)).hits
    assert {hit.source_id for hit in found} == expected


@pytest.fixture(scope="module")
def manuals(tmp_path_factory: pytest.TempPathFactory, server_endpoints: Endpoints) -> Iterator[SearchIndex]:
    """450 Japanese chunks and 110 English ones in one month, in Milvus' index: no query is close to both."""
    with new_index(tmp_path_factory.mktemp("manuals"), server_endpoints, vectors="dense") as index:
        index.pipeline.prepare()
        index.sources.write_text(
            "sources: [{name: docs, type: filesystem, path: ./docs}, {name: man, type: filesystem, path: ./man}]\n",
            "utf-8",
        )
        japanese = "\n\n".join(f"## 節 {n}\n\n" + f"ファイル {n} の読み方と書き方。" * 12 for n in range(450))
        index.write("ja.md", f"# 手引\n\n{japanese}", "2024-02-15", "ja")
        english = "\n\n".join(f"## Section {n}\n\n" + f"Open page {n} now. " * 10 for n in range(110))
        path = index.folder / "man" / "en.md"
        path.parent.mkdir()
        path.write_text(
            f"---\ndate: 2024-02-16\nlanguage: en\nauthor: Ritchie\n---\n# Manual\n\n{english}", "utf-8"
        )
        index.ingest()
        name = index.pipeline.collections.generations["dense"].name
        with index.pipeline.stores.milvus.client() as client:
            client.flush(name)
            client.release_collection(name)
            client.load_collection(name)  # Lite waits for the index here; else it is built sooner or later.
        yield index


@pytest.mark.parametrize(("compared", "wider"), [(1000, ()), (1, (4096,))])
@pytest.mark.parametrize(
    ("filters", "condition"),
    [
        ({"source": "man"}, "d.source_id LIKE 'man:%%'"),
        ({"language": "en"}, "d.language = 'en'"),
        ({"author": "Ritchie"}, "d.author = 'Ritchie'"),
        ({"from_date": date(2024, 2, 16)}, "d.created_at >= '2024-02-16Z'"),
    ],
)
def test_a_query_in_another_language_than_what_is_filtered_fills_its_limit(
    manuals: SearchIndex, filters, condition, compared, wider, monkeypatch
):
    monkeypatch.setattr(candidates, "_LITE_FILTERED_EF", 128)  # As if there were eight times as many chunks.
    monkeypatch.setattr(candidates, "_LITE_COMPARED", compared)
    monkeypatch.setattr(candidates, "_LITE_WIDER_EF", wider)
    expected = {
        row[0]
        for row in manuals.execute(
            f"SELECT c.id FROM document_chunks c JOIN documents d ON d.id = c.document_id WHERE {condition}"
        )
    }
    assert len(expected) >= 110
    query = "ファイルの読み方と書き方"
    best = search(manuals.pipeline, query, mode="dense", limit=100, filters=Filters(**filters)).hits
    assert len(best) == 100
    assert {hit.chunk_id for hit in best} <= expected
    few = search(manuals.pipeline, query, mode="dense", limit=5, filters=Filters(**filters)).hits
    assert [hit.score for hit in few] == pytest.approx([hit.score for hit in best[:5]])


@pytest.mark.parametrize("named", [2000, 1])
@pytest.mark.parametrize("mode", MODES)
def test_only_the_sources_that_may_be_seen_are_searched(library: SearchIndex, mode, named, monkeypatch):
    monkeypatch.setattr(live_candidates, "NAMED_DOCUMENTS", named)
    by_name = dict(library.execute("SELECT name, id FROM sources"))

    def sources(*visible: str, **filters: Any) -> set[str]:
        found = search(
            library.pipeline,
            "休暇",
            mode=mode,
            limit=100,
            filters=Filters(**filters),
            only_sources=[by_name[name] for name in visible],
        )
        return {hit.source_id.partition(":")[0] for hit in found.hits}

    assert "docs" in sources("docs", "notes") <= {"docs", "notes"}
    assert sources("staff") == {"staff"}
    assert sources() == set()
    assert sources("docs", source="staff") == set()
    assert sources("staff", source="staff") == {"staff"}


def older_rows(library: SearchIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    """Search as in the collections of an older program, whose rows do not say which source they are of."""
    collections = library.pipeline.generation.collections
    older = {kind: replace(one, has_source=False) for kind, one in collections.generations.items()}
    monkeypatch.setattr(collections, "generations", older)


@pytest.mark.parametrize("mode", ["dense", "sparse", "hybrid"])
def test_whoever_may_see_a_small_share_of_a_large_index_finds_all_of_it(library: SearchIndex, mode, monkeypatch):
    by_name = dict(library.execute("SELECT name, id FROM sources"))
    visible = [by_name["staff"], by_name["notes"]]

    def found(filters: Filters) -> dict[str, dict[str, float | None]]:
        hits = search(library.pipeline, "休暇", mode=mode, limit=100, filters=filters, only_sources=visible).hits
        return {hit.source_id: hit.scores for hit in hits}  # Many have the same score, and any order.

    for filters in (Filters(), Filters(tags=("社内",))):
        expected = found(filters)
        assert len(expected) == 8
        with monkeypatch.context() as few:  # As if 3 of 240 documents were too many to name.
            few.setattr(live_candidates, "NAMED_DOCUMENTS", 3)
            few.setattr(live_candidates, "_PAGES", (5, 10))
            assert found(filters) == expected
            older_rows(library, few)
            assert found(filters) == expected
            few.setattr(live_candidates, "MOST_DOCUMENTS", 7)
            assert len(found(filters)) < 8
    assert found(Filters(category="nothing")) == {}


@pytest.mark.parametrize("mode", ["dense", "sparse", "hybrid"])
def test_what_is_hidden_is_not_even_a_candidate(library: SearchIndex, mode, monkeypatch):
    by_name = dict(library.execute("SELECT name, id FROM sources"))
    candidates: set[UUID] = set()
    hydrate = live_candidates.queries.hydrate

    def seen(connection: Any, chunks: Any, *more: Any) -> Any:
        candidates.update(chunks.values())
        return hydrate(connection, chunks, *more)

    def named(*_: Any) -> Any:
        raise AssertionError("documents were looked up to be named: how long that takes tells how many there are")

    monkeypatch.setattr(live_candidates.queries, "hydrate", seen)
    monkeypatch.setattr(live_candidates.queries, "documents_of_sources", named)
    search(library.pipeline, "休暇", mode=mode, limit=100, only_sources=[by_name["staff"]])
    visible = {
        document
        for (document,) in library.execute(
            "SELECT document_id FROM source_items i WHERE i.source = %s", by_name["staff"]
        )
    }
    assert candidates == visible


def write_hidden(index: SearchIndex, name: str, text: str) -> None:
    """Write a document of the source `hr`, beside those of `docs`."""
    path = index.folder / "hidden" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, "utf-8")
    folders = "{name: docs, type: filesystem, path: ./docs}, {name: hr, type: filesystem, path: ./hidden}"
    index.sources.write_text(f"sources: [{folders}]\n", "utf-8")


def only_docs(index: SearchIndex) -> list[UUID]:
    """Return the sources that somebody may see from whom `hr` is hidden."""
    return [index.execute("SELECT id FROM sources WHERE name = 'docs'")[0][0]]


def test_the_order_of_hits_does_not_tell_which_words_are_in_hidden_documents(
    tmp_path: Path, server_endpoints: Endpoints
):
    with new_index(tmp_path, server_endpoints) as index:
        index.pipeline.prepare()
        index.write("merger.md", "# One\n\nThe merger is discussed on Monday.", "2024-02-16", "en")
        index.write("layoffs.md", "# Two\n\nThe layoffs are discussed on Monday.", "2024-02-16", "en")
        index.ingest()
        visible = only_docs(index)

        def found(of: list[UUID] | None) -> dict[str, list[tuple[str, float]]]:
            return {
                mode: [
                    (hit.source_id, hit.score)
                    for hit in search(index.pipeline, "merger layoffs", mode=mode, only_sources=of).hits
                ]
                for mode in MODES
            }

        before = found(visible)
        for number in range(5):
            text = f"---\ndate: 2024-02-1{number}\n---\n# Plan {number}\n\nThe merger {number}.\n"
            write_hidden(index, f"{number}.md", text)
        index.ingest()
        assert found(visible) == before
        for mode, hits in found(None).items():
            assert {source_id for source_id, _ in hits} >= {f"hr:{number}.md" for number in range(5)}, mode


def test_words_are_counted_among_what_may_be_seen(library: SearchIndex):
    by_name = dict(library.execute("SELECT name, id FROM sources"))
    words = [word for (word,) in library.execute("SELECT DISTINCT term FROM term_statistics WHERE term <> ''")]
    count = "SELECT count(*) FROM document_chunks c JOIN documents d ON d.id = c.document_id WHERE c.live "
    for visible in (["staff"], ["staff", "notes"], ["docs", "notes", "staff"], []):
        sources = [by_name[name] for name in visible]
        with library.pipeline.stores.database.connection() as connection:
            total, found = term_statistics.document_frequency(connection, words, sources)
            if len(visible) == len(by_name):
                assert (total, found) == term_statistics.document_frequency(connection, words)
        seen = f"{count} AND split_part(d.source_id, ':', 1) = ANY(%s) "
        assert library.execute(seen, visible) == [(total,)]
        for word in words:
            holding = library.execute(f"{seen} AND c.content_words @@ %s::tsquery", visible, f"'{word}'")
            assert holding == [(found[word].chunks,)], word


def test_a_word_is_found_whatever_postgresql_makes_of_its_letters(index: SearchIndex):
    # Python's casefold writes Cherokee in capitals, PostgreSQL in small letters; it may take numbers in circles for no words.
    letters = ["ᎦᏬᏂᎯᏍᏗ", "ẞtraße", "İstanbul", "ﬁnal", "ǅungla", "𐐀𐐨", "한국어", "العربية", "कखग"]
    others = ["㉈", "⓭", "①", "x²"]
    index.write("scripts.md", "# 文字\n\n" + "、".join([*letters, *others]), "2024-02-15")
    index.ingest()
    for word in letters:
        assert names(index, word, mode="fulltext") == ["scripts.md"], word
    for word in [*letters, *others]:
        asked = Terms(index.pipeline.stores.database, word)
        assert asked.counts, word
        assert len(bm25.query_vector(list(asked.counts), asked.document_frequency)) == len(asked.counts), word


def test_a_word_of_hidden_documents_only_is_looked_for_nowhere(index: SearchIndex, monkeypatch):
    for number in range(5):
        text = f"---\ndate: 2024-0{number + 1}-20\n---\n# Plan\n\nThe merger, {number}.\n"
        write_hidden(index, f"plan{number}.md", text)
    index.ingest()
    visible = only_docs(index)
    looked_for: list[list[str]] = []
    best_by_words = queries.best_by_words

    def read(connection: Connection, words: Any, *arguments: Any) -> Any:
        looked_for.append(list(words))
        return best_by_words(connection, words, *arguments)

    monkeypatch.setattr(queries, "best_by_words", read)
    for word in ("merger", "layoffs"):
        assert names(index, word, mode="fulltext", only_sources=visible) == []
        terms = Terms(index.pipeline.stores.database, word, visible)
        assert bm25.query_vector(list(terms.counts), terms.document_frequency) == {}
    assert looked_for == []
    assert len(names(index, "merger", mode="fulltext")) == 5
    assert looked_for == [list(Terms(index.pipeline.stores.database, "merger").counts)]


def test_a_month_of_hidden_documents_only_is_looked_at_nowhere(index: SearchIndex, monkeypatch):
    for month in (4, 5):
        text = f"---\ndate: 2024-0{month}-20\ncategory: food\n---\n# 豆腐\n\n豆腐 {month}"
        write_hidden(index, f"{month}.md", text)
    index.write("june.md", "# 豆腐\n\n豆腐", "2024-06-15")
    index.ingest()
    visible = only_docs(index)
    looked_at: list[str] = []

    def noted(where: Any, name: str, months_of: Any) -> None:
        read = getattr(where, name)

        def reading(*arguments: Any) -> Any:
            looked_at.extend(map(str, months_of(arguments)))
            return read(*arguments)

        monkeypatch.setattr(where, name, reading)

    noted(queries, "best_by_words", lambda arguments: arguments[3])
    noted(queries, "matching_documents", lambda arguments: arguments[3])
    noted(live_candidates, "find", lambda arguments: arguments[8])
    spring = {"from_date": date(2024, 4, 1), "to_date": date(2024, 5, 31)}
    for mode in MODES:
        for filters in (Filters(**spring), Filters(**spring, category="food")):
            assert names(index, "豆腐", mode=mode, filters=filters, only_sources=visible) == []
            assert looked_at == [], mode
            assert len(names(index, "豆腐", mode=mode, filters=filters)) == 2
            assert {"2024-04", "2024-05"} == set(looked_at), mode
            looked_at.clear()
        early = Filters(from_date=date(2024, 2, 1))
        assert names(index, "豆腐", mode=mode, filters=early, only_sources=visible)[0] == "june.md"
        assert set(looked_at) == {"2024-02", "2024-06"}, mode
        looked_at.clear()


def test_the_source_of_the_item_decides_who_may_see_a_chunk(index: SearchIndex):
    write_hidden(index, "plan.md", "---\ndate: 2024-02-20\ncategory: plans\n---\n# Plan\n\nThe merger.\n")
    index.ingest()
    visible = only_docs(index)
    index.execute("UPDATE document_chunks SET source = %s", visible[0])
    index.execute("UPDATE term_statistics SET source = %s WHERE term LIKE 'マージャー'", visible[0])
    index.execute("UPDATE documents SET source = %s", visible[0])
    assert names(index, "merger", mode="fulltext", only_sources=visible) == []
    assert names(index, "merger", mode="fulltext", filters=Filters(category="plans"), only_sources=visible) == []
    assert names(index, "merger", mode="fulltext", filters=Filters(category="plans")) == ["hr:plan.md"]
    index.write(
        "last.md", "# Plan\n\nAnother plan was a merger, which nobody wanted, of two of them.", "2024-02-20", "en"
    )
    index.ingest()
    assert names(index, "merger", mode="fulltext", limit=1, only_sources=visible) == ["last.md"]


def test_an_edit_is_found_once_it_is_complete_and_the_old_version_until_then(index: SearchIndex):
    index.write("recipe.md", "# 味噌汁\n\n大根と油揚げを煮る。", "2024-02-15")
    index.ingest(up_to="chunks")
    assert names(index, "豆腐", mode="fulltext") == ["recipe.md"]
    assert names(index, "大根と油揚げ", mode="fulltext") == []
    index.ingest()
    assert names(index, "豆腐", mode="fulltext") == []
    assert names(index, "豆腐", mode="sparse") == []
    assert "大根" in search(index.pipeline, "大根と油揚げ").hits[0].content


def test_a_document_that_changes_while_it_is_searched_for_is_found(index: SearchIndex, monkeypatch):
    hydrate, changed = queries.hydrate, []

    def hydrate_later(*arguments: Any) -> Any:
        if not changed:
            index.write("recipe.md", "# 味噌汁\n\n豆腐と大根を煮る。", "2024-02-15")
            index.ingest()
            changed.append(True)
        return hydrate(*arguments)

    monkeypatch.setattr(queries, "hydrate", hydrate_later)
    assert names(index, "豆腐", mode="fulltext") == ["recipe.md"]
    assert changed


def test_a_deleted_document_is_not_found_even_while_milvus_holds_its_vectors(index: SearchIndex):
    index.delete("recipe.md")
    index.ingest(up_to="documents")
    assert index.execute("SELECT count(*) FROM vector_deletions") == [(1,)]
    for mode in MODES:
        assert "recipe.md" not in names(index, "豆腐", mode=mode)


def test_the_limit_is_filled_even_if_the_nearest_hundred_are_not_live(index: SearchIndex):
    paragraphs = [f"## 節 {n}\n\n" + f"出汁 {n} は昆布と鰹節から取る。" * 3 for n in range(130)]
    index.write("stock.md", "# 出汁\n\n" + "\n\n".join(paragraphs), "2024-02-15")
    index.ingest()
    query = "出汁は昆布と鰹節から取る"
    nearest = [hit.chunk_id for hit in search(index.pipeline, query, mode="dense", limit=100).hits]
    assert len(nearest) == 100
    index.execute("UPDATE document_chunks SET live = false WHERE id = ANY(%s)", nearest)
    for mode in ("dense", "sparse", "hybrid"):
        found = search(index.pipeline, query, mode=mode, limit=20).hits
        assert len(found) == 20
        assert not {hit.chunk_id for hit in found} & set(nearest)


def test_hits_are_counted(shared: SearchIndex):
    shared.execute("UPDATE document_chunks SET search_count = 0")
    first = search(shared.pipeline, "豆腐", limit=1).hits[0]
    search(shared.pipeline, "豆腐", limit=1)
    counted = shared.execute(
        "SELECT id, search_count, last_search_score FROM document_chunks WHERE search_count > 0"
    )
    assert counted == [(first.chunk_id, 2, pytest.approx(first.score))]


def test_a_search_does_not_wait_for_writers(shared: SearchIndex):
    shared.execute("UPDATE document_chunks SET search_count = 0")
    with shared.pipeline.stores.database.connection() as ingest:
        writing = ingest.execute(
            "UPDATE document_chunks SET updated_at = now() WHERE position(%s in content) > 0 RETURNING id",
            ("豆腐",),
        ).fetchall()
        found: list[str] = []
        searching = threading.Thread(target=lambda: found.extend(names(shared, "豆腐 train")))
        searching.start()
        searching.join(timeout=30)
        assert not searching.is_alive()
    assert len(found) == 4
    assert shared.execute("SELECT id FROM document_chunks WHERE search_count = 0") == writing
    assert shared.execute("SELECT count(*) FROM document_chunks WHERE search_count = 1") == [(3,)]


@pytest.mark.parametrize("months_at_once", [1, 2, 1000])
@pytest.mark.parametrize(
    "filters", [Filters(), Filters(to_date=date(2024, 1, 31)), Filters(from_date=date(2024, 2, 1))]
)
def test_a_full_text_search_of_a_few_months_at_a_time_finds_the_same(
    shared: SearchIndex, filters: Filters, months_at_once: int, monkeypatch: pytest.MonkeyPatch
):
    query = "豆腐 VACUUM 複製 night 領域"
    expected = search(shared.pipeline, query, mode="fulltext", filters=filters, limit=3).hits
    assert expected
    monkeypatch.setattr(request, "MONTHS_AT_ONCE", months_at_once)
    assert search(shared.pipeline, query, mode="fulltext", filters=filters, limit=3).hits == expected


def test_a_full_text_search_takes_few_locks_whatever_the_number_of_months(
    index: SearchIndex, monkeypatch: pytest.MonkeyPatch
):
    database = index.pipeline.stores.database
    months = list(Month(2019, 1).until(Month(2024, 12)))
    schema.ensure_months(database, months)
    index.execute(
        """INSERT INTO term_statistics (term, month, source, chunks)
        SELECT t.term, other.month, t.source, 1 FROM term_statistics t, unnest(%s::date[]) AS other(month)
        WHERE t.term = '豆腐' AND other.month <> t.month""",
        [month.start.date() for month in months],
    )
    best_by_words, taken = queries.best_by_words, []

    def counted(connection: Connection, *arguments: Any) -> Any:
        found = best_by_words(connection, *arguments)
        taken.append(value(connection, "SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid()"))
        return found

    monkeypatch.setattr(queries, "best_by_words", counted)
    assert names(index, "豆腐", mode="fulltext") == ["recipe.md"]
    assert len(taken) == 3
    assert max(taken) < 800


def test_a_search_that_cannot_write_still_finds(index: SearchIndex, caplog):
    name = index.execute("SELECT current_database()")[0][0]
    index.execute(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')
    with index.opened() as reader:
        assert search(reader, "豆腐").hits
    assert "the hits of this search were not counted: PostgreSQL at" in caplog.text
    assert "cannot execute UPDATE in a read-only transaction" in caplog.text


@pytest.mark.parametrize(
    "query",
    [
        "♪♪♪",
        "!?",
        "'",
        '"; DROP TABLE documents; --',
        "豆腐\0",
        "\ud800豆腐",
        "%s %(x)s",
        "a & | ! ( ) :*",
        pytest.param("豆腐" * 9000, id="long"),
    ],
)
def test_any_text_is_a_valid_query(shared: SearchIndex, query):
    for mode in MODES:
        found = search(shared.pipeline, query, mode=mode).hits
        if mode in ("hybrid", "dense"):
            assert len(found) == 4
        elif "豆腐" in query:
            assert found[0].source_id == "docs:recipe.md"


@pytest.mark.parametrize("query", ["♪ ♪", "を", "zzzz", "不存在"])
def test_a_query_without_a_word_of_the_index_finds_nothing_by_words(shared: SearchIndex, query):
    assert names(shared, query, mode="fulltext") == []


@pytest.mark.parametrize(
    ("query", "options", "message"),
    [
        ("", {}, "the query is empty"),
        (" \u3000\n\0", {}, "the query is empty"),
        ("豆腐", {"limit": 0}, "from 1 to 100"),
        ("豆腐", {"limit": 101}, "from 1 to 100"),
        ("豆腐", {"mode": "magic"}, "choose one of hybrid, dense, sparse, fulltext"),
    ],
)
def test_an_invalid_search_is_reported_in_one_line(shared: SearchIndex, query, options, message):
    with pytest.raises(ConfigError, match=message) as raised:
        search(shared.pipeline, query, **options)
    assert "\n" not in str(raised.value)


def test_an_empty_index_has_no_hits(tmp_path: Path, server_endpoints: Endpoints):
    dated = Filters(from_date=date(2024, 1, 1))
    with new_index(tmp_path, server_endpoints) as empty:
        for mode in MODES:
            assert names(empty, "豆腐", mode=mode) == []
        empty.pipeline.prepare()
        for mode in MODES:
            assert names(empty, "豆腐", mode=mode) == names(empty, "豆腐", mode=mode, filters=dated) == []
        empty.execute("DROP TEXT SEARCH CONFIGURATION japanese CASCADE")
        with pytest.raises(
            RagError, match="configuration japanese is missing in PostgreSQL: run rag-pipeline repair"
        ):
            names(empty, "豆腐", mode="fulltext")


def test_kinds_that_are_not_built_are_left_out_or_reported(shared: SearchIndex):
    with shared.opened(vectors=("dense",)) as dense:
        hit = search(dense, "豆腐とわかめ").hits[0]
        assert hit.source_id.endswith("recipe.md")
        assert (hit.scores["sparse"], hit.scores["multi"]) == (None, None)
        with pytest.raises(ConfigError, match="no sparse vectors are built"):
            search(dense, "豆腐", mode="sparse")
    with shared.opened(vectors=("sparse",)) as sparse:
        hit = search(sparse, "豆腐とわかめ").hits[0]
        assert hit.source_id.endswith("recipe.md")
        assert hit.scores["dense"] is None
    with (
        shared.opened(vectors=("multi",)) as multi,
        pytest.raises(ConfigError, match="no dense or sparse vectors"),
    ):
        search(multi, "豆腐")


def test_a_collection_that_is_not_loaded_is_loaded(shared: SearchIndex):
    """As all collections are after a restart of Milvus."""
    with shared.pipeline.stores.milvus.client() as client:
        for generation in shared.pipeline.collections.generations.values():
            client.release_collection(generation.name)
    assert names(shared, "豆腐")[0] == "recipe.md"


def test_collections_that_milvus_lost_are_reported(index: SearchIndex):
    """Not an answer without hits: that looks as if nobody had written about it, and is cached."""
    index.write("a.md", "# A\n\n豆腐とわかめの味噌汁。\n")
    index.ingest()
    drop_collections(index.endpoints.milvus_uri, index.prefix)
    with pytest.raises(StoreUnavailableError, match=r"has no \w*dense_collection and no .*rag-pipeline repair"):
        search(index.pipeline, "豆腐")
    assert search(index.pipeline, "豆腐", mode="fulltext").hits


def test_another_embedders_vectors_are_not_searched(shared: SearchIndex):
    with shared.opened(embedder="local") as other, pytest.raises(DimensionMismatchError, match="RAG_EMBEDDER"):
        search(other, "豆腐")


def test_unreachable_milvus_is_reported_in_one_line(shared: SearchIndex):
    endpoints = Endpoints(shared.endpoints.postgres_url, "http://user:hidden@127.0.0.1:1", "redis://127.0.0.1:1")
    with Pipeline(shared.pipeline.settings, endpoints) as pipeline:
        assert search(pipeline, "豆腐", mode="fulltext").hits
        with pytest.raises(StoreUnavailableError, match=r"Milvus at 127\.0\.0\.1:1 ") as raised:
            search(pipeline, "豆腐")
    assert "\n" not in str(raised.value)
    assert "hidden" not in str(raised.value)
