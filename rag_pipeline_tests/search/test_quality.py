"""The reference: what searches reached, kept until they are better or somebody accepts that they are worse."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag_pipeline.embedding.factory import load_embedder
from rag_pipeline.endpoints import Endpoints
from rag_pipeline.pipeline import Pipeline
from rag_pipeline.search.evaluation import MEASURES, PerQuery
from rag_pipeline.search.quality import Comparison, Quality, compare, evaluate_quality, is_due
from rag_pipeline.stores.postgres.database import Database
from rag_pipeline_tests.support.judged import ANSWERS, NAMES, DamagedEmbedder, write_answers, write_queries
from rag_pipeline_tests.support.search_index import SearchIndex, new_index

VECTOR_MODES = ["hybrid", "dense", "sparse"]


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory, server_endpoints: Endpoints) -> Iterator[SearchIndex]:
    """An index of documents that answer a query each."""
    with new_index(tmp_path_factory.mktemp("answers"), server_endpoints) as index:
        index.pipeline.prepare()
        write_answers(index)
        index.ingest()
        yield index


@pytest.fixture
def database(answers: SearchIndex) -> Database:
    """Its database, without a reference."""
    answers.execute("TRUNCATE evaluation_reference")
    return answers.pipeline.stores.database


class Evaluations:
    """Evaluations of one index with the queries of one file."""

    def __init__(self, index: SearchIndex, path: Path) -> None:
        self.index = index
        self.path = write_queries(path)

    def evaluate(self, *damaged: str, accept: bool = False) -> Quality:
        """Evaluate with an embedder that does not understand some of the queries."""
        settings = self.index.settings(queries=self.path, chunk_tokens=200)
        embedder: Any = DamagedEmbedder(load_embedder(settings), damaged)
        with Pipeline(settings, self.index.endpoints, embedder=embedder) as pipeline:
            return evaluate_quality(pipeline, accept=accept)

    def values(self) -> list[float]:
        return [value for _, value, _ in self.reference()]

    def reference(self, mode: str = "dense") -> list[tuple]:
        return self.index.execute(
            "SELECT query_key, ndcg10, evaluated_at FROM evaluation_reference WHERE mode = %s ORDER BY 1", mode
        )


@pytest.fixture
def evaluations(answers: SearchIndex, database: Database, tmp_path: Path) -> Evaluations:
    return Evaluations(answers, tmp_path / "queries.jsonl")


def test_what_did_not_change_has_no_difference(evaluations: Evaluations) -> None:
    first = evaluations.evaluate()
    assert (first.comparison.differences, first.failing) == ({}, [])
    made = evaluations.reference()
    assert {str(key): value for key, value, _ in made} == {
        identity: round(one["ndcg10"], 6) for identity, one in first.found["dense"].items()
    }
    second = evaluations.evaluate()
    assert list(second.comparison.differences) == ["dense", "fulltext", "hybrid", "sparse"]
    for measures in second.comparison.differences.values():
        assert {(of.mean, of.p, of.queries) for of in measures.values()} == {(0.0, 1.0, len(NAMES))}
    assert (second.losses(), second.failing, evaluations.reference()) == ([], [], made)


def test_a_drop_fails_until_it_is_undone_or_accepted_and_a_recovery_is_kept(evaluations: Evaluations) -> None:
    evaluations.evaluate()
    reached = evaluations.values()
    for _ in range(2):
        worse = evaluations.evaluate(*NAMES)
        assert worse.failing == VECTOR_MODES, "the text search has no embedder"
        assert worse.comparison.differences["dense"]["ndcg10"].mean < -0.3
    lost = worse.losses()
    assert {one.query.text for one in lost} == {query for query, _ in ANSWERS.values()}
    assert [loss.size for loss in lost] == sorted((loss.size for loss in lost), reverse=True)
    assert list(lost[0].values) == [*VECTOR_MODES, "fulltext"]
    assert lost[0].values["fulltext"] == (1.0, 1.0)
    assert evaluations.evaluate().failing == []
    accepted = evaluations.evaluate(*NAMES, accept=True)
    assert (accepted.failing, accepted.comparison.worse) == ([], VECTOR_MODES)
    assert evaluations.evaluate(*NAMES).failing == []
    # What gets better again becomes the reference by itself, so that the same loss is found once more.
    better = evaluations.evaluate()
    assert better.comparison.better == VECTOR_MODES
    assert evaluations.values() == reached
    assert evaluations.evaluate(*NAMES).failing == VECTOR_MODES


def test_small_losses_add_up_until_they_are_found(evaluations: Evaluations) -> None:
    evaluations.evaluate()
    found = [evaluations.evaluate(*NAMES[:lost]).failing for lost in range(1, len(NAMES) + 1)]
    significant = ["dense" in failing for failing in found]
    assert not any(significant[:5]), "five queries of eight that lose, and none that gains, can be chance"
    assert all(significant[5:])


def test_queries_join_and_leave_without_disturbing_the_others(evaluations: Evaluations) -> None:
    write_queries(evaluations.path, NAMES[:6])
    evaluations.evaluate()
    made = evaluations.reference()
    write_queries(evaluations.path)
    joined = evaluations.evaluate(*NAMES[6:])
    assert joined.comparison.differences["dense"]["ndcg10"].queries == 6
    assert joined.comparison.differences["dense"]["ndcg10"].mean == 0.0
    assert set(made) < set(evaluations.reference())
    # Another answer is another query, which joins anew.
    write_queries(
        evaluations.path, tea={"query": ANSWERS["tea"][0], "relevant": ["docs:tea.md", "docs:coffee.md"]}
    )
    changed = evaluations.evaluate(*NAMES[6:])
    assert changed.comparison.differences["dense"]["ndcg10"].queries == len(NAMES) - 1
    assert len(evaluations.reference()) == len(NAMES)
    write_queries(evaluations.path, NAMES[:6])
    evaluations.evaluate()
    assert len(evaluations.reference()) == 6
    assert len(set(evaluations.reference()) & set(made)) == 5, "all but the one that was judged anew"


def test_without_queries_the_reference_is_forgotten(answers: SearchIndex, evaluations: Evaluations) -> None:
    assert not is_due(answers.pipeline)
    evaluations.evaluate()
    assert is_due(answers.pipeline)
    none = evaluate_quality(answers.pipeline)
    assert (none.judged.queries, none.found, none.failing, none.losses()) == ([], {}, [], [])
    assert evaluations.reference() == []
    assert not is_due(answers.pipeline)


def test_deleted_documents_are_no_drop(tmp_path: Path, server_endpoints: Endpoints) -> None:
    with new_index(tmp_path, server_endpoints) as index:
        index.pipeline.prepare()
        write_answers(index)
        index.ingest()
        evaluations = Evaluations(index, tmp_path / "queries.jsonl")
        evaluations.evaluate()
        made = evaluations.reference()
        for name in NAMES[:5]:
            index.delete(f"{name}.md")
        index.ingest()
        after = evaluations.evaluate()
        assert (after.judged.unanswerable, len(after.judged.queries), after.failing) == (5, 3, [])
        assert evaluations.reference() == made, "they may come back"
        # They come back, each with the text of another one.
        write_answers(index, exchanged=NAMES)
        index.ingest()
        worse = evaluations.evaluate()
        assert (worse.judged.unanswerable, set(worse.failing)) == (0, {*VECTOR_MODES, "fulltext"})


def test_a_mode_whose_vectors_are_built_later_joins(evaluations: Evaluations, answers: SearchIndex) -> None:
    def modes(*vectors: str) -> Sequence[str]:
        with answers.opened(queries=evaluations.path, vectors=vectors) as pipeline:
            return list(evaluate_quality(pipeline).comparison.differences)

    assert modes("dense") == []
    assert modes("dense", "sparse") == ["dense", "fulltext", "hybrid"]
    assert modes("dense") == ["dense", "fulltext", "hybrid"]
    assert "sparse" in modes("dense", "sparse")


VALUES = st.lists(st.floats(0, 1), min_size=9, max_size=9)


@given(st.lists(st.tuples(VALUES, st.booleans()), min_size=1, max_size=5))
def test_the_reference_is_the_best_that_was_reached_or_what_was_accepted(answers: SearchIndex, rounds) -> None:
    """The same rules in a few lines of Python; and evaluating twice says the same, unless the first became the reference."""
    database = answers.pipeline.stores.database
    answers.execute("TRUNCATE evaluation_reference")
    keys = [UUID(int=n) for n in range(9)]

    def evaluated(values: Sequence[float]) -> PerQuery:
        return {"dense": {str(key): dict.fromkeys(MEASURES, v) for key, v in zip(keys, values, strict=True)}}

    def kept() -> list[float]:
        return [v for (v,) in answers.execute("SELECT ndcg10 FROM evaluation_reference ORDER BY query_key")]

    reference: list[float] | None = None
    for values, accept in rounds:
        now = [round(value, 6) for value in values]
        found: Comparison = compare(database, evaluated(values), keys, accept=accept)
        if reference is not None:
            assert list(found.before["dense"].values()) == [dict.fromkeys(MEASURES, v) for v in reference]
            mean = float(np.mean(np.array(now) - np.array(reference)))
            assert found.differences["dense"]["ndcg10"].mean == pytest.approx(mean)
            assert not (found.better and mean < 0.0099)
            assert not (found.worse and mean > -0.0099)
        if reference is None or accept or found.better:
            reference = now
        assert kept() == reference
        again = compare(database, evaluated(values), keys)
        assert again.worse == ([] if reference == now else found.worse)
        assert again.better == []
        assert kept() == reference
