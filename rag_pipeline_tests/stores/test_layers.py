"""The stores import nothing that uses them, not even for types."""

from __future__ import annotations

import ast
from pathlib import Path

import rag_pipeline.stores

ABOVE = ("alerts", "cli", "consistency", "definitions", "defs", "indexing", "local_servers", "pipeline", "search")


def test_nothing_in_stores_imports_what_uses_it() -> None:
    above = tuple(f"rag_pipeline.{name}" for name in ABOVE)
    found = [
        f"{path.name}: {name}"
        for path in Path(rag_pipeline.stores.__path__[0]).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        for name in _imported(node)
        if name.startswith(above)
    ]
    assert found == []


def _imported(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        return [f"{node.module}.{alias.name}" for alias in node.names]
    return []
