"""Alerts about what no longer exists, and only those, are gone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rag_pipeline.defs.build import build_defs
from rag_pipeline.defs.gone_subjects import GoneSubjects
from rag_pipeline.months import Month
from rag_pipeline.sources.config import read_sources
from rag_pipeline.stores.postgres.alert_outbox import Subject

KEPT, HALF_EXPIRED = Month(2020, 1), Month(2018, 1)
GOOD = "  - {name: docs, type: filesystem, path: ./docs}\n"
MISTAKE = "  - {name: broken, type: filesystem, path: }\n"


@pytest.fixture
def subjects_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], GoneSubjects]:
    def make(loaded: str, now: str) -> GoneSubjects:
        sources = tmp_path / "sources.yaml"
        monkeypatch.setenv("RAG_SOURCES", str(sources))
        monkeypatch.setenv("RAG_VECTORS", "dense,sparse")
        sources.write_text(f"sources:\n{loaded}")
        repository = build_defs().get_repository_def()
        sources.write_text(f"sources:\n{now}")
        return GoneSubjects(repository, "rag_pipeline", read_sources(sources), [HALF_EXPIRED, KEPT], KEPT)

    return make


@pytest.mark.parametrize(
    ("kind", "name", "partition", "gone"),
    [
        ("sensor", "sync_removed of rag_pipeline", "", True),
        ("sensor", "sync_docs of rag_pipeline", "", False),
        ("sensor", "index_pending_months of rag_pipeline", "", False),
        ("sensor", "sync_removed of sales", "", False),
        ("schedule", "renamed of rag_pipeline", "", True),
        ("check", "source_readable on sources/removed", "", True),
        ("check", "source_readable on sources/docs", "", False),
        ("check", "fresh on sales", "", False),
        ("check", "fresh on sources/orders", "", False),
        ("check", "missing_vectors on multi_collection", "2021-01-01", True),
        ("check", "missing_vectors on dense_collection", "2021-01-01", False),
        ("check", "vectors_verified on dense_collection", "2019-01-01", True),
        ("run", "index_month", "2019-01-01", True),
        ("run", "materialization of document_chunks, dense_collection", "2019-01-01", True),
        ("run", "materialization of documents", KEPT.partition_key, True),
        ("run", "materialization of sales", KEPT.partition_key, False),
        ("run", "index_month", HALF_EXPIRED.partition_key, False),
        ("run", "index_month", KEPT.partition_key, False),
        ("run", "index_month", "2021-01-01", False),
        ("run", "index_month", "", False),
        ("run", "nightly_sales", "2019-01-01", False),
        ("check", "fresh on sales", "2019-01-01", False),
        ("run", "index_month", "tokyo", False),
    ],
)
def test_what_is_gone(
    subjects_for: Callable[[str, str], GoneSubjects], kind: Any, name: str, partition: str, gone: bool
) -> None:
    assert subjects_for(GOOD, GOOD)(Subject(kind, name, partition)) is gone


@pytest.mark.parametrize(
    ("loaded", "now"),
    [(GOOD + MISTAKE, GOOD + MISTAKE), ("  - {}\n", "  - {}\n"), (GOOD, GOOD + MISTAKE), (MISTAKE, "  [")],
)
def test_while_the_sources_have_a_mistake_none_of_them_is_gone(
    subjects_for: Callable[[str, str], GoneSubjects], loaded: str, now: str
) -> None:
    is_gone = subjects_for(loaded, now)
    for source in ("docs", "broken", "removed"):
        assert not is_gone(Subject("sensor", f"sync_{source} of rag_pipeline", ""))
        assert not is_gone(Subject("check", f"source_readable on sources/{source}", ""))
    assert is_gone(Subject("run", "index_month", "2019-01-01"))


def test_a_source_that_is_corrected_and_not_loaded_yet_is_not_gone(
    subjects_for: Callable[[str, str], GoneSubjects],
) -> None:
    is_gone = subjects_for(MISTAKE, GOOD)
    assert not is_gone(Subject("sensor", "sync_docs of rag_pipeline", ""))
    assert not is_gone(Subject("check", "source_readable on sources/docs", ""))


def test_without_retention_no_month_is_gone(subjects_for: Callable[[str, str], GoneSubjects]) -> None:
    is_gone = subjects_for(GOOD, GOOD)
    is_gone._oldest_kept = None
    assert not is_gone(Subject("run", "index_month", "2019-01-01"))
