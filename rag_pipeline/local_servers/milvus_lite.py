"""Milvus Lite as a server on the loopback address, with a login that `milvus_server` adds to it. It has no TLS."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from rag_pipeline.local_servers import milvus_server, processes
from rag_pipeline.local_servers.embedded_server import EmbeddedServer, Report
from rag_pipeline.private_files import write_private
from rag_pipeline.stores.probes import probe_milvus


class Milvus(EmbeddedServer):
    """A Milvus Lite server under `home/milvus`."""

    name = "Milvus"

    @property
    def url(self) -> str:
        login = f"{milvus_server.USER}:{self.remembered.password}@" if self.remembered.password else ""
        return f"http://{login}{processes.LOOPBACK}:{self.remembered.port}"

    @property
    def folder(self) -> Path:
        return self.home / "milvus"

    @property
    def pidfile(self) -> Path:
        return self.folder / "milvus.pid"

    @property
    def password_file(self) -> Path:
        return self.folder / "password"

    @property
    def marks(self) -> tuple[str, ...]:
        return "milvus_server.py", str(self.folder / "data")

    @property
    def port_mark(self) -> str:
        return f"{self.folder / 'data'} {self.remembered.port}"

    def probe(self) -> None:
        probe_milvus(self.url)

    def prepare(self, report: Report) -> None:
        self.folder.mkdir(mode=0o700, exist_ok=True)
        if not self.remembered.password:  # remembered by an earlier version, whose servers had no login
            self.states.add_password(self.remembered)
        write_private(self.password_file, self.remembered.password)

    def spawn(self, lock_fd: int) -> subprocess.Popen[bytes]:
        script = str(Path(milvus_server.__file__).absolute())
        return processes.spawn(
            # -P: keep the script's folder out of the import path; -u: write the log without buffering
            [
                sys.executable,
                "-P",
                "-u",
                script,
                str(self.pidfile),
                str(self.folder / "data"),
                str(self.remembered.port),
                str(self.password_file),
            ],
            cwd=self.folder,
            log=self.log,
            lock_fd=lock_fd,
            env=processes.server_environment(),
        )
