"""Advisory locks: one run per month, one scan per source, and the owners of runs, seen from every host.

They belong to a database, not to a schema: `lock_key` tells apart deployments that share a database, each in a schema
of its own (`RAG_POSTGRES_SCHEMA`).

They end with their session, so a killed process leaves none. A session can also end while its process lives: PostgreSQL
restarts, an administrator ends it, a network drops it. `fenced_lock` therefore fences the writes of its holder.

A run that has others write for it, in other processes, gives each a lease: the same fence, which the run can close.
"""

from __future__ import annotations

import secrets
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psycopg

from rag_pipeline.errors import BusyError, LockLostError, StoreUnavailableError
from rag_pipeline.stores.postgres.database import LOCKS_OF, value, values

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from rag_pipeline.months import Month
    from rag_pipeline.stores.postgres.database import Connection, Database

_EXCHANGE = "the exchange of generations"
_EXCHANGE_WAITS = "an exchange of generations that waits"
_BUSY = {
    _EXCHANGE: "a switch of generations and the runs of months wait for each other",
    _EXCHANGE_WAITS: "another switch of generations is in progress",
}
_WAIT = "wait for it to finish, then run again"
_FIRST_POLL_SECONDS = 0.01
_POLL_SECONDS = 0.5
_FENCE_SECONDS = 60
_END_MILLISECONDS = 5000


def lock_key(name: str) -> str:
    """Return the SQL of the key of a lock, whose name is a column or a parameter.

    Without a schema in the session's settings it is the hash of the name alone, as in every version before there was a
    setting: the versions must exclude each other while one replaces the other.
    """
    return f"hashtextextended(coalesce(current_setting('{LOCKS_OF}', true) || ': ', '') || {name}, 0)"


_KEY = lock_key("%s")


def month_lock_name(month: Month, generation: int | None = None) -> str:
    """Return the name of the lock that the run of a month holds, in the live generation or in another one."""
    return f"month {month}" + (f" of generation {generation}" if generation else "")


@contextmanager
def advisory_lock(
    database: Database, name: str, wait_seconds: float, on_wait: Callable[[], None] | None = None
) -> Iterator[None]:
    """Hold the lock of this name in a separate session.

    If another process holds it, calls `on_wait` once and waits up to `wait_seconds`, then raises a `BusyError`.
    """
    with database.lock_session() as session:
        _wait_for(session, name, wait_seconds, on_wait)
        try:
            yield
        finally:
            _unlock(session, name)


@dataclass(frozen=True)
class LockGuard:
    """A check that a lock is still held, for every transaction of who writes under it: see `Database.guarded_by`.

    Only names, so that other processes can be given it. Raises a `LockLostError` if the session that held the lock has
    ended. The transaction holds the fence until it ends.
    """

    owner: str
    fence: str
    lost: str
    """What the error says."""

    def __call__(self, connection: Connection) -> None:
        # The owner's lock cannot be had while the holder's session lives.
        if not value(
            connection,
            f"SELECT CASE WHEN pg_try_advisory_xact_lock_shared({_KEY}) "
            f"THEN NOT pg_try_advisory_xact_lock_shared({_KEY}) ELSE false END",
            (self.fence, self.owner),
        ):
            raise LockLostError(self.lost)


@contextmanager
def no_other_generation_goes_live(
    database: Database, wait_seconds: float, on_wait: Callable[[], None] | None = None
) -> Iterator[None]:
    """Keep the tables and the embedder together: while this is held, by many, no generation takes another's place.

    Raises a `BusyError` if one is doing so for longer than `wait_seconds`.
    """
    with database.lock_session() as session, _shared_exchange(session, wait_seconds, on_wait):
        yield


@contextmanager
def _shared_exchange(
    session: Connection, wait_seconds: float, on_wait: Callable[[], None] | None
) -> Iterator[None]:
    _wait_for(session, _EXCHANGE, wait_seconds, on_wait, _share_exchange)
    try:
        _pass_fence(session, _fence_of(_EXCHANGE), wait_seconds)
        yield
    finally:
        _unlock(session, _EXCHANGE, shared=True)


def _fence_of(name: str) -> str:
    return f"fence of {name}"


@contextmanager
def exchange_of_generations(
    database: Database, wait_seconds: float, on_wait: Callable[[], None] | None = None
) -> Iterator[None]:
    """Wait until nobody holds `no_other_generation_goes_live`, and let nobody hold it meanwhile; fenced."""
    with (
        advisory_lock(database, _EXCHANGE_WAITS, wait_seconds),
        fenced_lock(database, _EXCHANGE, wait_seconds, on_wait),
    ):
        yield


@contextmanager
def fenced_lock(
    database: Database,
    name: str,
    wait_seconds: float,
    on_wait: Callable[[], None] | None = None,
    *,
    within_one_generation: bool = False,
    generation_wait_seconds: float | None = None,
) -> Iterator[None]:
    """Hold the lock of this name, and let no transaction of `database` commit once the lock is lost.

    Every transaction of `database` begins with a check that the lock's session is alive, and raises a `LockLostError`
    if it is not. It also holds the fence of the lock until it ends, and the next holder passes the fence before it
    begins: what was checked stays true until the commit. With `within_one_generation` no other generation goes live
    meanwhile; for one that does is waited as long, or for `generation_wait_seconds`. (The idea
    is that of fencing tokens: M. Kleppmann, "How to do distributed locking", 2016.)
    """
    guard = LockGuard(
        owner=f"owner {secrets.token_hex(8)}",
        fence=_fence_of(name),
        lost=f"{name}: PostgreSQL ended the session that held its lock, so another run may have begun; "
        "run again, nothing was lost",
    )
    # In one session with this lock, so that whoever has lost the one has lost the other, and is fenced.
    shared = _shared_exchange if within_one_generation else _no_lock
    with (
        database.lock_session() as session,
        shared(session, wait_seconds if generation_wait_seconds is None else generation_wait_seconds, on_wait),
    ):
        _wait_for(session, name, wait_seconds, on_wait)
        try:
            _pass_fence(session, guard.fence, wait_seconds)
            _try_lock(session, guard.owner)
            try:
                with database.guarded_by(guard):
                    yield
            finally:
                _unlock(session, guard.owner)
        finally:
            _unlock(session, name)


