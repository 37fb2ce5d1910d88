from __future__ import annotations

from pathlib import Path

import pytest

from rag_pipeline.errors import ConfigError
from rag_pipeline.search.judged_queries import read_queries


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "line 1: not JSON"),
        ("[]", 'needs "query"'),
        ('{"query": "x"}', 'needs "query"'),
        ('{"query": "x", "relevant": []}', 'needs "query"'),
        ('{"query": " ", "relevant": ["a"]}', 'needs "query"'),
        ('{"query": "x", "relevant": {"a": 0}}', 'needs "query"'),
        ('{"query": "x", "relevant": {"a": "b"}}', 'needs "query"'),
        ("", "no queries"),
    ],
)
def test_what_is_wrong_in_a_file_is_said_with_its_line(tmp_path: Path, line, said):
    (tmp_path / "q").write_text(line + "\n", "utf-8")
    with pytest.raises(ConfigError, match=said) as raised:
        read_queries(tmp_path / "q")
    assert "\n" not in str(raised.value)


def test_topics_and_qrels_of_trec_are_read(tmp_path: Path):
    (tmp_path / "topics").write_text("1\t味噌汁の作り方\n2\tnobody judged this\n", "utf-8")
    (tmp_path / "qrels").write_text("1 0 docs:recipe.md 2\n1 0 docs:other.md 0\n2 0 docs:x.md 0\n", "utf-8")
    (query,) = read_queries(tmp_path / "topics", tmp_path / "qrels")
    assert (query.id, query.text, query.relevant["docs:recipe.md"], query.group) == (
        "1",
        "味噌汁の作り方",
        2,
        "ja",
    )
    (tmp_path / "qrels").write_text("1 docs:recipe.md 2\n", "utf-8")
    with pytest.raises(ConfigError, match="line 1: write `query 0 document gain`"):
        read_queries(tmp_path / "topics", tmp_path / "qrels")
