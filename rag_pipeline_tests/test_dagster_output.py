"""The terminal of `rag-pipeline dev` shows a line for each event, and the log file has everything."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from rag_pipeline import dagster_output
from rag_pipeline.dagster_output import Condenser, DagsterOutput

FAILED_RUN = """\
2026-11-25 13:02:28 +0000 - dagster - INFO - resource:pipeline - 093306c6 - 2024-10 chunks: 7
2026-11-25 13:02:29 +0000 - dagster - ERROR - index_month - 093306c6 - 31 - vector_collections - STEP_FAILURE - Execution failed.

dagster._core.errors.DagsterExecutionStepExecutionError: Error occurred while executing op "vector_collections"::

rag_pipeline.errors.StoreUnavailableError: Milvus at 127.0.0.1:1 refuses to work: disk full

Stack Trace:
  File "assets.py", line 184, in collections
    result = index_vectors(pipeline, month, selected)
             ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^

2026-11-25 13:02:29 +0000 - dagster - ERROR - index_month - 093306c6 - checked - Dependencies for step checked failed: ['vector_collections']. Not executing.
2026-11-25 13:02:31 +0000 - dagster - ERROR - index_month - 093306c6 - 31 - RUN_FAILURE - Execution of run for "index_month" failed. Steps failed: ['vector_collections'].

dagster._core.errors.DagsterExecutionStepExecutionError: Error occurred while executing op "vector_collections":

Stack Trace:
  File "utils.py", line 57, in op_execution_error_boundary
    yield

The above exception was caused by the following exception:
rag_pipeline.errors.StoreUnavailableError: Milvus at 127.0.0.1:1 refuses to work: disk full

Stack Trace:
  File "client.py", line 71, in client
    raise self._translate(error) from None

