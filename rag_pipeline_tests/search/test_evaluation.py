from __future__ import annotations

import json
import math
import os
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from rag_pipeline.cli import evaluate_command
from rag_pipeline.errors import ConfigError
from rag_pipeline.search import evaluation
from rag_pipeline.search.judged_queries import JudgedQuery, read_queries
from rag_pipeline_tests.support.command_line import CommandLine, one_line
from rag_pipeline_tests.support.search_index import SearchIndex
from rag_pipeline_tests.support.stores import Stores


def write(folder: Path, *queries: object) -> Path:
    path = folder / "queries.jsonl"
    path.write_text("".join(json.dumps(query, ensure_ascii=False) + "\n" for query in queries), "utf-8")
    return path


def test_measures_are_those_of_the_ranking(shared: SearchIndex, tmp_path: Path):
    queries = read_queries(
        write(
            tmp_path,
            {"id": "soup", "query": "豆腐とわかめの味噌汁", "relevant": ["docs:recipe.md"]},
            {"id": "gone", "query": "豆腐とわかめの味噌汁", "relevant": ["docs:nowhere.md"]},
            {"id": "both", "query": "豆腐とわかめの味噌汁", "relevant": {"docs:recipe.md": 1, "docs:x.md": 1}},
            {"id": "train", "query": "the night train to Sapporo", "relevant": ["docs:travel.md"]},
        )
    )
    found = evaluation.evaluate(shared.pipeline, queries, ["fulltext", "hybrid"])
    for mode in ("fulltext", "hybrid"):
        assert found[mode]["soup"] == {"ndcg10": 1.0, "recall10": 1.0, "mrr": 1.0}
        assert found[mode]["gone"] == {"ndcg10": 0.0, "recall10": 0.0, "mrr": 0.0}
        assert found[mode]["both"]["ndcg10"] == pytest.approx(1 / (1 + 1 / math.log2(3)))
        assert found[mode]["both"]["recall10"] == 0.5
    summed = evaluation.summaries(found, queries)
    assert set(summed["hybrid"]) == {"ja", "en", "all"}
    assert summed["hybrid"]["all"]["recall10"].mean == pytest.approx(2.5 / 4)
    assert shared.execute("SELECT count(*) FROM document_chunks WHERE search_count > 0") == [(0,)]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=40), st.floats(-0.5, 0.5))
def test_intervals_hold_the_mean_and_differences_are_paired(values, shift):
    before = {"dense": {str(n): dict.fromkeys(evaluation.MEASURES, value) for n, value in enumerate(values)}}
    after = {"dense": {n: {m: v + shift for m, v in one.items()} for n, one in before["dense"].items()}}
    queries = [JudgedQuery(str(n), "q", {"a": 1}, "ja") for n in range(len(values))]
    summary = evaluation.summaries(before, queries)["dense"]["all"]["mrr"]
    assert summary.low - 1e-9 <= summary.mean <= summary.high + 1e-9
    difference = evaluation.differences(after, before)["dense"]["mrr"]
    assert difference.mean == pytest.approx(shift, abs=1e-9)
    assert 0 < difference.p <= 1
    if abs(shift) < 1e-9 or len(values) < 4:
        assert difference.p > 0.05
    if abs(shift) > 0.01 and len(values) > 15:
        assert difference.p < 0.01


def test_the_command_prints_measures_and_compares(tmp_path: Path, prepared_stores: Stores):
    cli = CommandLine(tmp_path, prepared_stores)
    cli.write("soup.md", "# 味噌汁\n\n豆腐とわかめを入れる。")
    cli.write("train.md", "# Travel\n\nThe night train to Sapporo leaves Ueno at seven.", language="en")
    cli.json("ingest")
    queries = write(
        tmp_path,
        {"query": "豆腐とわかめ", "relevant": ["docs:soup.md"]},
        {"query": "the night train leaves at seven", "relevant": ["docs:train.md"]},
    )
    found = cli.json("evaluate", str(queries), "--save", str(tmp_path / "kept"))
    assert set(found) == {"hybrid", "dense", "sparse", "fulltext"}
    assert found["fulltext"]["all"] == {
        "ndcg10": 1.0,
        "recall10": 1.0,
        "mrr": 1.0,
        "intervals": {"ndcg10": [1.0, 1.0], "recall10": [1.0, 1.0], "mrr": [1.0, 1.0]},
    }
    again = cli.json("evaluate", str(queries), "--mode", "fulltext", "--against", str(tmp_path / "kept"))
    assert set(again) == {"fulltext", "differences"}
    assert again["differences"] == {"fulltext": {name: {"mean": 0.0, "p": 1.0} for name in evaluation.MEASURES}}
    assert "fulltext  all      ndcg10 1.000" in cli.run("evaluate", str(queries)).stdout
    wrong = cli.run("evaluate", str(queries), "--against", str(queries))
    assert (wrong.returncode, "was not written by" in one_line(wrong.stderr)) == (1, True)


def test_the_command_asks_what_is_judged_of_the_index(tmp_path: Path, prepared_stores: Stores):
    cli = CommandLine(tmp_path, prepared_stores)
    cli.write("soup.md", "# 味噌汁\n\n豆腐とわかめを入れる。")
    cli.json("ingest")
    nothing = cli.run("evaluate")
    assert (nothing.returncode, "no judged queries: set RAG_QUERIES" in one_line(nothing.stderr)) == (1, True)
    cli.environment["RAG_QUERIES"] = str(
        write(
            tmp_path,
            {"query": "豆腐とわかめ", "relevant": ["docs:soup.md"]},
            {"query": "豆腐とわかめ", "relevant": ["docs:gone.md"]},
            {"query": "a train", "relevant": ["docs:gone.md"]},
        )
    )
    done = cli.run("evaluate", "--mode", "fulltext")
    assert "fulltext  all      ndcg10 1.000" in done.stdout
    assert "are not in the index: 1\n" in done.stderr
    cli.environment["RAG_QUERIES"] = str(write(tmp_path, {"query": "a train", "relevant": ["docs:gone.md"]}))
    assert "no judged query can be answered" in cli.run("evaluate").stderr
    assert "--qrels needs QUERIES" in cli.run("evaluate", "--qrels", str(tmp_path / "queries.jsonl")).stderr


@pytest.mark.parametrize(
    ("file", "said"),
    [("nowhere/kept", "there is no folder .*/nowhere: make it first"), ("read-only", "cannot be")],
)
def test_where_nothing_can_be_kept_nothing_is_asked(tmp_path: Path, monkeypatch, file, said):
    (tmp_path / "queries").write_text('{"query": "a", "relevant": ["docs:a.md"]}\n', "utf-8")
    (tmp_path / "read-only").touch()
    monkeypatch.setattr(evaluate_command, "open_pipeline", lambda progress: pytest.fail("it was asked"))
    access = os.access  # Whoever runs this may be root, who may write everything.
    monkeypatch.setattr(
        os, "access", lambda path, mode: access(path, mode) and (mode != os.W_OK or "read-only" not in str(path))
    )
    arguments = [str(tmp_path / "queries"), "--save", str(tmp_path / file)]
    with pytest.raises(ConfigError, match=said) as raised:
        CliRunner().invoke(evaluate_command.evaluate, arguments, catch_exceptions=False)
    assert "\n" not in str(raised.value)
