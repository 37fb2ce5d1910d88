"""The tools for agents, asked by the SDK's own client."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import httpx2
import pytest
from mcp.client import Client
from mcp.client.stdio import StdioServerParameters
from mcp.client.streamable_http import streamable_http_client

from rag_pipeline import __version__
from rag_pipeline.accounts import api_keys
from rag_pipeline.service.reading import Reading
from rag_pipeline.service.searching import Searching
from rag_pipeline_tests.support.http_service import Service, bearer, new_key
from rag_pipeline_tests.support.search_index import SearchIndex
from rag_pipeline_tests.support.workspace import clean_environment

T = TypeVar("T")

FILTERS = {"language", "source", "source_type", "category", "tags", "author", "from", "to"}


def over_http(service: Service, key: str, talk: Callable[[Client], Awaitable[T]]) -> T:
    async def connected() -> T:
        async with (
            httpx2.AsyncClient(headers=bearer(key), trust_env=False) as http,
            Client(streamable_http_client(str(service.client.base_url.join("/mcp")), http_client=http)) as client,
        ):
            return await talk(client)

    return asyncio.run(connected())


def over_stdio(index: SearchIndex, talk: Callable[[Client], Awaitable[T]], **environment: str) -> T:
    async def connected() -> T:
        server = StdioServerParameters(
            command=sys.executable,
            args=["-m", "rag_pipeline.cli", "mcp"],
            env={**clean_environment(), **index.variables, **environment},
            cwd=str(index.folder),
        )
        async with Client(server) as client:
            return await talk(client)

    return asyncio.run(connected())


async def search(client: Client, **arguments: Any) -> list[dict[str, Any]]:
    result = await client.call_tool("search", arguments)
    assert not result.is_error, result
    assert result.structured_content is not None
    return result.structured_content["passages"]


@pytest.fixture(scope="module")
def key(service: Service) -> str:
    return new_key(service.pipeline, "agent@example.com")


def test_an_agent_searches_reads_and_cites(service: Service, key: str):
    async def talk(client: Client) -> None:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        assert set(tools) == {"search", "read_document", "list_sources"}
        assert all(tool.annotations is not None and tool.annotations.read_only_hint for tool in tools.values())
        assert client.server_info is not None
        assert (client.server_info.name, client.server_info.version) == ("rag-pipeline", __version__)
        schema = tools["search"].input_schema
        assert set(schema["properties"]) == {"query", "mode", "limit", "offset", *FILTERS}
        assert not any(tool.input_schema["additionalProperties"] for tool in tools.values())

        found = await search(client, query="休暇 11 の取り方", limit=3)
        assert len(found) == 3
        best = found[0]
        assert best["citation"].startswith(f"{best['title']} (2024-")
        assert best["url"] is None  # A path on the server's disk.
        assert "file:" not in best["citation"]
        read = await client.call_tool("read_document", {"document_id": best["document_id"]})
        assert read.structured_content is not None
        assert read.structured_content["parts"] == [
            {"position": 0, "section": None, "text": best["text"]}  # It stands under the title alone.
        ]
        past = await client.call_tool("read_document", {"document_id": best["document_id"], "position": 9999})
        assert (past.is_error, "at position 9999: the document has 1, from 0 on" in str(past.content)) == (
            True,
            True,
        )
        sources = await client.call_tool("list_sources", {})
        assert sources.structured_content is not None
        assert [one["name"] for one in sources.structured_content["sources"]] == ["docs", "notes"]

    over_http(service, key, talk)


def test_an_agent_has_the_filters_of_the_api(service: Service, key: str):
    async def talk(client: Client) -> None:
        for filters in (
            {"category": "memo", "tags": ["社内"]},
            {"from": "2024-02-01", "to": "2024-02-29"},
            {"from": "2024-02-05T09:00:01+09:00", "to": "2024-03-04"},
            {"author": "花子", "source_type": "filesystem", "source": "docs"},
            {"author": "nobody"},
        ):
            asked = {"query": "休暇の取り方", "mode": "fulltext"}
            answer = service.search(key, limit=40, filters=filters, **asked).json()["hits"]
            first = await search(client, limit=20, **asked, **filters)
            rest = await search(client, limit=20, offset=20, **asked, **filters)
            assert [one["document_id"] for one in first + rest] == [hit["document_id"] for hit in answer], filters
        [memo, *_] = await search(client, query="休暇の取り方", category="memo", **{"from": "2024-03-01"})
        assert memo["date"] == "2024-03-05"

    over_http(service, key, talk)


def test_an_agent_sees_what_its_key_may_see(service: Service):
    reader = new_key(service.pipeline, "agent-reader@example.com")
    hr = new_key(service.pipeline, "agent-hr@example.com", "search", "hr", own=("hr",))
    found = over_http(service, hr, lambda client: search(client, query="休暇", source="staff"))
    assert len(found) == 4
    assert over_http(service, reader, lambda client: search(client, query="休暇", source="staff")) == []

    async def read(client: Client) -> Any:
        return await client.call_tool("read_document", {"document_id": found[0]["document_id"]})

    assert not over_http(service, hr, read).is_error
    assert over_http(service, reader, read).is_error
    assert service.client.post("/mcp", json={}).status_code == 401
    assert service.get(reader, "/mcp").status_code == 405  # A stream that would never end.


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"query": "休暇", "language": "japanese"}, "two lower-case letters"),
        ({"query": "   "}, "the query is empty"),
        ({"query": "休暇", "limit": 1000}, "limit: Input should be less than or equal to 20"),
        ({"query": "休暇", "limit": 20, "offset": 99}, "offset + limit is at most 100"),
        ({"query": "休暇", "from": "2024-02-01T00:00:00"}, "needs its offset from UTC"),
        ({"query": "休暇", "from": "2024-03-01", "to": "2024-02-01"}, "swap them"),
        ({"query": "休暇", "colour": "red"}, "colour: there is no such field: choose of query, limit, "),
        ({"query": "休暇", "from_": "2024-03-01"}, "from_: there is no such field: "),
        ({"query": "休暇", "tags": "社内"}, "tags: "),
        ({}, "query: "),
    ],
)
def test_an_agent_is_told_what_was_wrong(service: Service, key: str, arguments, said):
    result = over_http(service, key, lambda client: client.call_tool("search", arguments))
    assert result.is_error
    assert said in result.content[0].text
    assert "\n" not in result.content[0].text
    assert "pydantic" not in result.content[0].text


def test_null_is_what_an_agent_does_not_give_and_null_in_quotes_is_a_text(service: Service, key: str):
    async def talk(client: Client) -> None:
        asked = {"query": "休暇の取り方", "limit": 3}
        expected = await search(client, **asked)
        assert await search(client, **asked, **dict.fromkeys(FILTERS), mode=None, offset=None) == expected
        for name in ("category", "author", "source"):
            assert await search(client, **asked, **{name: "null"}) == [], name
        memos = await search(client, **asked, category="memo")
        assert memos
        assert (
            await search(client, **asked, category="memo", tags='["社内"]') == memos
        )  # As some clients write a list.
        read = await client.call_tool("read_document", {"document_id": memos[0]["document_id"], "position": None})
        assert not read.is_error

    over_http(service, key, talk)


def test_an_agent_reads_no_marks_that_turn_the_direction(service: Service, key: str, monkeypatch):
    answer = Searching.answer
    disguised = "\u202e\u2066外部\u200f"

    async def answered(*arguments: Any) -> Any:
        found = await answer(*arguments)
        return replace(
            found,
            hits=[
                {**hit, "title": disguised, "content": disguised + hit["content"], "section_path": [disguised]}
                for hit in found.hits
            ],
        )

    def with_chunks(*arguments: Any) -> Any:
        document, parts = read(*arguments)
        disguised_parts = [
            {**part, "content": disguised + part["content"], "section_path": [disguised]} for part in parts
        ]
        return {**document, "title": disguised, "author": disguised}, disguised_parts

    read = Reading.with_chunks
    expected = over_http(service, key, lambda client: search(client, query="休暇 3", limit=1))[0]
    monkeypatch.setattr(Searching, "answer", answered)
    monkeypatch.setattr(Reading, "with_chunks", with_chunks)

    async def talk(client: Client) -> tuple[Any, Any]:
        found = await search(client, query="休暇 3", limit=1)
        whole = await client.call_tool("read_document", {"document_id": found[0]["document_id"]})
        return found[0], whole.structured_content

    found, document = over_http(service, key, talk)
    assert (document["title"], document["author"]) == ("外部", "外部")
    assert document["parts"] == [{"position": 0, "section": "外部", "text": f"外部{expected['text']}"}]
    assert (found["title"], found["section"], found["text"]) == ("外部", "外部", f"外部{expected['text']}")
    assert found["citation"].startswith("外部 › 外部 (2024-")


def test_over_standard_input_an_agent_has_the_rights_of_its_key(index: SearchIndex, tmp_path: Path):
    index.sources.write_text(
        "sources: [{name: docs, type: filesystem, path: ./docs, access: [kitchen]}]\n", "utf-8"
    )
    index.pipeline.__dict__.pop("sources_file", None)
    index.pipeline.__dict__.pop("sources", None)
    index.ingest()
    cook = new_key(index.pipeline, "cook@example.com", "search", "kitchen", own=("kitchen",))

    async def talk(client: Client) -> list[list[dict[str, Any]]]:
        before = await search(client, query="豆腐")
        with index.pipeline.stores.database.connection() as connection:
            assert api_keys.table.revoke(connection, cook[:12])
        after = await client.call_tool("search", {"query": "豆腐"})
        assert after.is_error
        assert "not valid any more" in after.content[0].text
        return [before]

    async def talk_much(client: Client) -> None:
        answers = [await client.call_tool("list_sources", {}) for _ in range(6)]
        assert not answers[0].is_error
        refused = [answer for answer in answers if answer.is_error]
        assert len(refused) >= 2  # A minute may end meanwhile.
        assert all("may make 2 requests a minute" in answer.content[0].text for answer in refused)

    assert over_stdio(index, lambda client: search(client, query="豆腐")) == []
    slow = api_keys.create(index.pipeline.stores.database, "slow", "cook@example.com", rate=2).key
    over_stdio(index, talk_much, RAG_API_KEY=slow)
    assert over_stdio(index, talk, RAG_API_KEY=cook)[0][0]["title"] == "味噌汁"