Serving the UI
"""
FAILED_SENSOR = """\
\x1b[32m2026-11-25 13:02:56 +0000\x1b[0m - dagster.daemon.SensorDaemon - \x1b[34mERROR\x1b[0m - \x1b[31mSensor tick caught an error\x1b[0m
Traceback (most recent call last):
  File "sensor.py", line 1, in tick
    evaluate()
ValueError: no
2026-11-25 13:02:56 +0000 - dagster.daemon.SensorDaemon - ERROR - Sensor daemon caught an error for sensor sync_docs
Traceback (most recent call last):
  File "sensor.py", line 1, in tick
    evaluate()
ValueError: no
ERROR:dagster.daemon.SensorDaemon:Sensor daemon caught an error for sensor sync_docs
Traceback (most recent call last):
ValueError: no
WARNING:root:Retrying failed database connection: FATAL:  the database system is starting up
DETAIL:  Consistent recovery state has not been yet reached.
"""


def condensed(text: str) -> list[str]:
    condenser = Condenser()
    lines = [shown for line in text.splitlines() for shown in condenser.add(line)]
    return [*lines, *condenser.end()]


def test_a_failed_run_is_one_line_with_its_cause() -> None:
    assert condensed(FAILED_RUN) == [
        "2026-11-25 13:02:28 +0000 - dagster - INFO - resource:pipeline - 093306c6 - 2024-10 chunks: 7",
        '2026-11-25 13:02:31 +0000 - dagster - ERROR - index_month - 093306c6 - 31 - RUN_FAILURE - Execution of run for "'
        "index_month\" failed. Steps failed: ['vector_collections']: Milvus at 127.0.0.1:1 refuses to work: disk full",
        "Serving the UI",
    ]


def test_a_failed_sensor_is_one_line_without_colours_and_not_twice() -> None:
    assert condensed(FAILED_SENSOR) == [
        "2026-11-25 13:02:56 +0000 - dagster.daemon.SensorDaemon - ERROR - Sensor daemon caught an error for sensor "
        "sync_docs: ValueError: no",
        "WARNING:root:Retrying failed database connection: FATAL:  the database system is starting up",
    ]


def test_a_checkouts_own_configuration_is_not_warned_of() -> None:
    text = (
        "2026-11-25 13:02:20 +0000 - dagster - WARNING - Found a dagster instance configuration value (dagster.yaml) in "
        "the current folder, but your DAGSTER_HOME environment variable is set to /home/.rag/dagster. The dagster.yaml "
        "file will not be used to configure Dagster unless it is placed in the same folder as DAGSTER_HOME."
    )
    assert condensed(text) == []


def test_what_says_nothing_to_anybody_is_left_to_the_file() -> None:
    at = "2026-11-25 13:02:20 +0000 - dagster"
    text = (
        f'{at} - INFO - index_month - 093306c6 - 2024-10 - Emitting implicit Nothing for output "result" on op "expire"\n'
        "closing returned connection: <psycopg.Connection [ACTIVE] at 0x7f>\n"
        "WARNING:psycopg.pool:discarding closed connection: <psycopg.Connection [BAD] at 0x7f>\n"
        f"{at}.daemon.SensorDaemon - ERROR - Sensor daemon caught an error for sensor sync_odd\n"
        "dagster._core.errors.DagsterInvariantViolationError: Could not find sensor 'sync_odd'. Found: ['alerts'].\n"
        "Serving the UI"
    )
    assert condensed(text) == ["Serving the UI"]


def test_what_is_no_event_passes() -> None:
    text = "Usage: dagster dev\nTypeError: no event before it\nbatch of 7 chunks of 2024-10: refused"
    assert condensed(text) == text.splitlines()


def test_of_a_chain_the_root_cause_is_shown() -> None:
    text = """\
2026-11-25 13:02:56 +0000 - dagster - ERROR - Sensor daemon caught an error for sensor sync_docs
Traceback (most recent call last):
  File "client.py", line 1, in call
grpc._channel._InactiveRpcError: <_InactiveRpcError of RPC that terminated with:
\tstatus = StatusCode.UNAVAILABLE
>

The above exception was the direct cause of the following exception:

Traceback (most recent call last):
  File "sensor.py", line 1, in tick
SensorExecutionError: Error occurred
Ready
"""
    assert condensed(text) == [
        "2026-11-25 13:02:56 +0000 - dagster - ERROR - Sensor daemon caught an error for sensor sync_docs: "
        "grpc._channel._InactiveRpcError: <_InactiveRpcError of RPC that terminated with:",
        "Ready",
    ]


def wait_for(shown: list[str], count: int) -> None:
    deadline = time.monotonic() + 60
    while len(shown) < count:
        assert time.monotonic() < deadline, shown
        time.sleep(0.01)


def test_lines_are_shown_while_they_come_and_the_file_keeps_everything(tmp_path: Path) -> None:
    path = tmp_path / "dagster.log"
    path.write_text("of the last time\n", "utf-8")
    shown: list[str] = []
    with DagsterOutput(path, shown.append) as file:
        file.write("起動\n2026-01-01 00:00:00 +0000 - dag".encode())
        wait_for(shown, 1)
        file.write(b"ster - INFO - begun\n")
        wait_for(shown, 2)  # without the beginning of another event
        file.write(FAILED_RUN.encode() + b"the last word")
    assert shown[:2] == ["起動", "2026-01-01 00:00:00 +0000 - dagster - INFO - begun"]
    assert shown[2:] == [*condensed(FAILED_RUN), "the last word"]
    assert path.read_text("utf-8").endswith(FAILED_RUN + "the last word")
    assert "of the last time" not in path.read_text("utf-8")
    assert (tmp_path / "dagster.log.1").read_text("utf-8") == "of the last time\n"


def test_a_new_file_is_private_and_does_not_grow_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dagster_output, "_MOST_BYTES", 100)
    path = tmp_path / "dagster.log"
    shown: list[str] = []
    with DagsterOutput(path, shown.append) as file:
        for number in range(20):
            file.write(b"line %d of many\n" % number)
            wait_for(shown, number + 1)
    assert shown == [f"line {number} of many" for number in range(20)]
    older = tmp_path / "dagster.log.1"
    for file_ in (path, older):
        assert file_.stat().st_size < 120
        assert file_.stat().st_mode & 0o777 == 0o600
    assert older.read_text().startswith("line ")


def test_a_file_that_somebody_empties_is_read_on(tmp_path: Path) -> None:
    path = tmp_path / "dagster.log"
    shown: list[str] = []
    with DagsterOutput(path, shown.append) as file:
        file.write(b"a long line before\n")
        wait_for(shown, 1)
        os.truncate(path, 0)
        file.write(b"after\n")
        wait_for(shown, 2)
    assert shown == ["a long line before", "after"]
