"""The asset that evaluates searches, its check, its alerts and its schedule, as Dagster runs them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from rag_pipeline.defs import event_log
from rag_pipeline_tests.defs.ticks import tick_of_schedule, tick_of_sensor
from rag_pipeline_tests.support.alerts import Inbox
from rag_pipeline_tests.support.code_location import CodeLocation
from rag_pipeline_tests.support.judged import ANSWERS, NAMES, write_answers, write_queries

KEY = dg.AssetKey("search_quality")
ACCEPT = {"ops": {"search_quality": {"config": {"accept": True}}}}
MODES = ("hybrid", "dense", "sparse", "fulltext")


class Evaluations:
    """The job `evaluate_search` of a code location, and the sensor that sends its alerts."""

    def __init__(
        self, location: CodeLocation, instance: dg.DagsterInstance, defs: dg.Definitions, inbox: Inbox
    ) -> None:
        self.location, self.instance, self.defs, self.inbox = location, instance, defs, inbox
        self.cursor: str | None = None

    def run(self, config: dict[str, Any] | None = None) -> dg.ExecuteInProcessResult:
        job = self.defs.resolve_job_def("evaluate_search")
        return job.execute_in_process(instance=self.instance, run_config=config, raise_on_error=False)

    def check(self, config: dict[str, Any] | None = None) -> dg.AssetCheckEvaluation:
        """Evaluate, and return the result of the check."""
        result = self.run(config)
        assert result.success, "a check that fails does not fail the run"
        [evaluation] = result.get_asset_check_evaluations()
        assert (evaluation.check_name, evaluation.asset_key, evaluation.partition) == (
            "no_significant_drop",
            KEY,
            None,
        )
        return evaluation

    def metadata(self) -> dict[str, Any]:
        """Return the metadata of the newest materialization; a table as its rows."""
        event = self.instance.get_latest_materialization_event(KEY)
        assert event is not None
        assert event.asset_materialization is not None
        return {name: plain(value) for name, value in event.asset_materialization.metadata.items()}

    def alerts(self) -> list[str]:
        """Send what is due; return the titles of what was sent."""
        before = len(self.inbox.titles)
        self.cursor = tick_of_sensor(self.defs, "alerts", self.instance, self.cursor).cursor
        return self.inbox.titles[before:]


def plain(value: Any) -> Any:
    return [record.data for record in value.records] if isinstance(value, dg.TableMetadataValue) else value.value


@pytest.fixture
def queries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of judged queries that the setting names."""
    path = write_queries(tmp_path / "queries.jsonl")
    monkeypatch.setenv("RAG_QUERIES", str(path))
    return path


@pytest.fixture
def evaluations(
    location: CodeLocation, instance: dg.DagsterInstance, defs: dg.Definitions, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Evaluations]:
    monkeypatch.setattr(event_log, "SETTLE_SECONDS", 0.0)
    inbox = Inbox().start()
    monkeypatch.setenv("RAG_ALERT_URLS", inbox.url)
    yield Evaluations(location, instance, defs, inbox)
    inbox.stop()


