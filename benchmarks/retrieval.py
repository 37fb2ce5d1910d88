"""How well searches find what is there: python -m benchmarks.retrieval JAPANESE [--english FOLDER] [--pages 400]

Indexes Japanese manual pages with the embedder of RAG_EMBEDDER (default: local), asks each page's summary, which was
taken out of it, headings that only one page has, and the English page's summary, and prints for each mode nDCG@10 with
its standard error: by document, and for headings by section too. `--save FILE` keeps the figures of each query;
`--against FILE` prints the difference to such a file, query by query. Environment variables choose what is compared,
such as RAG_LOCAL_PRECISION.

    apt-get download manpages-ja manpages-ja-dev manpages manpages-dev && for d in *.deb; do dpkg-deb -x $d pages; done
    python -m benchmarks.retrieval pages/usr/share/man/ja --english pages/usr/share/man/man2
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from benchmarks.harness import benchmark_workspace
from benchmarks.man_pages import Query, queries, read_pages
from rag_pipeline.indexing.ingest import ingest
from rag_pipeline.pipeline import Pipeline
from rag_pipeline.search import search
from rag_pipeline.search.engine import Mode
from rag_pipeline.search.results import Hit

_AT = 10
Figures = dict[str, dict[str, float]]
"""mode/kind → query → nDCG@10"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("japanese", type=Path, help="a folder of Japanese manual pages, such as /usr/share/man/ja")
    parser.add_argument("--english", type=Path, action="append", default=[])
    parser.add_argument("--pages", type=int, default=400)
    parser.add_argument("--save", type=Path)
    parser.add_argument("--against", type=Path)
    arguments = parser.parse_args()
    pages = read_pages(arguments.japanese, arguments.pages)
    asked = list(queries(pages, arguments.english))
    with benchmark_workspace(os.environ.get("RAG_EMBEDDER", "local")) as (workspace, _):
        for page in pages:
            workspace.write(f"{page.name}.md", page.markdown)
        settings = {
            name.removeprefix("RAG_").lower(): os.environ[name] for name in os.environ if name.startswith("RAG_")
        }
        with Pipeline(workspace.settings(**settings)) as pipeline:
            pipeline.prepare()
            start = time.perf_counter()
            ingest(pipeline)
            [(chunks,)] = workspace.rows("SELECT count(*) FROM document_chunks")
            print(f"{len(pages)} pages, {chunks} chunks in {time.perf_counter() - start:.0f} s", flush=True)
            figures = _ask(pipeline, asked)
    _print(figures)
    if arguments.save:
        arguments.save.write_text(json.dumps(figures, ensure_ascii=False), "utf-8")
    if arguments.against:
        _print_difference(figures, json.loads(arguments.against.read_text("utf-8")))


def _ask(pipeline: Pipeline, asked: Sequence[Query]) -> Figures:
    figures: Figures = {}
    for mode in get_args(Mode):
        for query in asked:
            hits = search(pipeline, query.text, mode=mode, limit=5 * _AT).hits
            key = f"{query.page}: {query.text}"
            by_page = dict.fromkeys(hit.source_id for hit in hits)
            figures.setdefault(f"{mode}/{query.kind}", {})[key] = _gain(
                page.endswith(f":{query.page}.md") for page in by_page
            )
            if query.section is not None:
                figures.setdefault(f"{mode}/{query.kind}, the section itself", {})[key] = _gain(
                    _is_section(hit, query) for hit in hits
                )
    return figures


def _is_section(hit: Hit, query: Query) -> bool:
    """Whether a hit shows the section: a chunk of it, also of its middle, or one that has the heading inside."""
    return hit.source_id.endswith(f":{query.page}.md") and (
        hit.section_title == query.section
        or any(
            line.lstrip("#").strip() == query.section for line in hit.content.split("\n") if line.startswith("#")
        )
    )


def _gain(right: object) -> float:
    """nDCG@10 where one answer is right: 1 / log2(1 + rank) of the first that is."""
    for rank, is_right in enumerate(list(right)[:_AT], 1):  # type: ignore[call-overload]
        if is_right:
            return 1 / math.log2(1 + rank)
    return 0.0


def _print(figures: Figures) -> None:
    for name, of_queries in figures.items():
        values = list(of_queries.values())
        error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0
        print(f"{name:45} {statistics.mean(values):.3f} ± {error:.3f}  ({len(values)} queries)")


def _print_difference(figures: Figures, before: Figures) -> None:
    print("\ndifference:")
    for name, of_queries in figures.items():
        other = before.get(name, {})
        differences = [value - other[query] for query, value in of_queries.items() if query in other]
        if len(differences) > 1:
            error = statistics.stdev(differences) / math.sqrt(len(differences))
            print(f"{name:45} {statistics.mean(differences):+.3f} ± {error:.3f}")


if __name__ == "__main__":
    main()
