"""Checks while runs are writing raise no false alarm."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from rag_pipeline.consistency.checker import DataConsistencyChecker
from rag_pipeline.consistency.comparison import differences
from rag_pipeline.consistency.findings import Finding
from rag_pipeline.stores.milvus import key_ranges
from rag_pipeline_tests.consistency.conftest import MARCH, Spoiled


def test_checks_beside_ingests_find_nothing(spoiled: Spoiled) -> None:
    done = threading.Event()

    def check() -> tuple[int, list[Finding]]:
        checks, found = 0, list[Finding]()
        with spoiled.index.open() as pipeline:
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
                    spoiled.index.write(f"march{n}.md", f"# 文書{n}\n\n{text}\n", "2024-03-05")
                if round_ == 2:
                    spoiled.index.docs.joinpath("march5.md").unlink()
                    spoiled.index.docs.joinpath("march4.md").rename(spoiled.index.docs / "renamed.md")
                result = spoiled.index.ingest()
                assert result.errors == []
        finally:
            done.set()
        checks, found = checking.result()
    assert checks > 2
    assert [f"{finding} {finding.sample}" for finding in found] == []
    spoiled.index.assert_true()
    assert spoiled.check().findings == []


@pytest.mark.parametrize("kind", ["dense", "multi"])
def test_a_run_between_the_reads_of_both_stores_is_no_difference(
    spoiled: Spoiled, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """The worst moment: PostgreSQL was read, and before Milvus is, chunks come and others go."""
    original = key_ranges.read
    runs = 0

    def read_late(*arguments: object) -> Iterator[tuple[key_ranges.Range, set[str]]]:
        nonlocal runs
        runs += 1
        spoiled.index.write("march0.md", "# 別の文書\n\n新しい本文。\n\n## 節\n\nもう一つ。\n", "2024-03-05")
        spoiled.index.docs.joinpath("march1.md").unlink()
        spoiled.index.write("march7.md", "# 七\n\n七番目の文書。\n", "2024-03-05")
        spoiled.index.ingest()
        yield from original(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(key_ranges, "read", read_late)
    with spoiled.index.open() as pipeline:
        parts = list(differences(pipeline, MARCH, kind))  # type: ignore[arg-type]
    assert runs == 1
    assert [(part.missing, part.orphaned) for part in parts] == [([], {})]
    monkeypatch.undo()
    spoiled.restore()
