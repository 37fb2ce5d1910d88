"""Alerts about what no longer exists, and only those, are gone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rag_pipeline.defs.build import build_defs
from rag_pipeline.defs.gone_subjects import GoneSubjects
from rag_pipeline.months import Month
from rag_pipeline.stores.postgres.alert_outbox import Subject

KEPT, HALF_EXPIRED = Month(2020, 1), Month(2018, 1)


@pytest.fixture
def is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> GoneSubjects:
    sources = tmp_path / "sources.yaml"
    sources.write_text("sources:\n  - {name: docs, type: filesystem, path: ./docs}\n  - {name: broken, type: x}\n")
    monkeypatch.setenv("RAG_SOURCES", str(sources))
    repository = build_defs().get_repository_def()
    return GoneSubjects(repository, "rag_pipeline", [HALF_EXPIRED, KEPT], oldest_kept=KEPT)


@pytest.mark.parametrize(
    ("kind", "name", "partition", "gone"),
    [
        ("sensor", "sync_removed of rag_pipeline", "", True),
        ("sensor", "sync_docs of rag_pipeline", "", False),
        ("sensor", "sync_broken of rag_pipeline", "", False),
        ("sensor", "index_pending_months of rag_pipeline", "", False),
        ("sensor", "sync_removed of sales", "", False),
        ("schedule", "renamed of rag_pipeline", "", True),
        ("check", "source_readable on sources/removed", "", True),
        ("check", "source_readable on sources/docs", "", False),
        ("check", "fresh on sales", "", False),
        ("check", "vectors_verified on dense_collection", "2019-01-01", True),
        ("run", "index_month", "2019-01-01", True),
        ("run", "materialization of document_chunks, dense_collection", "2019-01-01", True),
        ("run", "index_month", HALF_EXPIRED.partition_key, False),
        ("run", "index_month", KEPT.partition_key, False),
        ("run", "index_month", "2021-01-01", False),
        ("run", "index_month", "", False),
        ("run", "nightly_sales", "2019-01-01", False),
        ("check", "fresh on sales", "2019-01-01", False),
        ("run", "index_month", "tokyo", False),
    ],
)
def test_what_is_gone(is_gone: GoneSubjects, kind: Any, name: str, partition: str, gone: bool) -> None:
    assert is_gone(Subject(kind, name, partition)) is gone


def test_without_retention_no_month_is_gone(is_gone: GoneSubjects) -> None:
    is_gone._oldest_kept = None
    assert not is_gone(Subject("run", "index_month", "2019-01-01"))
