"""The sentences about findings that people read in alerts and in the UI."""

from __future__ import annotations

import pytest

from rag_pipeline.consistency.findings import Finding
from rag_pipeline.months import Month


def finding(problem: str, count: int, *sample: dict) -> Finding:
    return Finding("a_check", "documents", Month(2024, 3), problem, count, list(sample), "do this")


@pytest.mark.parametrize(
    ("found", "sentence"),
    [
        (
            finding(
                "quarantined documents",
                2,
                {"source_type": "filesystem", "source_id": "docs:old/a.pdf", "reason": "a.pdf: it is encrypted"},
                {"source_id": "docs:b.md", "reason": "docs:b.md is a link that leads nowhere"},
            ),
            "Quarantined documents (2): docs:old/a.pdf (it is encrypted); docs:b.md (is a link that leads nowhere).",
        ),
        (
            finding(
                "completed chunks whose vectors are missing from dense",
                5,
                *(
                    {"chunk_id": n, "document_id": 7, "position": n, "source_id": "docs:a.md" if n else None}
                    for n in range(5)
                ),
            ),
            "Completed chunks whose vectors are missing from dense (5): chunk_id 0, position 0; "
            "docs:a.md (position 1); docs:a.md (position 2); and 2 more.",
        ),
    ],
)
def test_a_finding_names_the_first_few_rows(found: Finding, sentence: str) -> None:
    assert found.description == sentence
