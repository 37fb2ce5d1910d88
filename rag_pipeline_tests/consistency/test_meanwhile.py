"""Checks that run while the write path is running raise no false alarms."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from rag_pipeline.consistency.checker import DataConsistencyChecker
from rag_pipeline.consistency.comparison import differences
from rag_pipeline.consistency.findings import Finding
from rag_pipeline.stores.milvus import key_ranges
from rag_pipeline_tests.support.damaged_index import MARCH, DamagedIndex


def test_checks_during_ingests_find_nothing(damaged: DamagedIndex) -> None:
    done = threading.Event()

    def check() -> tuple[int, list[Finding]]:
        checks, found = 0, list[Finding]()
        with damaged.index.open() as pipeline:
            checker = DataConsistencyChecker(pipeline)
            while not done.is_set():
                found += checker.check_consistency().findings
                checks += 1
        return checks, found

    with ThreadPoolExecutor(1) as beside:
        checking = beside.submit(check)
        try:
            for round_ in range(4):
                for n in range(6):
                    text = "\n\n".join(
                        f"## 節{p}\n\n文書{n}の段落{p}、{round_ if p % 3 == 0 else 0}回目。"
                        for p in range(14 - round_)
                    )
                    damaged.index.write(f"march{n}.md", f"# 文書{n}\n\n{text}\n", "2024-03-05")
                if round_ == 2:
                    damaged.index.docs.joinpath("march5.md").unlink()
                    damaged.index.docs.joinpath("march4.md").rename(damaged.index.docs / "renamed.md")
                result = damaged.index.ingest()
                assert result.errors == []
        finally:
            done.set()
        checks, found = checking.result()
    assert checks > 2
    assert [f"{finding} {finding.sample}" for finding in found] == []
    damaged.index.assert_consistent()
    assert damaged.check().findings == []


def test_statistics_are_not_wrong_while_a_run_has_yet_to_recount(damaged: DamagedIndex) -> None:
    damaged.sql("UPDATE sources SET total_documents = total_documents + 1")
    with damaged.index.open() as pipeline, pipeline.month_lock(MARCH):
        assert pipeline.months_in_progress() == {MARCH}
        assert damaged.check().findings == []
    (finding,) = damaged.check().findings
    assert finding.problem == "sources whose statistics differ from their items"
    damaged.repaired()


@pytest.mark.parametrize("kind", ["dense", "multi"])
def test_a_run_between_the_reads_of_both_stores_is_not_a_difference(
    damaged: DamagedIndex, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """The worst moment: chunks are added and deleted after PostgreSQL was read and before Milvus is."""
    original = key_ranges.read
    runs = 0

    def read_late(*arguments: object) -> Iterator[tuple[key_ranges.Range, set[str]]]:
        nonlocal runs
        runs += 1
        damaged.index.write("march0.md", "# 別の文書\n\n新しい本文。\n\n## 節\n\nもう一つ。\n", "2024-03-05")
        damaged.index.docs.joinpath("march1.md").unlink()
        damaged.index.write("march7.md", "# 七\n\n七番目の文書。\n", "2024-03-05")
        damaged.index.ingest()
        yield from original(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(key_ranges, "read", read_late)
    with damaged.index.open() as pipeline:
        parts = list(differences(pipeline, MARCH, kind))  # type: ignore[arg-type]
    assert runs == 1
    assert [(part.missing, part.orphaned) for part in parts] == [([], {})]
    monkeypatch.undo()
    damaged.restore()
