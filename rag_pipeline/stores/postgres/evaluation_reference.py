"""`evaluation_reference`: the measures of each judged query with which later evaluations are compared."""

from __future__ import annotations

from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING
from uuid import UUID

from rag_pipeline.stores.postgres.database import objects, value

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from rag_pipeline.stores.postgres.database import Connection

DIGITS = 6
"""What a REAL keeps of a number below 1: one that is rounded to so many places is read as it was written."""


@dataclass(frozen=True)
class ReferenceRow:
    """The measures of a query in a mode."""

    mode: str
    query_key: UUID
    ndcg10: float
    recall10: float
    mrr: float


_INSERT = """
    INSERT INTO evaluation_reference AS r (mode, query_key, ndcg10, recall10, mrr, evaluated_at)
    SELECT *, now() FROM unnest(%s::text[], %s::uuid[], %s::real[], %s::real[], %s::real[])
    ON CONFLICT (mode, query_key)"""


def lock(connection: Connection) -> None:
    """Let nobody else write until the transaction ends, so that what is written follows from what was read."""
    connection.execute("LOCK TABLE evaluation_reference IN SHARE ROW EXCLUSIVE MODE")


def stored(connection: Connection) -> list[ReferenceRow]:
    """Return all rows."""
    return objects(
        connection,
        ReferenceRow,
        "SELECT mode, query_key, ndcg10, recall10, mrr FROM evaluation_reference ORDER BY mode, query_key",
    )


def is_empty(connection: Connection) -> bool:
    """Whether there is nothing to compare with."""
    return not value(connection, "SELECT EXISTS (SELECT FROM evaluation_reference)")


def add(connection: Connection, rows: Sequence[ReferenceRow]) -> None:
    """Store the rows of queries that have none."""
    connection.execute(f"{_INSERT} DO NOTHING", _columns(rows))


def replace(connection: Connection, rows: Sequence[ReferenceRow]) -> None:
    """Store the rows in place of those of the same modes and queries."""
    connection.execute(
        f"""{_INSERT} DO UPDATE SET ndcg10 = excluded.ndcg10, recall10 = excluded.recall10, mrr = excluded.mrr,
        evaluated_at = excluded.evaluated_at""",
        _columns(rows),
    )


def delete_others(connection: Connection, keys: Collection[UUID]) -> int:
    """Delete the rows of all queries but these; return their number."""
    return connection.execute(
        """
        DELETE FROM evaluation_reference r
        WHERE NOT EXISTS (SELECT FROM unnest(%s::uuid[]) AS judged(key) WHERE judged.key = r.query_key)
        """,
        (list(keys),),
    ).rowcount


def _columns(rows: Sequence[ReferenceRow]) -> list[list[object]]:
    columns = [list(column) for column in zip(*map(astuple, rows), strict=True)]
    return columns or [[] for _ in range(5)]
