from __future__ import annotations

from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag_pipeline.errors import ConfigError
from rag_pipeline.search.judged_queries import (
    JudgedQuery,
    anything_judged,
    judged_of_index,
    key_of,
    read_queries,
)
from rag_pipeline.stores.postgres import users
from rag_pipeline_tests.support.search_index import SearchIndex


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "line 1: not JSON"),
        ("[]", 'needs "query"'),
        ('{"query": "x"}', 'needs "query"'),
        ('{"query": "x", "relevant": []}', 'needs "query"'),
        ('{"query": "x", "relevant": [["a"]]}', 'needs "query"'),
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
    (tmp_path / "qrels").write_text("1 0  docs:my  recipe.md\t1 \n1\t0\tdocs:b.md\t-1\n", "utf-8")
    (query,) = read_queries(tmp_path / "topics", tmp_path / "qrels")
    assert query.relevant == {"docs:my  recipe.md": 1, "docs:b.md": 0}
    for wrong in (
        "1 docs:recipe.md 2",
        "1 0 docs:recipe.md --5",
        "1 0 docs:recipe.md ²",
        "1 0 2",
        "1 0",
        f"1 0 a {'9' * 5000}",
    ):
        (tmp_path / "qrels").write_text(f"{wrong}\n", "utf-8")
        with pytest.raises(ConfigError, match="line 1: write `query 0 document gain`"):
            read_queries(tmp_path / "topics", tmp_path / "qrels")


def test_topics_as_trec_publishes_them_are_read(tmp_path: Path):
    (tmp_path / "topics").write_text(
        "\n<top>\n\n<num> Number: 301 \n<title> International Organized Crime &amp; a < b, R&D <sic>\n\n<desc> Description: \nIdentify "
        "organizations that\n\n<narr> Narrative: \nA relevant document\n\n</top>\n\n"
        "<top>\n<head> Tipster\n<num> Number:  051\n<dom> Domain: x\n<title> Topic:  Airbus\n  Subsidies\n<desc>\n</top>\n"
        "<top><num>303</num><title>nobody judged this</title></top>\n",
        "utf-8",
    )
    (tmp_path / "qrels").write_text("301 0 docs:a.md 1\n51 0 docs:b.md 1\n303 0 docs:b.md 0\n", "utf-8")
    found = read_queries(tmp_path / "topics", tmp_path / "qrels")
    assert [(query.id, query.text, dict(query.relevant), query.group) for query in found] == [
        ("301", "International Organized Crime & a < b, R&D <sic>", {"docs:a.md": 1}, "en"),
        ("051", "Airbus Subsidies", {"docs:b.md": 1}, "en"),
    ]
    (tmp_path / "qrels").write_text("303 0 docs:b.md 0\n", "utf-8")
    with pytest.raises(ConfigError, match="for none of its topics"):
        read_queries(tmp_path / "topics", tmp_path / "qrels")
    for second in ("<num> 2\n", "<num> 2\n<title> \n<desc> x\n", "<num> 2<title></title>"):
        (tmp_path / "topics").write_text(f"<top>\n<num> 1\n<title> x\n</top>\n<top>\n{second}</top>\n", "utf-8")
        with pytest.raises(ConfigError, match="line 5: a <top> needs a <num> and a <title>"):
            read_queries(tmp_path / "topics", tmp_path / "qrels")


def user(index: SearchIndex, name: str) -> UUID:
    with index.pipeline.stores.database.connection() as connection:
        users.insert(connection, email=f"{name}@example.com", password_hash="-", role="viewer", permissions=[])
        found = users.by_email(connection, f"{name}@example.com")
    assert found is not None
    return found.id


def judge(index: SearchIndex, user: UUID, query: str, document: str, *, helpful: bool) -> None:
    index.execute(
        "INSERT INTO search_judgements (query, source_id, user_id, is_helpful) VALUES (%s, %s, %s, %s)",
        query,
        document,
        user,
        helpful,
    )


