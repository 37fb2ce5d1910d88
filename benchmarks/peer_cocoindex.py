"""The same files in cocoindex and PostgreSQL with pgvector: python -m benchmarks.peer_cocoindex FOLDER STATE

Runs in an environment of its own, which `benchmarks.peers` makes, on the database in PEER_POSTGRES_URL. Prints the numbers of chunks in the table and of
those embedded now.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import asyncpg
import cocoindex
import numpy as np
from cocoindex.connectors import localfs, postgres
from cocoindex.ops.text import RecursiveSplitter
from cocoindex.resources.chunk import Chunk
from cocoindex.resources.file import FileLike, PatternFilePathMatcher
from cocoindex.resources.schema import VectorSchema
from numpy.typing import NDArray

from benchmarks.free_vectors import DIMENSION, dense_vector

_CHUNK_BYTES = 4800
"""1,600 Japanese characters."""
_TABLE = "passages"
_POOL = cocoindex.ContextKey[asyncpg.Pool]("pool")
_FOLDER, _STATE = sys.argv[1:]
_URL = os.environ["PEER_POSTGRES_URL"]
_splitter = RecursiveSplitter()
_embedded = 0


@dataclass
class Passage:
    file: str
    start: int
    text: str
    vector: Annotated[NDArray[np.float32], VectorSchema(dtype=np.dtype(np.float32), size=DIMENSION)]


@cocoindex.lifespan
async def _environment(builder: cocoindex.EnvironmentBuilder) -> AsyncIterator[None]:
    builder.settings.db_path = Path(_STATE)
    async with asyncpg.create_pool(_URL) as pool:
        builder.provide(_POOL, pool)
        yield


@cocoindex.fn(memo=True)
async def _embed(text: str) -> NDArray[np.float32]:
    global _embedded
    _embedded += 1
    return dense_vector(text)


@cocoindex.fn
async def _index_chunk(chunk: Chunk, file: str, table: postgres.TableTarget[Passage]) -> None:
    table.declare_row(row=Passage(file, chunk.start.char_offset, chunk.text, await _embed(chunk.text)))


@cocoindex.fn(memo=True)
async def _index_file(file: FileLike, table: postgres.TableTarget[Passage]) -> None:
    chunks = _splitter.split(await file.read_text(), chunk_size=_CHUNK_BYTES, chunk_overlap=0, language="markdown")
    await cocoindex.map(_index_chunk, chunks, str(file.file_path.path), table)


@cocoindex.fn
async def _index(folder: Path) -> None:
    table = await postgres.mount_table_target(
        _POOL,
        table_name=_TABLE,
        table_schema=await postgres.TableSchema.from_class(Passage, primary_key=["file", "start"]),
    )
    files = localfs.walk_dir(
        folder, recursive=True, path_matcher=PatternFilePathMatcher(included_patterns=["**/*.md"])
    )
    await cocoindex.mount_each(_index_file, files.items(), table)


async def _main() -> None:
    app = cocoindex.App(cocoindex.AppConfig(name="passages"), _index, folder=Path(_FOLDER))
    async with cocoindex.runtime():
        await app.update()
    connection = await asyncpg.connect(_URL)
    chunks = await connection.fetchval(f"SELECT count(*) FROM {_TABLE}")
    await connection.close()
    print(json.dumps({"chunks": chunks, "embedded": _embedded}))


if __name__ == "__main__":
    asyncio.run(_main())
