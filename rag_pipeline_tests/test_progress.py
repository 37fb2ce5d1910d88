"""Progress in a log: how far a step has come now and then, and once what it is waiting for."""

from __future__ import annotations

import io
from itertools import count
from types import SimpleNamespace

import pytest

from rag_pipeline import progress as progress_module
from rag_pipeline.defs.resources import _progress
from rag_pipeline.progress import ProgressLine, ProgressLog

WAITING = "2025-02: waiting for another run"


def test_what_a_step_waits_for_is_printed_once_and_has_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = count(step=60)
    monkeypatch.setattr(progress_module.time, "monotonic", lambda: float(next(clock)))
    printed = io.StringIO()
    with ProgressLine(printed) as progress:
        for _ in range(3):
            progress(WAITING)
        progress("2025-02 chunks", 1000, 2000)
        progress("2025-02 chunks", 2000)
    assert printed.getvalue().splitlines() == [WAITING, "2025-02 chunks: 1,000 of 2,000", "2025-02 chunks: 2,000"]


def test_the_log_of_a_run_says_it_once() -> None:
    said: list[str] = []
    context = SimpleNamespace(run=object(), log=SimpleNamespace(info=said.append))
    progress = _progress(context)  # type: ignore[arg-type]
    for _ in range(2):
        progress(WAITING)
    progress("chunks", 7)
    assert said == [WAITING, "chunks: 7"]


def test_the_log_of_a_run_has_a_line_every_ten_seconds_and_the_last_of_each_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 0.0
    monkeypatch.setattr(progress_module.time, "monotonic", lambda: now)
    said: list[str] = []
    progress = ProgressLog(said.append)
    for second in range(25):  # four reports a second
        for quarter in range(4):
            now = second + quarter / 4
            progress("documents", 4 * second + quarter + 1, 100)
    for done in (64, 128):
        progress("deletions", done)  # nobody knows how many there are
    progress("chunks embedded", 1, 3)
    now += 60
    progress("chunks embedded", 2, 3)
    progress("chunks embedded", 3, 3)
    assert said == [
        *("documents: 1 of 100", "documents: 41 of 100", "documents: 81 of 100", "documents: 100 of 100"),
        *("deletions: 128", "chunks embedded: 2 of 3", "chunks embedded: 3 of 3"),
    ]
