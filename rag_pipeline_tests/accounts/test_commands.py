"""`users`, `keys` and `serve` as a person types them."""

from __future__ import annotations

import re
import signal
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

from rag_pipeline.accounts import api_keys, users
from rag_pipeline.cli.common import local_time
from rag_pipeline.errors import ConfigError
from rag_pipeline.pipeline import Pipeline
from rag_pipeline.stores.postgres import search_judgements
from rag_pipeline.stores.postgres import users as users_table
from rag_pipeline.stores.redis_client import connect_redis
from rag_pipeline_tests.support.command_line import CommandLine, one_line
from rag_pipeline_tests.support.live import free_port, wait
from rag_pipeline_tests.support.stores import Stores

PASSWORD = "correct horse battery\n"


@pytest.fixture
def cli(tmp_path: Path, prepared_stores: Stores) -> CommandLine:
    return CommandLine(tmp_path, prepared_stores)


def typed(cli: CommandLine, *arguments: str, password: str) -> subprocess.CompletedProcess[str]:
    """Run a command that reads a password from standard input."""
    process = cli.start(*arguments, stdin=subprocess.PIPE)
    out, err = process.communicate(password, timeout=240)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def test_accounts_and_keys_from_the_command_line(cli: CommandLine):
    added = typed(cli, "users", "add", "hanako@example.com", "--permission", "hr", password=PASSWORD)
    assert (added.returncode, one_line(added.stderr)) == (0, "added hanako@example.com as viewer")
    again = typed(cli, "users", "add", "Hanako@Example.com", password=PASSWORD)
    assert (again.returncode, "has an account already" in one_line(again.stderr)) == (1, True)
    short = typed(cli, "users", "add", "taro@example.com", password="short\n")
    assert (short.returncode, "12 to 1024 characters" in one_line(short.stderr)) == (1, True)
    same = typed(cli, "users", "set-password", "hanako@example.com", password=PASSWORD)
    assert (same.returncode, "the present password" in one_line(same.stderr)) == (1, True)
    assert (
        typed(cli, "users", "set-password", "hanako@example.com", password="another " + PASSWORD).returncode == 0
    )
    assert cli.run("users", "set-role", "hanako@example.com", "editor").returncode == 0
    (user,) = cli.json("users", "list")["users"]
    assert (user["email"], user["username"], user["role"], user["permissions"], user["is_active"]) == (
        *("hanako@example.com", "hanako", "editor", ["hr"], True),
    )
    assert "password_hash" not in user
    assert user["is_verified"] is False

    made = cli.json("keys", "create", "ci", "--user", "hanako@example.com", "--permission", "hr", "--rate", "5")
    assert set(made) == {"key", "prefix", "id"}
    assert re.fullmatch(r"rag_[a-z0-9]{8}_[A-Za-z0-9_-]{43}", made["key"])
    assert made["key"].startswith(made["prefix"])
    more = cli.run("keys", "create", "ci", "--user", "hanako@example.com", "--permission", "board")
    assert (more.returncode, "no permission board" in one_line(more.stderr)) == (1, True)
    past = cli.run("keys", "create", "ci", "--user", "hanako@example.com", "--expires", "2024-01-31")
    assert (past.returncode, "have expired on 2024-02-01 00:00 UTC" in one_line(past.stderr)) == (1, True)
    ((stored,),) = cli.rows("SELECT key_hash FROM api_keys")
    assert made["key"] not in stored
    for arguments, told in (
        (("--permission", "hr", "--permission", "board"), "has the permissions board, hr, judge, search"),
        ((), "has the permissions judge, search"),
        (("--permission", "hr"), "has the permissions hr, judge, search"),
    ):
        changed = cli.run("users", "set-permissions", "Hanako@example.com", *arguments)
        assert (changed.returncode, told in one_line(changed.stderr)) == (0, True)
    assert cli.json("users", "list")["users"][0]["permissions"] == ["hr"]
    for email, permission, told in (
        ("hanako@example.com", "HR", "is not a permission"),
        ("x@y.com", "hr", "no user"),
    ):
        wrong = cli.run("users", "set-permissions", email, "--permission", permission)
        assert (wrong.returncode, told in one_line(wrong.stderr)) == (1, True)
    listed = cli.run("keys", "list")
    assert made["prefix"] in listed.stdout
    assert made["key"] not in listed.stdout + listed.stderr
    (key,) = cli.json("keys", "list")["keys"]
    assert (key["prefix"], key["permissions"], key["rate_limit_per_minute"]) == (made["prefix"], ["hr"], 5)
    assert cli.run("keys", "revoke", made["prefix"]).returncode == 0
    gone = cli.run("keys", "revoke", made["prefix"])
    assert (gone.returncode, "no active key" in one_line(gone.stderr)) == (1, True)
    cli.json("keys", "create", "ci", "--user", "hanako@example.com", "--expires", "2130-01-31")
    listed = cli.run("keys", "list").stdout
    until = re.escape(local_time(datetime(2130, 2, 1, tzinfo=UTC)))
    assert re.search(f"active until {until} +100 a minute  used 0 times  hanako", listed)
    cli.rows("UPDATE api_keys SET usage_count = 3, last_used_at = '2024-02-01T09:00+09:00'")
    last = re.escape(local_time(datetime(2024, 2, 1, tzinfo=UTC)))
    assert re.search(
        f"^{made['prefix']} +revoked +5 a minute  used 3 times, last {last}  hanako@example.com  ci  "
        r"\(hr\)$",
        cli.run("keys", "list").stdout,
        re.M,
    )
    closed = cli.run("users", "deactivate", "hanako@example.com")
    assert (closed.returncode, "sessions have ended, revoked keys: 1;" in one_line(closed.stderr)) == (0, True)
    nobody = cli.run("keys", "create", "ci", "--user", "hanako@example.com")
    assert (nobody.returncode, "no active user" in one_line(nobody.stderr)) == (1, True)
    assert "deactivated" in cli.run("users", "list").stdout
    opened = cli.run("users", "unlock", "hanako@example.com")
    assert (opened.returncode, one_line(opened.stderr)) == (0, "reactivated hanako@example.com")
    assert not any(key["is_active"] for key in cli.json("keys", "list")["keys"])
    cli.rows("UPDATE users SET locked_until = '2130-01-01T00:00Z'")
    assert f" locked until {local_time(datetime(2130, 1, 1, tzinfo=UTC))} " in cli.run("users", "list").stdout
    for said in ("unlocked hanako@example.com", "hanako@example.com was open already"):
        opened = cli.run("users", "unlock", "hanako@example.com")
        assert (opened.returncode, one_line(opened.stderr)) == (0, said)
    expires = cli.json("keys", "create", "ci", "--user", "hanako@example.com", "--expires", "2030-01-31")
    assert expires["key"]
    assert cli.json("keys", "list")["keys"][0]["expires_at"] == "2030-02-01T00:00:00+00:00"


