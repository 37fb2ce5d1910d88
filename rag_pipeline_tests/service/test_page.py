"""The search page, its logins, sessions and forms, as a browser without scripts sees them."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import replace
from html import unescape
from typing import Any
from uuid import uuid4

import httpx
import pytest

from rag_pipeline.accounts import api_keys, logins, profiles, users
from rag_pipeline.local_servers.processes import wait_until
from rag_pipeline.pipeline import Pipeline
from rag_pipeline.search.results import ranks
from rag_pipeline.service.page.page import local
from rag_pipeline.service.page.showing import (
    CODE,
    Piece,
    excerpt,
    link,
    moment,
    parts,
    pieces,
    plain,
    without_marks,
)
from rag_pipeline.service.page.texts import TEXTS, language_of
from rag_pipeline.service.redis_breaker import RedisBreaker
from rag_pipeline.service.sessions import Sessions
from rag_pipeline.service.usage import Usage
from rag_pipeline.stores.postgres import users as users_table
from rag_pipeline_tests.support.avatars import HOSTILE_AVATARS
from rag_pipeline_tests.support.http_service import PASSWORD, Service, running
from rag_pipeline_tests.support.search_index import SearchIndex


class Browser:
    """Keeps cookies, follows nothing by itself, and fills in forms."""

    def __init__(self, service: Service, language: str = "en") -> None:
        self.client = httpx.Client(
            base_url=service.client.base_url, headers={"accept-language": language}, trust_env=False, timeout=30
        )

    def get(self, path: str, **parameters: Any) -> httpx.Response:
        return self.client.get(path, params=parameters or None)

    def post(self, path: str, **fields: str) -> httpx.Response:
        return self.client.post(path, data=fields)

    def csrf(self, path: str) -> str:
        found = re.search(r'name="csrf" value="([^"]+)"', self.get(path).text)
        assert found is not None
        return found[1]

    def log_in(self, email: str, password: str = PASSWORD, to: str = "/") -> httpx.Response:
        return self.post("/login", csrf=self.login_csrf(), email=email, password=password, next=to)

    def login_csrf(self) -> str:
        """Return the token of the form to log in with, which is not shown to whoever has logged in."""
        form = httpx.get(f"{self.client.base_url}/login", trust_env=False)
        self.client.cookies.extract_cookies(form)
        return re.findall(r'name="csrf" value="([^"]+)"', form.text)[0]

    def press_link(self, path: str) -> httpx.Response:
        """Open a link, and press the button on its page."""
        return self.post(path, csrf=self.csrf(path))

    def make_key(self, name: str, *permissions: str, **fields: str) -> httpx.Response:
        """Send the form that makes a key."""
        fields = {"csrf": self.csrf("/keys"), "name": name, "expires": "", **fields}
        return self.client.post("/keys", data={**fields, "permission": list(permissions) or ["search"]})

    def choose_password(self, new: str, **fields: str) -> httpx.Response:
        return self.post("/password", csrf=self.csrf("/password"), new=new, **fields)

    @property
    def session(self) -> str | None:
        return self.client.cookies.get("rag_session")


def new_user(service: Service, email: str, **options: Any) -> str:
    users.add(service.pipeline.stores.database, email, PASSWORD, **options)
    return email


def verified_user(service: Service, email: str, **options: Any) -> str:
    """Return a new user who has chosen a password on the page."""
    users.add(service.pipeline.stores.database, email, "first " + PASSWORD, **options)
    browser = Browser(service)
    browser.log_in(email, "first " + PASSWORD)
    assert browser.choose_password(PASSWORD, password="first " + PASSWORD).status_code == 303
    return email


def new_link(service: Service, email: str, seconds: int = 60) -> str:
    with service.pipeline.stores.database.connection() as connection:
        user = users_table.by_email(connection, email)
    assert user is not None
    return f"/link/{Sessions(RedisBreaker(service.pipeline.stores.redis)).make_link(user, seconds)}"


def is_verified(service: Service, email: str) -> bool:
    with service.pipeline.stores.database.connection() as connection:
        return next(one["is_verified"] for one in users_table.all_users(connection) if one["email"] == email)


@pytest.fixture(autouse=True)
def no_logins_yet(service: Service) -> None:
    """The tests log in more often than people do."""
    redis = service.pipeline.stores.redis
    if names := redis.keys("rag:rate*login*"):
        redis.delete(*names)


@pytest.fixture
def browser(service: Service) -> Iterator[Browser]:
    browser = Browser(service)
    yield browser
    browser.client.close()


@pytest.fixture(scope="module")
def reader(service: Service) -> str:
    return verified_user(service, "page-reader@example.com")


def test_whoever_logs_in_comes_back_to_what_they_wanted(browser: Browser, reader: str):
    away = browser.get("/?q=休暇&mode=fulltext")
    assert away.status_code == 303
    assert away.headers["location"].startswith("/login?next=%2F%3Fq%3D")
    assert 'name="password"' in browser.get(away.headers["location"]).text
    back = browser.log_in(reader, to="/?q=%E4%BC%91%E6%9A%87&mode=fulltext")
    assert (back.status_code, back.headers["location"]) == (303, "/?q=%E4%BC%91%E6%9A%87&mode=fulltext")
    cookie = next(one for one in back.headers.get_list("set-cookie") if one.startswith("rag_session="))
    assert "httponly" in cookie.lower()
    assert "samesite=lax" in cookie.lower()
    page = browser.get(back.headers["location"])
    assert page.status_code == 200
    assert "<mark>休暇</mark>" in page.text


def test_a_page_has_ten_hits_with_facets_ranks_and_the_rest_on_further_pages(browser: Browser, reader: str):
    browser.log_in(reader)
    first = browser.get("/", q="休暇の取り方").text
    assert first.count('<li class="hit">') == 10
    assert "The best 100 passages" in first
    assert "count the best 100 passages, not all" in first
    assert re.search(r"Rank: \d+ by meaning, \d+ by words, \d+ by sentences", first)
    assert re.search(r'>docs</bdi></a> <span class="count">\d+</span>', first)
    assert "staff" not in first
    second = browser.get("/", q="休暇の取り方", page="2").text
    assert '<ol start="11">' in second
    assert "cached" in second
    only = browser.get("/", q="休暇の取り方", source="notes").text
    assert only.count('<li class="hit">') == 4
    assert "× <bdi>notes</bdi>" in only
    assert "4 passages" in only
    assert re.search(r'>memo</bdi></a> <span class="count">4</span>', only)
    tagged = browser.get("/", q="休暇の取り方", tag="社内", category="memo").text
    assert tagged.count('<li class="hit">') == 4
    assert "× <bdi>社内</bdi>" in tagged
    both = browser.client.get("/", params={"q": "休暇の取り方", "tag": ["社内", "規程"]}).text
    assert "× <bdi>規程</bdi>" in both
    assert both.count('<li class="hit">') == 0  # Only what is of `staff` has both.
    wrong = browser.get("/", q="休暇", **{"from": "2024-03-01", "to": "2024-02-01"})
    assert (wrong.status_code, "2024-03-01, is after the last date" in wrong.text) == (422, True)
    for day in ("2024-W05-1", "20240101"):
        wrong = browser.get("/", q="休暇", **{"from": day})
        assert (wrong.status_code, f"“{day}” is not a day" in wrong.text) == (422, True)
    browser.client.headers["accept-language"] = "ja"
    wrong = browser.get("/", q="休暇", **{"from": "2024-03-01", "to": "2024-02-01"})
    assert (wrong.status_code, "入れ替えてください" in wrong.text) == (422, True)
    assert "「2024-3-1」は日付ではありません" in browser.get("/", q="休暇", to="2024-3-1").text
    browser.client.headers["accept-language"] = "en"
    assert "Nothing found" in browser.get("/", q="休暇", source="nothing").text


def test_a_document_opens_at_the_passage_and_shows_similar_ones(browser: Browser, reader: str):
    browser.log_in(reader)
    page = browser.get("/", q="休暇 31 の取り方", source="docs").text
    opened = re.search(r'<h2 id="hit1"><a href="(/documents/[0-9a-f-]+\?at=0[^"#]*)#p0">', page)
    similar = re.search(r'href="(/similar/[0-9a-f-]+/0)\?[^"]*"', page)
    assert opened is not None
    assert similar is not None
    document = browser.get(unescape(opened[1])).text
    assert 'id="p0" class="chunk here"' in document
    assert "is gone" not in document
    shorter = browser.get(unescape(opened[1]).replace("at=0", "at=92")).text
    assert "The passage of this link is gone" in shorter
    assert ('id="p0"' in shorter, "here" in shorter, 'rel="prev"' in shorter, 'rel="next"' in shorter) == (
        *(True, False, False, False),
    )
    assert "/assets/documents?view=partitions&amp;partition=2024-" in document
    passages = browser.get(similar[1]).text
    assert "<mark>休暇</mark>" in document
    back = re.search(r'<a href="([^"]+)">Back to the search', document)
    assert back is not None
    assert 'value="休暇 31 の取り方"' in browser.get(unescape(back[1])).text
    assert "source=docs" in back[1]
    assert re.search(r"<h1>Passages similar to one in “休暇 \d+”</h1>", passages)
    assert "Rank: 1 by meaning" in passages
    assert passages.count('<li class="hit">') >= 9
    assert similar[1] not in passages


def test_what_a_page_shows_is_counted_as_shown_and_nothing_else(
    service: Service, browser: Browser, reader: str, monkeypatch
):
    counted: list[list[str]] = []
    monkeypatch.setattr(Usage, "shown", lambda usage, chunks: counted.append([str(chunk.id) for chunk in chunks]))
    browser.log_in(reader)
    pages = [browser.get("/", q="休暇の取り方", page=number).text for number in (1, 2)]
    similar = re.search(r'href="(/similar/([0-9a-f-]+)/0)\?[^"]*"', pages[0])
    assert similar is not None
    pages.append(browser.get(similar[1]).text)
    with service.pipeline.stores.database.connection() as connection:
        of_document = {
            str(chunk): str(document)
            for chunk, document in connection.execute("SELECT id, document_id FROM document_chunks").fetchall()
        }
    shown = [set(re.findall(r'href="/documents/([0-9a-f-]+)\?', page)) for page in pages]
    assert [len(chunks) for chunks in counted] == [10, 10, 10]
    assert [{of_document[chunk] for chunk in chunks} for chunks in counted] == shown
    assert similar[2] not in shown[2]


def test_the_headings_above_a_passage_are_shown(index: SearchIndex):
    text = "昆布 {} を煮る。" * 60
    index.write("soup.md", f"# 出汁\n\n{text}\n\n## 材料\n\n{text}\n\n### 昆布\n\n{text}\n\n{text}")
    index.ingest()
    with running(index.pipeline) as service:
        browser = Browser(service)
        browser.log_in(new_user(service, "cook@example.com"))
        found = browser.get("/", q="昆布を煮る").text
        opened = re.search(r'href="(/documents/[0-9a-f-]+\?at=)', found)
        assert opened is not None
        document = browser.get(opened[1] + "0").text
    section = '<span class="section">› <bdi>材料</bdi> › <bdi>昆布</bdi></span>'
    assert section in found
    # Once for each section, and not where the text says the same.
    assert re.findall(r'<p class="path">(.*?)</p>', document) == ["<bdi>材料</bdi> › <bdi>昆布</bdi>"]
    assert '<h4 class="heading">昆布</h4>' in document


def test_days_are_filtered_as_they_are_shown(index: SearchIndex):
    for number, date in enumerate(
        (
            *("2024-01-31T14:59Z", "2024-01-31T15:30Z", "2024-02-01", "2024-02-01T04:59Z", "2024-02-01T05:00Z"),
            *("2024-02-01T15:30Z", "2024-02-02", "2024-02-02T04:30Z"),
        )
    ):
        index.write(f"{number}.md", f"# 暦 {number}\n\n暦をめくる。", date)
    index.ingest()
    with running(index.pipeline) as service:
        browser = Browser(service)
        browser.log_in(new_user(service, "days@example.com"))

        def days(mode: str, **filters: str) -> list[str]:
            page = browser.get("/", q="暦をめくる", mode=mode, **filters).text
            titles = re.findall(r"<bdi>(暦 \d)</bdi>", page)
            shown = re.findall(r"<time [^>]*>(\d{4}-\d\d-\d\d)[^<]*</time>", page)
            return sorted(f"{day} {title}" for title, day in zip(titles, shown, strict=False))

        for zone, mode in (("Asia/Tokyo", "fulltext"), ("America/New_York", "hybrid"), ("nowhere", "fulltext")):
            index.execute("UPDATE users SET timezone = %s", zone)
            every = days(mode)
            assert len(every) == 8
            for first, last in (("2024-02-01", "2024-02-01"), ("", "2024-01-31"), ("2024-02-02", "")):
                found = days(mode, **{"from": first, "to": last})
                assert found == [one for one in every if first <= one[:10] <= (last or "9")], (zone, mode)


def test_people_are_shown_errors_as_pages_in_their_language(service: Service, reader: str):
    browser = Browser(service, "ja")
    browser.client.headers["accept"] = "text/html,application/xhtml+xml,*/*;q=0.8"
    browser.log_in(reader)
    document = f"/documents/{uuid4()}"
    for path, status, said in (
        (document, 404, "ページまたは文書がないか"),
        ("/nothing", 404, "ページまたは文書がないか"),
        ("/?q=a&mode=magic", 422, "使えない値"),
        ("/?q=a&page=99", 422, "使えない値"),
        (f"/?q={'あ' * 2001}", 422, "2,000 文字以内"),
        ("/documents/x", 422, "使えない値"),
    ):
        page = browser.get(path)
        assert (page.status_code, page.headers["content-type"]) == (status, "text/html; charset=utf-8"), path
        assert said in page.text
        assert '<html lang="ja">' in page.text
        assert '<a href="/">検索ページへ</a>' in page.text
        shown = re.sub(r"(?s)<(header|title|select)\b.*?</\1>|<[^>]*>", "", page.text)
        assert not re.search("[a-z]{2}", shown), shown
    for name, value in (("language", "German"), ("q", "\0")):
        impossible = browser.get("/", **{"q": "a", name: value})
        assert (impossible.status_code, "この条件では検索できません。検索語か" in impossible.text) == (422, True)
    refused = browser.post("/keys", csrf="x")
    assert (refused.status_code, "有効期限が切れているか" in refused.text) == (403, True)
    large = browser.post("/login", csrf="x", password="x" * 70_000)
    assert (large.status_code, "長すぎる" in large.text) == (413, True)
    long = browser.choose_password("x" * 2000, password=PASSWORD)
    assert (long.status_code, "1,024 文字以下" in long.text) == (422, True)
    for path in ("/v1/search", "/healthz/x", "/metrics"):
        assert browser.get(path).headers["content-type"] == "application/problem+json", path
    browser.client.headers["accept"] = "*/*"
    assert browser.get(document).headers["content-type"] == "application/problem+json"


def test_while_redis_is_down_nobody_is_told_that_they_are_logged_out(index: SearchIndex):
    endpoints = replace(index.endpoints, redis_url="redis://127.0.0.1:1/0")
    with Pipeline(index.settings(), endpoints) as pipeline, running(pipeline) as service:
        browser = Browser(service)
        browser.client.headers["accept"] = "text/html"
        browser.client.cookies.set("rag_session", "x", path="/")
        page = browser.get("/?q=a&page=2")
    assert page.status_code == 503
    assert "If you have logged in, you stay so" in page.text
    assert '<a href="/?q=a&amp;page=2">Try again</a>' in page.text
    assert page.headers["retry-after"] == "5"


def test_what_is_hidden_is_nowhere_on_the_page(service: Service, browser: Browser, reader: str):
    hr = Browser(service)
    hr.log_in(new_user(service, "page-hr@example.com", own=("hr",)))
    page = hr.get("/", q="休暇", source="staff").text
    hidden = re.search(r'href="(/documents/[0-9a-f-]+)\?at=0', page)
    assert hidden is not None
    browser.log_in(reader)
    assert browser.get("/", q="休暇", source="staff").text.count('<li class="hit">') == 0
    assert browser.get(hidden[1]).status_code == 404
    assert browser.get(hidden[1].replace("documents", "similar") + "/0").status_code == 404


def test_documents_cannot_act_on_the_page(index: SearchIndex):
    index.write(
        "evil.md",
        "# <script>alert(1)</script> 豆腐 \u202egnp.exe\n\n<img src=x onerror=alert(2)> 豆腐 [押す](javascript:alert(3)) "
        "{{ 7 * 7 }} &lt;b&gt; \u2066\u0007豆腐\n",
    )
    index.ingest()
    index.execute(
        "UPDATE documents SET source_url = 'javascript:alert(4)', author = '\"><script>' WHERE title LIKE '%%script%%'"
    )
    with running(index.pipeline) as service:
        browser = Browser(service)
        browser.log_in(new_user(service, "a@example.com"))
        found = browser.get("/", q="豆腐 <script>alert(5)</script>")
        opened = re.findall(r'href="(/documents/[0-9a-f-]+\?at=0[^"#]*)#p0"', found.text)
        pages = [found, *(browser.get(unescape(path)) for path in opened)]
    for page in pages:
        assert page.status_code == 200
        assert "<script>alert" not in page.text
        assert "<img" not in page.text
        assert 'href="javascript:' not in page.text
        assert not re.search("[\u202e\u2066\u0007]", page.text)
        policy = page.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
    assert any("&lt;script&gt;" in page.text for page in pages)
    assert any("{{ 7 * 7 }}" in page.text for page in pages)


@pytest.mark.parametrize(
    "to",
    [
        "https://evil.example",
        "//evil.example",
        "/\\evil.example",
        "\\\\evil.example",
        "javascript:alert(1)",
        "",
        " /",
        "/\n/evil",
    ],
)
def test_a_login_leads_nowhere_else(browser: Browser, reader: str, to):
    assert browser.log_in(reader, to=to).headers["location"] == "/"
    assert local(to) == "/"


def test_a_login_gives_a_new_session_and_a_logout_ends_it(service: Service, reader: str):
    browser, other = Browser(service), Browser(service)
    browser.client.cookies.set("rag_session", "chosen-by-somebody-else", "127.0.0.1", "/")
    browser.log_in(reader)
    first = browser.session
    assert first != "chosen-by-somebody-else"
    browser.log_in(reader)
    assert browser.session not in (first, None)
    stolen = Browser(service)
    stolen.client.cookies.set("rag_session", first or "", path="/")
    assert stolen.get("/keys").status_code == 303
    other.log_in(reader)
    csrf = browser.csrf("/keys")
    kept = browser.session
    assert browser.post("/logout", csrf=csrf).headers["location"] == "/login"
    again = Browser(service)
    again.client.cookies.set("rag_session", kept or "", path="/")
    assert again.get("/keys").status_code == 303
    assert other.get("/keys").status_code == 200
    other.post("/logout?everywhere=1", csrf=other.csrf("/keys"))
    assert other.get("/keys").status_code == 303


def test_only_hashes_of_sessions_are_stored(service: Service, browser: Browser, reader: str):
    browser.log_in(reader)
    assert browser.session is not None
    names = service.pipeline.stores.redis.keys("*")
    assert names
    assert not [name for name in names if browser.session.encode() in name]


def test_another_password_ends_older_sessions(service: Service, browser: Browser):
    email = new_user(service, "changer@example.com")
    browser.log_in(email)
    assert browser.get("/keys").status_code == 200
    users.set_password(service.pipeline.stores.database, email, "another " + PASSWORD)
    assert browser.get("/keys").status_code == 303
    assert browser.log_in(email).status_code == 401
    assert browser.log_in(email, "another " + PASSWORD).status_code == 303
    users.deactivate(service.pipeline.stores.database, email)
    assert browser.get("/keys").status_code == 303


def test_people_change_their_password_on_the_page(service: Service, browser: Browser):
    email, new = new_user(service, "own-password@example.com"), "another " + PASSWORD
    other = Browser(service)
    for one in (browser, other):
        one.log_in(email)
    wrong = browser.post("/password", csrf=browser.csrf("/keys"), password="a wrong password", new=new)
    short = browser.post("/password", csrf=browser.csrf("/keys"), password=PASSWORD, new="short")
    assert (wrong.status_code, short.status_code) == (422, 422)
    assert "The current password is wrong" in wrong.text
    assert browser.post("/password", password=PASSWORD, new=new).status_code == 403
    changed = browser.post("/password", csrf=browser.csrf("/keys"), password=PASSWORD, new=new)
    assert "The password was changed" in browser.get(changed.headers["location"]).text
    assert other.get("/keys").status_code == 303
    assert other.log_in(email).status_code == 401
    assert other.log_in(email, new).status_code == 303
    assert is_verified(service, email)


def test_no_form_works_without_its_token(service: Service, browser: Browser, reader: str):
    wrong = browser.post("/login", csrf="x", email=reader, password=PASSWORD, next="/")
    assert wrong.status_code == 403
    assert browser.session is None
    browser.log_in(reader)
    for path in ("/logout", "/password", "/keys", "/keys/00000000-0000-0000-0000-000000000000/revoke"):
        for fields in ({}, {"csrf": ""}, {"csrf": "x"}, {"csrf": Browser(service).csrf("/login")}):
            assert browser.post(path, name="a", **fields).status_code == 403, path
    assert "You have no keys" in browser.get("/keys").text


def test_wrong_passwords_lock_the_account_for_a_while(service: Service):
    email = new_user(service, "locked@example.com")
    database = service.pipeline.stores.database
    for _ in range(logins.FREE_ATTEMPTS):
        assert logins.log_in(database, email, "a wrong password") is None
    assert logins.log_in(database, email, PASSWORD) is None
    with database.connection() as connection:
        ((attempts, minutes),) = connection.execute(
            "SELECT failed_login_attempts, extract(epoch FROM locked_until - now()) / 60 FROM users WHERE email = %s",
            (email,),
        ).fetchall()
        assert (attempts, 0 < minutes <= 1) == (5, True)
        connection.execute("UPDATE users SET locked_until = now() WHERE email = %s", (email,))
    assert logins.log_in(database, email, "a wrong password") is None
    with database.connection() as connection:
        ((minutes,),) = connection.execute(
            "SELECT extract(epoch FROM locked_until - now()) / 60 FROM users WHERE email = %s", (email,)
        ).fetchall()
        assert 1 < minutes <= 2
        connection.execute("UPDATE users SET locked_until = now() WHERE email = %s", (email,))
    assert logins.log_in(database, email, PASSWORD) is not None
    with database.connection() as connection:
        assert connection.execute(
            "SELECT failed_login_attempts, locked_until, last_login_at IS NOT NULL FROM users WHERE email = %s",
            (email,),
        ).fetchall() == [(0, None, True)]


def test_strangers_who_lock_an_account_do_not_lock_its_user_out(service: Service, browser: Browser):
    email = new_user(service, "victim@example.com")
    browser.log_in(email)
    stranger = Browser(service)
    for _ in range(logins.FREE_ATTEMPTS):
        stranger.log_in(email, "a wrong password")
    assert stranger.log_in(email).status_code == 401
    assert browser.log_in(email).status_code == 303
    device = browser.client.cookies.get("rag_device")
    assert device is not None
    for _ in range(8):  # Who has stolen the browser's cookie is a stranger too.
        assert browser.log_in(email, "a wrong password").status_code == 401
    assert browser.log_in(email).status_code == 401


def test_what_postgresql_cannot_store_is_no_error(browser: Browser, reader: str):
    assert browser.log_in("a\0b@example.com", "a wrong\0 password").status_code == 401
    browser.log_in(reader)
    browser.make_key("a\0b")
    assert "ab</bdi>" in browser.get("/keys").text


def test_whoever_has_logged_in_is_shown_no_login(browser: Browser, reader: str):
    browser.log_in(reader)
    for path, to in (("/login?next=%2Fkeys", "/keys"), ("/login?next=%2F%2Fevil.example", "/"), ("/login", "/")):
        answer = browser.get(path)
        assert (answer.status_code, answer.headers["location"]) == (303, to)
    browser.post("/logout", csrf=browser.csrf("/keys"))
    assert browser.get("/login").status_code == 200


def test_a_long_way_back_is_gone_back(browser: Browser, reader: str):
    wanted = f"/?q={'%E4%BC%91%E6%9A%87' * 200}"
    away = browser.get(wanted)
    assert browser.get(away.headers["location"]).status_code == 200
    assert browser.log_in(reader, to=wanted).headers["location"] == wanted


def test_behind_tls_cookies_are_for_tls_and_browsers_stay_there(index: SearchIndex):
    with (
        Pipeline(index.settings(search_url="https://search.example.com"), index.endpoints) as pipeline,
        running(pipeline) as service,
    ):
        answer = Browser(service).get("/login")
    assert "max-age=" in answer.headers["strict-transport-security"]
    cookie = answer.headers["set-cookie"]
    assert cookie.startswith("__Host-rag_login=")
    assert "Secure" in cookie


def test_nobody_learns_who_has_an_account(service: Service, browser: Browser):
    email = new_user(service, "known@example.com")
    known = browser.log_in(email, "a wrong password")
    unknown = browser.log_in("unknown@example.com", "a wrong password")
    assert known.status_code == unknown.status_code == 401
    without = re.compile(r'name="csrf" value="[^"]*"|(un)?known@example.com')
    assert without.sub("", known.text) == without.sub("", unknown.text)


def test_logins_are_limited(service: Service, browser: Browser):
    email = new_user(service, "tried@example.com")
    answers = [
        browser.log_in(f"nobody{number}@example.com", "a wrong password").status_code for number in range(40)
    ]
    assert set(answers) == {401}
    assert browser.log_in(email).status_code == 401  # This address has tried too often.
    with service.pipeline.stores.database.connection() as connection:
        login = users_table.for_login(connection, email)
    assert login is not None
    assert not login.is_locked
    names = service.pipeline.stores.redis.keys("rag:rate*login address*")
    service.pipeline.stores.redis.delete(*names)
    assert browser.log_in(email).status_code == 303


def test_a_link_logs_in_once(service: Service, browser: Browser):
    path = new_link(service, new_user(service, "linked@example.com"))
    assert browser.press_link(path).headers["location"] == "/password"
    assert browser.get("/keys").status_code == 200
    for again in (Browser(service).get(path), browser.post(path, csrf=browser.login_csrf())):
        assert (again.status_code, "used already" in again.text) == (401, True)
    assert Browser(service).get("/link/x").status_code == 401


def test_programs_that_open_links_leave_them_as_they_are(service: Service, browser: Browser, caplog):
    caplog.set_level("DEBUG")
    email = new_user(service, "scanned@example.com")
    path = new_link(service, email)
    for _ in range(3):
        opened = Browser(service).get(path)
        assert (opened.status_code, email in opened.text, path in opened.text) == (200, True, False)
        assert "rag_session" not in opened.headers["set-cookie"]
    # A form on another site has neither the token of ours nor the cookie: nobody is logged in as somebody else.
    for fields in ({}, {"csrf": ""}, {"csrf": "x"}, {"csrf": Browser(service).csrf(path)}):
        refused = Browser(service).post(path, **fields)
        assert (refused.status_code, "too old" in refused.text) == (403, True)
        assert "rag_session" not in refused.headers["set-cookie"]
    assert browser.press_link(path).status_code == 303
    logged = [record.getMessage() for record in caplog.records if not record.name.startswith("http")]
    assert not [line for line in logged if path.removeprefix("/link/") in line]
    assert [line for line in logged if "by a link" in line]


def test_a_link_ends_with_its_time_and_with_the_password(service: Service, browser: Browser):
    email = new_user(service, "late@example.com")
    short, first, second = (new_link(service, email, seconds) for seconds in (1, 60, 60))
    time.sleep(1.1)
    assert browser.get(short).status_code == 401
    assert browser.press_link(first).status_code == 303  # One more link takes nothing from the one before.
    assert Browser(service).get(second).status_code == 200
    browser.choose_password("another " + PASSWORD)
    assert Browser(service).get(second).status_code == 401
    third = new_link(service, email)
    users.deactivate(service.pipeline.stores.database, email)
    assert browser.get(third).status_code == 401


def test_what_ended_with_a_deactivation_does_not_come_back(service: Service, browser: Browser):
    database = service.pipeline.stores.database
    email = new_user(service, "leaver@example.com")
    browser.log_in(email)
    key, path = api_keys.create(database, "a key", email).key, new_link(service, email)
    assert users.deactivate(database, email) == 1
    assert users.unlock(database, email) == "reactivated"
    assert service.search(key, "休暇").status_code == 401
    assert Browser(service).get(path).status_code == 401
    assert browser.get("/keys").status_code == 303
    assert browser.log_in(email).status_code == 303
    assert browser.get("/keys").status_code == 200
    users.delete(database, email)
    assert browser.get("/keys").status_code == 303
    assert browser.log_in(email).status_code == 401


def test_whoever_comes_by_a_link_chooses_a_password_once(service: Service, browser: Browser):
    email, new = new_user(service, "invited@example.com"), "another " + PASSWORD
    form = browser.get(browser.press_link(new_link(service, email)).headers["location"]).text
    assert 'name="new"' in form
    assert 'name="password"' not in form
    assert browser.post("/password", new=new).status_code == 403
    short = browser.choose_password("short")
    assert (short.status_code, "fewer than 12" in short.text) == (422, True)
    for refused, said in (
        (PASSWORD, "current password"),  # That somebody else knows.
        ("invited@example.com", "contains your email address"),
        ("aaaaaaaaaaaa", "fewer than 5 different"),
        ("password1234", "first that others try"),
    ):
        answer = browser.choose_password(refused)
        assert (answer.status_code, said in answer.text) == (422, True), refused
    browser.client.headers["accept-language"] = "ja"
    assert "推測されやすい" in browser.choose_password("password1234").text
    browser.client.headers["accept-language"] = "en"
    assert not is_verified(service, email)
    first = browser.session
    chosen = browser.choose_password(new)
    assert "The password was changed" in browser.get(chosen.headers["location"]).text
    assert is_verified(service, email)

    assert 'name="password"' in browser.get("/password").text
    twice = browser.choose_password("yet " + new)
    assert (twice.status_code, "current password is wrong" in twice.text) == (422, True)
    before = Browser(service)
    before.client.cookies.set("rag_session", first or "", path="/")
    assert before.get("/password").status_code == 303
    assert Browser(service).log_in(email).status_code == 401
    assert Browser(service).log_in(email, new).status_code == 303


def test_two_forms_at_once_choose_one_password(service: Service):
    database = service.pipeline.stores.database
    email = new_user(service, "twice@example.com")
    with database.connection() as connection:
        user = users_table.by_email(connection, email)
        assert user is not None
        person = users_table.person(connection, user.id)
    assert person is not None
    assert users.choose_password(database, person, "the first " + PASSWORD)
    assert not users.choose_password(database, person, "the second " + PASSWORD)
    assert logins.log_in(database, email, "the first " + PASSWORD) is not None


def test_whoever_has_not_chosen_the_password_is_told_and_makes_no_keys(service: Service, browser: Browser):
    database = service.pipeline.stores.database
    email = new_user(service, "unverified@example.com")
    key = api_keys.create(database, "from an operator", email).key
    browser.log_in(email)
    note = '<a href="/password">Choose a password of your own'
    for path in ("/", "/?q=休暇", "/keys"):
        assert note in browser.get(path).text, path
    assert note not in browser.get("/password").text
    assert browser.get("/", q="休暇").text.count('<li class="hit">') == 10
    assert 'name="name"' not in browser.get("/keys").text
    refused = browser.make_key("mine")
    assert (refused.status_code, "before you make keys" in refused.text) == (403, True)
    browser.client.headers["accept-language"] = "ja"
    refused = browser.make_key("mine")
    assert (refused.status_code, "キーを作る前に" in refused.text) == (403, True)
    assert service.search(key, "休暇").status_code == 200
    with database.connection() as connection:
        assert connection.execute(
            "SELECT count(*) FROM api_keys JOIN users ON users.id = user_id WHERE email = %s", (email,)
        ).fetchall() == [(1,)]

    browser.client.headers["accept-language"] = "en"
    browser.choose_password("another " + PASSWORD, password=PASSWORD)
    assert note not in browser.get("/").text
    assert browser.make_key("mine").status_code == 303
    users.set_password(database, email, PASSWORD)  # Somebody else knows it again.
    assert not is_verified(service, email)
    browser.log_in(email)
    assert note in browser.get("/").text


def test_the_header_shows_the_name_and_the_picture(service: Service, browser: Browser):
    database = service.pipeline.stores.database
    email = verified_user(service, "hanako.yamada@example.com")
    browser.log_in(email)
    plain_page = browser.get("/")
    assert "<bdi>hanako.yamada</bdi>" in plain_page.text
    assert f'title="{email}"' in plain_page.text
    assert "<img" not in plain_page.text
    own = plain_page.headers["content-security-policy"]
    assert "img-src 'self';" in own

    users.set_profile(
        database,
        email,
        profiles.checked(name="<b>花子</b>", avatar="https://img.example.com:8443/a;b.png?s=1&d=x"),
    )
    for path in ("/", "/keys", "/password"):
        page = browser.get(path)
        assert "<bdi>&lt;b&gt;花子&lt;/b&gt;</bdi>" in page.text
        image = re.search(r"<img[^>]*>", page.text)
        assert image is not None
        assert 'src="https://img.example.com:8443/a;b.png?s=1&amp;d=x"' in image[0]
        for attribute in ('alt=""', 'loading="lazy"', 'referrerpolicy="no-referrer"', 'width="28"', 'height="28"'):
            assert attribute in image[0]
        policy = page.headers["content-security-policy"]
        assert policy == own.replace("img-src 'self';", "img-src 'self' https://img.example.com:8443;")
        assert page.headers.get_list("content-security-policy") == [policy]
    # What shows no picture allows none.
    for path in ("/static/page.css", "/login", "/healthz", "/documents/x", "/nothing"):
        assert browser.get(path).headers["content-security-policy"] == own, path
    assert browser.post("/logout", csrf=browser.csrf("/keys")).headers["content-security-policy"] == own


def test_a_hostile_picture_in_the_database_is_not_shown(service: Service, browser: Browser):
    email = verified_user(service, "hostile-picture@example.com")
    browser.log_in(email)
    own = browser.get("/keys").headers["content-security-policy"]
    with service.pipeline.stores.database.connection() as connection:
        connection.execute("UPDATE users SET full_name = %s WHERE email = %s", ("a\u202eb", email))
    for url in HOSTILE_AVATARS:
        if "\0" in url:
            continue  # PostgreSQL stores none.
        with service.pipeline.stores.database.connection() as connection:
            connection.execute("UPDATE users SET avatar_url = %s WHERE email = %s", (url, email))
        page = browser.get("/keys")
        assert (page.status_code, "<img" in page.text) == (200, False), url
        assert page.headers["content-security-policy"] == own, url
        assert "<bdi>ab</bdi>" in page.text


def test_a_key_is_made_used_and_revoked_on_the_page(service: Service, browser: Browser):
    browser.log_in(verified_user(service, "keys@example.com", own=("hr",)))
    away = browser.make_key("<b>my \u202eprogram</b>", "*")
    assert (away.status_code, away.headers["location"]) == (303, "/keys")
    made = browser.get("/keys")
    key = re.search(r"<code>(rag_\w{8}_[\w-]{43})</code>", made.text)
    assert key is not None
    assert "&lt;b&gt;my program&lt;/b&gt;" in made.text
    assert len(service.hits(key[1], "休暇", filters={"source": "staff"})) == 4
    again = browser.get("/keys").text  # A reload makes no other one, and does not show it again.
    assert key[1] not in again
    assert again.count("<code>rag_") == 1
    assert "\u202e" not in again
    revoke = re.search(r'action="(/keys/[0-9a-f-]+/revoke)"', browser.get("/keys").text)
    assert revoke is not None
    stranger = Browser(service)
    stranger.log_in(new_user(service, "stranger@example.com"))
    assert stranger.post(revoke[1], csrf=stranger.csrf("/keys")).status_code == 404
    assert browser.post(revoke[1], csrf=browser.csrf("/keys")).status_code == 303
    assert service.search(key[1], "休暇").status_code == 401


def test_the_security_log_says_who_did_what_from_where(service: Service, browser: Browser, caplog):
    caplog.set_level("INFO", "rag_pipeline.audit")
    database = service.pipeline.stores.database
    email = verified_user(service, "watched@example.com")
    browser.log_in(email, "a wrong password")
    browser.log_in("nobody@example.com", "a wrong password")
    browser.log_in(email)
    browser.make_key("watched", "search")
    made = browser.get("/keys")
    key = re.search(r"<code>((rag_\w{8})_[\w-]{43})</code>", made.text)
    revoke = re.search(r'action="(/keys/[0-9a-f-]+/revoke)"', made.text)
    assert key is not None
    assert revoke is not None
    browser.post(revoke[1], csrf=browser.csrf("/keys"))
    another = api_keys.create(database, "another", email)
    assert api_keys.revoke(database, another.prefix) == 1
    assert api_keys.revoke(database, another.key) == 0
    users.set_role(database, email, "editor")
    with database.connection() as connection:
        found = users_table.by_email(connection, email)
    assert found is not None
    lines = [record.getMessage() for record in caplog.records if record.name == "rag_pipeline.audit"]
    for line in (
        f"user {found.id} was added as viewer",
        f"login failed: wrong password of user {found.id}, from 127.0.0.1",
        "login failed: no active account, from 127.0.0.1",
        f"login of user {found.id}, from 127.0.0.1",
        f"made key {key[2]} of user {found.id}: search, from 127.0.0.1",
        f"revoked key {key[2]} of user {found.id}, from 127.0.0.1",
        f"revoked key {another.prefix}",
        f"user {found.id} is editor now",
    ):
        assert line in lines
    for secret in ("a wrong password", PASSWORD, key[1], another.key):
        assert secret not in caplog.text


def test_a_key_says_what_it_may_and_until_when(service: Service, browser: Browser):
    email = verified_user(service, "limited-keys@example.com", own=("hr",))
    browser.log_in(email)
    form = browser.get("/keys").text
    assert re.findall(r'name="permission" value="([^"]+)"( checked)?', form) == [
        *(("search", " checked"), ("hr", ""), ("*", "")),
    ]
    for fields, said in (
        ({"name": " \u202e "}, "Write what the key is for."),
        ({"name": "x"}, "Choose at least one"),
    ):
        refused = browser.post("/keys", csrf=browser.csrf("/keys"), **fields)
        assert (refused.status_code, said in refused.text) == (422, True)
    refused = browser.make_key("too much", "metrics")
    assert (refused.status_code, "The key was not made" in refused.text) == (422, True)
    assert browser.make_key("odd", expires="7").status_code == 422
    browser.make_key("short", "search", expires="30")
    key = re.search(r"<code>(rag_\w{8}_[\w-]{43})</code>", browser.get("/keys").text)
    assert key is not None
    listed = browser.get("/keys").text
    assert "100 requests a minute" in listed
    assert re.search(r"ends on \d{4}-\d\d-\d\d", listed)
    assert "never used" in listed
    assert service.hits(key[1], "休暇", filters={"source": "staff"}) == []
    # Uses are counted in batches, beside the requests: this one must not be counted after what is written below.
    assert wait_until(lambda: "used once, last on" in browser.get("/keys").text, lambda: True, 60)
    with service.pipeline.stores.database.connection() as connection:
        connection.execute(
            "UPDATE api_keys SET expires_at = now(), usage_count = 1, last_used_at = '2024-02-01' WHERE name = 'short'"
        )
    listed = browser.get("/keys").text
    assert '<span class="state">expired</span>' in listed
    assert "used once, last on 2024-02-01" in " ".join(listed.split())
    assert "/revoke" not in listed


def test_the_page_speaks_the_browsers_language(service: Service, reader: str):
    browser = Browser(service, "ja,en;q=0.8")
    browser.log_in(reader)
    page = browser.get("/", q="休暇").text
    assert '<html lang="ja">' in page
    assert "似た箇所" in page
    assert '">2024-01-05</time>' in page
    assert "日付はタイムゾーン Asia/Tokyo の 1 日です。" in page


@pytest.mark.parametrize(
    ("accepted", "language"),
    [
        ("ja", "ja"),
        ("en-US,ja;q=0.9", "en"),
        ("fr, ja;q=0.5, en;q=0.4", "ja"),
        ("", "en"),
        ("x;q=y,ja", "ja"),
        ("*", "en"),
    ],
)
def test_the_language_that_a_browser_prefers(accepted, language):
    assert language_of(accepted) == language


def test_both_languages_have_the_same_words():
    assert TEXTS["en"].keys() == TEXTS["ja"].keys()
    for name, text in TEXTS["en"].items():
        assert re.findall(r"\{\w+\}", text) == re.findall(r"\{\w+\}", TEXTS["ja"][name]), name


def test_words_are_highlighted_not_substrings():
    shown = pieces("京都の東京都庁で、ｻｰﾊﾞを止めている。", "京都 サーバー 止める")
    assert [piece.text for piece in shown if piece.is_match] == ["京都", "ｻｰﾊﾞ", "止め"]
    assert "".join(piece.text for piece in shown) == "京都の東京都庁で、ｻｰﾊﾞを止めている。"
    assert pieces("何も", "") == [Piece("何も")]


def test_headings_are_shown_without_their_marks_and_code_as_it_is():
    text = "# 休暇\n\n取り方。\n\n## 申請 ##\n```sh\n# a comment\n```\n#タグ `leave.sh` と ``"
    assert without_marks(text) == "休暇\n\n取り方。\n\n申請\n# a comment\n#タグ leave.sh と ``"
    shown = parts(text, "休暇")
    assert [(part.level, "".join(piece.text for piece in part.pieces)) for part in shown] == [
        *((1, "休暇"), (0, "取り方。"), (2, "申請"), (CODE, "# a comment"), (0, "#タグ leave.sh と ``")),
    ]
    assert shown[0].pieces == [Piece("休暇", is_match=True)]


@pytest.mark.parametrize(
    "text", ["alphabet soup " * 100 + "tofu" + " alphabet soup" * 100, "京都の" * 200 + "豆腐"]
)
def test_an_excerpt_begins_and_ends_between_words(text):
    query = "tofu" if "tofu" in text else "豆腐"
    shown = "".join(piece.text for piece in excerpt(pieces(text, query)))
    assert query in shown
    assert {*re.findall(r"[a-z]+", shown)} <= {"alphabet", "soup", "tofu"}
    assert shown.removeprefix("… ")[:1] in {"a", "s", "京"}


def test_an_excerpt_begins_a_little_before_the_first_match():
    text = "前。" * 300 + "豆腐がある。" + "後。" * 300
    shown = excerpt(pieces(text, "豆腐"))
    assert shown[0] == Piece("… ")
    assert Piece("豆腐", is_match=True) in shown
    assert shown[-1] == Piece(" …")
    assert sum(len(piece.text) for piece in shown) < 420


def test_what_is_shown_of_hostile_values():
    assert link("https://example.com/a?b=c") == "https://example.com/a?b=c"
    for url in ("javascript:alert(1)", "data:text/html,x", 'https://x"onclick=', "file:///etc/passwd", None, ""):
        assert link(url) is None
    assert plain("a\u202eb\x00c\u2066") == "abc"
    assert moment("2024-02-15T01:00:00+00:00", "Asia/Tokyo") == "2024-02-15 10:00+09:00"
    for zone in ("../../etc/passwd", "Asia", ""):
        assert moment("2024-02-15T01:00:00+00:00", zone) == "2024-02-15 01:00+00:00"
    for zone in ("Asia/Tokyo", "America/New_York"):  # A day is the same one everywhere.
        assert moment("2024-02-15T00:00:00+00:00", zone) == "2024-02-15"
    scores = [{"dense": d, "sparse": s, "multi": None} for d, s in ((0.5, None), (0.9, 2.0), (0.1, 3.0))]
    assert ranks(scores) == [{"dense": 2}, {"dense": 1, "sparse": 2}, {"dense": 3, "sparse": 1}]
