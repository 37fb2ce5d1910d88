"""The quality of searches over time: an evaluation of what is judged, compared with the reference.

The reference is what searches have reached: the measures of each judged query in each mode, in PostgreSQL. An evaluation
that is significantly better becomes the reference, and one that is not leaves it as it is. So small losses add up until
they are found, and a loss stays found until it is undone or accepted. A query that is judged anew joins with what
searches reach at its first evaluation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import UUID

from rag_pipeline.search import evaluation
from rag_pipeline.search.evaluation import MEASURES, Difference, PerQuery
from rag_pipeline.search.judged_queries import JudgedOfIndex, JudgedQuery, anything_judged, judged_of_index
from rag_pipeline.stores.postgres import evaluation_reference
from rag_pipeline.stores.postgres.evaluation_reference import DIGITS, ReferenceRow

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from rag_pipeline.pipeline import Pipeline, Progress
    from rag_pipeline.stores.postgres.database import Database

DECIDING = "ndcg10"
"""The measure whose differences count."""
LEAST_DIFFERENCE = 0.01
"""A smaller mean difference is none that anybody would notice, however sure it is."""
LARGEST_P = 0.05
LEAST_QUERIES = 6
"""Of fewer queries, no difference is significant: chance makes five worse at once in one case of sixteen, two-sided."""


@dataclass(frozen=True)
class Loss:
    """A query that is answered worse than in the reference, in some mode."""

    query: JudgedQuery
    values: dict[str, tuple[float, float]]
    """mode → nDCG@10 in the reference, and now"""

    @property
    def size(self) -> float:
        """What it lost, in all modes together; what it gained in others does not make up for it."""
        return sum(max(0.0, before - now) for before, now in self.values.values())


@dataclass(frozen=True)
class Comparison:
    """An evaluation beside the reference."""

    now: PerQuery
    """The evaluation, as far as the reference keeps it."""
    before: PerQuery
    """The reference as it was, of the same queries; without those that have just joined."""
    differences: dict[str, dict[str, Difference]]
    """mode → measure → how much better than the reference"""

    @property
    def worse(self) -> list[str]:
        """The modes with a significant drop."""
        return self._with(-1)

    @property
    def better(self) -> list[str]:
        """The modes with a significant improvement."""
        return self._with(1)

    def _with(self, sign: int) -> list[str]:
        differences = {mode: self.differences[mode][DECIDING] for mode in self.now if mode in self.differences}
        return [mode for mode, of in differences.items() if _significant(of) == sign]


@dataclass(frozen=True)
class Quality:
    """How good searches are, and were."""

    judged: JudgedOfIndex
    found: PerQuery
    comparison: Comparison
    accepted: bool = False
    """Whether this evaluation became the reference because somebody said so."""

    @property
    def failing(self) -> list[str]:
        """The modes with a significant drop that nobody accepted."""
        return [] if self.accepted else self.comparison.worse

    def losses(self) -> list[Loss]:
        """Return the queries that lost against the reference, those that lost most first."""
        now, before = self.comparison.now, self.comparison.before
        losses = [
            Loss(
                query,
                {
                    mode: (before[mode][query.id][DECIDING], now[mode][query.id][DECIDING])
                    for mode in now
                    if query.id in before[mode]
                },
            )
            for query in self.judged.queries
        ]
        return sorted((loss for loss in losses if loss.size), key=lambda loss: (-loss.size, loss.query.text))


def is_due(pipeline: Pipeline) -> bool:
    """Whether an evaluation has anything to do: to ask what is judged, or to forget what no longer is."""
    if anything_judged(pipeline):
        return True
    with pipeline.stores.database.connection() as connection:
        return not evaluation_reference.is_empty(connection)


def evaluate_quality(pipeline: Pipeline, *, accept: bool = False, progress: Progress | None = None) -> Quality:
    """Evaluate what is judged in all modes that are built, and compare it with the reference.

    With `accept`, it becomes the reference whatever it is. Raises `ConfigError` for what is wrong in `RAG_QUERIES`.
    """
    judged = judged_of_index(pipeline)
    modes = evaluation.searchable(pipeline.vectors) if judged.queries else []
    found = evaluation.evaluate(pipeline, judged.queries, modes, progress)
    return Quality(judged, found, compare(pipeline.stores.database, found, judged.keys, accept=accept), accept)


def compare(database: Database, found: PerQuery, keys: Collection[UUID], *, accept: bool = False) -> Comparison:
    """Compare an evaluation with the reference, and bring the reference up to date.

    The ids of the queries are their keys. `keys` are those of all judged queries; others are forgotten.
    """
    now = {
        mode: {
            identity: {name: round(one[name], DIGITS) for name in MEASURES} for identity, one in queries.items()
        }
        for mode, queries in found.items()
    }
    with database.connection() as connection:
        evaluation_reference.lock(connection)
        before: PerQuery = {mode: {} for mode in now}
        for row in evaluation_reference.stored(connection):
            if str(row.query_key) in now.get(row.mode, {}):
                before[row.mode][str(row.query_key)] = {name: getattr(row, name) for name in MEASURES}
        comparison = Comparison(now, before, evaluation.differences(now, before))
        renewed = set(now) if accept else set(comparison.better)
        evaluation_reference.replace(connection, list(_rows(now, renewed)))
        evaluation_reference.add(connection, list(_rows(now, now.keys() - renewed)))
        evaluation_reference.delete_others(connection, keys)
    return comparison


def _rows(found: PerQuery, modes: Collection[str]) -> Iterator[ReferenceRow]:
    return (
        ReferenceRow(mode, UUID(identity), **one)
        for mode in sorted(modes)
        for identity, one in sorted(found[mode].items())
    )


def _significant(difference: Difference) -> int:
    """Return -1 for a significant drop, 1 for a significant improvement, 0 for neither."""
    if difference.p >= LARGEST_P or abs(difference.mean) < LEAST_DIFFERENCE - 1e-9:
        return 0
    return 1 if difference.mean > 0 else -1
