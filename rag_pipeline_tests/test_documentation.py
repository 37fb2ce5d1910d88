"""The documentation says what the code says: settings, commands, states, the layout, and the files that it names."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from rag_pipeline.cli import cli
from rag_pipeline.settings import Settings
from rag_pipeline.stores.postgres import statuses
from rag_pipeline.stores.postgres.statuses import Status

ROOT = Path(__file__).parents[1]
READMES = ("README.md", "README.ja.md")
PAGES = (
    *READMES,
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "docs/design.md",
    "docs/milvus.md",
    "docs/operations.md",
    "deploy/README.md",
)
DIAGRAMS = {
    "source_items.state": statuses.ItemState,
    "documents.processing_status": statuses.ProcessingStatus,
    "documents.indexing_status": statuses.IndexingStatus,
    "document_chunks.embedding_status": statuses.EmbeddingStatus,
    "sources.sync_status": statuses.SyncStatus,
}


def _text(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


@pytest.mark.parametrize("readme", READMES)
def test_a_readme_lists_every_setting_and_command(readme: str) -> None:
    text = _text(readme)
    assert sorted(re.findall(r"^\| `(RAG_\w+)` \|", text, re.M)) == sorted(
        f"RAG_{name.upper()}" for name in Settings.model_fields
    )
    cells = re.findall(r"^\| `rag-pipeline (.+?) \|", text, re.M)
    assert {name for cell in cells for name in re.findall(r"(?:^|`)([a-z]+)", cell)} == set(cli.commands)


def test_both_readmes_have_the_same_code_and_sections() -> None:
    english, japanese = map(_text, READMES)
    for pattern in (r"^(#+) ", r"`(RAG_\w+)`", r"^(?:\. |rag-pipeline |make )[^#\n]*"):
        assert re.findall(pattern, english, re.M) == re.findall(pattern, japanese, re.M), pattern


@pytest.mark.parametrize("page", PAGES)
def test_links_and_modules_exist(page: str) -> None:
    text = _text(page)
    for target in re.findall(r"\]\(([^)#]+)", text):
        assert target.startswith("https://") or (ROOT / page).parent.joinpath(target).exists(), target
    # not everything below ROOT: other tests make and remove folders there
    folders = ("rag_pipeline", "rag_pipeline_tests", "benchmarks")
    files = [path.relative_to(ROOT).as_posix() for folder in folders for path in (ROOT / folder).rglob("*.py")]
    for name in re.findall(r"`([a-z_0-9/]+\.py)`", text):
        assert any(file == name or file.endswith(f"/{name}") for file in files), name


@pytest.mark.parametrize(("column", "enum"), DIAGRAMS.items(), ids=list(DIAGRAMS))
def test_a_state_diagram_has_the_transitions_of_the_table(column: str, enum: type[Status]) -> None:
    design = _text("docs/design.md")
    diagram = design[design.index(f"`{column}`") :].split("```mermaid\n", 1)[1].split("```", 1)[0]
    arrows = re.findall(r"^ +(\S+) --> (\S+)", diagram, re.M)
    drawn = [tuple(None if state == "[*]" else enum(state) for state in arrow) for arrow in arrows]
    assert len(drawn) == len(set(drawn))
    assert set(drawn) == statuses.TRANSITIONS[enum]


def test_nothing_imports_upwards() -> None:
    layout = _text("docs/design.md").split("```")[1]
    layers = [re.findall(r"^  ([a-z_]+(?:, [a-z_]+)*)", group, re.M) for group in layout.split("\n\n")]
    rank = {name: n for n, lines in enumerate(layers) for line in lines for name in line.split(", ")}
    package = ROOT / "rag_pipeline"
    upwards = []
    for path in package.rglob("*.py"):
        name = path.relative_to(package).parts[0].removesuffix(".py")
        imported = {part for node in ast.walk(ast.parse(path.read_text("utf-8"))) for part in _parts(node)}
        upwards += [
            f"{path.name}: {part}"
            for part in imported
            if name != "__init__" and part != "dagster" and rank[part] > rank[name]
        ]
        assert "dagster" not in imported or rank[name] == rank["defs"], path.name
    assert upwards == []


def _parts(node: ast.AST) -> list[str]:
    """The parts of the package that a statement imports from, and `dagster`."""
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
        names = [f"{node.module}.{alias.name}" for alias in node.names]
    else:
        return []
    return [
        "dagster" if name.split(".")[0] == "dagster" else name.split(".")[1]
        for name in names
        if name.startswith("rag_pipeline.") or name.split(".")[0] == "dagster"
    ]