def test_an_account_is_deleted_with_what_it_has(cli: CommandLine):
    with Pipeline(cli.settings(), cli.endpoints) as pipeline:
        database = pipeline.stores.database
        for name, role in (("boss", "super_admin"), ("deputy", "super_admin"), ("hanako", "editor")):
            users.add(database, f"{name}@example.com", PASSWORD, role=role)
            api_keys.create(database, "a key", f"{name}@example.com")
        with database.connection() as connection:
            hanako = users_table.by_email(connection, "hanako@example.com")
            assert hanako is not None
            search_judgements.judge(connection, "豆腐", "docs:a.md", hanako.id, True)

    asked = typed(cli, "users", "delete", "hanako@example.com", password="")
    assert (asked.returncode, "add --yes to confirm" in one_line(asked.stderr)) == (1, True)
    deleted = cli.run("users", "delete", "Hanako@example.com", "--yes")
    assert (deleted.returncode, one_line(deleted.stderr)) == (
        *(0, "deleted Hanako@example.com, keys: 1, judgements: 1"),
    )
    assert cli.rows("SELECT count(*) FROM search_judgements") == [(0,)]
    assert len(cli.json("keys", "list")["keys"]) == 2
    cli.rows("UPDATE users SET is_active = false WHERE email = 'boss@example.com'")
    for email, told in (
        ("deputy@example.com", "is the last super_admin"),
        ("hanako@example.com", "no user hanako"),
    ):
        refused = cli.run("users", "delete", email, "--yes")
        assert (refused.returncode, told in one_line(refused.stderr)) == (1, True)
    with Pipeline(cli.settings(), cli.endpoints) as pipeline:
        database = pipeline.stores.database
        for change in (users.deactivate, lambda database, email: users.set_role(database, email, "admin")):
            with pytest.raises(ConfigError, match="is the last super_admin"):
                change(database, "Deputy@example.com")
        users.set_role(database, "deputy@example.com", "super_admin")
        users.unlock(database, "boss@example.com")
        users.set_role(database, "deputy@example.com", "admin")
        users.set_role(database, "deputy@example.com", "super_admin")
    assert cli.run("users", "delete", "boss@example.com", "--yes").returncode == 0


