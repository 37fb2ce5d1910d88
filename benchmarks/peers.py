"""Beside what a user would pick instead: python -m benchmarks.peers [--files 2000] [--large] [--only TABLE]

cocoindex (PostgreSQL, tracks changes) and Haystack (Milvus, keeps no state) index the same Japanese Markdown files, all
of one month, with the same free embedder, dense vectors only, in chunks of at most 1,600 characters, as whole processes
in turn; then this pipeline alone in other settings, and at last all of it beside what is aimed at. The peers'
environments are made under .peers. Compare only figures of the same call.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from benchmarks.environments import environment_of
from benchmarks.free_vectors import DIMENSION, dense_vector
from benchmarks.harness import Measured, benchmark_workspace, ingest, measure
from benchmarks.ingest import edit, make_files, spread
from rag_pipeline.months import Month
from rag_pipeline.stores.milvus import rows
from rag_pipeline.stores.milvus.client import Milvus
from rag_pipeline.stores.milvus.collections import Collections, generations
from rag_pipeline_tests.support.databases import temporary_database
from rag_pipeline_tests.support.workspace import Workspace

_QUIET = {"COCOINDEX_DISABLE_USAGE_TRACKING": "1", "HAYSTACK_TELEMETRY_ENABLED": "False", "RUST_LOG": "error"}
"""Neither tells its makers about the benchmark."""
_EMBEDDER = "benchmarks.free_embedder:make_of_long_chunks"
_SOME = 20
_EDITED, _DELETED = f"{_SOME} files edited", f"{_SOME} files deleted"


@dataclass(frozen=True)
class _Row:
    name: str
    ours: Measured
    peers: Mapping[str, Measured]


@dataclass(frozen=True)
class _Aim:
    """What is aimed at: at most `target`, in seconds, MB or as a ratio."""

    name: str
    target: float
    unit: str
    found: float


def _peer_commands(workspace: Workspace) -> dict[str, list[str]]:
    docs, state = str(workspace.docs), str(workspace.folder / "cocoindex.db")
    return {
        "cocoindex": [str(environment_of("cocoindex")), "-m", "benchmarks.peer_cocoindex", docs, state],
        "haystack": [str(environment_of("haystack")), "-m", "benchmarks.peer_haystack", docs],
    }


def beside_peers(files: int) -> list[_Aim]:
    """Print the first table."""
    with ExitStack() as stack:
        workspace, environment = stack.enter_context(benchmark_workspace(_EMBEDDER))
        postgres_url = stack.enter_context(temporary_database(workspace.endpoints.postgres_url, "cocoindex"))
        peers = _peer_commands(workspace)
        # The URLs hold passwords, which a command line would show.
        urls = {"PEER_POSTGRES_URL": postgres_url, "PEER_MILVUS_URI": workspace.endpoints.milvus_uri}
        environment |= _QUIET | urls | {"RAG_VECTORS": "dense"}
        paths = make_files(workspace.docs, files, 1)
        some = spread(paths, _SOME)
        table = []
        for name, change in _changes(some):
            change()
            theirs = {peer: measure(command, environment) for peer, command in peers.items()}
            table.append(_Row(name, ingest(environment), theirs))
            _print_row(table[-1])
        _print_table(table, files)
        print("floor:", raw_upsert(workspace, table[0].ours.printed["embedded"]))
        search = _search_seconds(environment)
    new, nothing, *changes = table
    return [
        *(
            _Aim(row.name, row.peers["cocoindex"].seconds, "s (cocoindex's)", row.ours.seconds)
            for row in (new, *changes)
        ),
        _Aim(nothing.name, 0.6, "s", nothing.ours.seconds),
        _Aim(f"peak memory, {files} files", 250, "MB", new.ours.megabytes),
        _Aim("search as a process", 1.5, "s", search),
    ]


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
        (_EDITED, lambda: edit(some)),
        (_DELETED, lambda: [path.unlink() for path in some]),
    ]


def alone(files: int, months: int, vectors: str) -> dict[str, Measured]:
    """Ours alone: the same changes with other kinds of vectors, or spread over months."""
    with benchmark_workspace(_EMBEDDER) as (workspace, environment):
        environment |= {"RAG_VECTORS": vectors}
        paths = make_files(workspace.docs, files, months)
        # One in each of as many months as there are.
        some = paths[:_SOME] if months > 1 else spread(paths, _SOME)
        found = {}
        for name, change in _changes(some):
            change()
            found[name] = ingest(environment)
            print(
                f"    {files} files in {months} months, {vectors}: {name} {_figures(found[name])}; {found[name].stages}"
            )
            sys.stdout.flush()
    return found


def _by_size(few: int, some: int, many: int | None) -> list[_Aim]:
    """The same changes in months of other sizes."""
    aims = [_Aim(f"peak memory, {few} files", 250, "MB", alone(few, 1, "dense")["everything new"].megabytes)]
    if many is not None:
        small, large = alone(some, 1, "dense"), alone(many, 1, "dense")
        aims += [
            _Aim(f"peak memory, {many} files", 250, "MB", large["everything new"].megabytes),
            _Aim(f"{_EDITED} of {many}", small[_EDITED].seconds, f"s (those of {some})", large[_EDITED].seconds),
            _Aim(
                f"{_DELETED} of {many}", small[_DELETED].seconds, f"s (those of {some})", large[_DELETED].seconds
            ),
        ]
    return aims


def _search_seconds(environment: Mapping[str, str]) -> float:
    command = [sys.executable, "-m", "rag_pipeline.cli", "search", "--json", "索引の検証"]
    return statistics.median(measure(command, environment).seconds for _ in range(3))


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
    new = [rows[0].ours, *(rows[0].peers[peer] for peer in peers)]
    _print_memory("peak MB, everything new", [done.megabytes for done in new])
    _print_memory("… without mapped files", [done.own_megabytes for done in new])
    print(flush=True)


def _print_memory(name: str, megabytes: Sequence[float]) -> None:
    cells = [*(f"{one:.0f}" for one in megabytes), *(f"{megabytes[0] / one:.2f}" for one in megabytes[1:])]
    print(f"| {name} | {' | '.join(cells)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=2000)
    parser.add_argument("--large", action="store_true", help="also ten times as many files, all in one month")
    parser.add_argument("--only", choices=("peers", "kinds", "months", "large"), help="one part")
    arguments = parser.parse_args()
    only, files = arguments.only, arguments.files
    aims: list[_Aim] = []
    if only in (None, "peers"):
        aims += beside_peers(files)
    if only in (None, "kinds"):
        dense = alone(files, 1, "dense")["everything new"].seconds
        everything = alone(files, 1, "dense,sparse,multi")["everything new"].seconds
        aims.append(_Aim("everything new, all three kinds", 1.6, "times dense only", everything / dense))
    if only in (None, "months"):
        edited = alone(files, _SOME, "dense")[_EDITED]
        aims.append(_Aim(f"{_SOME} files edited in {_SOME} months", 3, "s", edited.seconds))
    if only in (None, "large"):
        aims += _by_size(files // 10, files, 10 * files if arguments.large else None)
    print("\n| | aim | found | found / aim |\n| --- | --- | --- | --- |")
    for aim in aims:
        print(f"| {aim.name} | {aim.target:.4g} {aim.unit} | {aim.found:.4g} | {aim.found / aim.target:.2f} |")


if __name__ == "__main__":
    main()
