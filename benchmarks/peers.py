"""Beside what a user would pick instead: python -m benchmarks.peers [--files 2000] [--large] [--only TABLE]

cocoindex (PostgreSQL, tracks changes) and Haystack (Milvus, keeps no state) index the same Japanese Markdown files, all
of one month, with the same free embedder, dense vectors only, in chunks of at most 1,600 characters, as whole processes
in turn; then this pipeline alone in other settings. The peers' environments are made under .peers. Compare only figures
of the same call.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from benchmarks.free_vectors import DIMENSION, dense_vector
from benchmarks.harness import Measured, benchmark_workspace, ingest, measure
from benchmarks.ingest import edit, make_files
from rag_pipeline.months import Month
from rag_pipeline.stores.milvus import rows
from rag_pipeline.stores.milvus.client import Milvus
from rag_pipeline.stores.milvus.collections import Collections, generations
from rag_pipeline_tests.support.databases import temporary_database
from rag_pipeline_tests.support.workspace import Workspace

_ENVIRONMENTS = Path(".peers")
_REQUIREMENTS = {
    "cocoindex": ["cocoindex[postgres]>=1.0,<2", "numpy"],
    "haystack": ["haystack-ai>=3,<4", "milvus-haystack>=0.1,<0.2", "numpy"],
}
_QUIET = {"COCOINDEX_DISABLE_USAGE_TRACKING": "1", "HAYSTACK_TELEMETRY_ENABLED": "False", "RUST_LOG": "error"}
"""Neither tells its makers about the benchmark."""
_EMBEDDER = "benchmarks.free_embedder:make_of_long_chunks"
_SOME = 20


@dataclass(frozen=True)
class _Row:
    name: str
    ours: Measured
    peers: Mapping[str, Measured]


def environment_of(peer: str) -> Path:
    """Return the Python of a peer's own environment, made on first use."""
    folder = _ENVIRONMENTS / peer
    python = folder / "bin" / "python"
    ready = folder / ".installed"
    if not ready.exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        subprocess.run(
            [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *_REQUIREMENTS[peer]],
            check=True,
        )
        ready.touch()
    return python.absolute()


def _peer_commands(workspace: Workspace) -> dict[str, list[str]]:
    docs, state = str(workspace.docs), str(workspace.folder / "cocoindex.db")
    return {
        "cocoindex": [str(environment_of("cocoindex")), "-m", "benchmarks.peer_cocoindex", docs, state],
        "haystack": [str(environment_of("haystack")), "-m", "benchmarks.peer_haystack", docs],
    }


