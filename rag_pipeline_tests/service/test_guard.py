"""Who may come in, who may see what, and how often."""

from __future__ import annotations

import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import count

import pytest
import redis

from rag_pipeline.accounts import api_keys, users
from rag_pipeline.indexing.scan import scan_source
from rag_pipeline.pipeline import Pipeline
from rag_pipeline.service import connections, guard, searching
from rag_pipeline.service.rate_limits import RateLimits
from rag_pipeline.service.redis_breaker import RedisBreaker, RedisDownError
from rag_pipeline.service.searching import Turns
from rag_pipeline.service.source_access import SourceAccess
from rag_pipeline.stores.postgres import sources
from rag_pipeline.stores.postgres.database import Connection
from rag_pipeline_tests.support.http_service import PASSWORD, Service, bearer, new_key, running
from rag_pipeline_tests.support.search_index import SearchIndex


def test_nothing_is_embedded_for_whoever_has_no_valid_key(service: Service, monkeypatch):
    embedded = []
    encode = service.pipeline.embedder.encode_query
    monkeypatch.setattr(
        service.pipeline.embedder, "encode_query", lambda text, *rest: embedded.append(text) or encode(text, *rest)
    )
    key = new_key(service.pipeline, "valid@example.com")
    wrong = [
        *({}, {"Authorization": key}, {"Authorization": f"Basic {key}"}, {"Authorization": "Bearer"}),
        *(bearer(key[:-1]), bearer(key + "x"), bearer(key.upper())),
        *(bearer("rag_aaaaaaaa_" + "A" * 43), bearer("x" * 8000), bearer("' OR 1=1 --"), bearer("%00")),
    ]
    for headers in wrong:
        answer = service.client.post("/v1/search", json={"query": "休暇"}, headers=headers)
        assert answer.status_code == 401, headers
        assert answer.headers["www-authenticate"].startswith("Bearer")
        assert answer.headers["content-type"] == "application/problem+json"
        assert key not in answer.text
    assert embedded == []
    assert service.search(key, "誰でも").status_code == 200
    assert embedded == ["誰でも"]


def test_a_key_ends_at_once_when_it_is_revoked_or_expires_or_its_user_goes(service: Service):
    database = service.pipeline.stores.database
    key = new_key(service.pipeline, "leaver@example.com")
    other = api_keys.create(database, "other", "leaver@example.com").key
    expired = api_keys.create(
        database, "old", "leaver@example.com", expires_at=datetime.now(UTC) + timedelta(days=1)
    ).key
    assert service.search(key, "休暇").status_code == 200
    assert service.search(expired, "休暇").status_code == 200
    with database.connection() as connection:
        connection.execute("UPDATE api_keys SET expires_at = now() WHERE name = 'old'")
    assert service.search(expired, "休暇").status_code == 401
    with database.connection() as connection:
        assert api_keys.table.revoke(connection, key[:12]) == 1
    assert service.search(key, "休暇").status_code == 401
    assert service.search(other, "休暇").status_code == 200
    users.deactivate(database, "leaver@example.com")
    assert service.search(other, "休暇").status_code == 401


def test_a_key_does_what_it_was_made_for(service: Service):
    pipeline = service.pipeline
    only_metrics = new_key(pipeline, "operator@example.com", "metrics", role="admin")
    only_search = new_key(pipeline, "reader@example.com")
    assert service.get(only_metrics, "/metrics").status_code == 200
    assert service.search(only_metrics, "休暇").status_code == 403
    assert service.get(only_search, "/metrics").status_code == 403
    assert service.client.get("/metrics").status_code == 401


