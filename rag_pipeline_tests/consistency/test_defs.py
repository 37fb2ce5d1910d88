"""The checks and the repair as Dagster runs them: one evaluation per check and month, none of which fails a run."""

from __future__ import annotations

import re

import dagster as dg
import pytest

from rag_pipeline.defs.month_partitions import show_months
from rag_pipeline.pipeline import Pipeline
from rag_pipeline_tests.support.damaged_index import MARCH, DamagedIndex

CHECKS = {
    *(("documents", check) for check in ("status_mismatches", "index_issues", "quarantined_documents")),
    *(("document_chunks", check) for check in ("orphaned_chunks", "status_mismatches", "index_issues")),
    *(
        (f"{kind}_collection", check)
        for kind in ("dense", "sparse", "multi")
        for check in ("missing_vectors", "orphaned_vectors", "index_issues")
    ),
}
Evaluated = dict[tuple[str, str], dg.AssetCheckEvaluation]


class Jobs:
    """The jobs of the code location, on the damaged index."""

    def __init__(self, pipeline: Pipeline) -> None:
        from rag_pipeline.defs.build import build_defs

        self.defs = build_defs({"pipeline": pipeline})
        self.instance = dg.DagsterInstance.ephemeral()
        show_months(self.instance, pipeline)

    def run(
        self, job: str, *, incomplete: bool = False, **arguments: object
    ) -> tuple[dg.ExecuteInProcessResult, Evaluated]:
        """Return the result and the evaluations of the consistency checks. vectors_verified, which fails runs, is left out.

        All of them must be there, unless `incomplete`.
        """
        result = self.defs.resolve_job_def(job).execute_in_process(
            partition_key=MARCH.partition_key,
            instance=self.instance,
            raise_on_error=False,
            **arguments,  # type: ignore[arg-type]
        )
        evaluations = [
            event.asset_check_evaluation_data
            for event in result.all_events
            if event.event_type == dg.DagsterEventType.ASSET_CHECK_EVALUATION
        ]
        assert {evaluation.partition for evaluation in evaluations} <= {MARCH.partition_key}
        found = {(e.asset_key.to_user_string(), e.check_name): e for e in evaluations}
        assert len(found) == len(evaluations), "one evaluation per check"
        return result, {key: found[key] for key in CHECKS if key in found or not incomplete}

    @staticmethod
    def outcomes(result: dg.ExecuteInProcessResult) -> dict[tuple[str, str], bool]:
        """Return whether each check passed, those that fail runs included."""
        found = [
            event.asset_check_evaluation_data
            for event in result.all_events
            if event.event_type == dg.DagsterEventType.ASSET_CHECK_EVALUATION
        ]
        return {(e.asset_key.to_user_string(), e.check_name): e.passed for e in found}


@pytest.fixture
def jobs(damaged: DamagedIndex, monkeypatch: pytest.MonkeyPatch) -> Jobs:
    monkeypatch.setenv("RAG_SOURCES", str(damaged.index.sources))
    return Jobs(damaged.index.open())


def failing(evaluated: Evaluated) -> set[tuple[str, str]]:
    return {key for key, evaluation in evaluated.items() if not evaluation.passed}


def test_checks_run_at_the_end_of_a_months_run(damaged: DamagedIndex, jobs: Jobs) -> None:
    damaged.sql("UPDATE document_chunks SET embedding_status = 'processing', dense_vector_id = NULL")
    damaged.sql("UPDATE documents SET indexing_status = 'indexing'")
    result, evaluated = jobs.run("index_month")
    assert result.success
    assert failing(evaluated) == set(), "what a killed run left was finished before the checks ran"
    damaged.repaired()


