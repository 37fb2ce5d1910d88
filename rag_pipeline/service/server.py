"""The process: who may start it where, the first account, and the HTTP server, in this process or in `workers`."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import logging
import secrets
import socket
from typing import TYPE_CHECKING

from rag_pipeline.accounts import api_keys, users
from rag_pipeline.accounts.permissions import EVERYTHING
from rag_pipeline.errors import ConfigError, RagError, StoreUnavailableError, one_line
from rag_pipeline.local_servers.processes import port_is_free
from rag_pipeline.service.problems import ProblemError
from rag_pipeline.service.redis_breaker import RedisBreaker
from rag_pipeline.service.sessions import Sessions
from rag_pipeline.stores.postgres import users as users_table

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    import uvicorn

    from rag_pipeline.pipeline import Pipeline
    from rag_pipeline.settings import Settings

_log = logging.getLogger(__name__)

FIRST_ADMIN = "admin@rag-pipeline.local"
_BACKLOG = 512
_IDLE_SECONDS = 10
_TAKEN = "port {port} is taken: choose another one with --port"
STOP_SECONDS = 10
"""Requests that take longer when the service ends are not answered."""


def serve(pipeline: Pipeline, host: str, port: int, report: Callable[[str], None], workers: int = 1) -> None:
    """Answer requests until a signal comes, in this process or in several `workers`.

    Without any account it makes one and reports its key, once, but only for an address of this machine alone. Raises
    `ConfigError` on any other address, if all accounts are deactivated, or for an address that is not of this machine, and
    a `RagError` if the port is taken or a worker cannot start.
    """
    import uvicorn

    pipeline.prepare()
    if not port_is_free(port):
        raise RagError(_TAKEN.format(port=port))
    _expect_address(host, port)
    pipeline.load_collections()
    if workers == 1:
        warm_up(pipeline)
    url = f"http://{_in_url(host)}:{port}"
    _ensure_account(pipeline, host, url, report)
    running = f"search service: {url} (Ctrl-C stops it)"
    if workers > 1:
        from rag_pipeline.service.workers import run_workers

        pipeline.close()  # Each worker opens its own.
        run_workers(pipeline.settings, host, port, workers, lambda: report(running))
        return
    report(running)
    raise_open_files()
    with contextlib.suppress(KeyboardInterrupt):  # uvicorn has ended in order, and only says why.
        uvicorn.Server(server_config(pipeline, host, port)).run()


def server_config(pipeline: Pipeline, host: str, port: int) -> uvicorn.Config:
    """Return the configuration of the HTTP server over an open pipeline."""
    from rag_pipeline.service.app import create_app

    return http_config(create_app(pipeline), pipeline.settings, host, port)


def http_config(app: Any, settings: Settings, host: str, port: int, **more: Any) -> uvicorn.Config:
    """Return the HTTP server's configuration: limits of connections, and whom it believes."""
    import uvicorn

    from rag_pipeline.service.connections import PatientProtocol

    return uvicorn.Config(
        app,
        host=host,
        port=port,
        http=PatientProtocol,
        ws="none",
        access_log=False,
        log_level="warning",
        backlog=_BACKLOG,
        timeout_keep_alive=_IDLE_SECONDS,
        timeout_graceful_shutdown=STOP_SECONDS,
        # Only a proxy that is named may say who asks.
        proxy_headers=bool(settings.trusted_proxies),
        forwarded_allow_ips=list(settings.trusted_proxies),
        server_header=False,
        **more,
    )


def raise_open_files() -> None:
    """Allow as many connections as the system does; the usual limit of 1,024 is soft."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def warm_up(pipeline: Pipeline) -> None:
    """Embed something, or the first search would wait for the model to load.

    Raises `RagError` if the embedder does not work. An embedding server that does not answer is only logged.
    """
    try:
        # Words, because an embedding server can refuse a text without any.
        pipeline.embedder.encode_query("to start", pipeline.vectors)
    except StoreUnavailableError as error:
        # Full-text searches work without it, and a worker that is started again must not end the service.
        _log.warning("%s", one_line(error))
    except Exception as error:
        if isinstance(error, RagError):
            raise
        raise RagError(
            f"the embedder (RAG_EMBEDDER={pipeline.generation.settings.embedder}) does not work: {one_line(error)}"
        ) from error


def _ensure_account(pipeline: Pipeline, host: str, url: str, report: Callable[[str], None]) -> None:
    database = pipeline.stores.database
    with database.connection() as connection:
        if users_table.any_active(connection):
            return
        if users_table.all_users(connection):
            raise ConfigError(
                "all accounts are deactivated, so nobody could log in: `rag-pipeline users list` shows them, and "
                "`rag-pipeline users unlock EMAIL` opens one"
            )
    if not _is_loopback(host):
        raise ConfigError(
            f"nobody has an account yet, and {host} can be reached from elsewhere: "
            "`rag-pipeline users add EMAIL --role super_admin` first, or serve on 127.0.0.1"
        )
    users.add(database, FIRST_ADMIN, secrets.token_urlsafe(32), role="super_admin")
    made = api_keys.create(database, "first key", FIRST_ADMIN, wanted=[EVERYTHING])
    report(f"made the account {FIRST_ADMIN} and its key, which is shown only now: {made.key}")
    with database.connection() as connection:
        user = users_table.by_email(connection, FIRST_ADMIN)
    assert user is not None
    try:
        with contextlib.closing(RedisBreaker.to(pipeline.endpoints.redis_url)) as redis:
            token = Sessions(redis).make_link(user)
        report(f"to log in, once, within 15 minutes: {url}/link/{token}")
    except ProblemError as problem:  # `rag-pipeline users set-password` does as well.
        report(str(problem))


def _expect_address(host: str, port: int) -> None:
    """Raise an error if nobody could listen there: uvicorn would say so in lines of its own, and after everything else."""
    try:
        for family, kind, protocol, _, address in socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        ):
            with socket.socket(family, kind, protocol) as listener:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                listener.bind(address)
    except (OSError, UnicodeError) as error:
        if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
            raise RagError(_TAKEN.format(port=port)) from None
        reason = (error.strerror if isinstance(error, OSError) else None) or one_line(error)
        raise ConfigError(
            f"cannot serve on {host} port {port} ({reason}): give an address of this machine with --host, such as 127.0.0.1"
        ) from None


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host
