"""Large documents must not add up in memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from rag_pipeline.indexing.ingest_documents import ingest_documents
from rag_pipeline.indexing.scan import scan_source
from rag_pipeline.months import Month
from rag_pipeline.stores.postgres import documents
from rag_pipeline.stores.postgres.documents import DocumentRow
from rag_pipeline_tests.support.index import Index


def test_large_documents_are_stored_a_few_at_a_time(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "索引を正しく保つ。" * 100_000  # 900,000 characters
    for number in range(12):
        index.write(f"{number}.md", text)
    stored: list[list[int]] = []
    upsert = documents.upsert

    def watched(connection: Any, rows: Sequence[DocumentRow]) -> None:
        stored.append([len(row.content) for row in rows])
        upsert(connection, rows)

    monkeypatch.setattr(documents, "upsert", watched)
    with index.open() as pipeline:
        scan_source(pipeline, pipeline.source("docs"))
        assert ingest_documents(pipeline, Month(2024, 3)).stored == 12
    assert [len(sizes) for sizes in stored] == [5, 5, 2], "four of them are under four million characters"