def test_hidden_documents_are_neither_found_nor_listed_nor_read(service: Service):
    pipeline = service.pipeline
    reader = new_key(pipeline, "visitor@example.com")
    hr = new_key(pipeline, "hr@example.com", "search", "hr", own=("hr",))
    for mode in ("hybrid", "dense", "sparse", "fulltext"):
        visible = service.hits(reader, "休暇の取り方", mode=mode, limit=100)
        assert len(visible) == 100
        assert not [one for one in visible if one.startswith("staff:")]
        assert service.hits(reader, "休暇", mode=mode, filters={"source": "staff"}) == []
        assert service.hits(reader, "休暇", mode=mode, filters={"category": "人事"}) == []
        assert len(service.hits(hr, "休暇", mode=mode, filters={"source": "staff"})) == 4
    assert [one["name"] for one in service.get(reader, "/v1/sources").json()["sources"]] == ["docs", "notes"]
    assert [one["name"] for one in service.get(hr, "/v1/sources").json()["sources"]] == ["docs", "notes", "staff"]
    hidden = service.search(hr, "休暇", filters={"source": "staff"}).json()["hits"][0]["document_id"]
    missing = service.get(reader, "/v1/documents/00000000-0000-0000-0000-000000000000")
    for path in (f"/v1/documents/{hidden}", f"/v1/documents/{hidden}/chunks"):
        assert service.get(hr, path).status_code == 200
        assert service.get(reader, path).status_code == 404
        assert service.get(reader, path).json() == missing.json()


def test_rights_that_are_taken_away_hold_for_cached_answers_too(service: Service):
    pipeline = service.pipeline
    key = new_key(pipeline, "mover@example.com", "search", "hr", own=("hr",))
    first, second = (service.search(key, "休暇", filters={"source": "staff"}).json() for _ in range(2))
    assert len(first["hits"]) == 4
    assert second["cached"] is True
    assert users.set_permissions(pipeline.stores.database, "mover@example.com", []) == {"search"}
    assert service.hits(key, "休暇", filters={"source": "staff"}) == []


def test_a_change_of_access_in_the_file_holds_without_a_scan(index: SearchIndex):
    with running(index.pipeline) as service:
        key = new_key(index.pipeline, "a@example.com")
        assert service.hits(key, "豆腐")
        index.sources.write_text(
            "sources: [{name: docs, type: filesystem, path: ./docs, access: [kitchen]}]\n", "utf-8"
        )
        deadline = time.monotonic() + 60
        while service.hits(key, "豆腐") and time.monotonic() < deadline:
            time.sleep(0.1)
        assert service.hits(key, "豆腐") == []
        # A mistake in the file changes nothing.
        index.sources.write_text("sources: [{name: docs, type: filesystem, path: ./docs, acess: []}]\n", "utf-8")
        assert service.hits(key, "豆腐") == []


def test_a_key_has_its_requests_of_a_minute_for_all_processes_together(index: SearchIndex):
    users.add(index.pipeline.stores.database, "a@example.com", PASSWORD)
    key = api_keys.create(index.pipeline.stores.database, "slow", "a@example.com", rate=4).key
    with running(index.pipeline) as one, running(index.pipeline) as other:
        answers = [service.search(key, "豆腐") for service in (one, other, one, other, one, other)]
    assert [answer.status_code for answer in answers] == [200] * 4 + [429] * 2
    assert [answer.headers["ratelimit-remaining"] for answer in answers] == ["3", "2", "1", "0", "0", "0"]
    assert answers[-1].headers["ratelimit-limit"] == "4"
    assert 1 <= int(answers[-1].headers["retry-after"]) <= 120
    assert answers[-1].headers["content-type"] == "application/problem+json"


def test_without_redis_keys_work_and_have_limits(index: SearchIndex):
    users.add(index.pipeline.stores.database, "a@example.com", PASSWORD)
    key = api_keys.create(index.pipeline.stores.database, "slow", "a@example.com", rate=2).key
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # Nobody listens: connections are refused.
        endpoints = replace(index.endpoints, redis_url=f"redis://127.0.0.1:{taken.getsockname()[1]}/0")
        with Pipeline(index.settings(), endpoints) as pipeline, running(pipeline) as service:
            answers = [service.search(key, "豆腐") for _ in range(3)]
            ready = service.client.get("/readyz")
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert [answer.json().get("cached") for answer in answers[:2]] == [False, False]
    assert ready.status_code == 200


