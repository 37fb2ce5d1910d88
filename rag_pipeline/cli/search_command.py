"""`search`: queries over the index."""

from __future__ import annotations

from datetime import date
from typing import Any

import click

from rag_pipeline.cli.common import (
    DateType,
    generation_option,
    in_generation,
    json_option,
    open_pipeline,
    print_json,
    print_line,
)

_LEGS = {"dense": "meaning", "sparse": "words", "multi": "sentences"}
"""What found a hit, as the search page calls it."""
_EMBEDDED = ("hybrid", "dense")
"""The modes that have the query embedded by the model."""


@click.command()
@click.argument("query")
@json_option
@click.option(
    "--mode",
    type=click.Choice(["hybrid", "dense", "sparse", "fulltext"]),
    default="hybrid",
    show_default=True,
)
@click.option("--limit", type=click.IntRange(1, 100), default=10, show_default=True)
@click.option("--language", metavar="XX", help="Only documents in this language, such as ja.")
@click.option(
    "--source", metavar="NAME", help="Only documents from this source; `rag-pipeline sources` lists them."
)
@click.option("--source-type", metavar="TYPE", help="Only documents from this type of source, such as filesystem.")
@click.option("--category", metavar="NAME", help="Only documents of this category.")
@click.option(
    "--tag", "tags", metavar="NAME", multiple=True, help="Only documents with this tag; repeatable: with all."
)
@click.option("--author", metavar="NAME", help="Only documents by this author.")
@click.option("--from", "from_date", type=DateType(), help="Not older than this day or month (UTC).")
@click.option("--to", "to_date", type=DateType(last=True), help="Not newer than this day or month (UTC).")
@generation_option
def search(
    query: str,
    as_json: bool,
    mode: Any,
    limit: int,
    language: str | None,
    source: str | None,
    source_type: str | None,
    category: str | None,
    tags: tuple[str, ...],
    author: str | None,
    from_date: date | None,
    to_date: date | None,
    generation: int | None,
) -> None:
    """Search the index."""
    with open_pipeline() as pipeline:
        pipeline.prepare()
        with in_generation(pipeline, generation) as searched:
            if mode in _EMBEDDED and "dense" in searched.vectors:
                searched.load_ahead(for_queries=True)
                with searched.stores.milvus.client():
                    pass  # Connected meanwhile: its library is large too.
            from rag_pipeline.search import Filters
            from rag_pipeline.search import search as run_search
            from rag_pipeline.search.results import ranks

            filters = Filters(
                language=language,
                source_type=source_type,
                source=source,
                category=category,
                tags=tags,
                author=author,
                from_date=from_date,
                to_date=to_date,
            )
            found = run_search(searched, query, mode=mode, limit=limit, filters=filters)
    if as_json:
        print_json(found.as_json())
        return
    for number, (hit, places) in enumerate(
        zip(found.hits, ranks([hit.scores for hit in found.hits]), strict=True), 1
    ):
        by = ", ".join(f"{_LEGS[leg]} {place}" for leg, place in places.items())
        section = f" › {hit.section_title}" if hit.section_title and hit.section_title != hit.title else ""
        print_line(f"{number}. {hit.title}{section}" + (f"  ({by})" if by else ""))
        print_line(f"   {hit.source_id}")
        print_line(f"   {_excerpt(hit.content)}")
    if not found.hits:
        print_line("nothing found")


def _excerpt(content: str, width: int = 160) -> str:
    text = " ".join(content.split())
    return text if len(text) <= width else text[: width - 1] + "…"
