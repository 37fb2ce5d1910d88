"""Judged queries: queries of which it is known which documents answer them, read from files.

A file has JSON lines, `{"query": "…", "relevant": ["docs:a.md", …]}` or with a gain each,
`"relevant": {"docs:a.md": 2}`, and optionally `"id"` and `"group"`; or it is one of TREC topics, `id<tab>query` a line,
with TREC qrels, `id 0 document gain`. A document is named by its `source_id`.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeGuard

from rag_pipeline.errors import ConfigError


@dataclass(frozen=True)
class JudgedQuery:
    """A query and the documents that answer it."""

    id: str
    text: str
    relevant: Mapping[str, int]
    """source_id → gain, at least 1 for what answers the query."""
    group: str
    """By which it is summed up: by default the language of the query."""


def read_queries(path: Path, qrels: Path | None = None) -> list[JudgedQuery]:
    """Return the queries of a file. Raises `ConfigError`, a line with its number, for what is wrong in it."""
    found = _from_trec(path, qrels) if qrels is not None else _from_json(path)
    if not found:
        raise ConfigError(f"{path}: no queries: write one JSON object a line, with `query` and `relevant`")
    for identity, times in Counter(query.id for query in found).items():
        if times > 1:
            raise ConfigError(f"{path}: the id {identity!r} is there twice: give each query its own")
    return found


def _from_json(path: Path) -> list[JudgedQuery]:
    found = []
    for number, line in enumerate(_lines(path), 1):
        if not line.strip():
            continue
        try:
            fields = json.loads(line)
        except ValueError:
            raise ConfigError(f"{path}, line {number}: not JSON") from None
        text = fields.get("query") if isinstance(fields, dict) else None
        relevant = fields.get("relevant") if isinstance(fields, dict) else None
        if isinstance(relevant, list):
            relevant = dict.fromkeys(relevant, 1)
        if not isinstance(text, str) or not text.strip() or not _is_judged(relevant):
            raise ConfigError(
                f'{path}, line {number}: needs "query", a text, and "relevant", a list of source ids or an object '
                "with a gain for each"
            )
        group = fields.get("group") or _language(text)
        found.append(JudgedQuery(str(fields.get("id", number)), text, relevant, str(group)))
    return found


def _is_judged(relevant: object) -> TypeGuard[dict[str, int]]:
    return (
        isinstance(relevant, dict)
        and any(gain for gain in relevant.values())
        and all(
            isinstance(document, str) and isinstance(gain, int) and gain >= 0
            for document, gain in relevant.items()
        )
    )


def _from_trec(path: Path, qrels: Path) -> list[JudgedQuery]:
    judged: dict[str, dict[str, int]] = defaultdict(dict)
    for number, line in enumerate(_lines(qrels), 1):
        parts = line.split()
        if not parts:
            continue
        if len(parts) != 4 or not parts[3].lstrip("-").isdigit():
            raise ConfigError(f"{qrels}, line {number}: write `query 0 document gain`")
        judged[parts[0]][parts[2]] = max(0, int(parts[3]))
    found = []
    for number, line in enumerate(_lines(path), 1):
        identity, tab, text = line.strip().partition("\t")
        if not identity:
            continue
        if not tab or not text.strip():
            raise ConfigError(f"{path}, line {number}: write `id<tab>query`")
        if any(judged[identity].values()):  # TREC leaves queries out for which nothing was judged relevant.
            found.append(JudgedQuery(identity, text, judged[identity], _language(text)))
    return found


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{path} cannot be read as UTF-8 text: {getattr(error, 'strerror', None) or error}"
        ) from None


def _language(text: str) -> str:
    from rag_pipeline.language.detection import detect_language

    return detect_language(text) or "unknown"
