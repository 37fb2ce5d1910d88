"""The search page, its logins, sessions and forms, as a browser without scripts sees them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from rag_pipeline.accounts import logins, users
from rag_pipeline.pipeline import Pipeline
from rag_pipeline.search.results import ranks
from rag_pipeline.service.page.routes import _local
from rag_pipeline.service.page.showing import Piece, excerpt, link, moment, pieces, plain
from rag_pipeline.service.page.texts import TEXTS, language_of
from rag_pipeline.service.redis_breaker import RedisBreaker
from rag_pipeline.service.sessions import Sessions
from rag_pipeline.stores.postgres import users as users_table
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
        return self.post("/login", csrf=self.csrf("/login"), email=email, password=password, next=to)

    @property
    def session(self) -> str | None:
        return self.client.cookies.get("rag_session")


def new_user(service: Service, email: str, **options: Any) -> str:
    users.add(service.pipeline.stores.database, email, PASSWORD, **options)
    return email


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
    return new_user(service, "page-reader@example.com")


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
    assert "the best 100 passages" in first
    assert re.search(r"Ranked by: meaning \d+, words \d+, sentences \d+", first)
    assert re.search(r'>docs</a> <span class="count">\d+</span>', first)
    assert "staff" not in first
    second = browser.get("/", q="休暇の取り方", page="2").text
    assert '<ol start="11">' in second
    assert "cached" in second
    only = browser.get("/", q="休暇の取り方", source="notes").text
    assert only.count('<li class="hit">') == 4
    assert "× notes" in only
    assert re.search(r'>memo</a> <span class="count">4</span>', only)
    tagged = browser.get("/", q="休暇の取り方", tag="社内", category="memo").text
    assert tagged.count('<li class="hit">') == 4
    assert "× 社内" in tagged
    assert browser.get("/", q="休暇", **{"from": "2024-03-01", "to": "2024-02-01"}).status_code == 422
    assert "Nothing found" in browser.get("/", q="休暇", source="nothing").text


def test_a_document_opens_at_the_passage_and_shows_similar_ones(browser: Browser, reader: str):
    browser.log_in(reader)
    page = browser.get("/", q="休暇 31 の取り方", source="docs").text
    opened = re.search(r'<h2 id="hit1"><a href="(/documents/[0-9a-f-]+\?at=0)#p0">', page)
    similar = re.search(r'href="(/similar/[0-9a-f-]+/0)"', page)
    assert opened is not None
    assert similar is not None
    document = browser.get(opened[1]).text
    assert 'id="p0" class="chunk here"' in document
    assert "/assets/documents?view=partitions&amp;partition=2024-" in document
    passages = browser.get(similar[1]).text
    assert "Passages similar to one of" in passages
    assert passages.count('<li class="hit">') >= 9
    assert similar[1] not in passages


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
        opened = re.findall(r'href="(/documents/[0-9a-f-]+\?at=0)#p0"', found.text)
        pages = [found, *(browser.get(path) for path in opened)]
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
    assert _local(to) == "/"


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
    assert "The present password is wrong" in wrong.text
    assert browser.post("/password", password=PASSWORD, new=new).status_code == 403
    changed = browser.post("/password", csrf=browser.csrf("/keys"), password=PASSWORD, new=new)
    assert "The password was changed" in browser.get(changed.headers["location"]).text
    assert other.get("/keys").status_code == 303
    assert other.log_in(email).status_code == 401
    assert other.log_in(email, new).status_code == 303


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
    made = browser.post("/keys", csrf=browser.csrf("/keys"), name="a\0b")
    assert made.status_code == 200
    assert "ab</bdi>" in made.text


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
    email = new_user(service, "linked@example.com")
    with service.pipeline.stores.database.connection() as connection:
        user = users_table.by_email(connection, email)
    assert user is not None
    token = Sessions(RedisBreaker(service.pipeline.stores.redis)).make_link(user.id)
    assert browser.get(f"/link/{token}").headers["location"] == "/"
    assert browser.get("/keys").status_code == 200
    assert Browser(service).get(f"/link/{token}").status_code == 401
    assert Browser(service).get("/link/x").status_code == 401


def test_a_key_is_made_used_and_revoked_on_the_page(service: Service, browser: Browser):
    browser.log_in(new_user(service, "keys@example.com", own=("hr",)))
    made = browser.post("/keys", csrf=browser.csrf("/keys"), name="<b>my program</b>")
    key = re.search(r"<code>(rag_\w{8}_[\w-]{43})</code>", made.text)
    assert key is not None
    assert "&lt;b&gt;my program&lt;/b&gt;" in made.text
    assert len(service.hits(key[1], "休暇", filters={"source": "staff"})) == 4
    assert key[1] not in browser.get("/keys").text
    revoke = re.search(r'action="(/keys/[0-9a-f-]+/revoke)"', browser.get("/keys").text)
    assert revoke is not None
    stranger = Browser(service)
    stranger.log_in(new_user(service, "stranger@example.com"))
    assert stranger.post(revoke[1], csrf=stranger.csrf("/keys")).status_code == 404
    assert browser.post(revoke[1], csrf=browser.csrf("/keys")).status_code == 303
    assert service.search(key[1], "休暇").status_code == 401


def test_the_page_speaks_the_browsers_language(service: Service, reader: str):
    browser = Browser(service, "ja,en;q=0.8")
    browser.log_in(reader)
    page = browser.get("/", q="休暇").text
    assert '<html lang="ja">' in page
    assert "似た箇所" in page
    assert "+09:00" in page  # Users' default time zone.


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
    assert moment("2024-02-15T00:00:00+00:00", "Asia/Tokyo") == "2024-02-15 09:00+09:00"
    assert moment("2024-02-15T00:00:00+00:00", "../../etc/passwd") == "2024-02-15 00:00+00:00"
    scores = [{"dense": d, "sparse": s, "multi": None} for d, s in ((0.5, None), (0.9, 2.0), (0.1, 3.0))]
    assert ranks(scores) == [{"dense": 2}, {"dense": 1, "sparse": 2}, {"dense": 3, "sparse": 1}]
