"""The HTTP API as its callers see it: over a real socket, on the real stores."""

from __future__ import annotations

import json
from datetime import date
from uuid import UUID

import httpx
import pytest

from rag_pipeline.errors import AnotherEmbedderError, DimensionMismatchError, RagError
from rag_pipeline.search import Filters, search
from rag_pipeline.service.problems import of_error
from rag_pipeline.service.routes import SearchFilters
from rag_pipeline_tests.support.http_service import Service, bearer, new_key, running
from rag_pipeline_tests.support.search_index import SearchIndex


@pytest.fixture(scope="module")
def key(service: Service) -> str:
    """The key of somebody who sees everything."""
    return new_key(service.pipeline, "everybody@example.com", "search", "metrics", "hr", role="super_admin")


@pytest.mark.parametrize("mode", ["hybrid", "dense", "sparse", "fulltext"])
def test_a_search_answers_what_the_command_line_prints(service: Service, key: str, mode):
    answer = service.search(
        key, "休暇の取り方", mode=mode, limit=5, filters={"tags": ["社内"], "from": "2024-02-01"}
    )
    found = search(
        service.pipeline,
        "休暇の取り方",
        mode=mode,
        limit=5,
        filters=Filters(tags=("社内",), from_date=date(2024, 2, 1)),
    )
    assert answer.status_code == 200
    body = answer.json()
    assert set(body) == {"hits", "seconds", "cached"}
    printed = json.loads(json.dumps(found.as_json()["hits"]))
    assert printed[0]["source_url"].startswith("file:///")
    # A path on the server's disk is for those who are there.
    assert body["hits"] == [{**hit, "source_url": None} for hit in printed]
    assert len(body["hits"]) == 5
    assert body["cached"] is False


def test_the_same_question_is_answered_from_the_cache(service: Service, key: str):
    first, second = (service.search(key, query, limit=3).json() for query in (" 休暇 17 ", "休暇 　17"))
    assert (first["cached"], second["cached"]) == (False, True)
    assert first["hits"] == second["hits"]
    assert service.search(key, "休暇 17", limit=4).json()["cached"] is False


def test_pages_go_on_where_the_last_one_ended(service: Service, key: str):
    whole = service.hits(key, "休暇の取り方", limit=30)
    pages = [service.hits(key, "休暇の取り方", limit=10, offset=offset) for offset in (0, 10, 20)]
    assert [one for page in pages for one in page] == whole
    assert len(set(whole)) == 30
    too_far = service.search(key, "休暇", limit=50, offset=60)
    assert (too_far.status_code, "at most 100" in too_far.json()["detail"]) == (422, True)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"query": ', "JSON decode error after 10 characters"),
        (b"[]", "has to be one JSON object"),
        (b"", "has to be one JSON object"),
        (b'{"query": ""}', "query: "),
        (b'{"query": "   "}', "the query is empty"),
        (b'{"query": "\\ud800"}', "query: "),
        (json.dumps({"query": "x" * 8001}).encode(), "query: "),
        (b'{"query": "x", "limit": 101}', "limit: "),
        (b'{"query": "x", "limit": "many"}', "limit: "),
        (b'{"query": "x", "limit": true}', "limit: "),
        (b'{"query": "x", "limit": "5"}', "limit: "),
        (b'{"query": "x", "offset": "5"}', "offset: "),
        (b'{"query": "x", "fields": ["text"]}', "fields.0: a hit has no such field: choose of document_id, "),
        (b'{"query": "x", "fields": []}', "fields: "),
        (b'{"query": "x", "mode": "magic"}', "mode: "),
        (b'{"query": "x", "fitlers": {}}', "fitlers: there is no such field: choose of query, mode, limit, "),
        (b'{"query": "x", "\\ud800": null}', ": there is no such field: "),
        (b'{"query": null}', "query: "),
        (
            b'{"query": "x", "filters": {"langauge": "ja"}}',
            "filters.langauge: there is no such field: choose of language, source, ",
        ),
        (b'{"query": "x", "filters": {"from_": "2024-02-01"}}', "filters.from_: there is no such field: "),
        (b'{"query": "x", "filters": {"from": "2024-W05-4"}}', "filters.from: there is no such day"),
        (b'{"query": "x", "filters": {"from": "20240201T000000Z"}}', "filters.from: there is no such day"),
        (b'{"query": "x", "filters": {"language": "japanese"}}', "two lower-case letters"),
        (b'{"query": "x", "filters": {"from": "2024-02-30"}}', "filters.from: there is no such day"),
        (b'{"query": "x", "filters": {"from": "2024-02"}}', "write a day such as 2024-02-01"),
        (b'{"query": "x", "filters": {"from": "2024-02-01T00:00:00"}}', "offset from UTC"),
        (b'{"query": "x", "filters": {"from": "2024-02-02", "to": "2024-02-01"}}', "swap them"),
        (b'{"query": "x", "filters": {"author": "a\\u0000b"}}', "no NUL"),
    ],
)
def test_a_wrong_request_is_explained_in_a_line(service: Service, key: str, body, said):
    answer = service.client.post(
        "/v1/search", content=body, headers={**bearer(key), "content-type": "application/json"}
    )
    assert answer.status_code == 422
    _is_problem(answer, said)


