"""`search_log`: the searches of the service, if they are kept. It does not say who searched."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from psycopg.types.json import Jsonb

from rag_pipeline.stores.postgres.database import dicts

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rag_pipeline.stores.postgres.database import Connection


@dataclass(frozen=True)
class Searched:
    """A search that was answered."""

    at: datetime
    query: str
    mode: str
    filters: Mapping[str, str]
    hits: int
    seconds: float


def insert(connection: Connection, searches: Sequence[Searched]) -> None:
    """Store searches."""
    connection.execute(
        """
        INSERT INTO search_log (searched_at, query, mode, filters, hits, seconds)
        SELECT * FROM unnest(%s::timestamptz[], %s::text[], %s::text[], %s::jsonb[], %s::int[], %s::real[])
        """,
        [
            [one.at for one in searches],
            [one.query for one in searches],
            [one.mode for one in searches],
            [Jsonb(dict(one.filters)) for one in searches],
            [one.hits for one in searches],
            [one.seconds for one in searches],
        ],
    )


def delete_older_than(connection: Connection, days: int) -> int:
    """Delete what is older than so many days; return the number of searches."""
    return connection.execute(
        "DELETE FROM search_log WHERE searched_at < now() - make_interval(days => %s)", (days,)
    ).rowcount


def delete_all(connection: Connection) -> int:
    """Delete every search; return their number."""
    return connection.execute("DELETE FROM search_log").rowcount


def frequent(connection: Connection, limit: int, only_without_hits: bool) -> list[dict[str, Any]]:
    """Return the queries that were asked most: how often, how often without a hit, and when the last time."""
    return dicts(
        connection,
        """
        SELECT query, count(*) AS searches, count(*) FILTER (WHERE hits = 0) AS without_hits,
            max(searched_at) AS last_searched_at, percentile_cont(.5) WITHIN GROUP (ORDER BY seconds) AS median_seconds
        FROM search_log GROUP BY query
        HAVING NOT %(only)s OR count(*) FILTER (WHERE hits = 0) > 0
        ORDER BY count(*) DESC, max(searched_at) DESC LIMIT %(limit)s
        """,
        {"only": only_without_hits, "limit": limit},
    )
