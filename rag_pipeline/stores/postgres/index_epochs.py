"""`index_epochs`: a number that changes whenever an answer can, for caches of answers.

Whatever changes what a search sees counts its month's epoch up in the same transaction: versions that go live, documents
that get other metadata, and, by the trigger on `document_chunks`, deletions. All changes have an order, so the sum names
one state of the index, and an answer that was made while it held is never found after it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rag_pipeline.stores.postgres.database import value

if TYPE_CHECKING:
    from rag_pipeline.months import Month
    from rag_pipeline.stores.postgres.database import Connection


def advance(connection: Connection, month: Month) -> None:
    """Count a change of a month. Call it last: until the transaction ends, others that change the month wait here."""
    connection.execute(
        """
        INSERT INTO index_epochs AS e (month, epoch) VALUES (%s, 1)
        ON CONFLICT (month) DO UPDATE SET epoch = e.epoch + 1
        """,
        (month.start.date(),),
    )


def current(connection: Connection) -> int:
    """Return the number of the index's present state."""
    return int(value(connection, "SELECT coalesce(sum(epoch), 0) FROM index_epochs"))
