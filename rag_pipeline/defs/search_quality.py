"""The asset `search_quality`: how well searches find what is judged, over time, and the check that fails on a drop."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import Field

from rag_pipeline.consistency.asset_names import collection_asset
from rag_pipeline.defs.assets import OWNERS
from rag_pipeline.defs.metadata import table
from rag_pipeline.pipeline import Pipeline
from rag_pipeline.progress import ProgressLog
from rag_pipeline.settings import VectorKind

if TYPE_CHECKING:
    from rag_pipeline.search.evaluation import Difference, Summary
    from rag_pipeline.search.quality import Quality

EVALUATE_SEARCH = "evaluate_search"
ASSET = "search_quality"
CHECK = "no_significant_drop"

_GROUP = "quality"
_QUERY_CHARACTERS = 80
_LOST_NAMED = 3
_WHAT_TO_DO = (
    "find out what changed since the reference was made: the embedder or its precision, RAG_CHUNK_TOKENS, RAG_VECTORS, "
    "this program, or the documents that the queries look for, and undo it; if searches are as good as they can be, "
    f"materialize {ASSET} with `accept: true` in its config, which makes the present results the reference"
)


class EvaluationOptions(dg.Config):
    """Options of an evaluation."""

    accept: bool = Field(
        default=False,
        description="Make the present results the reference, with which later ones are compared, even if they are worse.",
    )


evaluate_search = dg.define_asset_job(
    EVALUATE_SEARCH,
    selection=dg.AssetSelection.assets(ASSET),
    description="Ask the judged queries in every mode, and compare how well they are answered with the reference.",
)


def search_quality_asset(built: Sequence[VectorKind]) -> dg.AssetsDefinition:
    """Return the asset, downstream of the collections that are built. It has no months: a query searches all of them."""

    @dg.asset(
        name=ASSET,
        group_name=_GROUP,
        owners=OWNERS,
        kinds={"postgres", "milvus"},
        deps=[collection_asset(kind) for kind in built],
        check_specs=[
            dg.AssetCheckSpec(
                CHECK,
                asset=ASSET,
                description="Fails if searches find significantly less than the reference in any mode: if nDCG@10 is "
                "lower by 0.01 or more on average, and chance alone would give such a difference in fewer than one case "
                "of 20. Better results become the reference; until then it stays, so that small losses add up.",
            )
        ],
        description="How well searches find the documents that judged queries name, in RAG_QUERIES and on the search "
        "page: nDCG@10, recall@10 and MRR in each mode. Its numbers are plotted over time.",
    )
    def search_quality(
        context: dg.AssetExecutionContext, config: EvaluationOptions, pipeline: dg.ResourceParam[Pipeline]
    ) -> dg.MaterializeResult:
        from rag_pipeline.search.quality import evaluate_quality

        found = evaluate_quality(pipeline, accept=config.accept, progress=ProgressLog(context.log.info))
        return dg.MaterializeResult(metadata=dict(_metadata(found)), check_results=[_check_result(found)])

    return search_quality


def _metadata(found: "Quality") -> Iterator[tuple[str, Any]]:
    from rag_pipeline.search.evaluation import ALL, MEASURES, summaries

    queries = found.judged.queries
    yield "queries", len(queries)
    yield "unanswerable_queries", found.judged.unanswerable
    if not queries:
        yield "what_to_do", _why_nothing(found)
        return
    summed = summaries(found.found, queries)
    for mode, groups in summed.items():
        for measure, summary in groups[ALL].items():
            yield f"{measure}_{mode}", round(summary.mean, 4)
    yield (
        "by_mode",
        table(
            ("mode", "measure", "mean", "95 % interval", "against the reference", "p", "queries compared"),
            [
                (mode, MEASURES[measure], *_shown(summary), *_compared(found, mode, measure))
                for mode, groups in summed.items()
                for measure, summary in groups[ALL].items()
            ],
        ),
    )
    sizes = {group: sum(query.group == group for query in queries) for group in {query.group for query in queries}}
    by_group = [
        (group, sizes[group], mode, *(" ".join(_shown(groups[group][measure])) for measure in MEASURES))
        for group in sorted(sizes)
        for mode, groups in summed.items()
    ]
    yield (
        "by_language",
        table(("language or group", "queries", "mode", *MEASURES.values()), by_group, limit=len(by_group)),
    )
    rows = [
        (
            loss.query.text[:_QUERY_CHARACTERS],
            *(_fell(*loss.values[mode]) if mode in loss.values else "" for mode in found.found),
            ", ".join(document for document, gain in loss.query.relevant.items() if gain),
        )
        for loss in found.losses()
    ]
    yield "lost_most", table(("query", *(f"nDCG@10, {mode}" for mode in found.found), "answers"), rows)


def _fell(before: float, now: float) -> str:
    return f"{before:.2f} → {now:.2f}"


def _p(p: float) -> str:
    return f"{p:.3f}" if p >= 0.001 else "< 0.001"


def _shown(summary: "Summary") -> tuple[str, str]:
    return f"{summary.mean:.3f}", f"({summary.low:.3f} to {summary.high:.3f})"


def _compared(found: "Quality", mode: str, measure: str) -> tuple[str, str, int]:
    difference = found.comparison.differences.get(mode, {}).get(measure)
    if difference is None:
        return "new", "", 0
    return f"{difference.mean:+.3f}", _p(difference.p), difference.queries


def _why_nothing(found: "Quality") -> str:
    """Say why no query was asked, and what to do."""
    from rag_pipeline.search.judged_queries import NOTHING_ANSWERABLE, NOTHING_JUDGED

    return NOTHING_ANSWERABLE if found.judged.unanswerable else NOTHING_JUDGED


def _check_result(found: "Quality") -> dg.AssetCheckResult:
    if not found.judged.queries:
        # Whoever has judged queries wants to hear that none of them is asked; who has none does not.
        return dg.AssetCheckResult(
            check_name=CHECK,
            passed=not found.judged.unanswerable,
            severity=dg.AssetCheckSeverity.WARN,
            description=f"Nothing was evaluated: {_why_nothing(found)}.",
            metadata={"what_to_do": "nothing" if not found.judged.unanswerable else _why_nothing(found)},
        )
    return dg.AssetCheckResult(
        check_name=CHECK,
        passed=not found.failing,
        severity=dg.AssetCheckSeverity.ERROR,
        description=" ".join(_sentences(found)),
        metadata={
            "worse_modes": ", ".join(found.failing) or "none",
            "what_to_do": _WHAT_TO_DO if found.failing else "nothing",
        },
    )


def _sentences(found: "Quality") -> Iterator[str]:
    """Say what the comparison found."""
    from rag_pipeline.search.quality import DECIDING, LEAST_QUERIES

    comparison = found.comparison
    deciding = {mode: of[DECIDING] for mode, of in comparison.differences.items()}
    if found.failing:
        yield f"nDCG@10 is significantly lower than in the reference: {_listed(deciding, found.failing)}."
        lost = [f'"{loss.query.text[:_QUERY_CHARACTERS]}"' for loss in found.losses()[:_LOST_NAMED]]
        yield f"Most was lost by {', '.join(lost)}."
        return
    if found.accepted:
        yield f"The present results of {len(found.judged.queries)} queries were accepted as the reference."
    if deciding:
        was = "nDCG@10 beside the reference before" if found.accepted else "No significant drop in nDCG@10"
        yield f"{was}: {_listed(deciding, found.found)}."
    elif not found.accepted:
        yield f"The reference was made with {len(found.judged.queries)} queries."
    if comparison.better and not found.accepted:
        yield f"Significantly better, and the reference now: {', '.join(comparison.better)}."
    if len(found.judged.queries) < LEAST_QUERIES:
        yield f"Of fewer than {LEAST_QUERIES} queries no drop is significant: judge more."


def _listed(differences: Mapping[str, "Difference"], modes: Iterable[str]) -> str:
    return ", ".join(
        f"{mode} {of.mean:+.3f} (p {_p(of.p)}, {of.queries} queries)"
        for mode in modes
        if (of := differences.get(mode)) is not None
    )
