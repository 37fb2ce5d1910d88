"""Generations when something comes between: a kill in the exchange, runs beside it, edits while months are copied."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rag_pipeline.consistency.checker import DataConsistencyChecker
from rag_pipeline.consistency.repair import repair
from rag_pipeline.errors import BusyError, RagError
from rag_pipeline.generations import build, registry, switching
from rag_pipeline.months import Month
from rag_pipeline.pipeline import Pipeline
from rag_pipeline.stores.milvus.client import TIMEOUT_SECONDS
from rag_pipeline.stores.milvus.collections import Collections, Generation
from rag_pipeline.stores.postgres import documents, generation_tables
from rag_pipeline.stores.postgres import generations as table
from rag_pipeline.stores.postgres.advisory_locks import exchange_of_generations
from rag_pipeline_tests.support.generations import KINDS, WIDE, GenerationIndex
from rag_pipeline_tests.support.index import sections
from rag_pipeline_tests.support.milvus import milvus_client
from rag_pipeline_tests.support.stores import Stores

FEBRUARY = Month(2024, 2)


class Killed(BaseException):
    """Stands for a kill: nothing catches it."""


@pytest.fixture
def index(tmp_path: Path, prepared_stores: Stores) -> GenerationIndex:
    index = GenerationIndex(tmp_path, prepared_stores)
    index.write("vacuum.md", sections("掃除", "領域の回収"), "2024-01-31")
    index.write("soup.md", sections("味噌汁", "出汁"), "2024-02-15")
    index.ingest()
    return index


def kill(*_: object, **__: object) -> None:
    raise Killed


def aliases(index: GenerationIndex) -> dict[str, str]:
    with milvus_client(index.endpoints.milvus_uri) as client:
        return {
            kind: client.describe_alias(f"{index.prefix}{kind}_collection", timeout=TIMEOUT_SECONDS)[
                "collection_name"
            ]
            for kind in KINDS
        }


def assert_all_is_well(index: GenerationIndex) -> None:
    with index.opened() as pipeline:
        found = DataConsistencyChecker(pipeline).check_consistency()
        assert found.consistent, [str(finding) for finding in found.errors]


@pytest.mark.parametrize(
    ("owner", "name"),
    [(generation_tables, "exchange"), (table, "exchange"), (switching, "_give_own_aliases")],
    ids=["before the tables move", "after they have moved", "before anything"],
)
def test_a_switch_that_is_killed_before_its_commit_changes_nothing(
    index: GenerationIndex, monkeypatch: pytest.MonkeyPatch, owner: object, name: str
) -> None:
    row = index.build()
    with monkeypatch.context() as killing, index.opened() as pipeline:
        killing.setattr(owner, name, kill)
        with pytest.raises(Killed):
            switching.switch(pipeline)
    assert index.states() == {1: "live", 2: "building"}
    assert index.found("味噌汁")[0] == "docs:soup.md"
    assert_all_is_well(index)
    with index.opened() as pipeline:
        switching.switch(pipeline)
    index.assert_complete(row)
    assert_all_is_well(index)


def test_a_switch_that_is_killed_after_its_commit_leaves_the_names_for_others_to_the_next_run(
    index: GenerationIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = index.build()
    before = aliases(index)
    name_live = Collections.name_live

    def killed_when_live(collections: Collections, generation: Generation) -> None:
        if generation.is_live:
            raise Killed
        name_live(collections, generation)

    with monkeypatch.context() as killing, index.opened() as pipeline:
        killing.setattr(Collections, "name_live", killed_when_live)
        with pytest.raises(Killed):
            switching.switch(pipeline)
    assert index.states() == {1: "previous", 2: "live"}
    assert aliases(index) == before
    assert index.found("味噌汁")[0] == "docs:soup.md"
    with index.opened() as pipeline:
        found = DataConsistencyChecker(pipeline).check_consistency()
        assert {finding.check for finding in found.errors} == {"index_issues"}
        assert repair(pipeline).remaining.consistent
    assert aliases(index) == {kind: index.collection(row, kind) for kind in KINDS}


def test_a_drop_that_is_killed_is_finished_by_the_next(
    index: GenerationIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = index.build()
    with monkeypatch.context() as killing, index.opened() as pipeline:
        killing.setattr(generation_tables, "drop_month", kill)
        with pytest.raises(Killed):
            registry.drop(pipeline, row.id)
    assert index.states() == {1: "live", 2: "dropping"}
    index.write("soup.md", sections("味噌汁", "昆布"), "2024-02-15")
    assert index.ingest().errors == []
    with index.opened() as pipeline:
        registry.drop(pipeline, row.id)
    assert index.states() == {1: "live"}
    assert_all_is_well(index)


def drop(index: GenerationIndex) -> None:
    with index.opened() as pipeline:
        registry.drop(pipeline, 2)


def drop_half(index: GenerationIndex) -> None:
    with pytest.MonkeyPatch.context() as killing, pytest.raises(Killed):
        killing.setattr(registry, "_drop_collections", kill)
        drop(index)


def switch(index: GenerationIndex) -> None:
    with index.opened() as pipeline:
        switching.switch(pipeline)


@pytest.mark.parametrize(
    ("meanwhile", "message", "states"),
    [
        (drop, "generation 2 is gone: ", {1: "live"}),
        (drop_half, "generation 2 is dropping now: ", {1: "live", 2: "dropping"}),
        (switch, "generation 2 is live now: ", {1: "previous", 2: "live"}),
    ],
    ids=["dropped", "half dropped", "switched to"],
)
def test_a_switch_looks_again_at_what_it_found_before_its_notice(
    index: GenerationIndex,
    monkeypatch: pytest.MonkeyPatch,
    meanwhile: Callable[[GenerationIndex], None],
    message: str,
    states: dict[int, str],
) -> None:
    index.build()

    def notice(*_: object) -> None:
        monkeypatch.undo()
        meanwhile(index)

    monkeypatch.setattr(switching, "_give_notice", notice)
    with index.opened() as pipeline, pytest.raises(RagError, match=message):
        switching.switch(pipeline)
    assert index.states() == states
    assert index.found("味噌汁")[0] == "docs:soup.md"
    assert_all_is_well(index)


def test_neither_a_rollback_nor_a_drop_goes_by_what_it_found_before_another_rollback(
    index: GenerationIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    index.build()
    switch(index)
    waited = registry.exchange_of_generations

    def rolled_back_while_waiting(*arguments: Any) -> Any:
        monkeypatch.undo()
        with index.opened() as other:
            switching.rollback(other)
        return waited(*arguments)

    for owner, command in (
        (switching, lambda pipeline: switching.rollback(pipeline, 1)),
        (registry, lambda pipeline: registry.drop(pipeline, 2)),
    ):
        monkeypatch.setattr(owner, "exchange_of_generations", rolled_back_while_waiting)
        with (
            index.opened() as pipeline,
            pytest.raises(RagError, match=r"generation \d is live now: "),
        ):
            command(pipeline)
    assert index.states() == {1: "previous", 2: "live"}
    assert index.found("味噌汁")[0] == "docs:soup.md"
    assert_all_is_well(index)


def test_an_index_without_a_live_generation_gets_one_beside_the_previous(index: GenerationIndex) -> None:
    """What an older program left when a drop and a switch of one generation met."""
    index.build()
    switch(index)
    with index.opened(embedder=WIDE) as pipeline:
        registry._drop_collections(pipeline, registry.find(pipeline, 2, "live"))
    index.rows("DELETE FROM generations WHERE id = 2")
    with index.opened() as pipeline:
        assert repair(pipeline).remaining.consistent
        assert index.states() == {1: "previous", 3: "live"}
        assert registry.find(pipeline, 1, "previous").collections != registry.find(pipeline, 3, "live").collections
    assert index.found("味噌汁", "dense")[0] == "docs:soup.md"


def test_a_copy_that_is_killed_is_made_again(index: GenerationIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    with index.opened(embedder=WIDE) as pipeline:
        registry.begin(pipeline)
        with monkeypatch.context() as killing:
            killing.setattr(documents, "copy_from", kill)
            with pytest.raises(Killed):
                build.build(pipeline, registry.find(pipeline, 2, "building"))
    index.assert_complete(index.build())


def test_a_repair_of_one_generation_leaves_the_tables_of_the_other_alone(index: GenerationIndex) -> None:
    row = index.build()
    count = """
        SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname = %s AND c.relkind IN ('i', 'I')
    """
    live = index.rows(count, "public")
    whole = index.rows(count, "public_generation_2")
    index.rows("DROP INDEX public_generation_2.idx_chunks_parent")
    index.rows("DROP INDEX public_generation_2.idx_documents_language")
    oids = (
        "SELECT oid FROM pg_class WHERE relname LIKE 'idx%%' AND relnamespace = 'public'::regnamespace ORDER BY 1"
    )
    before = index.rows(oids)
    with index.opened() as pipeline, pipeline.beside(row) as other:
        assert repair(other).remaining.consistent
    assert index.rows(oids) == before
    assert index.rows(count, "public") == live
    assert index.rows(count, "public_generation_2") == whole
    index.rows("DROP INDEX public.idx_chunks_parent")
    with index.opened() as pipeline:
        assert repair(pipeline).remaining.consistent
    assert index.rows(count, "public") == live
    assert index.rows(count, "public_generation_2") == whole


def test_what_the_new_embedder_cannot_embed_is_not_lost_silently(
    index: GenerationIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rag_pipeline_tests.support.embedders import CheapEmbedder

    poisoned = CheapEmbedder(96, "poisoned", poison="出汁")
    with index.opened() as pipeline, Pipeline(pipeline.settings, index.endpoints, embedder=poisoned) as other:
        row = registry.begin(other, same_settings=True)
        assert build.build(other, row).stats.failed_chunks == 1
        with pytest.raises(
            RagError, match=r"cannot embed chunks of 1 documents .* docs:soup.md: .*--retry-failed"
        ):
            switching.switch(other)
        assert index.states() == {1: "live", 2: "building"}
        poisoned.poison = None
        assert build.retry_failed(other, row) == 1
        assert build.build(other, row).errors == []
        switching.switch(other)
        index.assert_complete(row)


def test_runs_wait_for_an_exchange_and_an_exchange_for_runs(index: GenerationIndex) -> None:
    with index.opened() as pipeline, index.opened() as other:
        database = other.stores.database
        with exchange_of_generations(database, 0), pytest.raises(BusyError), pipeline.month_lock(FEBRUARY, 0):
            raise AssertionError("a run went on beside an exchange")
        with (
            pipeline.month_lock(FEBRUARY, 0),
            pytest.raises(BusyError),
            exchange_of_generations(database, 0),
        ):
            raise AssertionError("an exchange went on beside a run")
        # Several runs at once are no reason to wait.
        with pipeline.month_lock(FEBRUARY, 0), other.month_lock(Month(2024, 1), 0):
            pass


def test_edits_deletions_builds_and_switches_at_once_leave_both_generations_complete(
    index: GenerationIndex,
) -> None:
    """Each in a thread and with a pipeline of its own, as processes would, until some rounds are done."""
    rounds, failures = 2, []
    done = threading.Event()

    def edit() -> None:
        number = 0
        while not done.is_set():
            number += 1
            index.write("soup.md", sections("味噌汁", f"具 {number}"), "2024-02-15")
            index.write(f"new{number % 3}.md", sections(f"新着 {number}"), "2024-02-20")
            if number % 2:
                (index.docs / f"new{(number + 1) % 3}.md").unlink(missing_ok=True)
            with index.opened(max_deleted_share=1) as pipeline:
                from rag_pipeline.indexing.ingest import ingest

                failures.extend(ingest(pipeline).errors)

    def exchange() -> None:
        try:
            for _ in range(rounds):
                with index.opened(embedder=WIDE) as pipeline:
                    row = registry.find(pipeline, None, "building", "previous")
                    failures.extend(build.build(pipeline, row).errors)
                    while True:
                        try:
                            switching.switch(pipeline, row.id)
                            break
                        except Exception as error:
                            if "incomplete" not in str(error):
                                raise
                            failures.extend(build.build(pipeline, row).errors)
        except Exception as error:
            failures.append(repr(error))
        finally:
            done.set()

    index.build()
    threads = [threading.Thread(target=work) for work in (edit, exchange)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert index.ingest().errors == []
    with index.opened() as pipeline:
        row = registry.find(pipeline, None, "previous")
        assert build.build(pipeline, row).errors == []
    for status in (1, 2):
        with index.opened() as pipeline:
            index.assert_complete(registry.find(pipeline, status, "live", "previous"))
    assert_all_is_well(index)