def test_what_people_judge_is_decided_by_the_majority(index: SearchIndex):
    assert not anything_judged(index.pipeline)
    hanako, taro, jiro = (user(index, name) for name in ("hanako", "taro", "jiro"))
    for who, helpful in ((hanako, True), (taro, True), (jiro, False)):
        judge(index, who, "味噌汁の作り方", "docs:recipe.md", helpful=helpful)
    judge(index, hanako, "味噌汁の作り方", "docs:backup.md", helpful=True)
    judge(index, taro, "味噌汁の作り方", "docs:backup.md", helpful=False)
    judge(index, jiro, "味噌汁の作り方", "docs:travel.md", helpful=False)
    judge(index, jiro, "nobody answers this", "docs:travel.md", helpful=False)
    found = judged_of_index(index.pipeline)
    [query] = found.queries
    assert (query.text, query.group, found.unanswerable) == ("味噌汁の作り方", "ja", 0)
    assert query.relevant == {"docs:recipe.md": 1, "docs:backup.md": 0, "docs:travel.md": 0}
    assert anything_judged(index.pipeline)


def test_file_and_people_are_one_query_and_the_file_is_right(index: SearchIndex, tmp_path: Path):
    hanako = user(index, "hanako")
    judge(index, hanako, "味噌汁の作り方", "docs:recipe.md", helpful=False)
    judge(index, hanako, "味噌汁の作り方", "docs:backup.md", helpful=True)
    judge(index, hanako, "to Sapporo", "docs:travel.md", helpful=True)
    path = tmp_path / "queries"
    path.write_text(
        '{"query": " 味噌汁の作り方 ", "relevant": {"docs:recipe.md": 2}, "group": "soup", "id": "x"}\n', "utf-8"
    )
    with index.opened(queries=path) as pipeline:
        found = judged_of_index(pipeline)
    assert {query.text: (query.group, dict(query.relevant)) for query in found.queries} == {
        "味噌汁の作り方": ("soup", {"docs:recipe.md": 2, "docs:backup.md": 1}),
        "to Sapporo": ("en", {"docs:travel.md": 1}),
    }
    assert {query.id for query in found.queries} == {str(key) for key in found.keys}


def test_documents_that_are_not_in_the_index_are_left_out(index: SearchIndex, tmp_path: Path):
    path = tmp_path / "queries"
    path.write_text(
        '{"query": "a", "relevant": ["docs:recipe.md", "docs:backup.md"]}\n'
        '{"query": "b", "relevant": ["docs:backup.md"]}\n'
        '{"query": "c\\ud800", "relevant": ["docs:\\u0000", "docs:\\ud800"]}\n',
        "utf-8",
    )
    with index.opened(queries=path) as pipeline:
        before = judged_of_index(pipeline)
        assert (len(before.queries), before.unanswerable) == (2, 1)
        index.delete("backup.md")
        index.ingest()
        after = judged_of_index(pipeline)
    [query] = after.queries
    assert (dict(query.relevant), after.unanswerable) == ({"docs:recipe.md": 1}, 2)
    assert before.keys < after.keys, "what comes back is compared with what it was"


@given(
    st.dictionaries(st.text(), st.integers(0, 3), max_size=4),
    st.dictionaries(st.text(), st.integers(0, 3), max_size=4),
    st.text(),
    st.text(),
)
def test_a_query_is_another_one_if_and_only_if_its_text_or_an_answer_is(relevant, other, text, other_text):
    def key(text, relevant):
        return key_of(JudgedQuery("id", text, relevant, "group"))

    def answers(relevant):
        return {document: gain for document, gain in relevant.items() if gain}

    same = text == other_text and answers(relevant) == answers(other)
    assert (key(text, relevant) == key(other_text, other)) is same
    assert key(text, relevant) == key(text, dict(reversed(relevant.items())))


def test_a_broken_file_is_said_to_be_that_of_the_setting(shared: SearchIndex, tmp_path: Path):
    with (
        shared.opened(queries=tmp_path / "nowhere") as pipeline,
        pytest.raises(ConfigError, match=r"^RAG_QUERIES: .*/nowhere cannot be read"),
    ):
        judged_of_index(pipeline)
