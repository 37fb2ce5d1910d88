"""`built_kinds`: the kinds of vectors that every completed chunk of a month has."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rag_pipeline.months import Month
from rag_pipeline.stores.postgres.database import values

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rag_pipeline.stores.postgres.database import Connection


def months_with_others(connection: Connection, months: Sequence[Month], built: Sequence[str]) -> list[Month]:
    """Return those of these months of which it is not known that their chunks have exactly the kinds in `built`."""
    known = values(
        connection,
        "SELECT month::text FROM built_kinds WHERE kinds = %s AND month = ANY(%s::date[])",
        (sorted(built), [month.start.date() for month in months]),
    )
    return [month for month in months if month.partition_key not in known]


def store(connection: Connection, month: Month, built: Sequence[str]) -> None:
    """Note that every completed chunk of a month has these kinds."""
    connection.execute(
        "INSERT INTO built_kinds (month, kinds) VALUES (%s, %s) ON CONFLICT (month) DO UPDATE SET kinds = excluded.kinds",
        (month.start.date(), sorted(built)),
    )
