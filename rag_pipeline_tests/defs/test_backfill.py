"""Several months, as a backfill from the UI: one run per month, its checks recorded with the month."""

from __future__ import annotations

from collections import Counter

import dagster as dg

from rag_pipeline.months import Month
from rag_pipeline_tests.support.code_location import CodeLocation

MONTHS = [Month(2024, 1), Month(2024, 2), Month(2024, 3)]


def evaluations(instance: dg.DagsterInstance, defs: dg.Definitions) -> Counter[tuple[str, str | None, str]]:
    """Return the number of rows of each check, by partition and status."""
    keys = defs.resolve_asset_graph().asset_check_keys
    return Counter(
        (key.to_user_string(), record.partition, record.status.value)
        for key in keys
        for record in instance.event_log_storage.get_asset_check_execution_history(key, limit=100)
    )


def test_each_month_has_one_evaluation_per_check_and_nothing_stays_planned(
    location: CodeLocation, instance: dg.DagsterInstance, defs: dg.Definitions
) -> None:
    for month in MONTHS:
        location.write(f"{month}.md", f"{month}-05")
    location.scan()
    location.show_months(instance)
    job = defs.resolve_job_def("index_month")
    for month in MONTHS:
        assert job.execute_in_process(partition_key=month.partition_key, instance=instance).success
    graph = defs.resolve_asset_graph()
    checks = {key.to_user_string() for key in graph.asset_check_keys if graph.get(key).partitions_def is not None}
    expected = {(check, month.partition_key, "SUCCEEDED"): 1 for check in checks for month in MONTHS}
    assert evaluations(instance, defs) == expected
    assert location.stored(MONTHS[1])["dense"] == 1

    # The checks alone, as the nightly schedule requests them: one more evaluation for that month alone.
    check = defs.resolve_job_def("check_month")
    assert check.execute_in_process(partition_key=MONTHS[0].partition_key, instance=instance).success
    for name in checks:
        expected[name, MONTHS[0].partition_key, "SUCCEEDED"] = 2
    assert evaluations(instance, defs) == expected
