"""An index for searches: filled step by step by the real write path, with one pipeline that stays open."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rag_pipeline.endpoints import Endpoints
from rag_pipeline.indexing.chunk_documents import chunk_documents
from rag_pipeline.indexing.index_vectors import index_vectors
from rag_pipeline.indexing.ingest_documents import ingest_documents
from rag_pipeline.indexing.scan import scan_source
from rag_pipeline.months import Month
from rag_pipeline.pipeline import Pipeline
from rag_pipeline.stores.postgres import schema
from rag_pipeline_tests.support.stores import Stores, temporary_stores
from rag_pipeline_tests.support.workspace import CHEAP, Workspace

_REDIS_NUMBER = 3


class SearchIndex(Workspace):
    def __init__(self, folder: Path, stores: Stores, embedder: str, **settings: object) -> None:
        super().__init__(folder, stores, embedder)
        self.pipeline = self.opened(**settings)

    def opened(self, **settings: object) -> Pipeline:
        """Return a pipeline over the same stores with other settings."""
        return Pipeline(self.settings(**{"chunk_tokens": 200, **settings}), self.endpoints)

    def ingest(self, *, up_to: str = "vectors") -> None:
        """Run the write path for every month, up to the step `documents`, `chunks` or `vectors`."""
        for source in self.pipeline.sources.values():
            scan_source(self.pipeline, source, confirm_deletions=True)
        for month in schema.existing_months(self.pipeline.stores.database):
            self._run(month, up_to)

    def _run(self, month: Month, up_to: str) -> None:
        ingest_documents(self.pipeline, month)
        if up_to != "documents":
            chunk_documents(self.pipeline, month)
        if up_to == "vectors":
            assert not index_vectors(self.pipeline, month).failed

    def execute(self, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        with self.pipeline.stores.database.connection() as connection:
            cursor = connection.execute(sql, parameters)
            return cursor.fetchall() if cursor.description else []


@contextmanager
def new_index(
    folder: Path, servers: Endpoints, embedder: str = CHEAP, **settings: object
) -> Iterator[SearchIndex]:
    """An index without documents and without tables, removed at the end.

    It has its own stores rather than those of the fixtures, which last for one test: most tests here only read.
    """
    with temporary_stores(servers, "search", redis_number=_REDIS_NUMBER) as stores:
        index = SearchIndex(folder, stores, embedder, **settings)
        with index.pipeline:
            yield index


def fill(index: SearchIndex) -> None:
    """Ingest a few documents of several months and languages."""
    index.pipeline.prepare()
    index.write("vacuum.md", "# 掃除\n\nPostgreSQL の VACUUM は、不要になった行の領域を回収する。", "2024-01-31")
    index.write("backup.md", "# バックアップ\n\n毎晩、全体の複製を別の建物へ送る。", "2024-02-01")
    index.write("recipe.md", "# 味噌汁\n\n出汁を取り、豆腐とわかめを入れ、味噌を溶く。", "2024-02-15")
    index.write("travel.md", "# Travel\n\nThe night train to Sapporo leaves Ueno at seven.", "2023-06-01", "en")
    index.ingest()


def fill_library(index: SearchIndex) -> None:
    """Ingest 240 documents on one subject, from three sources: few have an author, a category or tags.

    Those of `staff` are for people with the permission `hr`.
    """
    index.pipeline.prepare()
    index.sources.write_text(
        "sources:\n- {name: docs, type: filesystem, path: ./docs}\n"
        "- {name: staff, type: filesystem, path: ./staff, access: [hr], category: 人事, tags: [社内, 規程]}\n"
        "- {name: notes, type: filesystem, path: ./notes, category: memo, tags: [社内]}\n",
        "utf-8",
    )
    for number in range(240):
        folder = {7: "staff", 8: "notes"}.get(number % 60, "docs")
        path = index.folder / folder / f"{number}.md"
        path.parent.mkdir(exist_ok=True)
        front = f"date: 2024-{number % 3 + 1:02d}-05\n" + ("author: 花子\n" if number % 40 == 7 else "")
        path.write_text(f"---\n{front}---\n# 休暇 {number}\n\n休暇の取り方 {number}。", "utf-8")
    index.ingest()
