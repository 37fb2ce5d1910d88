"""Refuses a connection pooler in front of PostgreSQL that does not keep sessions apart, or drops their settings.

Runs hold advisory locks for as long as their session lives. A pooler that lends a session anew for each transaction, as
PgBouncer does with `pool_mode = transaction`, would give one run's lock to another and keep it after both.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg

from rag_pipeline.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    from rag_pipeline.stores.postgres.database import Connection

_UTC = frozenset({"UTC", "ETC/UTC", "GMT"})


def refuse_unfit_pooler(first: Connection, connect: Callable[[], Connection], where: str) -> None:
    """Raise `ConfigError` if sessions are not kept apart or their settings are dropped.

    `first` is a connection in autocommit, `connect` opens another one. Without a pooler this costs one question: the
    server's process is the one that the protocol named when `first` was opened. A pooler names another one.
    """
    process = _process_of(first)
    if process == first.info.backend_pid:
        return
    if lost := _lost_settings(first):
        raise ConfigError(
            f"PostgreSQL at {where}: the pooler in front of it drops the settings of sessions ({lost}): connect "
            "directly, or set timezone = 'UTC' and statement_timeout = '60s' for the user (ALTER ROLE)"
        )
    if _is_shared(first, process, connect):
        raise ConfigError(
            f"PostgreSQL at {where}: the pooler in front of it lends sessions anew for each transaction, so that "
            "locks do not hold: connect directly, or have it pool whole sessions (PgBouncer: pool_mode = session)"
        )


def _process_of(connection: Connection) -> int:
    (process,) = connection.execute("SELECT pg_backend_pid()").fetchone() or (0,)
    return int(process)


def _lost_settings(connection: Connection) -> str:
    """Return which of the settings that every connection asks for do not hold."""
    found = connection.execute(
        "SELECT current_setting('TimeZone'), current_setting('statement_timeout')"
    ).fetchone()
    timezone, timeout = found or ("", "0")
    lost = [] if timezone.upper() in _UTC else [f"timezone is {timezone}"]
    return ", ".join([*lost, *(["statement_timeout is 0"] if timeout == "0" else [])])


def _is_shared(first: Connection, process: int, connect: Callable[[], Connection]) -> bool:
    """Whether the process that worked for `first` works for somebody else now, or another one works for `first`.

    In a session of its own, neither can be. A pooler of transactions lends what was used last, or what was not used for
    longest: it shows in the second comparison, or in the others.
    """
    # Twice, so that of two or three in turn it is not the same one again that answers.
    if any(_process_of(first) != process for _ in range(2)):
        return True
    second = connect()
    try:
        with second.transaction():
            return _process_of(second) == process or _process_of(first) != process
    except psycopg.errors.ProtocolViolation:  # PgBouncer with `pool_mode = statement` allows no transactions.
        return True
    finally:
        second.close()
