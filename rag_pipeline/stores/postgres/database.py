"""The connection pool to PostgreSQL, its failures as one-line errors, and rows by the names of their columns."""

from __future__ import annotations

import time
from contextlib import closing, contextmanager
from functools import partial
from threading import Lock, local
from typing import TYPE_CHECKING, Any, TypeVar

import psycopg
from psycopg.rows import class_row, dict_row, namedtuple_row, scalar_row
from psycopg_pool import ConnectionPool, PoolTimeout

from rag_pipeline.errors import ConfigError, RagError, StoreUnavailableError, one_line
from rag_pipeline.stores.postgres.poolers import refuse_unfit_pooler
from rag_pipeline.stores.postgres.refusals import what_to_do

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    Parameters = Mapping[str, Any] | Sequence[Any]

COMMAND_TIMEOUT_SECONDS = 60
_MONTH_TIMEOUT_SECONDS = 1800
_POOL_MIN, _POOL_MAX = 1, 20
_POOL_SECONDS = 10
_CONNECT_TIMEOUT_SECONDS = 10
_KEEPALIVE_SECONDS = 30
_KEPT_LOCK_SESSIONS = 4
_TRUSTED_SECONDS = 0.5
LOCKS_OF = "rag_pipeline.locks_of"
"""The setting of a session with the schema whose advisory locks it takes; see `advisory_locks.lock_key`."""
_USED_AT = "rag_pipeline_used_at"
"""The attribute of a pooled connection with the time when it was last used without an error."""

Row = tuple[Any, ...]
Connection = psycopg.Connection[Row]
T = TypeVar("T")


class StatementEndedError(RagError, psycopg.OperationalError):
    """PostgreSQL ended a statement because of what else goes on, and the transaction with it: it can be repeated.

    Each is also the error of psycopg's that it was, for whoever repeats it.
    """


class _TimedOutError(StatementEndedError, psycopg.errors.QueryCanceled):
    pass


class _LockNotAvailableError(StatementEndedError, psycopg.errors.LockNotAvailable):
    pass


class _DeadlockError(StatementEndedError, psycopg.errors.DeadlockDetected):
    pass


class _SerializationError(StatementEndedError, psycopg.errors.SerializationFailure):
    pass


_ENDED: dict[type[psycopg.Error], tuple[type[StatementEndedError], str]] = {
    psycopg.errors.QueryCanceled: (
        _TimedOutError,
        "it took too long, another transaction held its rows, or somebody ended it",
    ),
    psycopg.errors.LockNotAvailable: (_LockNotAvailableError, "another transaction holds the table or the rows"),
    psycopg.errors.DeadlockDetected: (_DeadlockError, "another transaction waited for this one"),
    psycopg.errors.SerializationFailure: (_SerializationError, "another transaction changed the same rows"),
}


class _Trust:
    """Which pooled connections are lent without being asked: those that have just worked, until one fails.

    Otherwise each transaction would begin with a question. What ends one connection has often ended the others.
    """

    def __init__(self) -> None:
        self._failed_at = 0.0

    def note(self, connection: Connection) -> None:
        """Note that a connection works."""
        setattr(connection, _USED_AT, time.monotonic())

    def end(self) -> None:
        """Have every connection asked before it is lent again."""
        self._failed_at = time.monotonic()

    def check(self, connection: Connection) -> None:
        """Raise if a connection is lost."""
        used_at = getattr(connection, _USED_AT, 0.0)
        if used_at <= self._failed_at or time.monotonic() - used_at > _TRUSTED_SECONDS:
            ConnectionPool.check_connection(connection)


class _Kept(local):
    """The connection that a thread keeps between its transactions."""

    wanted = False
    connection: tuple[ConnectionPool[Connection], Connection] | None = None
    """None while a transaction uses it."""


