"""Changes of more rows than one transaction should change: each statement has a minute, and others wait for its rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rag_pipeline.stores.postgres.deadlocks import despite_deadlocks

if TYPE_CHECKING:
    from collections.abc import Callable

    from rag_pipeline.stores.postgres.database import Connection, Database


def in_batches(
    database: Database, change: Callable[[Connection], int], what: str, report: Callable[[int], object] = int
) -> int:
    """Repeat a change of some rows, in a transaction each time, until it finds none; return the number of rows.

    What is done stays done, whatever happens to the rest: the same call goes on with that. `what` is for the error if
    other transactions are in the way again and again, and `report` is called with the number of rows so far.
    """

    def once() -> int:
        with database.connection() as connection:
            return change(connection)

    done = 0
    while count := despite_deadlocks(once, what):
        done += count
        report(done)
    return done