def test_limits_of_keys_are_apart(redis_url: str):
    limits = RateLimits(RedisBreaker.to(redis_url))
    one, other = "one", "other"
    assert [limits.admit(one, 1).is_admitted for _ in range(2)] == [True, False]
    assert limits.admit(other, 1).is_admitted


def hold_searches(
    index: SearchIndex, monkeypatch: pytest.MonkeyPatch
) -> tuple[threading.Event, threading.Event, list[str]]:
    """Have searches wait in the embedder: one has entered, they may go on, and what was embedded."""
    entered, go_on = threading.Event(), threading.Event()
    embedded: list[str] = []
    encode = index.pipeline.embedder.encode_query

    def slow(text, *rest):
        embedded.append(text)
        entered.set()
        assert go_on.wait(60)
        return encode(text, *rest)

    monkeypatch.setattr(index.pipeline.embedder, "encode_query", slow)
    return entered, go_on, embedded


@contextmanager
def one_held_search(
    index: SearchIndex, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Service, str, Callable[[], None], list[str]]]:
    """A service that searches one at a time and has a search in the embedder, until the function is called.

    With a key, and what was embedded.
    """
    monkeypatch.setattr(searching, "Turns", lambda *_: Turns(at_once=1, waiting=5))
    entered, go_on, embedded = hold_searches(index, monkeypatch)
    with running(index.pipeline) as service:
        key = new_key(index.pipeline, "a@example.com")
        held = threading.Thread(target=service.search, args=(key, "豆腐"))
        held.start()

        def end() -> None:
            go_on.set()
            held.join()

        try:
            assert entered.wait(60)
            yield service, key, end, embedded
        finally:
            end()


def test_too_many_searches_at_once_are_sent_away_and_health_still_answers(index: SearchIndex, monkeypatch):
    monkeypatch.setattr(searching, "Turns", lambda *_: Turns(at_once=1, waiting=1))
    entered, go_on, _ = hold_searches(index, monkeypatch)
    with running(index.pipeline) as service:
        key = new_key(index.pipeline, "a@example.com")
        found: list[int] = []

        def ask(query: str) -> None:
            found.append(service.search(key, query).status_code)

        threads = [threading.Thread(target=ask, args=(f"豆腐 {n}",)) for n in range(2)]
        for thread in threads:
            thread.start()
        assert entered.wait(60)
        deadline = time.monotonic() + 60
        while (refused := service.search(key, "味噌")).status_code != 503:
            assert time.monotonic() < deadline
        assert refused.headers["retry-after"] == "1"
        assert service.client.get("/healthz").status_code == 200
        go_on.set()
        for thread in threads:
            thread.join()
        assert 200 in found
        assert service.search(key, "味噌").status_code == 200


def test_searches_for_words_alone_do_not_wait_for_those_that_wait_for_milvus(index: SearchIndex, monkeypatch):
    with one_held_search(index, monkeypatch) as (service, key, _, _):
        assert service.search(key, "豆腐", mode="fulltext").status_code == 200


def test_what_asks_no_store_does_not_wait_for_what_does(index: SearchIndex, monkeypatch):
    go_on = threading.Event()
    asked = threading.Semaphore(0)

    def held(*_: object) -> None:
        asked.release()
        go_on.wait(60)

    monkeypatch.setattr(guard, "authenticate", held)
    with running(index.pipeline) as service, ThreadPoolExecutor(60) as threads:
        try:
            waiting = [threads.submit(service.get, "rag_some_key", "/v1/sources") for _ in range(60)]
            for _ in range(searching._CALLS_AT_ONCE):
                assert asked.acquire(timeout=60)
            assert service.client.get("/readyz").status_code == 200
            assert service.client.get("/static/page.css").status_code == 200
            assert service.client.get("/login").status_code == 200
            assert service.client.get("/v1/sources").status_code == 401
            assert not any(one.done() for one in waiting)
        finally:
            go_on.set()
        assert {one.result().status_code for one in waiting} == {401}


