"""`generations` and `generation_changes`: which indexes of the same documents there are, and what each still lacks.

One is live: its tables are those that every session finds. The tables of another one are in a schema of its own, see
`generation_tables`. `generation_changes` lists the documents that another generation has to take over.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

from psycopg.types.json import Jsonb

from rag_pipeline.errors import RagError
from rag_pipeline.months import Month
from rag_pipeline.stores.postgres.database import named, objects, values
from rag_pipeline.stores.postgres.month_bounds import DOCUMENTS_OF_MONTH, in_month, month_bounds

if TYPE_CHECKING:
    from collections.abc import Mapping
    from uuid import UUID

    from rag_pipeline.stores.postgres.database import Connection

GenerationState = Literal["live", "building", "previous", "dropping"]


@dataclass(frozen=True)
class GenerationRow:
    """A generation: what it is made with, and what its collections are called."""

    id: int
    state: GenerationState
    embedder: str
    """The fingerprint of its embedder."""
    dimension: int
    multi_dimension: int
    settings: Mapping[str, Any]
    """The settings that make it; see `rag_pipeline.generation`."""
    collections: str
    """How the names of its collections in Milvus end."""
    milvus_prefix: str | None
    """How they begin; None if an older program began it, and no newer one has looked yet."""
    own_aliases: bool
    has_sources: bool
    """Whether the rows in Milvus say which source they are of."""
    is_noted: bool
    """Whether all documents from before it was begun are noted for it."""
    created_at: datetime
    live_since: datetime | None

    @property
    def name(self) -> str:
        """For people."""
        return f"generation {self.id}"


_COLUMNS = """id, state, embedder, dimension, multi_dimension, settings, collections, milvus_prefix, own_aliases,
    has_sources, is_noted, created_at, live_since"""


def live(connection: Connection) -> GenerationRow | None:
    """Return the generation that searches use; None before the first run of a month."""
    return next(
        iter(objects(connection, GenerationRow, f"SELECT {_COLUMNS} FROM generations WHERE state = 'live'")), None
    )


def live_key(connection: Connection) -> tuple[int, datetime, bool] | None:
    """Return what changes whenever another generation, or the same one again, goes live."""
    rows = named(connection, "SELECT id, live_since, own_aliases FROM generations WHERE state = 'live'")
    return (rows[0].id, rows[0].live_since, rows[0].own_aliases) if rows else None


def all_of_them(connection: Connection) -> list[GenerationRow]:
    """Return all generations, oldest first."""
    return objects(connection, GenerationRow, f"SELECT {_COLUMNS} FROM generations ORDER BY id")


def of_id(connection: Connection, generation: int) -> GenerationRow | None:
    """Return a generation; None if there is no such one."""
    query = f"SELECT {_COLUMNS} FROM generations WHERE id = %s"
    return next(iter(objects(connection, GenerationRow, query, (generation,))), None)


def add(
    connection: Connection,
    state: GenerationState,
    *,
    embedder: str,
    dimension: int,
    multi_dimension: int,
    settings: Mapping[str, Any],
    collections: str,
    milvus_prefix: str,
    own_aliases: bool,
    has_sources: bool,
) -> GenerationRow | None:
    """Add a generation; None if there is a live one, or one that is being built, and this would be a second."""
    added = objects(
        connection,
        GenerationRow,
        f"""
        INSERT INTO generations
            (state, embedder, dimension, multi_dimension, settings, collections, milvus_prefix, own_aliases, has_sources,
                is_noted, live_since)
        VALUES (%(state)s::text, %(embedder)s, %(dimension)s, %(multi_dimension)s, %(settings)s, %(collections)s,
            %(milvus_prefix)s, %(own_aliases)s, %(has_sources)s, %(state)s::text = 'live', CASE WHEN %(state)s::text = 'live' THEN clock_timestamp() END)
        ON CONFLICT DO NOTHING RETURNING {_COLUMNS}
        """,
        {
            "state": state,
            "embedder": embedder,
            "dimension": dimension,
            "multi_dimension": multi_dimension,
            "settings": Jsonb(dict(settings)),
            "collections": collections,
            "milvus_prefix": milvus_prefix,
            "own_aliases": own_aliases,
            "has_sources": has_sources,
        },
    )
    return added[0] if added else None


def set_settings(connection: Connection, generation: int, settings: Mapping[str, Any]) -> None:
    """Note that a generation is made with other settings from now on."""
    connection.execute("UPDATE generations SET settings = %s WHERE id = %s", (Jsonb(dict(settings)), generation))


def adopt_prefix(connection: Connection, generation: int, prefix: str) -> None:
    """Note under which prefix the collections of a generation were found, if none is noted."""
    connection.execute(
        "UPDATE generations SET milvus_prefix = %s WHERE id = %s AND milvus_prefix IS NULL", (prefix, generation)
    )


def move_to_prefix(connection: Connection, prefix: str) -> None:
    """Note that the collections of all generations are under this prefix from now on."""
    connection.execute("UPDATE generations SET milvus_prefix = %s", (prefix,))


def give_own_aliases(connection: Connection, generation: int) -> None:
    """Note that searches reach a generation by aliases of its own."""
    connection.execute("UPDATE generations SET own_aliases = true WHERE id = %s", (generation,))


def exchange(connection: Connection, new: int) -> None:
    """Make a generation the live one, and the live one a previous one."""
    connection.execute("UPDATE generations SET state = 'previous' WHERE state = 'live'")
    connection.execute(
        "UPDATE generations SET state = 'live', live_since = clock_timestamp() WHERE id = %s", (new,)
    )


def announce(connection: Connection, generation: int) -> None:
    """Let search services load the embedder of a generation that will go live in a moment."""
    connection.execute("UPDATE generations SET announced_at = now() WHERE id = %s", (generation,))


def announced(connection: Connection) -> list[GenerationRow]:
    """Return the generations that were announced lately and are not live yet."""
    return objects(
        connection,
        GenerationRow,
        f"""
        SELECT {_COLUMNS} FROM generations
        WHERE state IN ('building', 'previous') AND announced_at > now() - interval '10 minutes'
        """,
    )


def hold(connection: Connection, generation: GenerationRow, *, to_change: bool = False) -> None:
    """Keep a generation beside the live one until the transaction ends: it can neither go live nor be dropped meanwhile.

    Many can hold it, or one that is about to change its state. Raises a `RagError` if it is live, being dropped, or gone:
    a session that looks in its schema would find the live generation's tables in place of its own.
    """
    lock = "NO KEY UPDATE" if to_change else "SHARE"
    states = values(connection, f"SELECT state FROM generations WHERE id = %s FOR {lock}", (generation.id,))
    state = f"{states[0]} now" if states else "gone"
    if state not in ("building now", "previous now"):
        raise RagError(f"{generation.name} is {state}: see `rag-pipeline generations list`, nothing was changed")


def begin_dropping(connection: Connection, generation: int) -> None:
    """Note that a generation is being dropped, so that nothing is written to it any more."""
    connection.execute("UPDATE generations SET state = 'dropping' WHERE id = %s", (generation,))


def remove(connection: Connection, generation: int) -> None:
    """Remove a generation that is being dropped and whose tables and collections are gone."""
    connection.execute("DELETE FROM generations WHERE id = %s AND state = 'dropping'", (generation,))


def note_month(connection: Connection, generation: int, month: Month) -> None:
    """Note every document of a month for a new generation. Those written since it was begun are noted already.

    Sees the documents of the live generation: call it in a session without another one's schema.
    """
    connection.execute(
        f"""
        INSERT INTO generation_changes (generation, document_created_at, document_id)
        SELECT %(generation)s, d.created_at, d.id FROM documents d WHERE {DOCUMENTS_OF_MONTH}
        ORDER BY d.created_at, d.id ON CONFLICT DO NOTHING
        """,
        {"generation": generation, **month_bounds(month)},
    )


def set_noted(connection: Connection, generation: int) -> None:
    """Record that all documents are noted for a generation."""
    connection.execute("UPDATE generations SET is_noted = true WHERE id = %s", (generation,))


def note_parsed(connection: Connection) -> None:
    """Note the documents in the temporary table `parsed` for every generation that is not live.

    In the transaction that writes them. A note that is there already is written again, which waits for whoever is just
    taking it: they would copy the document as it was before.
    """
    connection.execute(
        """
        INSERT INTO generation_changes (generation, document_created_at, document_id)
        SELECT g.id, parsed.created_at, parsed.id FROM generations g CROSS JOIN parsed
        WHERE g.state IN ('building', 'previous')
        ORDER BY g.id, parsed.created_at, parsed.id
        ON CONFLICT (generation, document_created_at, document_id) DO UPDATE SET generation = excluded.generation
        """
    )


def take_noted(connection: Connection, generation: int, month: Month, limit: int) -> list[UUID]:
    """Remove up to `limit` notes of a month, and return their documents, which the caller copies in this transaction."""
    return values(
        connection,
        f"""
        DELETE FROM generation_changes c USING (
            SELECT document_created_at, document_id FROM generation_changes
            WHERE generation = %(generation)s AND {in_month("document_created_at")}
            ORDER BY document_created_at, document_id LIMIT %(limit)s FOR UPDATE
        ) taken
        WHERE c.generation = %(generation)s AND c.document_created_at = taken.document_created_at
            AND c.document_id = taken.document_id
        RETURNING c.document_id
        """,
        {"generation": generation, "limit": limit, **month_bounds(month)},
    )


def noted(connection: Connection, generation: int) -> dict[Month, int]:
    """Return how many documents of each month a generation has to take over."""
    rows = named(
        connection,
        """
        SELECT to_char(date_trunc('month', document_created_at AT TIME ZONE 'UTC'), 'YYYY-MM') AS month,
            count(*) AS documents
        FROM generation_changes WHERE generation = %s GROUP BY 1 ORDER BY 1
        """,
        (generation,),
    )
    return {Month.parse(row.month): row.documents for row in rows}
