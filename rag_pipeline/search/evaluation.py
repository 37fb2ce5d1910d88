"""How well searches find what they should: measures of judged queries, intervals, and a comparison of two evaluations.

Measures are those of ir-measures (nDCG@10, R@10, RR@10), over the ranking of documents: a document's place is that of
its best chunk.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rag_pipeline.search.engine import search
from rag_pipeline.search.results import MAX_LIMIT, Mode

if TYPE_CHECKING:
    from rag_pipeline.pipeline import Pipeline, Progress
    from rag_pipeline.search.judged_queries import JudgedQuery
    from rag_pipeline.settings import VectorKind

MEASURES = {"ndcg10": "nDCG@10", "recall10": "R@10", "mrr": "RR@10"}
"""What the output calls a measure → what ir-measures calls it."""
ALL = "all"
_RESAMPLES = 2000
_SEED = 7
"""Intervals and tests resample at random; the same evaluation gives the same ones."""

PerQuery = dict[str, dict[str, dict[str, float]]]
"""mode → query id → measure → value"""


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


def searchable(built: Sequence[VectorKind]) -> list[Mode]:
    """Return the modes that the built kinds of vectors allow."""
    legs: list[Mode] = [kind for kind in ("dense", "sparse") if kind in built]
    fused: list[Mode] = ["hybrid"] if legs else []
    return [*fused, *legs, "fulltext"]


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