@pytest.mark.parametrize("byte", [b"\xff", b"\x80"])
def test_a_body_in_another_encoding_is_explained(service: Service, key: str, byte):
    answer = service.client.post(
        "/v1/search",
        content=b'{"query": "' + byte + b'"}',
        headers={**bearer(key), "content-type": "application/json"},
    )
    assert answer.status_code == 400
    _is_problem(answer, "send one JSON object in UTF-8")


def test_null_is_what_is_not_given(service: Service, key: str):
    expected = service.hits(key, "休暇の取り方")
    nothing = dict.fromkeys(SearchFilters().model_dump(by_alias=True))
    for body in ({"filters": None}, {"filters": nothing}, dict.fromkeys(("mode", "limit", "offset", "fields"))):
        answer = service.client.post("/v1/search", json={"query": "休暇の取り方", **body}, headers=bearer(key))
        assert answer.status_code == 200, answer.text
        assert [hit["source_id"] for hit in answer.json()["hits"]] == expected


def test_a_body_that_is_not_announced_is_explained(service: Service, key: str):
    answer = service.client.post("/v1/search", content=b'{"query": "x"}', headers=bearer(key))
    assert answer.status_code == 422
    _is_problem(answer, "send the header Content-Type: application/json")


@pytest.mark.parametrize(
    ("method", "path", "status", "said"),
    [
        ("GET", "/v1/search", 405, "use POST"),
        ("GET", "/v1/nothing", 404, "/openapi.json lists"),
        ("GET", "/nothing", 404, "/openapi.json lists"),
        ("GET", "/v1/documents/1", 422, "document_id: "),
        ("GET", f"/v1/documents/{UUID(int=7)}", 404, "search for the ids"),
        ("GET", f"/v1/documents/{UUID(int=7)}/chunks", 404, "search for the ids"),
        ("GET", f"/v1/documents/{UUID(int=7)}/chunks?limit=1000", 422, "limit: "),
        ("GET", "/docs", 404, "/openapi.json lists"),
    ],
)
def test_every_other_answer_is_a_problem_too(service: Service, key: str, method, path, status, said):
    answer = service.client.request(method, path, headers=bearer(key))
    assert answer.status_code == status
    _is_problem(answer, said)


def test_a_request_that_is_too_large_is_refused(service: Service, key: str):
    announced = service.client.post("/v1/search", content=b"x" * 70_000, headers=bearer(key))
    chunked = service.client.post("/v1/search", content=iter([b"x" * 1000] * 100), headers=bearer(key))
    for answer in (announced, chunked):
        assert answer.status_code == 413
        _is_problem(answer, "65536 bytes")