class Database:
    """A pool of 5 to 20 connections with a 60 s command timeout; sessions are in UTC.

    Opened at first use, closed by `close`. Its `repr` and its errors never contain the password. With a `schema`, every
    session finds its tables there and nowhere else, and its advisory locks are that schema's own.
    """

    def __init__(
        self,
        url: str,
        min_size: int = _POOL_MIN,
        max_size: int = _POOL_MAX,
        *,
        schema: str | None = None,
        first_schema: str | None = None,
    ) -> None:
        """`schema` is the deployment's, if it has one of its own.

        `first_schema` is where sessions look for tables before they look where they would look anyway.
        """
        self.application_name = "rag-pipeline"
        """What the server calls the sessions that are opened from now on."""
        self._url = url
        self.schema = schema
        self._first_schema = first_schema
        self._sizes = (min_size, max_size)
        self._pool: ConnectionPool[Connection] | None = None
        self._opening = Lock()
        self._guards: list[Callable[[Connection], None]] = []
        self._lock_sessions: list[Connection] = []
        self._trust = _Trust()
        self._kept = _Kept()

    def __repr__(self) -> str:
        return f"Database({self.where})"

    @property
    def where(self) -> str:
        """Host, port and database, for messages."""
        try:
            info = psycopg.conninfo.conninfo_to_dict(self._url)
        except psycopg.ProgrammingError:
            return "RAG_POSTGRES_URL (not a PostgreSQL URL)"
        return f"{info.get('host', 'localhost')}:{info.get('port', 5432)}/{info.get('dbname', '')}"

    @property
    def _session(self) -> dict[str, Any]:
        of_schema = f" -c search_path={self.schema} -c {LOCKS_OF}={self.schema}" if self.schema else ""
        return {
            "options": f"-c statement_timeout={COMMAND_TIMEOUT_SECONDS * 1000} -c timezone=UTC{of_schema}",
            "connect_timeout": _CONNECT_TIMEOUT_SECONDS,
            "application_name": self.application_name,
        }

    def connect(self, **settings: str) -> Connection:
        """Open a connection outside the pool, for locks that live as long as a session, however long it is idle."""
        session = self._session
        for name, setting in {"idle_session_timeout": "0", **settings}.items():
            session["options"] += f" -c {name}={setting}"
        with self._translated():
            connection = psycopg.connect(self._url, **session, keepalives_idle=_KEEPALIVE_SECONDS)
            self._configure(connection)
            return connection

    def _configure(self, connection: Connection) -> None:
        """Have a new session look for tables in the first schema first."""
        if self._first_schema is not None:
            connection.execute(
                "SELECT set_config('search_path', quote_ident(%s) || ', ' || current_setting('search_path'), false)",
                (self._first_schema,),
            )
            connection.commit()

    @contextmanager
    def lock_session(self) -> Iterator[Connection]:
        """Lend a connection as `connect` opens it, for locks that are freed before it comes back.

        It serves again, because locks are taken often and connecting takes longer than most of what they are for.
        After an error it is closed.
        """
        session = self._returned_session()
        if session is None:
            session = self.connect()
            session.autocommit = True
        try:
            yield session
        except BaseException:
            session.close()
            raise
        if session.closed or len(self._lock_sessions) >= _KEPT_LOCK_SESSIONS:
            session.close()
        else:
            self._lock_sessions.append(session)

    def _returned_session(self) -> Connection | None:
        """Take a connection that was lent before and that still works."""
        while True:
            try:
                session = self._lock_sessions.pop()
            except IndexError:
                return None
            try:
                ConnectionPool.check_connection(session)
            except psycopg.OperationalError:
                session.close()
            else:
                return session

    @contextmanager
    def guarded_by(self, check: Callable[[Connection], None]) -> Iterator[None]:
        """Begin every transaction of `connection` with a check, which raises if nothing must be written any more."""
        self._guards.append(check)
        try:
            yield
        finally:
            self._guards.remove(check)

    @property
    def guards(self) -> tuple[Callable[[Connection], None], ...]:
        """The checks that every transaction begins with now."""
        return tuple(self._guards)

    def check_guards(self) -> None:
        """Check outside a transaction, before something that no transaction can undo."""
        if self._guards:
            with self.connection():
                pass

    @contextmanager
    def connection(self) -> Iterator[Connection]:
        """Lend a connection from the pool for one transaction: committed at the end, rolled back on an error.

        Raises `StoreUnavailableError` if the server is unreachable, refuses the connection, goes down meanwhile, or
        refuses to work: a full disk, no memory, read-only, a missing privilege; and `StatementEndedError` if it ends a
        statement because of others.
        """
        with self._translated():
            pool = self._opened()
            try:
                with self._lent(pool) as connection:
                    for check in self._guards:
                        check(connection)
                    yield connection
                    self._trust.note(connection)
            except (psycopg.OperationalError, psycopg.InterfaceError):
                self._trust.end()
                raise

    @contextmanager
    def one_connection(self) -> Iterator[None]:
        """Have the transactions of this thread use the same connection, one after the other.

        It has read the catalog of a month's partitions once; the pool would lend them all in turn, and each would read
        it again. It is not lent to others meanwhile, also while this thread does something else.
        """
        kept = self._kept
        if kept.wanted:
            yield
            return
        kept.wanted = True
        try:
            yield
        finally:
            kept.wanted = False
            if kept.connection is not None:
                pool, connection = kept.connection
                kept.connection = None
                pool.putconn(connection)

    @contextmanager
    def _lent(self, pool: ConnectionPool[Connection]) -> Iterator[Connection]:
        kept = self._kept
        if not kept.wanted:
            with pool.connection() as connection:
                yield connection
            return
        # A transaction inside another one, which is rare, finds none and has the pool's.
        its_own, kept.connection = kept.connection, None
        connection = self._kept_or_new(pool, its_own)
        try:
            with connection:
                yield connection
        finally:
            if kept.wanted and kept.connection is None and not connection.closed:
                kept.connection = (pool, connection)
            else:
                pool.putconn(connection)

    def _kept_or_new(
        self, pool: ConnectionPool[Connection], kept: tuple[ConnectionPool[Connection], Connection] | None
    ) -> Connection:
        if kept is None:
            return pool.getconn()
        its_pool, connection = kept
        try:
            if its_pool is pool:  # else the pool was closed and opened again
                self._trust.check(connection)
                return connection
        except psycopg.OperationalError:
            connection.close()
        its_pool.putconn(connection)
        return pool.getconn()

    def _opened(self) -> ConnectionPool[Connection]:
        with self._opening:  # Else threads that begin together open a pool each, and all but one are never closed.
            if self._pool is None:
                # The first connection is made by hand, so that a wrong password is reported at once as such;
                # the pool would retry until its timeout and report only that.
                connect = partial(psycopg.connect, self._url, **self._session, autocommit=True)
                with closing(connect()) as first:
                    refuse_unfit_pooler(first, connect, self.where)
                    self._refuse_lost_schema(first)
                self._pool = self._new_pool()
            return self._pool

    def _new_pool(self) -> ConnectionPool[Connection]:
        low, high = self._sizes
        pool: ConnectionPool[Connection] = ConnectionPool(
            self._url,
            min_size=1,
            max_size=high,
            kwargs=self._session,
            timeout=_POOL_SECONDS,
            check=self._trust.check,
            configure=self._configure,
            open=True,
        )
        try:
            # Whoever asked before the first is there would make the pool open a second one.
            pool.wait(_POOL_SECONDS)
        except BaseException:
            pool.close()
            raise
        if low > 1:
            pool.resize(low, high)
        return pool

    def _refuse_lost_schema(self, connection: Connection) -> None:
        """Raise `ConfigError` if a pooler drops what sessions ask for: they would use another deployment's tables."""
        wanted = {"search_path": self.schema, LOCKS_OF: self.schema} if self.schema else {}
        for setting, expected in wanted.items():
            if value(connection, "SELECT current_setting(%s, true)", (setting,)) != expected:
                raise ConfigError(
                    f"PostgreSQL at {self.where}: the pooler in front of it drops the settings of sessions, so that "
                    f"RAG_POSTGRES_SCHEMA={self.schema} would have no effect: connect directly"
                )

    def keep_open(self, connections: int) -> None:
        """Have so many connections open from now on, for a process that answers many at the same time.

        By default it is one, and others are opened when they are needed: most processes run one command and end.
        """
        self._sizes = (connections, self._sizes[1])
        if self._pool is not None:
            self._pool.resize(*self._sizes)

    def close(self) -> None:
        """Close all connections; the next use opens the pool again."""
        while self._lock_sessions:
            self._lock_sessions.pop().close()
        if self._pool is not None:
            self._pool.close()
            self._pool = None

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (psycopg.OperationalError, psycopg.InterfaceError, PoolTimeout) as error:
            if isinstance(error, StatementEndedError):
                raise
            if type(error) in _ENDED:
                kind, why = _ENDED[type(error)]
                said = error.diag.message_primary or one_line(error)
                raise kind(f"PostgreSQL at {self.where}: {said}: {why}; run again, nothing was lost") from error
            raise StoreUnavailableError(f"PostgreSQL at {self.where}: {self._reason(error)}") from None
        except (psycopg.errors.ReadOnlySqlTransaction, psycopg.errors.InsufficientPrivilege) as error:
            raise StoreUnavailableError(f"PostgreSQL at {self.where}: {self._reason(error)}") from None
        except psycopg.ProgrammingError as error:
            if error.sqlstate is None and "conninfo" in str(error):
                raise StoreUnavailableError(f"{self.where}: correct it") from None
            raise

    @staticmethod
    def _reason(error: Exception) -> str:
        text = one_line(error)
        if "password authentication failed" in text or "no password supplied" in text:
            return "the user or password is wrong; correct RAG_POSTGRES_URL"
        if cure := what_to_do(getattr(error, "sqlstate", None), text):
            return f"{text.rsplit('FATAL:', 1)[-1].strip()}; {cure} and run again, nothing was lost"
        if "unsupported startup parameter" in text:
            return f"{text.rsplit('FATAL:', 1)[-1].strip()}: a pooler in front of it refuses it; connect directly"
        if "does not exist" in text and "database" in text:
            return f"{text.rsplit('FATAL:', 1)[-1].strip()}; create it or correct RAG_POSTGRES_URL"
        if "refused" in text:
            return "does not answer; start it (the embedded one: `rag-pipeline up`) and run again"
        return f"{text}; run again when it is back, nothing was lost"


