"""Searches that are logged, and what people say of their hits."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlencode

import pytest

from rag_pipeline.accounts import users
from rag_pipeline.pipeline import Pipeline
from rag_pipeline.service.usage import Usage
from rag_pipeline.stores.postgres import search_judgements, search_log
from rag_pipeline.stores.postgres.database import Connection
from rag_pipeline.stores.postgres.search_log import Searched
from rag_pipeline_tests.service.test_page import Browser, new_user
from rag_pipeline_tests.support.command_line import CommandLine
from rag_pipeline_tests.support.http_service import PASSWORD, Service, new_key, running
from rag_pipeline_tests.support.search_index import SearchIndex
from rag_pipeline_tests.support.stores import Stores

QUERY = "休暇 12 の取り方"
FORM = re.compile(r'<form class="judge".*?</form>', re.S)


@pytest.fixture(autouse=True)
def nothing_judged(service: Service) -> None:
    with service.pipeline.stores.database.connection() as connection:
        connection.execute("DELETE FROM search_judgements")
    redis = service.pipeline.stores.redis
    if names := redis.keys("rag:rate*login*"):
        redis.delete(*names)


@pytest.fixture
def editor(service: Service, request: pytest.FixtureRequest) -> Iterator[Browser]:
    browser = Browser(service)
    name = re.sub(r"\W", "-", request.node.name)[:60]
    browser.log_in(new_user(service, f"{name}@example.com", role="editor"))
    yield browser
    browser.client.close()


def forms(browser: Browser, query: str = QUERY) -> list[dict[str, str]]:
    """Return the fields of the forms beside the hits of a search."""
    page = browser.get("/", q=query).text
    return [
        {
            **dict(re.findall(r'name="(\w+)" value="([^"]*)"(?:>|><)', form.replace("&amp;", "&"))),
            "pressed": " ".join(
                re.findall(r'aria-pressed="true">([^<]+)<', form),
            ),
        }
        for form in FORM.findall(page)
    ]


def judge(browser: Browser, form: dict[str, str], says: str) -> str:
    """Send a form; return where it leads."""
    fields = {name: form[name] for name in ("csrf", "document", "back", "place")}
    answer = browser.post("/judge", **fields, says=says)
    assert answer.status_code == 303, answer.text
    return answer.headers["location"]


def judged(service: Service) -> list[tuple[str, str, bool]]:
    with service.pipeline.stores.database.connection() as connection:
        return [(one.query, one.source_id, one.helpful) for one in search_judgements.judged(connection)]


def test_a_hit_is_judged_again_and_taken_back(service: Service, editor: Browser):
    first, second = forms(editor)[:2]
    assert first["pressed"] == ""
    assert judge(editor, second, "helpful").endswith("#hit2")
    back = judge(editor, first, "helpful")
    assert back.startswith("/?q=")
    assert editor.get(back).status_code == 200
    assert [form["pressed"] for form in forms(editor, f"  {QUERY.replace(' ', '　')} ")[:2]] == ["Helpful"] * 2
    judge(editor, second, "not helpful")
    assert [form["pressed"] for form in forms(editor)[:2]] == ["Helpful", "Not helpful"]
    assert [helpful for _, _, helpful in judged(service)].count(True) == 1
    assert len(judged(service)) == 2
    judge(editor, first, "nothing")
    assert forms(editor)[0]["pressed"] == ""
    assert judged(service) == []  # Nothing was found helpful.


@pytest.mark.parametrize("character", ["あ", "𠮷"])
def test_the_longest_query_is_judged(service: Service, editor: Browser, character):
    query = f"休暇{character * 1998}"
    assert 'maxlength="2000"' in editor.get("/").text
    form = forms(editor, query)[0]
    assert judge(editor, form, "helpful").startswith("/?q=%E4%BC%91")
    assert [one[0] for one in judged(service)] == [query]


def test_most_people_decide(service: Service, editor: Browser):
    browsers = [editor, Browser(service), Browser(service)]
    for number, browser in enumerate(browsers[1:]):
        browser.log_in(new_user(service, f"most{number}@example.com", own=("judge",)))
    for browser, says in zip(browsers, ("not helpful", "helpful", "helpful"), strict=True):
        judge(browser, forms(browser)[0], says)
    ((query, _, helpful),) = judged(service)
    assert (query, helpful) == (QUERY, True)
    judge(browsers[2], forms(browsers[2])[0], "not helpful")
    assert judged(service) == []
    users.deactivate(service.pipeline.stores.database, "most1@example.com")


def test_who_may_not_judge_has_no_buttons_and_no_way_around_them(service: Service, editor: Browser):
    form = forms(editor)[0]
    viewer = Browser(service)
    viewer.log_in(new_user(service, "only-views@example.com"))
    assert forms(viewer) == []
    fields = {name: form[name] for name in ("document", "back", "place")}
    assert viewer.post("/judge", **fields, says="helpful", csrf=viewer.csrf("/keys")).status_code == 403
    assert viewer.post("/judge", **fields, says="helpful").status_code == 403
    ended = Browser(service).post("/judge", **fields, says="helpful")
    assert (ended.status_code, ended.headers["location"]) == (303, f"/login?{urlencode({'next': fields['back']})}")
    elsewhere = Browser(service).post("/judge", **{**fields, "back": "//evil.example"}, says="helpful")
    assert elsewhere.headers["location"] == "/login?next=%2F"
    assert judged(service) == []


def test_what_cannot_be_judged(service: Service, editor: Browser):
    form = forms(editor)[0]
    hr = Browser(service)
    hr.log_in(new_user(service, "judges-hr@example.com", role="editor", own=("hr",)))
    hidden = next(one for one in forms_of_source(hr, "staff"))
    fields = {name: form[name] for name in ("csrf", "document", "back", "place")}
    for changed, status in (
        ({"document": hidden["document"]}, 404),
        ({"document": "x"}, 404),
        ({"document": ""}, 404),
        ({"says": "perhaps"}, 422),
        ({"back": "/?q=+"}, 422),
        ({"back": "/?q=%00"}, 422),
        ({"back": "//evil.example?q=a"}, 422),
        ({"back": "https://evil.example?q=a"}, 422),
        ({"back": "/x?q=a\r\nSet-Cookie: a=b"}, 422),
        ({"csrf": "x"}, 403),
    ):
        answer = editor.post("/judge", **{**fields, "says": "helpful", **changed})
        assert (answer.status_code, "location" in answer.headers) == (status, False), changed
    odd = editor.post("/judge", **{**fields, "place": "1\r\nX: y", "says": "nothing"}).headers["location"]
    assert "hit" not in odd
    assert judged(service) == []


def forms_of_source(browser: Browser, source: str) -> list[dict[str, str]]:
    page = browser.get("/", q="休暇", source=source).text
    return [dict(re.findall(r'name="(\w+)" value="([^"]*)"(?:>|><)', form)) for form in FORM.findall(page)]


def say(connection: Connection) -> None:
    """Judge and log a few searches."""
    ((user,),) = connection.execute("SELECT id FROM users").fetchall()
    search_judgements.judge(connection, "豆腐の 水切り\u202e", "docs:a.md", user, True)
    search_judgements.judge(connection, "豆腐の 水切り\u202e", "docs:b.md", user, False)
    search_judgements.judge(connection, "何もない", "docs:b.md", user, False)
    search_log.insert(connection, [Searched(datetime.now(UTC), "豆腐", "hybrid", {}, 0, 0.25)])


def test_judgements_make_the_file_that_evaluate_reads(tmp_path: Path, prepared_stores: Stores):
    cli = CommandLine(tmp_path, prepared_stores)
    cli.write("a.md", "# 豆腐\n\n豆腐の水を切る。")
    assert cli.run("ingest").returncode == 0
    assert cli.run("judgements").stdout == ""
    assert "set RAG_SEARCH_LOG_DAYS" in cli.run("searches").stdout
    with Pipeline(cli.settings(), cli.endpoints) as pipeline:
        database = pipeline.stores.database
        users.add(database, "judge@example.com", PASSWORD)
        with database.connection() as connection:
            say(connection)
    lines = cli.run("judgements").stdout
    assert [json.loads(line) for line in lines.splitlines()] == [
        {"query": "豆腐の 水切り\u202e", "relevant": {"docs:a.md": 1, "docs:b.md": 0}}
    ]
    file = tmp_path / "judged.jsonl"
    file.write_text(lines, "utf-8")
    assert cli.json("evaluate", str(file), "--mode", "fulltext")["fulltext"]["all"]["mrr"] == 1.0
    (query,) = cli.json("searches", "--without-hits")["queries"]
    assert (query["query"], query["searches"], query["without_hits"]) == ("豆腐", 1, 1)
    assert cli.run("searches").stdout.split() == ["1", "250", "ms", "豆腐", "1", "without", "hits"]
    assert cli.json("searches", "--delete") == {"deleted": 1}
    assert cli.json("searches") == {"queries": []}


def test_searches_are_not_logged_unless_asked_for(service: Service, editor: Browser):
    editor.get("/", q="秘密の検索")
    with service.pipeline.stores.database.connection() as connection:
        assert search_log.frequent(connection, 10, False) == []


def test_searches_are_logged_without_their_asker_and_deleted_in_time(index: SearchIndex):
    database = index.pipeline.stores.database
    settings = index.settings(search_log_days=7, search_cache_seconds=600)
    with Pipeline(settings, index.endpoints) as pipeline:
        key = new_key(pipeline, "program@example.com", "search")
        with running(pipeline) as service:
            for query in ("豆腐", " 豆腐\n", "豆腐", "宇宙 \0船"):
                assert service.search(key, query, mode="fulltext", filters={"language": "ja"}).status_code == 200
            browser = Browser(service)
            browser.log_in(new_user(service, "asks@example.com", role="editor"))
            browser.get("/", q="豆腐と味噌")
            browser.get("/", q="豆腐と味噌", page="2")
            form = forms(browser, "豆腐と味噌")[0]
            browser.get(judge(browser, form, "helpful"))
            similar = re.search(r'href="(/similar/[0-9a-f-]+/\d+)\?', browser.get("/", q="豆腐と味噌").text)
            assert similar is not None
            browser.get(similar[1])
    with database.connection() as connection:
        found = {row["query"]: row for row in search_log.frequent(connection, 10, False)}
        assert {query: (row["searches"], row["without_hits"]) for query, row in found.items()} == {
            "豆腐": (3, 0),
            "宇宙 船": (1, 1),
            "豆腐と味噌": (3, 0),
        }
        assert [row["query"] for row in search_log.frequent(connection, 10, True)] == ["宇宙 船"]
        columns = "SELECT to_jsonb(l) FROM search_log l LIMIT 1"
        ((row,),) = connection.execute(columns).fetchall()
        assert set(row) == {"id", "searched_at", "query", "mode", "filters", "hits", "seconds"}
        connection.execute("UPDATE search_log SET searched_at = now() - interval '8 days' WHERE query = '豆腐'")
    Usage(database, 7).write()
    with database.connection() as connection:
        assert {row["query"] for row in search_log.frequent(connection, 10, False)} == {"宇宙 船", "豆腐と味噌"}
    Usage(database, 0).write()  # Of a process that logs none, such as one that an agent starts.
    with database.connection() as connection:
        assert {row["query"] for row in search_log.frequent(connection, 10, False)} == {"宇宙 船", "豆腐と味噌"}