def test_hits_say_what_to_cite_and_only_what_was_asked_for(service: Service, key: str):
    whole = service.search(key, "休暇 7 の取り方", limit=1, filters={"source": "staff"}).json()["hits"][0]
    assert {name: whole[name] for name in ("created_at", "language", "author", "category", "tags", "source")} == {
        "created_at": "2024-02-05T00:00:00+00:00",
        "language": "ja",
        "author": "花子",
        "category": "人事",
        "tags": ["社内", "規程"],
        "source": "staff",
    }
    wanted = ["title", "section_path", "content"]
    some = service.search(key, "休暇 7 の取り方", limit=1, filters={"source": "staff"}, fields=wanted).json()
    assert some["hits"] == [{name: whole[name] for name in wanted}]


def test_a_document_is_read_with_its_chunks(service: Service, key: str):
    hit = service.search(key, "休暇 5 の取り方", limit=1, filters={"source": "docs"}).json()["hits"][0]
    document = service.get(key, f"/v1/documents/{hit['document_id']}").json()
    assert document["source"] == "docs"
    assert (document["source_id"], document["title"], document["chunks"]) == (hit["source_id"], hit["title"], 1)
    assert document["source_url"] is None
    chunks = service.get(key, f"/v1/documents/{hit['document_id']}/chunks").json()["chunks"]
    assert [(chunk["chunk_id"], chunk["content"]) for chunk in chunks] == [(hit["chunk_id"], hit["content"])]
    assert service.get(key, f"/v1/documents/{hit['document_id']}/chunks?from=1").json() == {"chunks": []}


def test_chunks_of_a_long_document_come_from_a_position_on(index: SearchIndex):
    index.write(
        "long.md",
        "# 出汁\n\n## 昆布\n\n" + "\n\n".join(f"### 節 {n}\n\n" + f"昆布 {n} を煮る。" * 30 for n in range(9)),
    )
    index.ingest()
    with running(index.pipeline) as service:
        key = new_key(index.pipeline, "a@example.com")
        hit = service.search(key, "昆布 5 を煮る").json()["hits"][0]
        path = f"/v1/documents/{hit['document_id']}/chunks?from={hit['position'] - 1}&limit=3"
        around = service.get(key, path).json()["chunks"]
    assert [chunk["position"] for chunk in around] == [hit["position"] + n for n in (-1, 0, 1)]
    assert around[1]["content"] == hit["content"]
    assert around[1]["section_path"] == hit["section_path"] == ["昆布", hit["section_title"]]


def test_operators_see_health_and_metrics(service: Service, key: str):
    assert service.client.get("/healthz").json() == {"status": "ok"}
    ready = service.client.get("/readyz")
    assert ready.json() == {"ready": True, "stores": {"postgres": True, "milvus": True, "redis": True}}
    service.search(key, "指標")
    text = service.get(key, "/metrics").text
    assert 'rag_requests_total{route="/v1/search",status="200"}' in text
    assert 'rag_search_cache_total{result="miss"}' in text
    assert 'rag_search_stage_seconds_count{stage="embed"}' in text


def test_what_is_refused_is_counted_under_the_route_that_was_asked_for(service: Service, key: str):
    assert service.client.post("/v1/search", json={"query": "休暇"}).status_code == 401
    assert service.client.post("/mcp", json={}).status_code == 401
    assert service.get("rag_wrong", f"/v1/documents/{UUID(int=7)}").status_code == 401
    assert service.get(key, "/v1/search").status_code == 405
    assert service.get(key, "/nothing/like/it").status_code == 404
    text = service.get(key, "/metrics").text
    for route, status in (
        *(("/v1/search", 401), ("/v1/search", 405), ("/mcp", 401), ("/v1/documents/{document_id}", 401)),
        ("other", 404),
    ):
        assert f'rag_requests_total{{route="{route}",status="{status}"}}' in text
    assert "nothing" not in text
    assert 'rag_request_seconds_count{route="/mcp"}' not in text  # Or refusals would make searches look quick.