def let_read_a_month(connection: Connection) -> None:
    """Let the rest of the transaction take longer than other commands may: it reads all chunks of a month.

    Which can be tens of gigabytes, and are read to count them, whatever was changed.
    """
    connection.execute(f"SET LOCAL statement_timeout = '{_MONTH_TIMEOUT_SECONDS}s'")


def objects(
    connection: Connection, kind: type[T], query: str, parameters: Parameters = (), *, prepare: bool | None = None
) -> list[T]:
    """Return the rows as objects of a class; each column is named like the field it fills.

    With `prepare=False` PostgreSQL plans the query for these parameters. By default it plans it once for all, when a
    connection has asked it some times: without seeing which month it is about, and how much of it.
    """
    return connection.cursor(row_factory=class_row(kind)).execute(query, parameters, prepare=prepare).fetchall()


def dicts(connection: Connection, query: str, parameters: Parameters = ()) -> list[dict[str, Any]]:
    """Return the rows, each as column → value."""
    return connection.cursor(row_factory=dict_row).execute(query, parameters).fetchall()


def named(connection: Connection, query: str, parameters: Parameters = ()) -> list[Any]:
    """Return the rows as named tuples: `row.month`."""
    return connection.cursor(row_factory=namedtuple_row).execute(query, parameters).fetchall()


def values(
    connection: Connection, query: str, parameters: Parameters = (), *, prepare: bool | None = None
) -> list[Any]:
    """Return the only column of every row; `prepare` as in `objects`."""
    return connection.cursor(row_factory=scalar_row).execute(query, parameters, prepare=prepare).fetchall()


def value(connection: Connection, query: str, parameters: Parameters = ()) -> Any:
    """Return the only column of the only row; None if the query returns no row."""
    return connection.cursor(row_factory=scalar_row).execute(query, parameters).fetchone()


def one(connection: Connection, query: str, parameters: Parameters = ()) -> Any:
    """Return the only row as a named tuple. Raises `ValueError` if the query returns none or several."""
    (row,) = named(connection, query, parameters)
    return row
