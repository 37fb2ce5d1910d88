"""`rag-pipeline alerts` lists what is failing and sends test messages."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from click.testing import CliRunner

from rag_pipeline.alerts.recording import record
from rag_pipeline.alerts.state_changes import Observation
from rag_pipeline.cli import cli
from rag_pipeline.endpoints import Endpoints
from rag_pipeline.stores.postgres.alert_outbox import Subject
from rag_pipeline.stores.postgres.database import Database
from rag_pipeline_tests.support.alerts import Inbox


def test_a_test_message_goes_to_each_receiver(
    make_inbox: Callable[[], Inbox], monkeypatch: pytest.MonkeyPatch
) -> None:
    listening, stopped = make_inbox(), make_inbox()
    monkeypatch.setenv("RAG_ALERT_URLS", listening.url)
    assert CliRunner().invoke(cli, ["alerts", "--test"]).output == "URL 1 of RAG_ALERT_URLS (json://…): accepted\n"
    assert listening.titles == ["rag-pipeline: Test"]
    stopped.stop()
    monkeypatch.setenv("RAG_ALERT_URLS", f"{listening.url}, {stopped.url} slack://hunter2")
    result = CliRunner().invoke(cli, ["alerts", "--test", "--json"])
    assert result.exit_code == 1
    tried = json.loads(result.output)["receivers"]
    assert [one["accepted"] for one in tried] == [True, False, False]
    assert "did not accept" in tried[1]["reason"]
    assert "Apprise does not recognize the URL" in tried[2]["reason"]
    assert "hunter2" not in result.output


def test_without_receivers_it_names_the_variable_to_set() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "rag_pipeline.cli", "alerts", "--test"], capture_output=True, text=True, env={}
    )
    assert ran.returncode == 1
    assert ran.stderr == "rag-pipeline: RAG_ALERT_URLS is not set: set it to one or more Apprise URLs\n"


def test_it_lists_what_is_failing(
    database: Database, package_database_url: str, server_endpoints: Endpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAG_POSTGRES_URL", package_database_url)
    monkeypatch.setenv("RAG_MILVUS_URI", server_endpoints.milvus_uri)
    monkeypatch.setenv("RAG_REDIS_URL", server_endpoints.redis_url)
    assert CliRunner().invoke(cli, ["alerts"]).output == "nothing is failing\n"
    at = datetime(2026, 1, 5, 10, 11, 12, tzinfo=UTC)
    record(database, "log", [Observation(Subject("check", "verified on dense", "2024-01-01"), 1, False, at)])
    # People read moments in the time of the machine, programs in UTC.
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "Asia/Tokyo")
        time.tzset()
        listed = CliRunner().invoke(cli, ["alerts"]).output
    time.tzset()
    assert listed == "check     verified on dense, 2024-01-01  since 2026-01-05T19:11:12+09:00\n"
    assert json.loads(CliRunner().invoke(cli, ["alerts", "--json"]).output) == {
        "failing": [
            {
                "kind": "check",
                "name": "verified on dense",
                "partition": "2024-01-01",
                "since": "2026-01-05T10:11:12+00:00",
            }
        ]
    }