def test_whoever_sends_slowly_is_sent_away(service: Service, monkeypatch):
    monkeypatch.setattr(guard, "_BODY_SECONDS", 0.3)
    key = new_key(service.pipeline, "slow@example.com")
    host, port = service.client.base_url.host, service.client.base_url.port
    with socket.create_connection((host, port), 30) as connection:
        head = (
            f"POST /v1/search HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\nContent-Length: 100\r\n\r\n{{"
        )
        connection.sendall(head.encode())
        assert connection.recv(100).startswith(b"HTTP/1.1 408 ")
    assert service.search(key, "休暇").status_code == 200


def test_a_store_that_is_down_is_said_without_its_address(index: SearchIndex):
    with running(index.pipeline) as service:
        key = new_key(index.pipeline, "a@example.com")
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            down = index.opened(milvus_uri=f"http://127.0.0.1:{taken.getsockname()[1]}")
            index.pipeline.stores.__dict__["milvus"] = type(index.pipeline.stores.milvus)(
                f"http://127.0.0.1:{taken.getsockname()[1]}"
            )
            index.pipeline.__dict__.pop("collections", None)
            answer = service.search(key, "豆腐")
            down.close()
    assert answer.status_code == 503
    assert int(answer.headers["retry-after"]) > 0
    assert "127.0.0.1" not in answer.text


def test_uses_of_keys_and_shown_chunks_are_counted_in_batches(index: SearchIndex):
    with running(index.pipeline) as service:
        key = new_key(index.pipeline, "a@example.com")
        for _ in range(5):
            service.search(key, "豆腐", limit=1, offset=1)
    # Written at the latest when the service ends.
    assert index.execute("SELECT usage_count FROM api_keys") == [(5,)]
    assert index.execute("SELECT last_used_at IS NOT NULL FROM api_keys") == [(True,)]
    assert index.execute("SELECT search_count FROM document_chunks WHERE search_count > 0") == [(5,)]


def test_a_scan_that_began_before_a_source_was_restricted_does_not_make_it_public_again(index: SearchIndex):
    with running(index.pipeline) as service:
        key = new_key(index.pipeline, "a@example.com")
        before = index.pipeline.source("docs")
        index.sources.write_text(
            "sources: [{name: docs, type: filesystem, path: ./docs, access: [kitchen]}]\n", "utf-8"
        )
        scan_source(index.pipeline, before)
        assert index.execute("SELECT access FROM sources") == [(["kitchen"],)]
        assert service.hits(key, "豆腐") == []


@pytest.mark.parametrize(
    "entry", ["tags: [2024-13-45]", "access: kitchen", "access: [KITCHEN]", "x: " + "[" * 3000]
)
def test_a_mistake_in_the_file_neither_opens_a_source_nor_ends_the_watch(index: SearchIndex, entry, caplog):
    right = "sources: [{name: docs, type: filesystem, path: ./docs, access: [kitchen]}]\n"
    index.sources.write_text(right, "utf-8")
    watch = SourceAccess(index.pipeline)
    watch.update()
    index.sources.write_text(right.replace("access: [kitchen]", entry), "utf-8")
    watch.update()
    assert index.execute("SELECT access FROM sources") == [(["kitchen"],)]
    assert "the access of this source stays as it was" in caplog.text
    index.sources.write_text(right.replace("kitchen", "hr"), "utf-8")
    watch.update()
    assert index.execute("SELECT access FROM sources") == [(["hr"],)]
    assert "the source docs needs kitchen now" in caplog.text
    assert "the source docs needs hr now" in caplog.text
    index.sources.write_text(right.replace("kitchen", ""), "utf-8")
    watch.update()
    watch.update()
    assert caplog.text.count("the source docs is open to all who may search now") == 1