def test_profiles_from_the_command_line(cli: CommandLine):
    email, avatar = "hanako@example.com", "https://example.com/hanako.png"
    options = ("--name", "山田花子", "--timezone", "Europe/Berlin", "--avatar", avatar)
    refused = cli.run("users", "add", email, "--timezone", "Mars/Olympus")  # Before it asks for a password.
    assert (refused.returncode, "such as Asia/Tokyo" in one_line(refused.stderr)) == (1, True)
    assert typed(cli, "users", "add", email, *options, password=PASSWORD).returncode == 0
    (user,) = cli.json("users", "list")["users"]
    assert (user["full_name"], user["timezone"], user["avatar_url"], user["is_verified"]) == (
        *("山田花子", "Europe/Berlin", avatar, False),
    )
    assert re.search(r"active +unverified +山田花子$", cli.run("users", "list").stdout.strip())

    changed = cli.run("users", "set-profile", "Hanako@example.com", "--name", "Hanako", "--avatar", "")
    assert (changed.returncode, one_line(changed.stderr)) == (0, "changed the profile of Hanako@example.com")
    (user,) = cli.json("users", "list")["users"]
    assert (user["full_name"], user["timezone"], user["avatar_url"]) == ("Hanako", "Europe/Berlin", None)
    assert cli.run("users", "set-profile", email, "--name", "", "--timezone", "").returncode == 0
    (user,) = cli.json("users", "list")["users"]
    assert (user["full_name"], user["timezone"]) == (None, "Asia/Tokyo")
    for arguments, told in (
        ((email,), "nothing to change"),
        ((email, "--avatar", "http://example.com/a.png"), "https://example.com/hanako.png"),
        (("taro@example.com", "--name", "Taro"), "no user taro@example.com"),
    ):
        wrong = cli.run("users", "set-profile", *arguments)
        assert (wrong.returncode, told in one_line(wrong.stderr)) == (1, True)