def test_a_repair_fixes_a_failing_check_and_evaluates_it(damaged: DamagedIndex, jobs: Jobs) -> None:
    _, evaluated = jobs.run("check_month")
    assert failing(evaluated) == set()
    lost = damaged.chunks()[:3]
    with damaged.milvus() as client:
        client.delete(damaged.collection("sparse"), ids=[f"{chunk}_sparse" for chunk in lost])
    damaged.sql("UPDATE documents SET chunk_count = 99 WHERE source_id = 'docs:march0.md'")

    result, evaluated = jobs.run("check_month")
    wrong = {("sparse_collection", "missing_vectors"), ("documents", "status_mismatches")}
    assert failing(evaluated) == wrong
    missing = evaluated["sparse_collection", "missing_vectors"]
    assert missing.severity == dg.AssetCheckSeverity.ERROR
    assert missing.metadata["count"].value == 3
    assert len(missing.metadata["sample"].records) == 3  # type: ignore[attr-defined]
    ((document, position),) = damaged.index.rows(
        "SELECT document_id, position FROM document_chunks WHERE id = %s", lost[0]
    )
    page = str(missing.metadata["on_the_search_page"].value)
    assert f"http://127.0.0.1:8000/documents/{document}?at={position}#p{position}" in page
    counts = evaluated["documents", "status_mismatches"].metadata["on_the_search_page"].value
    assert re.fullmatch(r"- \[docs:march0.md\]\(http://127.0.0.1:8000/documents/[0-9a-f-]{36}\)", str(counts))
    assert "on_the_search_page" not in evaluated["documents", "index_issues"].metadata
    assert "rag-pipeline repair --month 2024-03" in str(missing.metadata["what_to_do"].value)

    dry = {"ops": {"repair_stores": {"config": {"dry_run": True}}}}
    result, evaluated = jobs.run("repair_month", run_config=dry)
    assert result.success
    assert failing(evaluated) == wrong
    result, evaluated = jobs.run("repair_month")
    assert result.success
    assert failing(evaluated) == set()
    _, evaluated = jobs.run("check_month")
    assert failing(evaluated) == set()
    damaged.repaired()


def test_a_repair_evaluates_every_check_of_its_month(damaged: DamagedIndex, jobs: Jobs) -> None:
    with damaged.milvus() as client:
        client.delete(damaged.collection("sparse"), ids=[f"{chunk}_sparse" for chunk in damaged.chunks()[:3]])
    checked = jobs.outcomes(jobs.run("check_month")[0])
    assert not checked["sparse_collection", "vectors_verified"]
    result, _ = jobs.run("repair_month")
    assert result.success
    assert jobs.outcomes(result) == dict.fromkeys(checked, True)
    result, _ = jobs.run("repair_month")
    assert jobs.outcomes(result) == dict.fromkeys(checked, True), "also if nothing had to be repaired"
    damaged.repaired()


def test_a_repairs_evaluations_are_about_the_months_last_materializations(
    damaged: DamagedIndex, jobs: Jobs
) -> None:
    """Dagster takes an evaluation that names none for one of an earlier state, and shows no status."""
    runs = [jobs.run("index_month")[0] for _ in range(2)]
    last = {event.asset_key: event for event in runs[-1].get_asset_materialization_events()}
    result, _ = jobs.run("repair_month")
    evaluations = result.get_asset_check_evaluations()
    assert {evaluation.asset_key for evaluation in evaluations} == set(last)
    for evaluation in evaluations:
        target = evaluation.target_materialization_data
        assert target is not None, evaluation.check_name
        assert target.run_id == runs[-1].run_id


def test_an_unreadable_collection_fails_its_checks_but_not_the_run(damaged: DamagedIndex, jobs: Jobs) -> None:
    with damaged.milvus() as client:
        client.release_collection(damaged.collection("multi"))
    _, evaluated = jobs.run("check_month")
    assert failing(evaluated) == {
        ("multi_collection", check) for check in ("index_issues", "missing_vectors", "orphaned_vectors")
    }
    assert "not loaded" in (evaluated["multi_collection", "missing_vectors"].description or "")
    damaged.repaired()


def test_a_quarantined_document_is_a_warning(damaged: DamagedIndex, jobs: Jobs) -> None:
    damaged.index.docs.joinpath("march1.md").write_bytes(b"\x00\x01\x02binary")
    damaged.index.ingest()
    _, evaluated = jobs.run("check_month")
    assert failing(evaluated) == {("documents", "quarantined_documents")}
    assert evaluated["documents", "quarantined_documents"].severity == dg.AssetCheckSeverity.WARN
    damaged.restore()


def test_the_checks_of_a_month_do_not_count_the_items_of_all_sources(jobs: Jobs, damaged: DamagedIndex) -> None:
    """A scan recounts its source; a check of all months compares the counts."""
    damaged.sql("UPDATE sources SET total_documents = 70")
    _, evaluated = jobs.run("check_month")
    assert failing(evaluated) == set()
    assert [finding.count for finding in damaged.check(MARCH).status_mismatches] == [1]
    damaged.repaired()