def test_changes_of_access_and_recounts_lock_sources_in_one_order(index: SearchIndex):
    """Two transactions that lock several sources, each in an order of its own, would end in a deadlock."""
    names = [f"s{number}" for number in range(30)]
    database = index.pipeline.stores.database
    with database.connection() as connection:
        for name in names:
            sources.register(connection, "filesystem", name, {}, None)
    failed: list[Exception] = []
    ended = time.monotonic() + 2

    def repeat(work: Callable[[Connection, int], object]) -> None:
        number = 0
        try:
            while time.monotonic() < ended:
                number += 1
                with database.connection() as connection:
                    work(connection, number)
        except Exception as error:
            failed.append(error)

    def access(connection: Connection, number: int) -> None:
        sources.set_access(connection, [("filesystem", name, [f"p{number}"]) for name in reversed(names)])

    def recount(connection: Connection, number: int) -> None:
        sources.refresh_statistics(connection)

    threads = [threading.Thread(target=repeat, args=(work,)) for work in (access, recount, access)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [error for error in failed if "deadlock" in str(error)] == []


def test_whoever_may_not_see_every_source_learns_nothing_from_scores(service: Service):
    reader = new_key(service.pipeline, "scores@example.com")
    hits = service.search(reader, "休暇", mode="fulltext", limit=3).json()["hits"]
    assert [hit["score"] for hit in hits] == [1.0, 0.5, 0.333333]
    assert all(score is None for hit in hits for score in hit["scores"].values())
    everything = new_key(service.pipeline, "all-scores@example.com", "*", role="super_admin")
    assert service.search(everything, "休暇", mode="fulltext", limit=1).json()["hits"][0]["score"] != 1.0


def test_a_connection_without_a_request_is_closed(service: Service, monkeypatch):
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.2)
    with socket.create_connection((service.client.base_url.host, service.client.base_url.port), 30) as idle:
        assert idle.recv(10) == b""
    with socket.create_connection((service.client.base_url.host, service.client.base_url.port), 30) as slow:
        slow.sendall(b"GET /healthz HTTP/1.1\r\nHost:")
        assert slow.recv(10) == b""
    assert service.client.get("/healthz").status_code == 200


def test_many_idle_connections_keep_nobody_out(service: Service):
    address = service.client.base_url.host, service.client.base_url.port
    idle = [socket.create_connection(address, 30) for _ in range(400)]
    try:
        assert service.client.get("/healthz").status_code == 200
        assert service.search(new_key(service.pipeline, "among-many@example.com"), "休暇").status_code == 200
    finally:
        for connection in idle:
            connection.close()


def connected(service: Service, data: bytes = b"") -> socket.socket:
    connection = socket.create_connection((service.client.base_url.host, service.client.base_url.port), 30)
    connection.sendall(data)
    return connection


def read_to_the_end(connection: socket.socket) -> bytes:
    return b"".join(iter(lambda: connection.recv(65536), b""))


def until_readable(connections_: list[socket.socket], count: int) -> list[socket.socket]:
    """Wait until so many have something to read; return them."""
    deadline = time.monotonic() + 30
    while len(found := select.select(connections_, [], [], 0.1)[0]) < count:
        assert time.monotonic() < deadline
    return found


@pytest.mark.parametrize("protocol", [b"h2c", b"websocket"])
@pytest.mark.parametrize("piece", [1, 300, 4096])
def test_who_asks_for_another_protocol_too_is_answered(service: Service, protocol, piece, monkeypatch, caplog):
    monkeypatch.setattr(connections, "_PIECE_BYTES", piece)
    body = '{"query": "休暇", "limit": 1, "fields": ["title"]}'.encode()
    key = new_key(service.pipeline, f"java-{protocol.decode()}{piece}@example.com").encode()
    head = (
        b"POST /v1/search HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: %s\r\n"
        b"HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA\r\nContent-Type: application/json\r\n"
        b"Authorization: Bearer %s\r\nContent-Length: %d\r\n\r\n"
    )
    asked = head % (protocol, key, len(body)) + body
    last = b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, close\r\nUpgrade: %s\r\n\r\n" % protocol
    with connected(service, asked + last) as connection:
        answers = read_to_the_end(connection)
    assert answers.count(b"HTTP/1.1 200 OK\r\n") == 2, answers
    assert b'"hits":[{"title":' in answers
    assert answers.endswith(b'{"status":"ok"}')
    assert not [record for record in caplog.records if record.name.startswith("uvicorn")]


