"""The `sources.yaml` and the samples of this repository."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from rag_pipeline.sources import connect
from rag_pipeline.sources.config import load_sources
from rag_pipeline.sources.interface import Item

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def contents() -> dict[str, bytes]:
    (samples,) = load_sources(ROOT / "sources.yaml")
    connector = connect(samples)
    found = list(connector.scan())
    assert all(isinstance(item, Item) for item in found)
    return {item.locator: connector.fetch(item.locator, 100_000) for item in found if isinstance(item, Item)}


def test_every_sample_is_found_and_readable(contents: dict[str, bytes]) -> None:
    there = {path.relative_to(ROOT / "samples").as_posix() for path in (ROOT / "samples").rglob("*.*")}
    assert set(contents) == there
    assert len(contents) >= 30
    assert {Path(name).suffix for name in contents} == {".md", ".html", ".txt", ".pdf", ".docx"}
    assert all(contents.values())


def test_the_samples_cover_many_months(contents: dict[str, bytes]) -> None:
    months = {match for data in contents.values() for match in re.findall(rb"^date: (2026-\d\d)", data, re.M)}
    assert len(months) >= 8


def test_the_commented_sources_are_valid_too(tmp_path: Path) -> None:
    text = (ROOT / "sources.yaml").read_text(encoding="utf-8")
    (tmp_path / "sources.yaml").write_text(re.sub(r"^  # (?=- |  )", "  ", text, flags=re.M), encoding="utf-8")
    assert [source.name for source in load_sources(tmp_path / "sources.yaml")] == [
        "samples",
        "handbook",
        "contracts",
    ]


def test_the_samples_name_only_existing_commands_and_variables(contents: dict[str, bytes]) -> None:
    from rag_pipeline.settings import Settings

    variables = {f"RAG_{name.upper()}" for name in Settings.model_fields}
    commands = {"up", "down", "status", "dev", "sources", "ingest", "search", "check", "repair", "documents"}
    for name, data in contents.items():
        text = data.decode("utf-8", "ignore")
        assert set(re.findall(r"\bRAG_[A-Z0-9_]+", text)) <= variables, name
        assert set(re.findall(r"rag-pipeline ([a-z]+)", text)) <= commands, name
