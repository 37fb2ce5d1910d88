"""The search service over a test's index, on a port of its own, in a thread."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import uvicorn

from rag_pipeline.accounts import api_keys, users
from rag_pipeline.pipeline import Pipeline
from rag_pipeline.service.server import server_config

PASSWORD = "correct horse battery"


class Service:
    """A running service and a client for it."""

    def __init__(self, pipeline: Pipeline, url: str) -> None:
        self.pipeline = pipeline
        self.client = httpx.Client(base_url=url, timeout=30, trust_env=False)

    def search(self, key: str, query: str, **body: Any) -> httpx.Response:
        return self.client.post("/v1/search", json={"query": query, **body}, headers=bearer(key))

    def hits(self, key: str, query: str, **body: Any) -> list[str]:
        """Return the source ids of the hits."""
        response = self.search(key, query, **body)
        assert response.status_code == 200, response.text
        return [hit["source_id"] for hit in response.json()["hits"]]

    def get(self, key: str, path: str) -> httpx.Response:
        return self.client.get(path, headers=bearer(key))


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def new_key(pipeline: Pipeline, email: str, *wanted: str, role: str = "viewer", own: tuple[str, ...] = ()) -> str:
    """Return a key of a new user, which may make as many requests as it likes."""
    database = pipeline.stores.database
    users.add(database, email, PASSWORD, role=role, own=own)
    return api_keys.create(database, "a key", email, wanted=wanted, rate=1_000_000).key


@contextmanager
def running(pipeline: Pipeline) -> Iterator[Service]:
    """Run the service until the end of the block."""
    server = uvicorn.Server(server_config(pipeline, "127.0.0.1", 0))
    started = threading.Event()
    original = server.startup

    async def startup(sockets: Any = None) -> None:
        await original(sockets)
        started.set()

    server.startup = startup  # type: ignore[method-assign]
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    assert started.wait(30)
    port = server.servers[0].sockets[0].getsockname()[1]
    service = Service(pipeline, f"http://127.0.0.1:{port}")
    try:
        yield service
    finally:
        service.client.close()
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive()
