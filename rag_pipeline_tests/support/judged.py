"""Documents that answer one query each, as judged queries say, and ways in which searches get worse."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from rag_pipeline.embedding.base import ChunkVectors, Embedder

ANSWERS = {
    "tea": ("緑茶を淹れる温度", "緑茶は七十度の湯で淹れ、一分待ってから注ぐ。"),
    "leave": ("有給休暇の申請期限", "有給休暇は二週間前までに上長へ申請する。"),
    "backup": ("夜間バックアップの保存先", "夜間バックアップは別の建物の倉庫に保存する。"),
    "printer": ("複合機の紙詰まり", "複合機の紙詰まりは背面の蓋を開けて取り除く。"),
    "garden": ("紫陽花の剪定時期", "紫陽花は花の終わった七月に剪定する。"),
    "train": ("the night train to Sapporo", "The night train to Sapporo leaves Ueno at seven."),
    "coffee": ("grind size for an espresso", "An espresso needs a fine grind size and hot water."),
    "bicycle": ("patch a punctured bicycle tube", "Patch a punctured bicycle tube with rubber cement."),
}
"""name of a document → a query, and the text that answers it"""
NAMES = list(ANSWERS)


class _Folder(Protocol):
    def write(self, name: str, *, text: str, date: str) -> Path: ...


def write_answers(folder: _Folder, *, exchanged: Sequence[str] = ()) -> None:
    """Write the documents. Those that are `exchanged` have the text of the next one of them."""
    for name in NAMES:
        of = exchanged[(exchanged.index(name) + 1) % len(exchanged)] if name in exchanged else name
        folder.write(f"{name}.md", text=f"# {of}\n\n{ANSWERS[of][1]}\n", date="2024-03-05")


def write_queries(path: Path, names: Sequence[str] = NAMES, **others: Mapping[str, Any]) -> Path:
    """Write the file of judged queries; `others` are more lines of it, or other ones for these documents."""
    lines = {name: {"query": ANSWERS[name][0], "relevant": [f"docs:{name}.md"]} for name in names} | others
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines.values()), "utf-8")
    return path


class DamagedEmbedder:
    """An embedder that embeds some queries as if they were another one; nothing else of it is different."""

    def __init__(self, embedder: Embedder, damaged: Sequence[str]) -> None:
        self._embedder = embedder
        self._damaged = {ANSWERS[name][0] for name in damaged}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._embedder, name)

    def encode_query(self, text: str, *arguments: Any) -> ChunkVectors:
        return self._embedder.encode_query("☃☄☂" if text in self._damaged else text, *arguments)
