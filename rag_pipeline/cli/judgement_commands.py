"""`searches` and `judgements`: what was searched for, and what people say of the hits."""

from __future__ import annotations

import click

from rag_pipeline.cli.common import json_option, open_pipeline, print_json, print_line, print_status
from rag_pipeline.settings import load_settings


@click.command()
@json_option
@click.option("--limit", type=click.IntRange(1, 10_000), default=50, show_default=True, help="So many queries.")
@click.option("--without-hits", is_flag=True, help="Only queries that found nothing at least once.")
@click.option("--delete", is_flag=True, help="Delete all of them, such as when they are not to be kept any more.")
def searches(as_json: bool, limit: int, without_hits: bool, delete: bool) -> None:
    """List what was searched for on the search service, most often first, if RAG_SEARCH_LOG_DAYS keeps it."""
    from rag_pipeline.stores.postgres import search_log

    with open_pipeline() as pipeline:
        pipeline.prepare()
        with pipeline.stores.database.connection() as connection:
            deleted = search_log.delete_all(connection) if delete else 0
            rows = [] if delete else search_log.frequent(connection, limit, without_hits)
    if delete:
        if as_json:
            print_json({"deleted": deleted})
        else:
            print_status(f"deleted searches: {deleted}")
        return
    if as_json:
        print_json({"queries": rows})
        return
    for row in rows:
        missing = f"  {row['without_hits']} without hits" if row["without_hits"] else ""
        print_line(f"{row['searches']:>7}  {row['median_seconds'] * 1000:>6.0f} ms  {row['query']}{missing}")
    if not rows and not load_settings().search_log_days:
        print_line("searches are not kept: set RAG_SEARCH_LOG_DAYS for the search service")
    elif not rows:
        print_line("no searches yet")


@click.command()
def judgements() -> None:
    """Print what people judged on the search page as JSON lines, the file that `evaluate` reads.

    A document is relevant to a query if more people find it helpful than not.
    """
    from rag_pipeline.search.judged_queries import by_query
    from rag_pipeline.stores.postgres import search_judgements

    with open_pipeline() as pipeline:
        pipeline.prepare()
        with pipeline.stores.database.connection() as connection:
            judged = search_judgements.judged(connection)
    for query, documents in by_query(judged).items():
        print_json({"query": query, "relevant": documents})
