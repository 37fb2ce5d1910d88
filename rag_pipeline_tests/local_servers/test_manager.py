"""The embedded servers: found again whatever happened to them, while nobody else's are touched."""

from __future__ import annotations

import json
import os
import re
import secrets
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import psutil
import psycopg
import pytest
import redis
from pymilvus import MilvusClient
from pymilvus.exceptions import MilvusException
from pymilvus.grpc_gen.milvus_pb2 import DropCollectionRequest
from pymilvus.grpc_gen.milvus_pb2_grpc import MilvusServiceStub

from rag_pipeline.endpoints import Endpoints
from rag_pipeline.errors import ConfigError, RagError, StoreUnavailableError
from rag_pipeline.local_servers import LocalServers, processes
from rag_pipeline.local_servers.postgres_folders import outside_folder
from rag_pipeline.pipeline import find_endpoints
from rag_pipeline_tests.support.milvus import milvus_client
from rag_pipeline_tests.support.servers import embedded, remove_home

pytestmark = pytest.mark.servers

KEYS = ("postgres", "milvus", "redis")

START = """
import sys
from pathlib import Path
from rag_pipeline.settings import Settings
from rag_pipeline.local_servers import LocalServers

LocalServers(Settings(home=Path(sys.argv[1]), postgres_url=None, milvus_uri=None, redis_url=None)).up(print)
"""


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A folder that every user can enter."""
    with tempfile.TemporaryDirectory(prefix="rag-pipeline-tests-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture(scope="module")
def home(folder: Path) -> Iterator[Path]:
    """A home whose servers these tests start, stop and kill, and leave in any state."""
    yield folder / "a home"
    remove_home(folder / "a home")


@pytest.fixture
def new_home(folder: Path) -> Iterator[Path]:
    """A home where nothing was ever started."""
    path = folder / secrets.token_hex(4)
    yield path
    remove_home(path)


@pytest.fixture
def local(home: Path) -> LocalServers:
    return LocalServers(embedded(home))


def pidfiles(home: Path) -> dict[str, Path]:
    postgres = outside_folder(home) if outside_folder(home).exists() else home / "postgres"
    return {
        "postgres": postgres / "data" / "postmaster.pid",
        "milvus": home / "milvus" / "milvus.pid",
        "redis": home / "valkey" / "valkey.pid",
    }


def pids(home: Path) -> dict[str, int]:
    return {key: int(path.read_text().split()[0]) for key, path in pidfiles(home).items()}


def alive(pid: int) -> bool:
    try:
        return not processes.ended(psutil.Process(pid))
    except psutil.NoSuchProcess:
        return False


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    assert processes.wait_until(lambda: not alive(pid), lambda: True, 10)


def running(local: LocalServers) -> dict[str, bool]:
    return {key: part["running"] for key, part in local.status().items()}


def passwords(urls: Endpoints) -> list[str]:
    return [url.split("@")[0].rpartition(":")[2] for url in vars(urls).values()]


def test_down_and_up_keep_data_and_addresses(local: LocalServers) -> None:
    before = local.up()
    assert running(local) == dict.fromkeys(KEYS, True)
    mark = secrets.token_hex(4)
    with psycopg.connect(before.postgres_url) as connection:
        connection.execute("CREATE TABLE marks AS SELECT %s AS mark", (mark,))
        assert connection.execute("SHOW server_encoding").fetchone() == ("UTF8",)
        assert connection.execute("SHOW timezone").fetchone() == ("UTC",)
    with redis.Redis.from_url(before.redis_url) as client:
        client.set("mark", mark)
        assert client.config_get("maxmemory*")["maxmemory-policy"] == "volatile-lru"
    milvus = MilvusClient(uri=before.milvus_uri)
    milvus.create_collection(f"c_{mark}", dimension=2)
    milvus.close()

    local.down()
    assert running(local) == dict.fromkeys(KEYS, False)
    lines: list[str] = []
    assert local.up(lines.append) == before
    assert sum("started" in line for line in lines) == 3
    with psycopg.connect(before.postgres_url) as connection:
        assert connection.execute("SELECT mark FROM marks").fetchone() == (mark,)
    with redis.Redis.from_url(before.redis_url) as client:
        assert client.get("mark") == mark.encode()
    milvus = MilvusClient(uri=before.milvus_uri)
    assert f"c_{mark}" in milvus.list_collections()
    milvus.close()


def test_up_and_down_can_be_repeated(local: LocalServers, home: Path) -> None:
    first = local.up()
    servers = pids(home)
    lines: list[str] = []
    assert local.up(lines.append) == first
    assert pids(home) == servers
    assert sum("running on" in line for line in lines) == 3
    local.down()
    local.down(lines.append)
    assert sum("not running" in line for line in lines) == 3
    assert not any(alive(pid) for pid in servers.values())


@pytest.mark.parametrize("key", KEYS)
def test_a_killed_server_is_started_again_where_it_was(local: LocalServers, home: Path, key: str) -> None:
    before = local.up()
    servers = pids(home)
    kill(servers[key])
    assert running(local) == {name: name != key for name in KEYS}
    assert local.up() == before
    assert running(local) == dict.fromkeys(KEYS, True)
    after = pids(home)
    assert {name for name in KEYS if after[name] != servers[name]} == {key}


@pytest.mark.parametrize("key", KEYS)
def test_a_pid_that_another_program_got_is_not_taken_for_the_server(
    local: LocalServers, home: Path, key: str
) -> None:
    before = local.up()
    pid = pids(home)[key]
    kill(pid)
    owner = pidfiles(home)[key].parent.stat()
    # as the user that the server runs as: PostgreSQL gives way to any process of its own user
    user: dict[str, Any] = (
        {"user": owner.st_uid, "group": owner.st_gid, "extra_groups": []} if os.geteuid() == 0 else {}
    )
    with subprocess.Popen(["sleep", "600"], cwd="/", **user) as other:
        try:
            lines = pidfiles(home)[key].read_text().split("\n")
            pidfiles(home)[key].write_text("\n".join([str(other.pid), *lines[1:]]))
            assert running(local) == {name: name != key for name in KEYS}
            assert local.up() == before
            local.down()
            assert other.poll() is None
        finally:
            other.kill()


def test_a_port_that_another_program_took_is_given_up(local: LocalServers, home: Path) -> None:
    before = local.up()
    local.down()
    ports = [int(url.rpartition(":")[2].split("/")[0]) for url in vars(before).values()]
    others = []
    try:
        for port in ports:
            other = socket.socket()
            # lets another listener of the same user in, as a gRPC server does: Milvus would not notice
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            other.bind(("127.0.0.1", port))
            other.listen()
            others.append(other)
        assert running(local) == dict.fromkeys(KEYS, False)
        lines: list[str] = []
        after = local.up(lines.append)
        assert running(local) == dict.fromkeys(KEYS, True)
    finally:
        for other in others:
            other.close()
    for port in ports:
        assert any(f"port {port} is taken by another program" in line for line in lines)
        assert not any(f":{port}" in url for url in vars(after).values())
    assert find_endpoints(embedded(home)) == after
    assert passwords(after) == passwords(before)
    assert local.up() == after


def test_the_servers_listen_on_the_loopback_address_only(local: LocalServers, home: Path) -> None:
    urls = local.up()
    for key, url in zip(("postgres", "milvus", "redis"), vars(urls).values(), strict=True):
        listening = {
            (connection.laddr.ip.removeprefix("::ffff:"), connection.laddr.port)
            for connection in psutil.Process(pids(home)[key]).net_connections("all")
            if connection.status == psutil.CONN_LISTEN
        }
        assert listening == {("127.0.0.1", int(url.rpartition(":")[2].split("/")[0]))}


def test_nobody_enters_without_the_password(local: LocalServers) -> None:
    urls = local.up()
    for password, url in zip(passwords(urls), vars(urls).values(), strict=True):
        for other in ("", "wrong"):
            if url.startswith("http"):
                with pytest.raises(MilvusException, match="Fail connecting"):
                    MilvusClient(url.replace(password, other))
                with grpc.insecure_channel(url.rpartition("@")[2]) as channel:
                    drop = MilvusServiceStub(channel).DropCollection
                    for metadata in ((), (("authorization", other),), (("authorization", password),)):
                        with pytest.raises(grpc.RpcError) as refused:
                            drop(DropCollectionRequest(collection_name="x"), metadata=metadata)
                        assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED
            elif url.startswith("redis"):
                with (
                    redis.Redis.from_url(url.replace(password, other)) as client,
                    pytest.raises(redis.AuthenticationError),
                ):
                    client.ping()
            else:
                with pytest.raises(psycopg.OperationalError, match="password"):
                    psycopg.connect(url.replace(password, other))


def test_no_password_is_shown(local: LocalServers, home: Path) -> None:
    lines: list[str] = []
    urls = local.up(lines.append)
    shown = repr(urls) + str(urls) + repr(local.status()) + repr(lines) + repr(vars(local))
    shown += "".join(path.read_text() for path in (home / "logs").iterdir())
    shown += "".join(" ".join(psutil.Process(pid).cmdline()) for pid in pids(home).values())
    for password in passwords(urls):
        assert len(password) >= 24
        assert password not in shown
    assert "rag:***@127.0.0.1" in repr(urls)
    assert local.status()["postgres"]["url"] == urls.postgres_url.replace(passwords(urls)[0], "***")


def test_what_is_secret_can_be_read_by_its_owner_only(local: LocalServers, home: Path) -> None:
    local.up()
    secret = [home / "stack.json", home / "valkey" / "valkey.conf", *(home / "logs").iterdir()]
    secret.append(home / "milvus" / "password")
    assert [path for path in secret if stat.S_IMODE(path.stat().st_mode) != 0o600] == []
    data = [pidfiles(home)["postgres"].parent, home / "valkey", home / "milvus", home / "logs"]
    assert [path for path in data if stat.S_IMODE(path.stat().st_mode) != 0o700] == []
    # As root, PostgreSQL runs as another user, who has to pass through.
    assert stat.S_IMODE(home.stat().st_mode) == (0o711 if os.geteuid() == 0 else 0o700)


def test_a_home_of_an_earlier_version_is_closed_and_gets_a_login_for_milvus(new_home: Path) -> None:
    local = LocalServers(embedded(new_home))
    with milvus_client(local.up().milvus_uri) as client:
        client.create_collection("kept", dimension=2)
    local.down()
    new_home.chmod(0o755)
    state = new_home / "stack.json"
    remembered = json.loads(state.read_text())
    del remembered["milvus"]["password"]
    state.write_text(json.dumps(remembered))
    assert "@" not in find_endpoints(embedded(new_home)).milvus_uri

    after = local.up()
    with milvus_client(after.milvus_uri) as client:
        assert client.list_collections() == ["kept"]
    assert re.match("http://rag:.{24,}@", after.milvus_uri)
    assert find_endpoints(embedded(new_home)) == after == local.up()
    assert stat.S_IMODE(new_home.stat().st_mode) & 0o066 == 0
    assert running(local) == dict.fromkeys(KEYS, True)


def test_the_servers_get_none_of_our_settings_and_secrets(new_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAG_ALERT_URLS", "slack://geheim")
    monkeypatch.setenv("COMPANY_TOKEN", "geheim")
    LocalServers(embedded(new_home)).up()
    for pid in pids(new_home).values():
        environment = psutil.Process(pid).environ()
        assert not any(name.startswith("RAG_") for name in environment)
        assert "geheim" not in environment.values()


def test_the_servers_outlive_a_start_in_the_background_and_still_stop_cleanly(
    local: LocalServers, home: Path
) -> None:
    local.down()
    # what a shell starts in the background ignores SIGINT, and so do its children
    script = f"trap '' INT; exec {sys.executable} -c '{START}' '{home}'"
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert running(local) == dict.fromkeys(KEYS, True)
    local.down()
    assert "Shutting down" in (home / "logs" / "milvus.log").read_text().splitlines()[-1]
    assert "database system is shut down" in (home / "logs" / "postgresql.log").read_text().splitlines()[-1]
    assert "is now ready to exit" in (home / "logs" / "valkey.log").read_text().splitlines()[-1]


def test_a_server_that_does_not_start_names_its_log_and_the_reason(local: LocalServers, home: Path) -> None:
    local.up()
    local.down()
    settings = pidfiles(home)["postgres"].with_name("postgresql.auto.conf")
    before = settings.read_text()
    try:
        settings.write_text("work_mem = 'much'\n")
        with pytest.raises(RagError) as caught:
            local.up()
    finally:
        settings.write_text(before)
    assert f"(log: {home / 'logs' / 'postgresql.log'})" in str(caught.value)
    assert "PostgreSQL did not start, exit status 1: FATAL:  configuration file" in str(caught.value)
    # the others were started all the same
    assert running(local) == {"postgres": False, "milvus": True, "redis": True}


def test_a_server_that_ends_while_it_starts_is_started_once_more(
    local: LocalServers, monkeypatch: pytest.MonkeyPatch
) -> None:
    local.down()
    spawn = processes.spawn
    failed: list[int] = []

    def fail_at_first(command: list[str], **options: Any) -> subprocess.Popen[bytes]:
        if "postgres" not in command[0] or failed:
            return spawn(command, **options)
        child = spawn(["sh", "-c", "echo FATAL: out of semaphores >&2; kill -ABRT $$"], **options)
        failed.append(child.pid)
        return child

    monkeypatch.setattr(processes, "spawn", fail_at_first)
    lines: list[str] = []
    local.up(lines.append)
    assert running(local) == dict.fromkeys(KEYS, True)
    once_more = [line for line in lines if line.endswith("; starting it once more")]
    assert len(once_more) == 1
    assert once_more[0].startswith("PostgreSQL did not start, killed by signal 6: FATAL: out of semaphores (log: ")


def test_data_of_another_major_version_are_left_alone(local: LocalServers, home: Path) -> None:
    local.up()
    local.down()
    version = pidfiles(home)["postgres"].with_name("PG_VERSION")
    ours = version.read_text()
    try:
        version.write_text("15\n")
        with pytest.raises(
            ConfigError, match=rf"is of version 15, the installed server of version {ours.strip()}: "
        ):
            local.up()
    finally:
        version.write_text(ours)
    assert not running(local)["postgres"]
    local.up()


def test_two_ups_at_once_start_each_server_once(new_home: Path) -> None:
    command = [sys.executable, "-c", START, str(new_home)]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    output = [process.communicate(timeout=120)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sum(text.count("started on port") for text in output) == 3
    assert sum(text.count("running on port") for text in output) == 3
    assert running(LocalServers(embedded(new_home))) == dict.fromkeys(KEYS, True)
    lines = [" ".join(process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline"])]
    for program in ("/bin/postgres -D", "milvus_server.py", "valkey-server"):
        assert sum(program in line and (str(new_home) in line) for line in lines) == 1


def test_a_server_whose_lock_was_removed_is_still_found(local: LocalServers, home: Path) -> None:
    before = local.up()
    servers = pids(home)
    for lock in home.glob("*.lock"):
        lock.unlink()
    assert local.up() == before
    assert pids(home) == servers
    for lock in home.glob("*.lock"):
        lock.unlink()
    local.down()
    assert not any(alive(pid) for pid in servers.values())


@pytest.mark.parametrize("after", ["creating its data folder", "started on port"])
def test_an_up_that_was_killed_is_completed_by_the_next(new_home: Path, after: str) -> None:
    command = [sys.executable, "-u", "-c", START, str(new_home)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None
        while after not in (line := first.stdout.readline()):
            assert line, "it ended too early"
        first.kill()
    local = LocalServers(embedded(new_home))
    urls = local.up()
    assert running(local) == dict.fromkeys(KEYS, True)
    assert find_endpoints(embedded(new_home)) == urls


def test_a_server_that_a_url_names_is_used_and_neither_started_nor_stopped(
    server_endpoints: Endpoints, new_home: Path
) -> None:
    settings = embedded(
        new_home, postgres_url=server_endpoints.postgres_url, milvus_uri=server_endpoints.milvus_uri
    )
    local = LocalServers(settings)
    assert running(local) == {"postgres": True, "milvus": True, "redis": False}
    lines: list[str] = []
    urls = local.up(lines.append)
    assert urls == find_endpoints(settings)
    assert (urls.postgres_url, urls.milvus_uri) == (server_endpoints.postgres_url, server_endpoints.milvus_uri)
    assert urls.redis_url != server_endpoints.redis_url
    assert {path.name for path in new_home.iterdir()} == {
        "logs",
        "stack.json",
        "stack.lock",
        "valkey",
        "valkey.lock",
    }
    assert any("RAG_POSTGRES_URL" in line for line in lines)
    assert not any(password in line for line in lines for password in passwords(server_endpoints))
    local.down()
    assert running(local) == {"postgres": True, "milvus": True, "redis": False}


def test_nothing_is_made_where_all_servers_are_named(server_endpoints: Endpoints, new_home: Path) -> None:
    settings = embedded(new_home, **vars(server_endpoints))
    local = LocalServers(settings)
    assert local.up() == server_endpoints == find_endpoints(settings)
    assert running(local) == dict.fromkeys(KEYS, True)
    local.down()
    assert not new_home.exists()


def test_a_named_server_that_does_not_answer_fails_the_start(new_home: Path) -> None:
    urls = {
        "postgres_url": "postgresql://rag:geheim@127.0.0.1:1/rag",
        "milvus_uri": "http://127.0.0.1:1",
        "redis_url": "redis://:geheim@127.0.0.1:1/0",
    }
    local = LocalServers(embedded(new_home, **urls))
    assert running(local) == dict.fromkeys(KEYS, False)
    with pytest.raises(StoreUnavailableError) as caught:
        local.up()
    assert all(name in str(caught.value) for name in ("PostgreSQL", "Milvus", "Redis"))
    assert "geheim" not in str(caught.value)


@pytest.mark.parametrize(
    ("field", "url"),
    [
        ("milvus_uri", "./milvus.db"),
        ("postgres_url", "mysql://rag:geheim@db/rag"),
        ("redis_url", "geheim@db:6379"),
    ],
)
def test_an_address_of_another_kind_is_refused(new_home: Path, field: str, url: str) -> None:
    settings = embedded(new_home, **{field: url})
    with pytest.raises(ConfigError, match=f"RAG_{field.upper()}: takes the address of a server") as caught:
        LocalServers(settings)
    assert "geheim" not in str(caught.value)
    with pytest.raises(ConfigError):
        find_endpoints(settings)


def test_before_the_first_start_there_is_nothing_to_find(new_home: Path) -> None:
    with pytest.raises(ConfigError, match="run `rag-pipeline up` first"):
        find_endpoints(embedded(new_home))
    status = LocalServers(embedded(new_home)).status()
    assert status["postgres"] == {"url": None, "running": False}
    assert status["milvus"] == {"uri": None, "running": False}
    LocalServers(embedded(new_home)).down()
    assert not new_home.exists()


def test_data_whose_password_is_gone_are_left_alone(new_home: Path) -> None:
    (new_home / "postgres" / "data").mkdir(parents=True)
    with pytest.raises(ConfigError, match="put that file back, or move the data folder away"):
        LocalServers(embedded(new_home)).up()
    assert list((new_home / "postgres" / "data").iterdir()) == []