def test_an_invitation_from_the_command_line(cli: CommandLine):
    cli.environment["RAG_SEARCH_URL"] = "https://search.example.com/"
    email, options = "hanako@example.com", ("--role", "editor", "--permission", "hr", "--name", "山田花子")
    made = cli.json("users", "invite", email, *options)
    assert set(made) == {"email", "link", "expires_at"}
    assert re.fullmatch(r"https://search\.example\.com/link/[A-Za-z0-9_-]{43}", made["link"])
    left = datetime.fromisoformat(made["expires_at"]) - datetime.now(UTC)
    assert timedelta(days=6, hours=23) < left <= timedelta(days=7)
    (user,) = cli.json("users", "list")["users"]
    assert (user["role"], user["permissions"], user["full_name"], user["is_verified"]) == (
        *("editor", ["hr"], "山田花子", False),
    )

    again = cli.run("users", "invite", "Hanako@example.com", *options)
    assert (again.returncode, again.stdout.count("/link/")) == (0, 1)
    assert again.stdout.strip() != made["link"]
    assert "/link/" not in one_line(again.stderr)
    assert f"chooses the password of {email}" in again.stderr
    with connect_redis(cli.endpoints.redis_url) as redis:
        links = redis.keys("rag:link:*")
        assert len(links) == 2
        assert all(0 < redis.ttl(name) <= 7 * 24 * 60 * 60 for name in links)
        assert not [name for name in links if made["link"].rpartition("/")[2].encode() in name]

    for arguments, told in (
        (("--role", "admin"), "users set-role"),
        (("--permission", "board"), "without --permission"),
        (("--name", "Taro"), "users set-profile"),
    ):
        other = cli.run("users", "invite", email, *arguments)
        assert (other.returncode, told in one_line(other.stderr)) == (1, True)
    wrong = cli.run("users", "invite", "nobody")
    assert (wrong.returncode, "is not an email address" in one_line(wrong.stderr)) == (1, True)
    assert cli.run("users", "deactivate", email).returncode == 0
    closed = cli.run("users", "invite", email)
    assert (closed.returncode, f"`rag-pipeline users unlock {email}` first" in one_line(closed.stderr)) == (
        1,
        True,
    )
    down = cli.run("users", "invite", "taro@example.com", RAG_REDIS_URL=f"redis://127.0.0.1:{free_port()}/0")
    assert (down.returncode, "Redis does not answer" in one_line(down.stderr)) == (1, True)
    assert len(cli.json("users", "list")["users"]) == 1  # Without Redis nobody is added.


def test_serve_makes_the_first_account_only_on_this_machine(cli: CommandLine):
    port = free_port()
    elsewhere = cli.run("serve", "--host", "0.0.0.0", "--port", str(port))
    assert elsewhere.returncode == 1
    assert "can be reached from elsewhere" in one_line(elsewhere.stderr)
    nowhere = cli.run("serve", "--host", "203.0.113.9", "--port", str(port))
    assert (nowhere.returncode, "cannot serve on 203.0.113.9" in one_line(nowhere.stderr)) == (1, True)
    assert cli.json("users", "list") == {"users": []}

    cli.write("soup.md", "# 味噌汁\n\n豆腐とわかめを入れる。")
    cli.json("ingest")
    process = cli.start("serve", "--port", str(port))
    assert process.stderr is not None
    lines = [line for line in (process.stderr.readline() for _ in range(5)) if "rag_pipeline.audit" not in line]
    key = re.search(r"rag_\w{8}_[\w-]{43}", lines[0])
    assert key is not None, lines
    assert f"http://127.0.0.1:{port}/link/" in lines[1]
    assert lines[2].strip() == f"search service: http://127.0.0.1:{port} (Ctrl-C stops it)"
    url = f"http://127.0.0.1:{port}"
    with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {key[0]}"}, trust_env=False) as client:
        wait("the service answers", 60, lambda: _answers(client))
        link = lines[1].split()[-1]
        button = re.search(r'name="csrf" value="([^"]+)"', client.get(link).text)
        assert button is not None
        assert client.post(link, data={"csrf": button[1]}).headers["location"] == "/password"
        assert 'name="password"' not in client.get("/password").text
        found = client.post("/v1/search", json={"query": "豆腐"}).json()
        assert [hit["source_id"] for hit in found["hits"]] == ["docs:soup.md"]
        taken = cli.run("serve", "--port", str(port))
        assert (taken.returncode, f"port {port} is taken" in one_line(taken.stderr)) == (1, True)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, "")
    assert "Traceback" not in err
    assert "interrupted" not in err
    assert cli.json("keys", "list")["keys"][0]["usage_count"] == 1
    cli.rows("UPDATE users SET is_active = false")
    closed = cli.run("serve", "--port", str(port))
    assert (closed.returncode, "`rag-pipeline users unlock EMAIL`" in one_line(closed.stderr)) == (1, True)


def _answers(client: httpx.Client) -> bool:
    try:
        return client.get("/healthz").status_code == 200
    except httpx.TransportError:
        return False
