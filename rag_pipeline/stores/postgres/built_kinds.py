"""`built_kinds`: the kinds of vectors that every completed chunk of a month has, and the chunker that cut them all.

Where these change, the documents of a month are compared with them in batches. Until that is done the month's row has
the new ones, and how far the comparison has come.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rag_pipeline.months import Month
from rag_pipeline.stores.postgres.database import value, values

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from rag_pipeline.stores.postgres.database import Connection


def months_with_others(
    connection: Connection, months: Sequence[Month], built: Sequence[str], chunker: str
) -> list[Month]:
    """Return those of these months of which it is not known that they have exactly these kinds, and this chunker."""
    known = values(
        connection,
        """
        SELECT month::text FROM built_kinds
        WHERE kinds = %s AND chunker = %s AND compared_to IS NULL AND month = ANY(%s::date[])
        """,
        (sorted(built), chunker, [month.start.date() for month in months]),
    )
    return [month for month in months if month.partition_key not in known]


def compared_to(connection: Connection, month: Month, built: Sequence[str], chunker: str) -> UUID | None:
    """Return the last document of a month that was compared with these kinds and this chunker; None: none was."""
    document: UUID | None = value(
        connection,
        "SELECT compared_to FROM built_kinds WHERE month = %s AND kinds = %s AND chunker = %s",
        (month.start.date(), sorted(built), chunker),
    )
    return document


def store(
    connection: Connection, month: Month, built: Sequence[str], chunker: str, compared_to: UUID | None = None
) -> None:
    """Note that every completed chunk of a month has these kinds, and that this chunker cut it.

    With `compared_to`, only that its documents were compared with them up to this one.
    """
    connection.execute(
        """
        INSERT INTO built_kinds (month, kinds, chunker, compared_to) VALUES (%s, %s, %s, %s)
        ON CONFLICT (month) DO UPDATE SET
            kinds = excluded.kinds, chunker = excluded.chunker, compared_to = excluded.compared_to
        """,
        (month.start.date(), sorted(built), chunker, compared_to),
    )