def beside_peers(files: int) -> None:
    """Print the first table."""
    with ExitStack() as stack:
        workspace, environment = stack.enter_context(benchmark_workspace(_EMBEDDER))
        postgres_url = stack.enter_context(temporary_database(workspace.endpoints.postgres_url, "cocoindex"))
        peers = _peer_commands(workspace)
        # The URLs hold passwords, which a command line would show.
        urls = {"PEER_POSTGRES_URL": postgres_url, "PEER_MILVUS_URI": workspace.endpoints.milvus_uri}
        environment |= _QUIET | urls | {"RAG_VECTORS": "dense"}
        paths = make_files(workspace.docs, files, 1)
        some = paths[:: max(1, files // _SOME)][:_SOME]
        table = []
        for name, change in _changes(some):
            change()
            theirs = {peer: measure(command, environment) for peer, command in peers.items()}
            table.append(_Row(name, ingest(environment), theirs))
            _print_row(table[-1])
        _print_table(table, files)
        print("floor:", raw_upsert(workspace, table[0].ours.printed["embedded"]))
        print("search as a process:", _search_seconds(environment), flush=True)


def raw_upsert(workspace: Workspace, count: int) -> str:
    """Write as many dense vectors as ours did, with the same fields, and nothing else. Return what it took."""
    month = Month(2024, 1)
    milvus = Milvus(workspace.endpoints.milvus_uri)
    collections = Collections(milvus, generations("floor_", "free", DIMENSION, 64, ("dense",)))
    collections.ensure(month)
    vector = dense_vector("floor")
    common = {"document_id": str(UUID(int=0)), "source_type": "filesystem", "language": "ja", "chunk_position": 0}
    made = [
        {
            "id": f"{UUID(int=n)}_dense",
            "vector": vector,
            "created_timestamp": int(month.start.timestamp()),
            **common,
        }
        for n in range(count)
    ]
    start = time.perf_counter()
    rows.upsert(milvus, collections.generations["dense"].name, month, made)
    written = time.perf_counter() - start
    collections.flush()
    return f"raw upsert of {count} rows {written:.2f} s, and their index {time.perf_counter() - start - written:.2f} s"


def _changes(some: Sequence[Path]) -> list[tuple[str, Callable[[], object]]]:
    return [
        ("everything new", lambda: None),
        ("nothing changed", lambda: None),
        (f"{len(some)} files edited", lambda: edit(some)),
        (f"{len(some)} files deleted", lambda: [path.unlink() for path in some]),
    ]


def alone(files: int, months: int, vectors: str) -> dict[str, Measured]:
    """Ours alone: the same changes with other kinds of vectors, or spread over months."""
    with benchmark_workspace(_EMBEDDER) as (workspace, environment):
        environment |= {"RAG_VECTORS": vectors}
        paths = make_files(workspace.docs, files, months)
        # One in each of as many months as there are.
        some = paths[:_SOME] if months > 1 else paths[:: max(1, files // _SOME)][:_SOME]
        found = {}
        for name, change in _changes(some):
            change()
            found[name] = ingest(environment)
            print(
                f"    {files} files in {months} months, {vectors}: {name} {_figures(found[name])}; {found[name].stages}"
            )
            sys.stdout.flush()
    return found


def _search_seconds(environment: Mapping[str, str]) -> str:
    command = [sys.executable, "-m", "rag_pipeline.cli", "search", "--json", "索引の検証"]
    taken = [measure(command, environment).seconds for _ in range(3)]
    return f"{statistics.median(taken):.2f} s (median of {len(taken)})"


def _figures(done: Measured) -> str:
    return f"{done.seconds:.2f} s ({done.processor_seconds:.2f} s of processor time), {done.megabytes:.0f} MB, {done.printed['embedded']} embedded"


def _print_row(row: _Row) -> None:
    print(f"    {row.name}: ours {_figures(row.ours)}; {row.ours.stages}")
    for peer, done in row.peers.items():
        print(f"        {peer} {_figures(done)}, {done.printed['chunks']} chunks", flush=True)


def _print_table(rows: Sequence[_Row], files: int) -> None:
    peers = list(rows[0].peers)
    print(
        f"\n| {files} files, one month, dense | ours | {' | '.join(peers)} | {' | '.join(f'ours / {p}' for p in peers)} |"
    )
    print("| --- " * (2 + 2 * len(peers)) + "|")
    for row in rows:
        theirs = [row.peers[peer].seconds for peer in peers]
        cells = [row.ours.seconds, *theirs, *(row.ours.seconds / seconds for seconds in theirs)]
        print(f"| {row.name} | {' | '.join(f'{cell:.2f}' for cell in cells)} |")
    memory = [rows[0].ours.megabytes, *(rows[0].peers[peer].megabytes for peer in peers)]
    ratios = [memory[0] / megabytes for megabytes in memory[1:]]
    cells = [*(f"{megabytes:.0f}" for megabytes in memory), *(f"{ratio:.2f}" for ratio in ratios)]
    print(f"| peak MB, everything new | {' | '.join(cells)} |\n", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=2000)
    parser.add_argument("--large", action="store_true", help="also ten times as many files, all in one month")
    parser.add_argument("--only", choices=("peers", "kinds", "months"), help="one table")
    arguments = parser.parse_args()
    only, files = arguments.only, arguments.files
    if only in (None, "peers"):
        beside_peers(files)
    if only in (None, "kinds"):
        dense = alone(files, 1, "dense")["everything new"].seconds
        everything = alone(files, 1, "dense,sparse,multi")["everything new"].seconds
        print(f"all three kinds: {everything / dense:.2f} times dense only\n")
    if only in (None, "months"):
        alone(files, _SOME, "dense")
        alone(files // 10, 1, "dense")
    if arguments.large:
        alone(files * 10, 1, "dense")


if __name__ == "__main__":
    main()
