"""The three servers together: which are embedded, which are external, and their addresses."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any

from rag_pipeline.endpoints import VARIABLES, Endpoints, external_urls
from rag_pipeline.errors import RagError, StoreUnavailableError
from rag_pipeline.local_servers.embedded_server import EmbeddedServer, Report
from rag_pipeline.local_servers.milvus_lite import Milvus
from rag_pipeline.local_servers.postgresql import Postgres
from rag_pipeline.local_servers.server_state import ServerState, ServerStates, exclusive
from rag_pipeline.local_servers.valkey import Valkey
from rag_pipeline.settings import Settings
from rag_pipeline.stores import probes
from rag_pipeline.urls import mask_url

_SERVERS: dict[str, type[EmbeddedServer]] = {"postgres": Postgres, "milvus": Milvus, "redis": Valkey}
_PROBES: dict[str, Callable[[str], None]] = {
    "postgres": probes.probe_postgres,
    "milvus": probes.probe_milvus,
    "redis": probes.probe_redis,
}


def remembered_urls(home: Path) -> dict[str, str]:
    """Return the URLs, with passwords, of the servers ever started under `home`. Connects to none."""
    return {key: server.url for key, server in _servers(home, ServerStates.load(home)).items()}


def _silent(line: str) -> None:
    """A `Report` that goes nowhere."""


class LocalServers:
    """The embedded servers of one `RAG_HOME`; a server that a `RAG_*` URL names replaces ours."""

    def __init__(self, settings: Settings) -> None:
        self._home = settings.home_path
        self._external = external_urls(settings)

    def up(self, report: Report = _silent) -> Endpoints:
        """Start what is not running; return once every server answers. `report` receives one line at a time.

        Idempotent, and safe to run concurrently. Raises `RagError`, after trying all, if a server cannot be
        started, and `StoreUnavailableError` if one that a `RAG_*` URL names does not answer.
        """
        report = _one_at_a_time(report)
        checks = [partial(self._check, key, report) for key in self._external]
        if len(self._external) == len(_SERVERS):
            _concurrently(checks)
            return Endpoints.of(self._external)
        with exclusive(self._home, report):
            states = ServerStates.load(self._home)
            servers = {
                key: server(self._home, states, getattr(states, key) or self._first(key, states))
                for key, server in _SERVERS.items()
                if key not in self._external
            }
            _concurrently([*checks, *(partial(server.up, report) for server in servers.values())])
            return Endpoints.of({key: server.url for key, server in servers.items()} | self._external)

    @property
    def logs(self) -> Path:
        """The folder of the servers' logs."""
        return self._home / "logs"

    def running(self) -> list[str]:
        """Return the keys of the embedded servers whose processes run, also of those that a `RAG_*` URL replaces."""
        servers = _servers(self._home, ServerStates.load(self._home))
        return [key for key, server in servers.items() if server.process() is not None]

    def dead(self) -> list[str]:
        """Return the names of the embedded servers that were started and whose processes are gone."""
        return [server.name for server in self._started().values() if server.process() is None]

    def restart(self, name: str) -> None:
        """Start an embedded server, if it is not running; return once it answers."""
        with exclusive(self._home, _silent):
            for server in self._started().values():
                if server.name == name:
                    server.up(_silent)

    def _started(self) -> dict[str, EmbeddedServer]:
        servers = _servers(self._home, ServerStates.load(self._home))
        return {key: server for key, server in servers.items() if key not in self._external}

    def down(self, report: Report = _silent, *, leave: Collection[str] = ()) -> None:
        """Stop every running embedded server but those to leave; those that a `RAG_*` URL names are left anyway."""
        if not self._home.is_dir():
            report(
                f"nothing was started in {self._home}; servers elsewhere: set RAG_HOME to the folder of their data"
            )
            return
        report = _one_at_a_time(report)
        with exclusive(self._home, report):
            servers = _servers(self._home, ServerStates.load(self._home))
            _concurrently([partial(server.down, report) for key, server in servers.items() if key not in leave])

    def status(self, *, with_passwords: bool = False) -> dict[str, dict[str, Any]]:
        """Return each server's address (None before the first start), whether it answers, and what is wrong if it does.

        Passwords are masked unless `with_passwords`.
        """
        shown = str if with_passwords else mask_url
        servers = _servers(self._home, ServerStates.load(self._home))

        def one(key: str) -> dict[str, Any]:
            address = "uri" if key == "milvus" else "url"
            if key in self._external:
                return {address: shown(self._external[key]), **_state(key, self._external[key])}
            if key in servers:
                running = servers[key].answers()
                state = _state(key, servers[key].url) if running else {"running": False}
                return {address: shown(servers[key].url), **state}
            return {address: None, "running": False}

        with ThreadPoolExecutor(len(_SERVERS)) as pool:
            return dict(zip(_SERVERS, pool.map(one, _SERVERS), strict=True))

    def _first(self, key: str, states: ServerStates) -> ServerState:
        server = _SERVERS[key]
        server.check_new(self._home)
        return states.add(key)

    def _check(self, key: str, report: Report) -> None:
        url = self._external[key]
        problem = ""
        try:
            _PROBES[key](url)
        except probes.WritesRefusedError as error:  # Everything goes on without Redis.
            problem = f"; it {error}"
        report(f"{_SERVERS[key].name}: using {mask_url(url)} ({VARIABLES[key]}){problem}")


def _servers(home: Path, states: ServerStates) -> dict[str, EmbeddedServer]:
    """Return the embedded servers that were ever started."""
    remembered = {key: getattr(states, key) for key in _SERVERS}
    return {key: _SERVERS[key](home, states, state) for key, state in remembered.items() if state is not None}


def _state(key: str, url: str) -> dict[str, Any]:
    try:
        _PROBES[key](url)
    except probes.WritesRefusedError as error:
        return {"running": True, "problem": str(error)}
    except StoreUnavailableError:
        return {"running": False}
    return {"running": True}


def _one_at_a_time(report: Report) -> Report:
    lock = Lock()

    def locked(line: str) -> None:
        with lock:
            report(line)

    return locked


def _concurrently(work: Sequence[Callable[[], None]]) -> None:
    """Do all of it concurrently, then raise what failed: a single error unchanged, several joined in one line."""
    with ThreadPoolExecutor(max(1, len(work))) as pool:
        errors = [error for error in (future.exception() for future in [pool.submit(do) for do in work]) if error]
    unexpected = [error for error in errors if not isinstance(error, RagError)]
    if unexpected or len(errors) == 1:
        raise (unexpected or errors)[0]
    if errors:
        kind = type(errors[0]) if len({type(error) for error in errors}) == 1 else RagError
        raise kind("; ".join(str(error) for error in errors))