def test_a_drop_fails_the_check_and_alerts_until_it_is_accepted(evaluations: Evaluations, queries: Path) -> None:
    write_answers(evaluations.location)
    evaluations.location.ingest()
    evaluations.alerts()
    made = evaluations.check()
    assert (made.passed, made.description) == (True, "The reference was made with 8 queries.")
    metadata = evaluations.metadata()
    assert (metadata["queries"], metadata["unanswerable_queries"], metadata["lost_most"]) == (8, 0, [])
    for mode in MODES:
        for measure in ("ndcg10", "recall10", "mrr"):
            assert isinstance(metadata[f"{measure}_{mode}"], float), "what Dagster plots"
            assert 0.9 < metadata[f"{measure}_{mode}"] <= 1.0
    assert metadata["by_mode"][-3] == {
        "mode": "fulltext",
        "measure": "nDCG@10",
        "mean": "1.000",
        "95 % interval": "(1.000 to 1.000)",
        "against the reference": "new",
        "p": "",
        "queries compared": 0,
    }
    assert {row["language or group"]: row["queries"] for row in metadata["by_language"]} == {
        "en": 3,
        "ja": 5,
    }
    assert evaluations.check().passed
    assert evaluations.alerts() == []

    write_answers(evaluations.location, exchanged=NAMES)
    evaluations.location.ingest()
    for _ in range(2):
        worse = evaluations.check()
        assert (worse.passed, worse.severity) == (False, dg.AssetCheckSeverity.ERROR)
        assert worse.metadata["worse_modes"].value == ", ".join(MODES)
    [row] = [row for row in evaluations.metadata()["lost_most"] if row["query"] == ANSWERS["tea"][0]]
    assert (row["nDCG@10, fulltext"], row["answers"]) == ("1.00 → 0.00", "docs:tea.md")
    assert evaluations.alerts() == ["rag-pipeline: Failing: no_significant_drop on search_quality"]
    [message] = [message["message"] for message in evaluations.inbox.messages]
    assert "nDCG@10 is significantly lower than in the reference: " in message
    assert "materialize search_quality with `accept: true`" in message
    assert "/assets/search_quality?view=checks&checkDetail=no_significant_drop" in message

    accepted = evaluations.check(ACCEPT)
    assert accepted.passed
    assert "accepted as the reference" in (accepted.description or "")
    assert evaluations.check().passed
    assert evaluations.alerts() == ["rag-pipeline: Recovered: no_significant_drop on search_quality"]

    write_answers(evaluations.location)
    evaluations.location.ingest()
    assert "Significantly better, and the reference now: " in (evaluations.check().description or "")
    assert evaluations.location.sql("SELECT count(*) FROM document_chunks WHERE search_count > 0") == [(0,)]


def test_without_judged_queries_it_says_what_to_do(evaluations: Evaluations) -> None:
    check = evaluations.check()
    assert (check.passed, "there are no judged queries" in (check.description or "")) == (True, True)
    metadata = evaluations.metadata()
    assert set(metadata) == {"queries", "unanswerable_queries", "what_to_do"}
    assert (metadata["queries"], "set RAG_QUERIES" in metadata["what_to_do"]) == (0, True)


def test_judged_queries_of_which_none_can_be_answered_warn(evaluations: Evaluations, queries: Path) -> None:
    check = evaluations.check()
    assert (check.passed, check.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert "no judged query can be answered" in (check.description or "")
    assert (evaluations.metadata()["queries"], evaluations.metadata()["unanswerable_queries"]) == (0, 8)


def test_a_broken_file_fails_the_run_and_the_alert_says_why(evaluations: Evaluations, queries: Path) -> None:
    evaluations.alerts()
    good = queries.read_text("utf-8")
    queries.write_text(good + "{\n", "utf-8")
    result = evaluations.run()
    assert not result.success
    assert result.get_asset_check_evaluations() == []
    assert evaluations.alerts() == ["rag-pipeline: Failing: evaluate_search"]
    said = f"step search_quality: RAG_QUERIES: {queries}, line 9: not JSON"
    assert said in evaluations.inbox.messages[0]["message"].splitlines()
    queries.write_text(good, "utf-8")
    write_answers(evaluations.location)
    evaluations.location.ingest()
    assert evaluations.run().success
    assert evaluations.alerts() == ["rag-pipeline: Recovered: evaluate_search"]


def test_the_schedule_asks_for_an_evaluation_if_there_is_something_to_evaluate(
    evaluations: Evaluations, queries: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def tick() -> dg.ScheduleExecutionData:
        return tick_of_schedule(evaluations.defs, "nightly_evaluation", evaluations.instance)

    [request] = tick().run_requests or []
    assert request.tags["dagster/priority"] == "-1"
    write_answers(evaluations.location)
    evaluations.location.ingest()
    evaluations.check()
    monkeypatch.delenv("RAG_QUERIES")
    assert len(tick().run_requests or []) == 1, "the reference is forgotten"
    assert evaluations.check().passed
    assert "there are no judged queries" in (tick().skip_message or "")
    monkeypatch.setenv("RAG_QUERIES", str(queries))
    job = evaluations.defs.resolve_job_def("evaluate_search")
    evaluations.instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED)
    assert tick().skip_message == "an evaluation is still queued or running"
