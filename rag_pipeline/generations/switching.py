"""The exchange: a generation goes live, in one transaction, while searches and scans go on.

Runs of months wait for it, and it waits for them: a run has an embedder, and must not find another generation's tables.
A search that it overtakes begins again (`search/engine.py`).
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rag_pipeline.consistency.checker import DataConsistencyChecker
from rag_pipeline.errors import RagError, one_line
from rag_pipeline.generations.build import build, missing_documents, pending_months, take_over_all
from rag_pipeline.generations.lost import lost_months
from rag_pipeline.generations.registry import collections_of, find, when_tables_are_free
from rag_pipeline.stores.milvus.client import TIMEOUT_SECONDS
from rag_pipeline.stores.milvus.collections import Collections
from rag_pipeline.stores.postgres import consistency_repairs, documents, generation_tables, schema
from rag_pipeline.stores.postgres import generations as table
from rag_pipeline.stores.postgres.advisory_locks import exchange_of_generations

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rag_pipeline.pipeline import Pipeline
    from rag_pipeline.stores.postgres.database import Connection
    from rag_pipeline.stores.postgres.generations import GenerationRow

_WAIT_SECONDS = 900
_MOST_MISSING = 200
"""So many documents are taken over by the switch itself."""
_SHOWN = 5


def switch(
    pipeline: Pipeline,
    generation: int | None = None,
    *,
    notice_seconds: float = 0,
    without_failed: bool = False,
) -> GenerationRow:
    """Make a generation live that has all that the live one has and is consistent; return it.

    By default, the one that is being built. It is checked as a whole; search services get notice, to load its embedder;
    then, while no run writes, what has changed since is taken over. Raises `ConfigError` if there is no such generation,
    and a `RagError` if it is incomplete, inconsistent, or, unless `without_failed`, cannot embed all that the live one
    has: then nothing was changed.
    """
    row = find(pipeline, generation, "building", "previous")
    _refuse_if_incomplete(pipeline, row)
    _bring_up_to_date(pipeline, row)
    if not without_failed:
        _refuse_if_documents_would_be_lost(pipeline, row)
    with pipeline.beside(row) as other:
        schema.ensure_months(other.stores.database, schema.existing_months(pipeline.stores.database))
        other.collections.ensure()
        # With the settings that every process will have: a login that is missing is found now.
        other.embedder.encode_query("to start", other.vectors)
        found = DataConsistencyChecker(other).check_consistency()
        if not found.consistent and _restored_sources(other):
            found = DataConsistencyChecker(other).check_consistency()
        if not found.consistent:
            listed = "; ".join(str(finding) for finding in found.errors[:_SHOWN])
            raise RagError(
                f"{row.name} is inconsistent, so it stays as it is: {listed}; `rag-pipeline generations build {row.id}` "
                "restores what Milvus has lost, dropping it and building it again everything"
            )
    _give_notice(pipeline, row, notice_seconds)
    _bring_up_to_date(pipeline, row)  # What has changed while it was checked; under the lock only the rest.
    with _nobody_writing(pipeline):
        _bring_up_to_date(pipeline, row)
        _exchange(pipeline, row)
    return row


def _restored_sources(other: Pipeline) -> int:
    """Give documents and chunks the sources of their items; return how many had others.

    A build by a program that did not store them can have gone on while the schema was migrated.
    """
    restored = 0
    for month in schema.existing_months(other.stores.database):
        with other.month_lock(month), other.stores.database.connection() as connection:
            if of_month := consistency_repairs.restore_sources(connection, month):
                consistency_repairs.recount_terms(connection, month)
            restored += of_month
    return restored


def _bring_up_to_date(pipeline: Pipeline, row: GenerationRow) -> None:
    if errors := build(pipeline, row).errors:
        raise RagError(f"{row.name} could not take over what has changed: {'; '.join(errors)}")


def _refuse_if_incomplete(pipeline: Pipeline, row: GenerationRow) -> None:
    """Refuse a generation that was not built: what has just changed is no reason, it is brought up to date."""
    missing = missing_documents(pipeline, row)
    if missing > _MOST_MISSING and (pending := pending_months(pipeline, row)):
        raise RagError(
            f"{row.name} is incomplete: it lacks {missing} documents, {len(pending)} months have pending work; "
            f"`rag-pipeline generations build {row.id}` finishes it"
        )


def _refuse_if_documents_would_be_lost(pipeline: Pipeline, row: GenerationRow) -> None:
    with pipeline.stores.database.connection() as connection:
        tables = generation_tables.schema_of(generation_tables.live_schema(connection), row.id)
        count, names = documents.only_failed_in(connection, tables, _SHOWN)
    if count:
        raise RagError(
            f"{row.name} cannot embed chunks of {count} documents that are found now, such as {', '.join(names)}: "
            "`rag-pipeline generations build --retry-failed` tries them again, `switch --without-failed` goes live "
            "without them"
        )


def _give_notice(pipeline: Pipeline, row: GenerationRow, seconds: float) -> None:
    with pipeline.stores.database.connection() as connection:
        table.announce(connection, row.id)
    begun = time.monotonic()
    while (waited := time.monotonic() - begun) < seconds:
        pipeline.progress("search services load the embedder, seconds", round(waited), round(seconds))
        time.sleep(min(1.0, seconds - waited))


def rollback(
    pipeline: Pipeline, generation: int | None = None, *, without_embedder: bool = False
) -> GenerationRow:
    """Make a previous generation live again, at once, by default the last one; return it.

    What was deleted since the switch is deleted in it too. What was edited is found in the version that it has, until
    the runs of those months, which are pending, have embedded the new one. Raises `ConfigError` if there is no previous
    generation, and a `RagError` if Milvus has lost vectors of it or, unless `without_embedder`, its embedder does not work:
    searches would fail.
    """
    row = find(pipeline, generation, "previous")
    with pipeline.beside(row) as other:
        _refuse_if_lost(other, row)
        if not without_embedder:
            _refuse_if_embedder_fails(other, row)
        other.collections.ensure()
    take_over_all(pipeline, row)
    with _nobody_writing(pipeline):
        take_over_all(pipeline, row)  # Only what was edited in this moment.
        _exchange(pipeline, row)
    return row


def _refuse_if_lost(other: Pipeline, row: GenerationRow) -> None:
    if lost := lost_months(other):
        listed = ", ".join(map(str, lost[:_SHOWN])) + (
            f" and {len(lost) - _SHOWN} more" if len(lost) > _SHOWN else ""
        )
        raise RagError(
            f"Milvus has lost vectors of {row.name}, of the months {listed}: `rag-pipeline generations build {row.id}` "
            "restores them"
        )


def _refuse_if_embedder_fails(other: Pipeline, row: GenerationRow) -> None:
    try:
        other.embedder.encode_query("to start", other.vectors)
    except Exception as error:  # A custom embedder can raise anything.
        raise RagError(
            f"the embedder of {row.name} does not work: {one_line(error)}; `rag-pipeline generations rollback {row.id} "
            "--without-embedder` goes back nevertheless"
        ) from error


@contextmanager
def _nobody_writing(pipeline: Pipeline) -> Iterator[None]:
    with exchange_of_generations(
        pipeline.stores.database, _WAIT_SECONDS, lambda: pipeline.progress("waiting for runs to end")
    ):
        pipeline.generations_stay = True
        try:
            yield
        finally:
            pipeline.generations_stay = False


def _exchange(pipeline: Pipeline, new: GenerationRow) -> None:
    live = find(pipeline, None, "live")
    if not live.own_aliases:
        _give_own_aliases(pipeline, live)

    def change(connection: Connection) -> None:
        table.hold(connection, new, to_change=True)  # It was found long before.
        generation_tables.exchange(connection, live, new)
        table.exchange(connection, new.id)

    when_tables_are_free(pipeline, change)
    # After it: processes go by PostgreSQL and by aliases of each generation's own, which never move. These are for
    # people and other programs.
    with pipeline.stores.database.connection() as connection:
        row = table.live(connection)
    assert row is not None
    kinds = collections_of(pipeline, row, tuple(row.settings["vectors"]))
    for collection in kinds.values():
        Collections(pipeline.stores.milvus, kinds).name_live(collection)


def _give_own_aliases(pipeline: Pipeline, live: GenerationRow) -> None:
    """Have searches reach the live generation by other aliases than those that are about to move."""
    with pipeline.stores.milvus.client() as client:
        for collection in collections_of(pipeline, live).values():
            target = Collections.alias_target(client, collection.alias)
            if target is None or not target.startswith(collection.name):
                continue  # A kind that it does not have.
            if Collections.alias_target(client, collection.search_alias) is None:
                client.create_alias(target, collection.search_alias, timeout=TIMEOUT_SECONDS)
    with pipeline.stores.database.connection() as connection:
        table.give_own_aliases(connection, live.id)
