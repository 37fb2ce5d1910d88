"""How well searches find what they should: judged queries, measures, intervals, and a comparison of two evaluations.

Queries are JSON lines, `{"query": "…", "relevant": ["docs:a.md", …]}` or with a gain each,
`"relevant": {"docs:a.md": 2}`, and optionally `"id"` and `"group"`; or a file of TREC topics, `id<tab>query` a line, with
TREC qrels, `id 0 document gain`. A document is named by its `source_id`. Measures are those of ir-measures
(nDCG@10, R@10, RR@10), over the ranking of documents: a document's place is that of its best chunk.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np

from rag_pipeline.errors import ConfigError
from rag_pipeline.search.engine import search
from rag_pipeline.search.results import MAX_LIMIT, Mode

if TYPE_CHECKING:
    from rag_pipeline.pipeline import Pipeline, Progress

MEASURES = {"ndcg10": "nDCG@10", "recall10": "R@10", "mrr": "RR@10"}
"""What the output calls a measure → what ir-measures calls it."""
ALL = "all"
_RESAMPLES = 2000
_SEED = 7
"""Intervals and tests resample at random; the same evaluation gives the same ones."""

PerQuery = dict[str, dict[str, dict[str, float]]]
"""mode → query id → measure → value"""


@dataclass(frozen=True)
class JudgedQuery:
    """A query and the documents that answer it."""

    id: str
    text: str
    relevant: Mapping[str, int]
    """source_id → gain, at least 1 for what answers the query."""
    group: str
    """By which it is summed up: by default the language of the query."""


@dataclass(frozen=True)
class Summary:
    """A measure over a group of queries."""

    mean: float
    low: float
    high: float
    """The 95 % interval by bootstrap."""


@dataclass(frozen=True)
class Difference:
    """The mean difference of two evaluations of the same queries."""

    mean: float
    p: float
    """How often chance alone gives such a difference (paired permutation test, two-sided)."""
    queries: int


def read_queries(path: Path, qrels: Path | None = None) -> list[JudgedQuery]:
    """Return the queries of a file. Raises `ConfigError`, a line with its number, for what is wrong in it."""
    found = _from_trec(path, qrels) if qrels is not None else _from_json(path)
    if not found:
        raise ConfigError(f"{path}: no queries: write one JSON object a line, with `query` and `relevant`")
    for identity, times in Counter(query.id for query in found).items():
        if times > 1:
            raise ConfigError(f"{path}: the id {identity!r} is there twice: give each query its own")
    return found


def evaluate(
    pipeline: Pipeline, queries: Sequence[JudgedQuery], modes: Sequence[Mode], progress: Progress | None = None
) -> PerQuery:
    """Search for each query in each mode; return the measures of each. The searches are not counted."""
    import ir_measures

    measures = {name: ir_measures.parse_measure(measure) for name, measure in MEASURES.items()}
    qrels = {query.id: dict(query.relevant) for query in queries}
    done: PerQuery = {}
    for mode in modes:
        run: dict[str, dict[str, float]] = {}
        for number, query in enumerate(queries, 1):
            hits = search(pipeline, query.text, mode=mode, limit=MAX_LIMIT, count=False).hits
            documents = dict.fromkeys(hit.source_id for hit in hits)
            run[query.id] = {document: -float(place) for place, document in enumerate(documents)}
            if progress is not None:
                progress(f"{mode} queries", number, len(queries))
        values: dict[str, dict[str, float]] = {query.id: dict.fromkeys(MEASURES, 0.0) for query in queries}
        for name, measure in measures.items():
            for metric in ir_measures.iter_calc([measure], qrels, run):
                values[metric.query_id][name] = float(metric.value)
        done[mode] = values
    return done


def summaries(found: PerQuery, queries: Sequence[JudgedQuery]) -> dict[str, dict[str, dict[str, Summary]]]:
    """Return mode → group → measure → summary; the group `all` has every query."""
    groups: dict[str, list[str]] = defaultdict(list)
    for query in queries:
        groups[query.group].append(query.id)
    groups = {**dict(sorted(groups.items())), ALL: [query.id for query in queries]}
    return {
        mode: {
            group: {
                measure: _summary(np.array([values[identity][measure] for identity in ids]))
                for measure in MEASURES
            }
            for group, ids in groups.items()
        }
        for mode, values in found.items()
    }


def differences(found: PerQuery, before: PerQuery) -> dict[str, dict[str, Difference]]:
    """Return mode → measure → how much better the first evaluation is, over the queries that both have."""
    result: dict[str, dict[str, Difference]] = {}
    for mode in found.keys() & before.keys():
        both = sorted(found[mode].keys() & before[mode].keys())
        if both:
            result[mode] = {
                measure: _difference(
                    np.array([found[mode][one][measure] - before[mode][one][measure] for one in both])
                )
                for measure in MEASURES
            }
    return dict(sorted(result.items()))


def _summary(values: np.ndarray[Any, Any]) -> Summary:
    chosen = np.random.default_rng(_SEED).integers(0, len(values), (_RESAMPLES, len(values)))
    low, high = np.percentile(values[chosen].mean(axis=1), [2.5, 97.5])
    return Summary(float(values.mean()), float(low), float(high))


def _difference(values: np.ndarray[Any, Any]) -> Difference:
    """Swap both evaluations of random queries: as if it made no difference which is which."""
    signs = np.random.default_rng(_SEED).choice((-1.0, 1.0), (_RESAMPLES, len(values)))
    by_chance = np.abs((signs * values).mean(axis=1))
    # The observed one counts as well, so that no p is 0 (Phipson and Smyth, 2010).
    p = (1 + int((by_chance >= abs(values.mean()) - 1e-12).sum())) / (_RESAMPLES + 1)
    return Difference(float(values.mean()), p, len(values))


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
