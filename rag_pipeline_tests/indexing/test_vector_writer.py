"""Saga: compensations in reverse, all of them, and the first error raised."""

import logging

import pytest

from rag_pipeline.errors import LockLostError
from rag_pipeline.indexing.vector_writer import Saga


def test_nothing_is_compensated_on_success() -> None:
    done: list[str] = []
    with Saga("batch") as saga:
        saga.on_failure("undo", lambda: done.append("undo"))
    assert done == []


def test_compensations_run_in_reverse_and_the_error_is_raised() -> None:
    done: list[str] = []
    with pytest.raises(ValueError, match="first"), Saga("batch") as saga:
        for step in ("one", "two", "three"):
            saga.on_failure(f"undo {step}", lambda step=step: done.append(step))
        raise ValueError("first")
    assert done == ["three", "two", "one"]


def test_a_compensation_that_fails_is_logged_and_the_rest_run(caplog: pytest.LogCaptureFixture) -> None:
    done: list[str] = []

    def fails() -> None:
        raise OSError("the disk is on fire")

    with caplog.at_level(logging.WARNING), pytest.raises(ValueError, match="first"), Saga("batch 7") as saga:
        saga.on_failure("undo one", lambda: done.append("one"))
        saga.on_failure("undo two", fails)
        saga.on_failure("undo three", lambda: done.append("three"))
        raise ValueError("first")
    assert done == ["three", "one"]
    assert "batch 7: could not undo two: the disk is on fire" in caplog.text


def test_a_run_that_lost_its_month_compensates_nothing() -> None:
    done: list[str] = []
    with pytest.raises(LockLostError), Saga("batch") as saga:
        saga.on_failure("undo", lambda: done.append("undo"))
        raise LockLostError("month 2024-01")
    assert done == []


def test_an_interrupt_is_compensated_too() -> None:
    done: list[str] = []
    with pytest.raises(KeyboardInterrupt), Saga("batch") as saga:
        saga.on_failure("undo", lambda: done.append("undo"))
        raise KeyboardInterrupt
    assert done == ["undo"]