def test_bodies_that_do_not_come_take_the_place_of_nobody_else(service: Service, monkeypatch):
    monkeypatch.setattr(guard, "_MOST_REQUESTS", 4)
    monkeypatch.setattr(guard, "_MOST_PENDING", 6)
    key = new_key(service.pipeline, "beside-slow@example.com", "search", "metrics", role="admin")
    slow = [
        connected(service, b"POST /login HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\na=") for _ in range(9)
    ]
    try:
        refused = until_readable(slow, 3)
        assert len(refused) == 3
        for connection in refused:
            answer = connection.recv(4096)
            assert answer.startswith(b"HTTP/1.1 429 ")
            assert b"retry-after: 1" in answer
        assert (
            service.search(key, "休暇").status_code == 200
        )  # A key has a share of its own, also at this address.
        assert service.client.get("/login").status_code == 200
        assert service.client.get("/readyz").status_code == 200
        assert service.get(key, "/metrics").status_code == 200
    finally:
        for connection in slow:
            connection.close()


def test_whoever_watches_the_service_is_answered_when_nobody_else_is(service: Service, monkeypatch):
    key = new_key(service.pipeline, "watcher@example.com", "search", "metrics", role="admin")
    monkeypatch.setattr(guard, "_MOST_REQUESTS", 0)
    assert service.search(key, "休暇").status_code == 503
    for path in ("/healthz", "/readyz", "/metrics"):
        assert service.get(key, path).status_code == 200


def test_whoever_takes_nothing_is_cut_off(service: Service, monkeypatch, caplog):
    monkeypatch.setattr(connections, "TAKE_SECONDS", 0.3)
    monkeypatch.setattr(connections, "_MOST_WAITING", 1000)
    reader = socket.socket()
    reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    reader.connect((service.client.base_url.host, service.client.base_url.port))
    with reader:
        reader.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n" * 900)
        ended = select.poll()
        ended.register(reader, 0)  # Only its end: nothing is read.
        assert ended.poll(30_000)
    assert service.client.get("/healthz").status_code == 200
    assert [record for record in caplog.records if record.levelname in ("WARNING", "ERROR")] == []


def test_few_requests_wait_on_a_connection(service: Service):
    request = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
    last = request.replace(b"Host", b"Connection: close\r\nHost")
    with connected(service, request * 4 + last) as few:
        assert read_to_the_end(few).count(b"HTTP/1.1 200 OK") == 5
    with connected(service, request * 2000) as many:
        answers = read_to_the_end(many)
    assert 1 <= answers.count(b"HTTP/1.1 200 OK") < 500
    assert answers.count(b"connection: close") == 1


@pytest.mark.parametrize(("in_all", "of_address"), [(50, 10), (10, 5)])
def test_connections_beyond_a_limit_replace_those_that_wait_longest(
    service: Service, monkeypatch, in_all, of_address
):
    monkeypatch.setattr(connections, "MOST_CONNECTIONS", in_all)
    monkeypatch.setattr(connections, "MOST_OF_ADDRESS", of_address)
    if in_all < 20:
        addresses = count()
        monkeypatch.setattr(connections, "network", lambda address: f"address {next(addresses) % 4}")
    service.client.get("/healthz")
    waiting = [connected(service) for _ in range(20)]
    try:
        gone = until_readable(waiting, 20 - min(in_all, of_address if in_all > 20 else in_all))
        assert gone[0] is waiting[0]
        assert waiting[-1] not in gone
        with connected(service, b"GET /healthz HTTP/1.0\r\n\r\n") as another:
            assert b"200 OK" in read_to_the_end(another)
    finally:
        for connection in waiting:
            connection.close()


