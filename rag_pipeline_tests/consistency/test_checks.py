"""The table of checks: who asks what, without any store."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from rag_pipeline.consistency.checker import Consistency
from rag_pipeline.consistency.checks import CHECKS, Check, check_index, check_month, checks_by_asset
from rag_pipeline.consistency.findings import Finding
from rag_pipeline.months import Month
from rag_pipeline.pipeline import Pipeline
from rag_pipeline.settings import VectorKind

MARCH = Month(2024, 3)


def pipeline(*built: VectorKind) -> Pipeline:
    return cast(Pipeline, SimpleNamespace(vectors=built, one_generation=nullcontext))


def finding(check: str, where: str, month: Month | None = None, **options: Any) -> Finding:
    return Finding(check, where, month, "things", 1, [], "do something", **options)


class Questions:
    """Two checks that share a question, and one of the whole index, in place of the table."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, list[str]]] = []

    def shared(self, _: Pipeline, month: Month, assets: Sequence[str]) -> list[Finding]:
        self.asked.append(("shared", list(assets)))
        return [finding(check, asset, month) for asset in assets for check in ("one", "two")]

    def structure(self, _: Pipeline, month: Month, assets: Sequence[str]) -> list[Finding]:
        self.asked.append(("structure", list(assets)))
        return []

    def whole(self, _: Pipeline, assets: Sequence[str]) -> list[Finding]:
        self.asked.append(("whole", list(assets)))
        return [finding("structure", asset) for asset in assets]


@pytest.fixture
def questions(monkeypatch: pytest.MonkeyPatch) -> Questions:
    questions = Questions()
    for name in list(CHECKS):
        monkeypatch.delitem(CHECKS, name)
    for check in (
        Check("one", "", ("dense_collection", "sparse_collection"), of_month=questions.shared),
        Check("two", "", ("documents", "dense_collection"), of_month=questions.shared),
        Check(
            "structure",
            "",
            ("documents", "multi_collection"),
            of_month=questions.structure,
            of_index=questions.whole,
            severity="warning",
            is_asked_first=True,
        ),
    ):
        monkeypatch.setitem(CHECKS, check.name, check)
    return questions


def test_checks_with_one_question_ask_it_once(questions: Questions) -> None:
    found = check_month(pipeline("dense", "sparse"), MARCH)
    assert questions.asked == [
        ("structure", ["documents"]),
        ("shared", ["documents", "dense_collection", "sparse_collection"]),
    ]
    assert {f.check for f in found} == {"one", "two"}


def test_only_the_chosen_checks_and_assets_are_asked(questions: Questions) -> None:
    found = check_month(pipeline("dense", "sparse"), MARCH, names=["one"], assets=["dense_collection"])
    assert questions.asked == [("shared", ["dense_collection"])]
    assert [(f.check, f.where) for f in found] == [("one", "dense_collection")]
    assert check_month(pipeline("sparse"), MARCH, names=["one"], assets=["documents"]) == []
    assert len(questions.asked) == 1


def test_only_checks_with_a_question_of_the_whole_index_are_asked_about_it(questions: Questions) -> None:
    assert [f.where for f in check_index(pipeline("multi"))] == ["documents", "multi_collection"]
    assert questions.asked == [("whole", ["documents", "multi_collection"])]


def test_a_new_entry_is_a_list_in_the_result_and_a_check_of_its_assets(questions: Questions) -> None:
    assert [check.name for check in checks_by_asset(["dense"])["dense_collection"]] == ["one", "two"]
    found = Consistency()
    assert list(found.as_json()) == ["consistent", "one", "two", "structure"]
    found.add([finding("structure", "documents")])
    assert found.consistent, "a warning"
    found.add([finding("two", "documents", MARCH, caused_by="structure")])
    assert found.consistent, "reported by another check"
    found.add([finding("two", "documents", MARCH)])
    assert not found.consistent
    assert [f.check for f in found.findings] == ["two", "structure"]
    assert found.two == found.of("two") == [finding("two", "documents", MARCH)]
    assert not hasattr(found, "three")


def test_a_costly_question_of_the_whole_index_can_be_left_out(
    questions: Questions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(CHECKS, "structure", replace(CHECKS["structure"], of_index_is_costly=True))
    assert check_index(pipeline("multi"), costly=False) == []
    assert questions.asked == []
    assert len(check_index(pipeline("multi"))) == 2
