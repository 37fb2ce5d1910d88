"""Calls that share a call. How queries share one of an embedder: `embedding/test_query_batches.py`."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from rag_pipeline.batching import Batches


def test_many_threads_get_the_answers_to_their_own_questions():
    batches: Batches[int, int] = Batches("numbers")
    calls: list[int] = []

    def alone(number: int) -> int:
        calls.append(1)
        if number % 17 == 3:
            raise ValueError(number)
        return number * 2

    def together(numbers: Sequence[int]) -> list[int]:
        calls.append(len(numbers))
        if any(number % 17 == 3 for number in numbers):
            raise RuntimeError("one of them is wrong")
        return [number * 2 for number in numbers]

    def ask(number: int) -> int:
        try:
            return batches.ask(number % 3, number, alone, together)
        except ValueError as error:
            return -1 if error.args == (number,) else -2

    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(ask, range(2000)))
    assert found == [-1 if number % 17 == 3 else number * 2 for number in range(2000)]
    assert not batches._waiting
    assert not batches._is_busy


def test_an_answer_can_be_empty_and_a_wrong_number_of_answers_is_none():
    batches: Batches[str, list[int]] = Batches("texts")
    entered, go_on = threading.Event(), threading.Event()
    asked_alone: list[str] = []

    def alone(text: str) -> list[int]:
        asked_alone.append(text)
        if text == "first":
            entered.set()
            assert go_on.wait(30)
        return []

    def together(texts: Sequence[str]) -> list[list[int]]:
        return [[]] * (len(texts) - ("odd" in texts))

    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(batches.ask, 0, "first", alone, together)
        assert entered.wait(30)
        others = [pool.submit(batches.ask, 0, text, alone, together) for text in ("odd", "even")]
        pause = threading.Event()
        while len(batches._waiting) < 2:
            pause.wait(0.001)
        go_on.set()
        assert [one.result(30) for one in (first, *others)] == [[], [], []]
    assert sorted(asked_alone) == ["even", "first", "odd"]


def test_what_ends_the_program_ends_it_and_leaves_nobody_waiting():
    batches: Batches[int, int] = Batches("numbers")

    def alone(number: int) -> int:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        batches.ask(0, 1, alone, lambda numbers: numbers)
    assert batches.ask(0, 2, lambda number: number, lambda numbers: numbers) == 2
