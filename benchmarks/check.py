"""The cost of checking one month: python -m benchmarks.check [--chunks 5000 50000]

Fills a month on its own embedded servers, directly through the stores' functions and with the free embedder, and
checks it in a separate process. Prints the seconds, the peak memory beyond that of a process that only opened its
connections, and what a check finds after 200 vectors were deleted from each collection. Compare only figures of the
same call.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from uuid import uuid4

import psycopg

from benchmarks.harness import benchmark_workspace
from rag_pipeline.consistency.checker import DataConsistencyChecker
from rag_pipeline.months import Month
from rag_pipeline.pipeline import Pipeline
from rag_pipeline.settings import load_settings
from rag_pipeline.stores.milvus import rows
from rag_pipeline.stores.postgres import document_chunks, documents, schema, source_items, sources
from rag_pipeline.stores.postgres.document_chunks import ChunkRow, ChunkToEmbed
from rag_pipeline.stores.postgres.documents import ChunkedDocument, DocumentRow
from rag_pipeline.stores.postgres.source_items import Outcome
from rag_pipeline.stores.vector_ids import row_ids

_PER_DOCUMENT = 10
_BATCH = 100
_WORDS = [
    "索引",
    "検索",
    "文書",
    "区画",
    "差分",
    "更新",
    "削除",
    "監視",
    "障害",
    "復旧",
    "設定",
    "接続",
    "辞書",
    "段落",
]


def fill(pipeline: Pipeline, month: Month, count: int) -> None:
    """Write `count` complete chunks of a month, ten for each document."""
    from rag_pipeline.sources.interface import Item

    database = pipeline.stores.database
    schema.ensure_months(database, [month])
    pipeline.collections.ensure(month)
    with database.connection() as connection:
        source = sources.register(connection, "filesystem", f"bench-{month}", {}, None)
        number = sources.begin_or_resume_pass(connection, source).number
    for start in range(0, count // _PER_DOCUMENT, _BATCH):
        names = [f"{month}/{n}.md" for n in range(start, min(start + _BATCH, count // _PER_DOCUMENT))]
        items = [Item(name, f"bench:{name}", name, name, "f", None, month.start) for name in names]
        with database.connection() as connection:
            source_items.merge(
                connection,
                source_items.Pass("filesystem", source, number, "r"),
                [(item, month.start) for item in items],
            )
            _store(connection, pipeline, month, source_items.pending(connection, month, _BATCH))
    with database.connection() as connection:
        sources.finish_pass(connection, source, None, 0)
    pipeline.collections.flush()


def _store(connection: psycopg.Connection, pipeline: Pipeline, month: Month, pending: list) -> None:
    documents.upsert(
        connection,
        [
            DocumentRow(
                item.document_id, item.created_at, item.name, item.name, *(item.source_type, item.source_id), None,
                None, "ja", None, [],
            )
            for item in pending
        ],
    )  # fmt: skip
    new = [
        ChunkRow(
            id=uuid4(),
            document_id=item.document_id,
            document_created_at=item.created_at,
            is_new=True,
            position=position,
            section_title=None,
            hierarchy_level=1,
            parent_chunk_id=None,
            content=f"{item.name} {position}",
            chunk_type="text",
            token_count=100,
            char_count=150,
            content_hash=f"{number * _PER_DOCUMENT + position:064x}",
            words=" ".join([_WORDS[(number + position + k) % len(_WORDS)] for k in range(8)] + [str(number)]),
        )
        for number, item in enumerate(pending)
        for position in range(_PER_DOCUMENT)
    ]
    keys = [(item.document_id, item.created_at) for item in pending]
    document_chunks.store_next_version(connection, month, keys, new)
    documents.mark_chunked(
        connection, [ChunkedDocument(i.document_id, i.created_at, "", 0, _PER_DOCUMENT, "bench") for i in pending]
    )
    source_items.record(connection, [Outcome(item, "0" * 64) for item in pending])
    kinds = pipeline.settings.vectors
    whole = [
        ChunkToEmbed(
            row.id, row.document_id, row.document_created_at, row.position, row.content or "", "filesystem", "", "ja"
        )
        for row in new
    ]  # fmt: skip
    vectors = pipeline.embedder.encode([chunk.text for chunk in whole], kinds)
    for kind in kinds:
        made = [row for chunk, of in zip(whole, vectors, strict=True) for row in rows.make_rows(kind, chunk, of)]
        rows.upsert(pipeline.stores.milvus, pipeline.collections.generations[kind].name, month, made)
    fingerprint = pipeline.embedder.fingerprint
    document_chunks.map_vectors(
        connection, month, whole, kinds=kinds, built=kinds, embedder=fingerprint, multi_counts=[2] * len(whole)
    )
    while document_chunks.switch(connection, month):
        pass


def delete_some(pipeline: Pipeline, month: Month, count: int) -> None:
    """Delete the vectors of `count` chunks from each collection, behind the pipeline's back."""
    with pipeline.stores.database.connection() as connection:
        found = connection.execute(
            "SELECT id FROM document_chunks WHERE document_created_at >= %s AND document_created_at < %s LIMIT %s",
            (month.start, month.end, count),
        ).fetchall()
    for kind, generation in pipeline.collections.generations.items():
        keys = [key for (chunk,) in found for key in row_ids(kind, chunk, 2)]
        rows.delete(pipeline.stores.milvus, generation.name, keys)


def measure(month: Month) -> None:
    """Check one month and print the cost as JSON; run in its own process."""
    with Pipeline(load_settings()) as pipeline:
        checker = DataConsistencyChecker(pipeline)
        checker.months()
        before = _peak()
        start = time.perf_counter()
        found = checker.check_consistency([month])
        seconds = time.perf_counter() - start
    counts = {f"{f.check} in {f.where}": f.count for f in found.findings}
    print(json.dumps({"seconds": seconds, "memory": _peak() - before, "found": counts}))


def _peak() -> float:
    """Return the peak memory of this process in MB; `ru_maxrss` would include that of its parent."""
    status = Path("/proc/self/status").read_text("utf-8")
    return next(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmHWM"))


def run(label: str, month: Month, environment: dict[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.check", "--measure", str(month)],
        env=environment,
        stdout=subprocess.PIPE,
        check=True,
    )
    cost = json.loads(done.stdout)
    print(
        f"{label}: {cost['seconds']:.1f} s, {cost['memory']:.0f} MB more memory; {cost['found'] or 'consistent'}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--chunks", type=int, nargs="+", default=[5000, 50_000])
    parser.add_argument("--measure", type=Month.parse)
    arguments = parser.parse_args()
    if arguments.measure:
        measure(arguments.measure)
        return
    month = Month(2024, 1)
    with benchmark_workspace() as (workspace, environment):
        for count in arguments.chunks:
            with Pipeline(workspace.settings()) as pipeline:
                pipeline.prepare()
                start = time.perf_counter()
                fill(pipeline, month, count)
                print(f"{count} chunks, written in {time.perf_counter() - start:.0f} s", flush=True)
                run("    unchanged", month, environment)
                delete_some(pipeline, month, 200)
                run("    200 deleted in each collection", month, environment)
            month = month.next()


if __name__ == "__main__":
    main()
