"""`evaluate`: how well searches find what judged queries say they should."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rag_pipeline.cli.common import (
    generation_option,
    in_generation,
    json_option,
    open_pipeline,
    print_json,
    print_line,
    print_status,
)
from rag_pipeline.errors import ConfigError
from rag_pipeline.progress import ProgressLine

if TYPE_CHECKING:
    from rag_pipeline.pipeline import Pipeline
    from rag_pipeline.search.evaluation import Difference, PerQuery, Summary
    from rag_pipeline.search.judged_queries import JudgedQuery

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command()
@click.argument("queries", type=_FILE, required=False)
@json_option
@click.option(
    "--qrels",
    type=_FILE,
    help="TREC qrels; QUERIES then has topics: <top>, <num>, <title>, or `id<tab>query` a line.",
)
@click.option(
    "--mode",
    "modes",
    multiple=True,
    type=click.Choice(["hybrid", "dense", "sparse", "fulltext"]),
    help="Only this mode; repeatable.",
)
@click.option("--save", type=click.Path(dir_okay=False, path_type=Path), help="Keep the measures of each query.")
@click.option("--against", type=_FILE, help="Compare with what --save kept, query by query.")
@generation_option
def evaluate(
    queries: Path | None,
    as_json: bool,
    qrels: Path | None,
    modes: tuple[str, ...],
    save: Path | None,
    against: Path | None,
    generation: int | None,
) -> None:
    """Ask judged QUERIES and print nDCG@10, recall@10 and MRR by mode and group, with 95 % intervals.

    QUERIES has JSON lines: {"query": "…", "relevant": ["docs:a.md", …]}, or with a gain for each document, "relevant":
    {"docs:a.md": 2}. A query's "group" is its language unless the line has another one, such as "group": "short". Without
    QUERIES, asks those of the file RAG_QUERIES and those that people judged on the search page.
    """
    from rag_pipeline.search import evaluation
    from rag_pipeline.search.judged_queries import read_queries

    if queries is None and qrels is not None:
        raise ConfigError("--qrels needs QUERIES, the file of topics: name it too")
    if save:
        _expect_writable(save)
    judged = read_queries(queries, qrels) if queries is not None else None
    before = _kept(against) if against else None
    with ProgressLine() as progress, open_pipeline() as pipeline:
        pipeline.prepare()
        if judged is None:
            judged = _of_index(pipeline)
        with in_generation(pipeline, generation) as searched:
            chosen: Any = modes or evaluation.searchable(searched.vectors)
            found = evaluation.evaluate(searched, judged, chosen, progress)
    summaries = evaluation.summaries(found, judged)
    differences = evaluation.differences(found, before) if before is not None else {}
    if save:
        save.write_text(json.dumps(found, ensure_ascii=False), "utf-8")
    if as_json:
        print_json(_as_json(summaries) | ({"differences": _differences_as_json(differences)} if against else {}))
        return
    for mode, groups in summaries.items():
        for group, measures in groups.items():
            print_line(f"{mode:<9} {group:<8} " + "  ".join(_shown(name, one) for name, one in measures.items()))
    for mode, compared in differences.items():
        for name, difference in compared.items():
            print_line(
                f"{mode:<9} {name:<9} {difference.mean:+.3f}  p {difference.p:.3f}  ({difference.queries} queries)"
            )


def _expect_writable(path: Path) -> None:
    """Raise `ConfigError` if nothing can be kept there: else it would be said when everything has been asked."""
    if not path.parent.is_dir():
        raise ConfigError(f"--save: there is no folder {path.parent}: make it first, or name another file")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise ConfigError(f"--save: {path} cannot be written: name another file")


def _of_index(pipeline: Pipeline) -> list[JudgedQuery]:
    """The queries that are judged of this index; says how many of them cannot be answered."""
    from rag_pipeline.search.judged_queries import NOTHING_ANSWERABLE, NOTHING_JUDGED, judged_of_index

    judged = judged_of_index(pipeline)
    if judged.unanswerable:
        print_status(
            f"left out, because the documents that answer them are not in the index: {judged.unanswerable}"
        )
    if not judged.queries:
        raise ConfigError(NOTHING_ANSWERABLE if judged.unanswerable else f"{NOTHING_JUDGED}, or name a file here")
    return judged.queries


def _kept(path: Path) -> PerQuery:
    try:
        kept: PerQuery = json.loads(path.read_text("utf-8"))
        float(next(iter(next(iter(next(iter(kept.values())).values())).values())))
    except (ValueError, AttributeError, StopIteration, TypeError):
        raise ConfigError(f"{path} was not written by `rag-pipeline evaluate --save`") from None
    return kept


def _shown(name: str, summary: Summary) -> str:
    return f"{name} {summary.mean:.3f} ({summary.low:.3f} to {summary.high:.3f})"


def _as_json(summaries: dict[str, dict[str, dict[str, Summary]]]) -> dict[str, Any]:
    return {
        mode: {
            group: {
                **{name: round(one.mean, 4) for name, one in measures.items()},
                "intervals": {name: [round(one.low, 4), round(one.high, 4)] for name, one in measures.items()},
            }
            for group, measures in groups.items()
        }
        for mode, groups in summaries.items()
    }


def _differences_as_json(differences: dict[str, dict[str, Difference]]) -> dict[str, Any]:
    return {
        mode: {name: {"mean": round(one.mean, 4), "p": round(one.p, 4)} for name, one in compared.items()}
        for mode, compared in differences.items()
    }
