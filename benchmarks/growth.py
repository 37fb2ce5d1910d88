"""How an index grows: python -m benchmarks.growth [--chunks 50000 500000] [--months 60]

For each size, on embedded servers of its own: everything new, by stage; memory and what is on disk; then what nothing
changed, an edit of 20 files in one month and in 20, a check of one month and of all, and a search take. The free
embedder, all three kinds. Compare only figures of the same call.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import psycopg

from benchmarks.harness import Measured, benchmark_workspace, ingest
from benchmarks.ingest import edit, make_files, spread
from rag_pipeline_tests.support.workspace import Workspace

_CHUNKS_PER_FILE = 6
_EDITED = 20
_FIRST_YEAR = 2021
"""Documents of the future would all be put into this month."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chunks", type=int, nargs="+", default=[50_000, 500_000])
    parser.add_argument("--months", type=int, default=60)
    arguments = parser.parse_args()
    for chunks in arguments.chunks:
        _grow(chunks, arguments.months)


def _grow(chunks: int, months: int) -> None:
    with benchmark_workspace() as (workspace, environment):
        print(f"\n{chunks} chunks in {months} months", flush=True)
        paths = make_files(workspace.docs, chunks // _CHUNKS_PER_FILE, months, _FIRST_YEAR)
        new = _show("everything new", ingest(environment))
        _stores(workspace)
        _show("nothing changed", ingest(environment))
        of_first = paths[::months]
        edit(spread(of_first, _EDITED))
        _show(f"{_EDITED} files of one month edited", ingest(environment))
        edit(paths[7 * months : 7 * months + min(_EDITED, months)])
        _show(f"{min(_EDITED, months)} files of as many months edited", ingest(environment))
        for what, more in {
            "a check of one month": ["--month", f"{_FIRST_YEAR}-01"],
            "a check of all months": [],
        }.items():
            _timed(what, ["check", *more], environment)
        _timed("a search, as a process", ["search", "索引の検証", "--json"], environment)
        print(
            f"    {new.printed['chunks']} chunks, {new.seconds / new.printed['chunks'] * 1000:.2f} ms each",
            flush=True,
        )


def _show(name: str, measured: Measured) -> Measured:
    print(
        f"    {name}: {measured.seconds:.1f} s ({measured.processor_seconds:.1f} s of processor time), "
        f"{measured.megabytes:.0f} MB; {measured.stages}",
        flush=True,
    )
    return measured


def _timed(name: str, command: list[str], environment: Mapping[str, str]) -> None:
    begun = time.perf_counter()
    program = [sys.executable, "-m", "rag_pipeline.cli", *command]
    done = subprocess.run(program, env=dict(environment), capture_output=True, text=True, check=False)
    print(f"    {name}: {time.perf_counter() - begun:.1f} s, exit {done.returncode}", flush=True)


def _stores(workspace: Workspace) -> None:
    with psycopg.connect(workspace.endpoints.postgres_url) as connection:
        rows = connection.execute(
            """
            SELECT CASE WHEN relname ~ '^document_chunks' THEN 'chunks' WHEN relname ~ '^documents' THEN 'documents'
                WHEN n.nspname = 'dagster' THEN 'Dagster' ELSE 'others' END,
                sum(pg_relation_size(c.oid)) FILTER (WHERE relkind = 'r' OR relkind = 't')::bigint,
                sum(pg_indexes_size(c.oid)) FILTER (WHERE relkind = 'r')::bigint
            FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
            WHERE n.nspname IN ('public', 'dagster') GROUP BY 1 ORDER BY 1
            """
        ).fetchall()
    for name, tables, indexes in rows:
        print(
            f"    PostgreSQL, {name}: {(tables or 0) / 1e6:.0f} MB, indexes {(indexes or 0) / 1e6:.0f} MB",
            flush=True,
        )
    for home in workspace.folder.parent.glob("rag-benchmark-servers-*/home/milvus"):
        size = sum(file.stat().st_size for file in home.rglob("*") if file.is_file())
        print(f"    Milvus Lite, on disk: {size / 1e6:.0f} MB", flush=True)
    print(f"    Milvus Lite, memory: {_memory_of('milvus_server.py'):.0f} MB", flush=True)


def _memory_of(program: str) -> float:
    """The resident memory of the largest process that runs a program, in MB."""
    found = 0.0
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            command = (status.parent / "cmdline").read_text("utf-8")
            if program in command:
                text = status.read_text("utf-8")
                found = max(found, int(text.partition("VmRSS:")[2].split()[0]) / 1024)
        except (OSError, IndexError, ValueError):
            continue
    return found


if __name__ == "__main__":
    main()
