"""The predicate that keeps a query in one month's partition.

Bounds, not a partition's name: a statement on the parent table fires its triggers, and the planner prunes the other
months by constants that it sees on every table of a join.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime

    from rag_pipeline.months import Month


def in_month(column: str) -> str:
    """The SQL condition that a column lies in the month whose `month_bounds` are among the parameters."""
    return f"{column} >= %(start)s AND {column} < %(end)s"


DOCUMENTS_OF_MONTH = in_month("d.created_at")
CHUNKS_OF_MONTH = in_month("c.document_created_at")
ITEMS_OF_MONTH = in_month("i.document_created_at")


def month_bounds(month: Month) -> dict[str, datetime]:
    """The parameters of `in_month`: the month's first moment, and the first one after it, in UTC."""
    return {"start": month.start, "end": month.end}