def test_head_is_answered_where_get_is(service: Service, key: str):
    for path in ("/healthz", "/readyz", "/", "/login", "/openapi.json"):
        found, head = service.client.get(path), service.client.head(path)
        assert (head.status_code, head.content) == (found.status_code, b"")
        assert head.headers["content-type" if found.content else "location"]
    assert service.client.head("/v1/search", headers=bearer(key)).status_code == 405
    assert service.client.head("/v1/sources").status_code == 401


def test_nothing_redirects_to_the_host_that_a_request_names(service: Service, key: str):
    for path in ("/login/", "/keys/", "/v1/sources/", "/mcp/"):
        answer = service.client.get(path, headers={"Host": "evil.example", **bearer(key)})
        assert answer.status_code == 404
        assert "location" not in answer.headers


def test_the_openapi_document_describes_the_api(service: Service, key: str):
    document = service.client.get("/openapi.json").json()
    assert set(document["paths"]) == {
        *("/v1/search", "/v1/sources", "/v1/documents/{document_id}", "/v1/documents/{document_id}/chunks"),
        *("/healthz", "/readyz", "/metrics"),
    }
    search_ = document["paths"]["/v1/search"]["post"]
    assert set(search_["responses"]) >= {"200", "401", "403", "413", "422", "429", "503"}
    assert search_["security"]
    metrics, ready = document["paths"]["/metrics"]["get"], document["paths"]["/readyz"]["get"]
    assert metrics["security"]
    assert set(metrics["responses"]["200"]["content"]) == {"text/plain"}
    assert {"401", "403"} <= set(metrics["responses"])
    assert "503" in ready["responses"]
    for path in ("/v1/documents/{document_id}", "/v1/documents/{document_id}/chunks"):
        assert "404" in document["paths"][path]["get"]["responses"]
    schemas = document["components"]["schemas"]

    hit = service.search(key, "休暇", limit=1).json()["hits"][0]
    assert set(hit) == set(search(service.pipeline, "休暇", limit=1).as_json()["hits"][0])
    assert set(hit) == set(schemas["FoundHit"]["properties"])
    assert set(schemas["SearchRequest"]["properties"]["fields"]["anyOf"][0]["items"]["enum"]) == set(hit)
    path = f"/v1/documents/{hit['document_id']}"
    for name, answered in (
        ("FoundDocument", service.get(key, path).json()),
        ("Chunk", service.get(key, f"{path}/chunks").json()["chunks"][0]),
        ("FoundSource", service.get(key, "/v1/sources").json()["sources"][0]),
    ):
        assert set(schemas[name]["properties"]) == set(schemas[name]["required"]) == set(answered)
    assert not [name for name, schema in schemas.items() if schema.get("additionalProperties") is True]


def test_headers_keep_answers_out_of_caches_and_sniffers(service: Service, key: str):
    for answer in (service.search(key, "休暇"), service.client.get("/v1/sources"), service.client.get("/healthz")):
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"


def _is_problem(answer: httpx.Response, said: str = "") -> None:
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert set(body) == {"type", "title", "status", "detail"}
    assert body["status"] == answer.status_code
    assert said in body["detail"]
    assert "\n" not in body["detail"]


@pytest.mark.parametrize(
    "error",
    [AnotherEmbedderError("set RAG_BGE_M3_MODEL=/home/rag back"), DimensionMismatchError(64, 384, "/home/rag")],
)
def test_another_embedder_than_the_index_has_is_told_without_paths(error: RagError):
    problem = of_error(error)
    assert problem.status == 503
    assert str(problem) == "the service is set to another embedder than the index: its log says what to set back"
