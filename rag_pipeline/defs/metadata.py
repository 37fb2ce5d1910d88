"""Metadata that the UI shows as a table or as links."""

import re
from collections.abc import Iterable, Sequence
from typing import Any

import dagster as dg

from rag_pipeline.distributed.fleet import MemberReport
from rag_pipeline.settings import Settings

ROWS = 20
_MARKDOWN = re.compile(r"([\\`*_{}\[\]()#+!|<>~&])")


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]], limit: int = ROWS) -> dg.TableMetadataValue:
    """Return the first rows, 20 by default, as a table; integers stay numbers, everything else becomes text."""
    schema = dg.TableSchema(
        columns=[
            dg.TableColumn(name, "int" if rows and isinstance(rows[0][n], int) else "string")
            for n, name in enumerate(columns)
        ]
    )
    records = [
        dg.TableRecord(
            {
                name: value if isinstance(value, int) else str(value)
                for name, value in zip(columns, row, strict=True)
            }
        )
        for row in rows[:limit]
    ]
    return dg.MetadataValue.table(records, schema)


def workers_table(unit: str, workers: Sequence[MemberReport]) -> dict[str, Any]:
    """Return the metadata about the workers of a step: what each did, and how many died; nothing if there were none."""
    if not workers:
        return {}
    rows = [(w.node, w.done, f"{w.per_second:.1f}", f"{w.seconds:.1f}", w.end or "with the work") for w in workers]
    return {
        "workers": table(("node", unit, f"{unit}_per_second", "seconds", "ended"), rows, len(rows)),
        "worker_deaths": sum(bool(worker.end) for worker in workers),
    }


def links(named: Iterable[tuple[str, str]]) -> dg.MarkdownMetadataValue:
    """Return links, as (text, URL), a line each. The text is a document's, and cannot become anything else."""
    return dg.MetadataValue.md("\n".join(f"- [{_escaped(text)}]({url})" for text, url in named) or "none")


def document_page(settings: Settings, document: object, position: int | None = None) -> str:
    """Return the address of a document on the search page, at the chunk with this position if one is given."""
    at = f"?at={position}#p{position}" if position is not None else ""
    return f"{settings.search_url}/documents/{document}{at}"


def _escaped(text: str) -> str:
    return _MARKDOWN.sub(r"\\\1", " ".join(text.split()))
