"""`built_kinds`: the kinds of vectors that every completed chunk of a month has, and the chunker that cut them all."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rag_pipeline.months import Month
from rag_pipeline.stores.postgres.database import values

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rag_pipeline.stores.postgres.database import Connection


def months_with_others(
    connection: Connection, months: Sequence[Month], built: Sequence[str], chunker: str
) -> list[Month]:
    """Return those of these months of which it is not known that they have exactly these kinds, and this chunker."""
    known = values(
        connection,
        "SELECT month::text FROM built_kinds WHERE kinds = %s AND chunker = %s AND month = ANY(%s::date[])",
        (sorted(built), chunker, [month.start.date() for month in months]),
    )
    return [month for month in months if month.partition_key not in known]


def store(connection: Connection, month: Month, built: Sequence[str], chunker: str) -> None:
    """Note that every completed chunk of a month has these kinds, and that this chunker cut it."""
    connection.execute(
        """
        INSERT INTO built_kinds (month, kinds, chunker) VALUES (%s, %s, %s)
        ON CONFLICT (month) DO UPDATE SET kinds = excluded.kinds, chunker = excluded.chunker
        """,
        (month.start.date(), sorted(built), chunker),
    )