@pytest.mark.parametrize(
    "head",
    [b"X: " + b"a" * 100_000, b"X: a\r\n" * 20_000, b"Y: b\r\n\r\nGET /healthz HTTP/1.1\r\nX: " + b"a" * 100_000],
)
def test_a_head_that_is_too_large_is_refused(service: Service, head):
    with connected(service, b"GET /healthz HTTP/1.1\r\nHost: x\r\n") as connection:
        with suppress(OSError):  # It may be refused while it is sent.
            connection.sendall(head + b"\r\n\r\n")
        answer = b""
        with suppress(ConnectionResetError):
            answer = read_to_the_end(connection)
    assert b"HTTP/1.1 200" not in answer.rpartition(b"HTTP/1.1")[2]
    assert not answer or answer.startswith(b"HTTP/1.1 431 ") or b"Y: b" in head
    assert service.client.get("/healthz", headers={"X": "a" * 60_000}).status_code == 200


def test_a_request_that_goes_on_after_its_answer_ends(service: Service):
    with connected(
        service, b"POST /v1/search HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    ) as connection:
        assert connection.recv(4096).startswith(b"HTTP/1.1 401 ")
        with pytest.raises(OSError):  # noqa: PT011 — a reset or a broken pipe.
            for _ in range(10_000):
                connection.sendall(b"1000\r\n" + b"a" * 4096 + b"\r\n")


def test_an_unexpected_error_is_a_problem_that_tells_nothing(index: SearchIndex, monkeypatch, caplog):
    def broken(*_: object) -> None:
        raise ZeroDivisionError("the password is hunter2")

    with running(index.pipeline) as service:
        key = new_key(index.pipeline, "a@example.com")
        monkeypatch.setattr(index.pipeline.embedder, "encode_query", broken)
        answer = service.search(key, "豆腐")
    assert answer.status_code == 500
    assert answer.headers["content-type"] == "application/problem+json"
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert "hunter2" not in answer.text
    assert "hunter2" in caplog.text


def test_only_a_response_that_names_an_origin_allows_images_from_there():
    scope = {"type": "http", "state": {}}
    name, own = guard._policy(scope)
    assert (name, b"img-src 'self';" in own) == (b"content-security-policy", True)
    assert guard._policy({"type": "http"}) == guard._policy({"type": "http", "state": {"image_origin": None}})
    _, named = guard._policy({"type": "http", "state": {"image_origin": "https://img.example.com"}})
    assert named == own.replace(b"img-src 'self'", b"img-src 'self' https://img.example.com")


def test_a_search_that_nobody_waits_for_any_more_never_begins(index: SearchIndex, monkeypatch):
    with one_held_search(index, monkeypatch) as (service, key, end, embedded):
        body = b'{"query": "nobody waits"}'
        head = f"POST /v1/search HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\nContent-Length: {len(body)}\r\n"
        with socket.create_connection((service.client.base_url.host, service.client.base_url.port), 30) as leaver:
            leaver.sendall(head.encode() + b"Content-Type: application/json\r\n\r\n" + body)
            text = ""
            while "rag_searches_waiting 1.0" not in text:
                text = service.get(new_key_of_metrics(index), "/metrics").text
        while "rag_searches_waiting 0.0" not in text:
            text = service.get(new_key_of_metrics(index), "/metrics").text
        end()
        assert service.search(key, "味噌").status_code == 200
        text = service.get(new_key_of_metrics(index), "/metrics").text
    assert embedded == ["豆腐", "味噌"]
    assert 'rag_requests_total{route="/v1/search",status="499"} 1.0' in text
    assert 'route="/v1/search",status="503"' not in text


@cache
def new_key_of_metrics(index: SearchIndex) -> str:
    return new_key(index.pipeline, "operator@example.com", "metrics", role="admin")


def test_redis_that_comes_back_is_used_again(redis_url: str, caplog):
    breaker = RedisBreaker.to(redis_url)
    answers = iter([redis.ConnectionError("gone"), 1, 2])

    def ask() -> int:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    with pytest.raises(RedisDownError):
        breaker.ask(ask)
    with pytest.raises(RedisDownError):  # Nobody asks during the pause.
        breaker.ask(ask)
    breaker._breaker._try_again_at = 0.0
    assert breaker.ask(ask) == 1
    assert breaker.ask(ask) == 2
    assert caplog.text.count("Redis does not answer") == 1
    assert "Redis answers again" in caplog.text
