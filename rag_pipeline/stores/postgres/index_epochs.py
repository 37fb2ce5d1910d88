"""`index_epochs`: a name that changes whenever an answer can, for caches of answers.

Whatever changes what a search sees gives its month another epoch in the same transaction: versions that go live,
documents that get other metadata, words that are counted again, and, by the trigger on `document_chunks`, deletions. All
changes have an order, so all epochs together name one state of the index, and an answer that was made while it held is
never found after it. They are random rather than counted, so that neither a restored backup nor another database ever
comes to the same ones.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rag_pipeline.stores.postgres.database import value

if TYPE_CHECKING:
    from rag_pipeline.months import Month
    from rag_pipeline.stores.postgres.database import Connection


def advance(connection: Connection, month: Month) -> None:
    """Give a month another epoch. Call it last: until the transaction ends, others that change the month wait here."""
    connection.execute(
        """
        INSERT INTO index_epochs (month, epoch) VALUES (%s, gen_random_uuid())
        ON CONFLICT (month) DO UPDATE SET epoch = excluded.epoch
        """,
        (month.start.date(),),
    )


def current(connection: Connection) -> str:
    """Return the name of the index's present state."""
    return str(
        value(
            connection, "SELECT coalesce(md5(string_agg(epoch::text, ',' ORDER BY month)), '') FROM index_epochs"
        )
    )