@contextmanager
def _no_lock(session: Connection, wait_seconds: float, on_wait: Callable[[], None] | None) -> Iterator[None]:
    yield


@dataclass(frozen=True)
class Lease:
    """What a run gives to a worker in another process: while it is not revoked, and the run lives, the worker may write.

    The worker's database is guarded by `guard`, and its sessions are called `sessions`.
    """

    guard: LockGuard
    sessions: str


class Leases:
    """The leases of a run. They end with its session."""

    def __init__(self, database: Database, session: Connection) -> None:
        self._database = database
        self._session = session
        self._granted: list[Lease] = []

    def grant(self, what_for: str) -> Lease:
        """Return a new lease. `what_for` is for the error of a worker that has lost it."""
        token = secrets.token_hex(8)
        lease = Lease(
            LockGuard(
                owner=f"owner {token}",
                fence=f"fence of {token}",
                lost=f"{what_for}: its lease was taken away, so others may have its work; nothing was lost",
            ),
            sessions=f"rag-pipeline {token}",
        )
        if not _try_lock(self._session, lease.guard.owner):
            raise BusyError(f"{what_for}: its lease is held already")
        self._granted.append(lease)
        return lease

    def revoke(self, lease: Lease) -> None:
        """Take a lease away. When this returns, no transaction of its worker will commit any more.

        The worker may live and know nothing of it, or its host may be cut off: its sessions are ended, so that it
        leaves no lock behind.
        """
        if lease not in self._granted:
            return
        self._granted.remove(lease)
        _unlock(self._session, lease.guard.owner)
        with self._database.lock_session() as session:
            values(
                session,
                "SELECT pg_terminate_backend(pid, %s) FROM pg_stat_activity "
                "WHERE datname = current_database() AND application_name = %s",
                (_END_MILLISECONDS, lease.sessions),
            )
            _pass_fence(session, lease.guard.fence, _FENCE_SECONDS)

    def revoke_all(self) -> None:
        """Take all leases away."""
        for lease in list(self._granted):
            self.revoke(lease)


@contextmanager
def leases(database: Database) -> Iterator[Leases]:
    """Grant leases, and take away at the end what is left of them."""
    with database.lock_session() as session:
        granted = Leases(database, session)
        try:
            yield granted
        except BaseException:
            # If the server cannot be reached, the leases end with our session.
            with suppress(StoreUnavailableError):
                granted.revoke_all()
            raise
        granted.revoke_all()


def held(connection: Connection, names: Collection[str]) -> set[str]:
    """Return those of these locks that some process holds."""
    # Only looking would need a scan of pg_locks. A lock that can be had is held by nobody; it ends with the transaction.
    free = values(
        connection,
        f"SELECT name FROM unnest(%s::text[]) AS name WHERE pg_try_advisory_xact_lock_shared({lock_key('name')})",
        (list(names),),
    )
    return set(names) - set(free)


def _wait_for(
    session: Connection,
    name: str,
    wait_seconds: float,
    on_wait: Callable[[], None] | None,
    try_lock: Callable[[Connection, str], bool] | None = None,
) -> None:
    """Wait for a lock, by default for it alone. Raises a `BusyError` if it is not to be had in time."""
    deadline = time.monotonic() + wait_seconds
    pause = _FIRST_POLL_SECONDS
    waited = False
    while not (try_lock or _try_lock)(session, name):
        if time.monotonic() >= deadline:
            raise BusyError(_BUSY.get(name, f"{name} is being processed by another run") + ": " + _WAIT)
        if on_wait and not waited:
            on_wait()
            waited = True
        time.sleep(pause)
        pause = min(2 * pause, _POLL_SECONDS)


def _pass_fence(session: Connection, fence: str, wait_seconds: float) -> None:
    """Wait until no transaction holds a fence that began before this."""
    _wait_for(session, fence, wait_seconds, None)
    _unlock(session, fence)


def _try_lock(session: Connection, name: str) -> bool:
    return value(session, f"SELECT pg_try_advisory_lock({_KEY})", (name,))


def _share_exchange(session: Connection, name: str) -> bool:
    # Those that come while an exchange waits for others let it go first: it would wait for ever.
    return value(
        session,
        f"SELECT CASE WHEN pg_try_advisory_xact_lock_shared({_KEY}) THEN pg_try_advisory_lock_shared({_KEY}) "
        "ELSE false END",
        (_EXCHANGE_WAITS, name),
    )


def _unlock(session: Connection, name: str, *, shared: bool = False) -> None:
    """Free the lock while the session lives: the server notices a closed connection only some time later."""
    try:
        session.execute(f"SELECT pg_advisory_unlock{'_shared' if shared else ''}({_KEY})", (name,))
    except psycopg.OperationalError:
        session.close()  # It takes its lock with it, if it is not lost already.
