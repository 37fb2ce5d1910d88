"""An embedding server on loopback, in a thread, that answers as OpenAI's API does, or as badly as a test wants.

It has TEI's and vLLM's endpoints for sparse vectors too.
"""

from __future__ import annotations

import base64
import contextlib
import gzip
import json
import socket
import threading
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest

from rag_pipeline.circuit_breaker import CircuitBreaker
from rag_pipeline.embedding.openai.embedder import OpenAIEmbedder
from rag_pipeline.embedding.openai.options import Options
from rag_pipeline.embedding.openai.server import EmbeddingServer, Patience
from rag_pipeline.settings import Settings
from rag_pipeline_tests.support.embedders import CheapEmbedder

DIMENSION = 32
MODEL = "acme/embed-1"
SOON = Patience(seconds=1, first=0.01, longest=0.05)


EMBEDDINGS, EMBED_SPARSE, POOLING, TOKENIZE = "/v1/embeddings", "/embed_sparse", "/pooling", "/tokenize"


def token_weights(text: str) -> list[tuple[int, float]]:
    """The tokens of a text, which are its characters, and their weights: the last is 0."""
    return [(ord(character), 1 - (place + 1) / len(text)) for place, character in enumerate(text)]


def sparse_vector(text: str) -> dict[int, float]:
    """The right sparse vector."""
    found: dict[int, float] = {}
    for token, weight in token_weights(text):
        if weight > found.get(token, 0):
            found[token] = float(np.float32(weight))
    return found


class Request:
    """A request, and how it can be answered."""

    def __init__(self, server: LoopbackServer, handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        self.server = server
        self.body = body
        self.headers = handler.headers
        self.path = handler.path
        self._handler = handler

    @property
    def texts(self) -> list[str]:
        if self.path == TOKENIZE:
            return [self.body["prompt"]]
        return self.body["inputs" if self.path == EMBED_SPARSE else "input"]

    def answer_sparse(self) -> None:
        """Answer as TEI or vLLM does."""
        of_texts = [token_weights(text) for text in self.texts]
        if self.path == EMBED_SPARSE:
            self.send(
                200,
                [
                    [{"index": token, "value": weight} for token, weight in sparse_vector(text).items()]
                    for text in self.texts
                ],
            )
        elif self.path == POOLING:
            assert self.body["task"] == "token_classify"
            data = [
                {"index": index, "object": "pooling", "data": [[weight] for _, weight in of_text]}
                for index, of_text in enumerate(of_texts)
            ]
            tokens = sum(map(len, self.texts))
            self.send(200, {"data": data, "usage": {"prompt_tokens": tokens, "total_tokens": tokens}})
        else:
            marks = [0, 2] if self.body.get("add_special_tokens", True) else []
            tokens = [*marks[:1], *(token for token, _ in of_texts[0]), *marks[1:]]
            self.send(200, {"count": len(tokens), "max_model_len": 8192, "tokens": tokens})

    def vectors(self) -> np.ndarray:
        """The right vectors: (n, d), three times as long as unit vectors, so that a test sees who makes them so."""
        found = CheapEmbedder(self.server.dimension).encode(self.texts, ["dense"])
        return 3 * np.stack([of_text.dense for of_text in found])

    def answer(self, vectors: Any, *, order: list[int] | None = None, as_lists: bool = False, **more: Any) -> None:
        wants_base64 = self.body.get("encoding_format") == "base64" and not as_lists
        data = [
            {
                "object": "embedding",
                "index": index,
                "embedding": base64.b64encode(np.asarray(vector, "<f4").tobytes()).decode()
                if wants_base64
                else [float(number) for number in vector],
            }
            for index, vector in enumerate(vectors)
        ]
        if order is not None:
            data = [data[index] for index in order]
        tokens = sum(map(len, self.texts))
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        self.send(200, {"object": "list", "data": data, "model": self.body["model"], "usage": usage} | more)

    def refuse(self, status: int, message: str, headers: Mapping[str, str] | None = None, **more: str) -> None:
        self.send(status, {"error": {"message": message, "type": "refused", **more}}, headers)

    def send(self, status: int, content: Any, headers: Mapping[str, str] | None = None) -> None:
        sent = content if isinstance(content, bytes) else json.dumps(content).encode()
        self._handler.send_response(status)
        for name, value in {"Content-Length": str(len(sent)), **(headers or {})}.items():
            self._handler.send_header(name, value)
        self._handler.end_headers()
        self._handler.wfile.write(sent)

    def cut(self, sent: bytes = b"") -> None:
        """Send this and end the connection."""
        self._handler.wfile.write(sent)
        self._handler.close_connection = True


Behaviour = Callable[[Request], None]


def normally(request: Request) -> None:
    if request.path == EMBEDDINGS:
        request.answer(request.vectors())
    else:
        request.answer_sparse()


def refusing(status: int, message: str = "no", headers: Mapping[str, str] | None = None, **more: str) -> Behaviour:
    return lambda request: request.refuse(status, message, headers, **more)


def throttling(after: str) -> Behaviour:
    return refusing(429, "slow down", {"Retry-After": after})


def hanging(request: Request) -> None:
    request.server.released.wait(20)


def dripping(request: Request) -> None:
    """Send a byte now and then, and never come to an end."""
    with contextlib.suppress(OSError):
        request.cut(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        while not request.server.released.wait(0.05):
            request.cut(b" ")


def silent(request: Request) -> None:
    request.cut()


def cutting(request: Request) -> None:
    """End the connection in the middle of the answer."""
    request.cut(b'HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{"data": [')


def no_json(request: Request) -> None:
    request.send(200, b"<html>It works!</html>")


def endless(request: Request) -> None:
    """Send blanks, 200 MB of them."""
    request.cut(b"HTTP/1.1 200 OK\r\nContent-Length: 200000000\r\n\r\n")
    for _ in range(200):
        request.cut(b" " * 1_000_000)
        request.server.blanks += 1_000_000


def bomb(request: Request) -> None:
    """Send 200 MB of blanks in 200 KB."""
    blanks = zlib.compressobj(wbits=31)
    sent = b"".join(blanks.compress(b" " * 1_000_000) for _ in range(200)) + blanks.flush()
    request.send(200, sent, {"Content-Encoding": "gzip"})


def compressed(request: Request) -> None:
    """Send the right answer, indented and compressed."""
    data = [{"index": n, "embedding": vector.tolist()} for n, vector in enumerate(request.vectors())]
    request.send(200, gzip.compress(json.dumps({"data": data}, indent=8).encode()), {"Content-Encoding": "gzip"})


def too_few(request: Request) -> None:
    request.answer(request.vectors()[1:])


def too_many(request: Request) -> None:
    request.answer([*request.vectors(), request.vectors()[0]])


def another_dimension(request: Request) -> None:
    request.answer(request.vectors()[:, 1:])


def mixed_dimensions(request: Request) -> None:
    first, *others = request.vectors()
    request.answer([first[1:], *others])


def one_index_twice(request: Request) -> None:
    request.answer(request.vectors(), order=[0] * len(request.texts))


def no_numbers(request: Request) -> None:
    request.send(200, {"data": [{"index": n, "embedding": {"a": 1}} for n in range(len(request.texts))]})


def backwards(request: Request) -> None:
    request.answer(request.vectors(), order=list(range(len(request.texts)))[::-1])


def as_lists(request: Request) -> None:
    request.answer(request.vectors(), as_lists=True)


def without(*parameters: str) -> Behaviour:
    """A server that refuses these parameters."""

    def behave(request: Request) -> None:
        unknown = [name for name in parameters if name in request.body]
        if unknown:
            request.refuse(400, f"unknown parameter: {unknown[0]}")
        else:
            normally(request)

    return behave


def refusing_text(poison: str, status: int = 400) -> Behaviour:
    def behave(request: Request) -> None:
        if any(poison in text for text in request.texts):
            request.refuse(status, f"this model takes at most 512 tokens, and {poison} has more")
        else:
            normally(request)

    return behave


def spoiling(poison: str, number: float) -> Behaviour:
    """A server whose model computes nonsense for a text: vectors full of one number."""

    def behave(request: Request) -> None:
        vectors = request.vectors()
        vectors[[poison in text for text in request.texts]] = number
        request.answer(vectors)

    return behave


def wanting(key: str, then: Behaviour = normally) -> Behaviour:
    def behave(request: Request) -> None:
        given = request.headers.get("Authorization", "")
        if given == f"Bearer {key}":
            then(request)
        else:
            request.refuse(401, f"Incorrect API key provided: {given}")

    return behave


class LoopbackServer:
    """Answers each request by the next behaviour of `script`, and when that is empty by `always`."""

    def __init__(self, dimension: int = DIMENSION) -> None:
        self.dimension = dimension
        self.always: Behaviour = normally
        self.script: deque[Behaviour] = deque()
        self.delay = 0.0
        """Seconds that each request takes."""
        self.requests: list[Request] = []
        self.connections = 0
        """How many were opened."""
        self.at_once = 0
        """The most requests that were being answered at a time."""
        self.blanks = 0
        """How many of an answer without end were sent."""
        self.released = threading.Event()
        """Ends what hangs."""
        self._being_answered = 0
        self._counting = threading.Lock()
        self._open: set[socket.socket] = set()
        self._server: ThreadingHTTPServer | None = None
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def texts(self) -> list[str]:
        return [text for request in self.requests for text in request.texts]

    def start(self) -> None:
        """Listen; after `stop`, on the same port as before."""
        self._server = _Listener(("127.0.0.1", self.port), self._handler())
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self) -> None:
        """Stop listening, and end the connections."""
        with self._counting:
            server, self._server = self._server, None
        if server is not None:
            server.shutdown()
            server.server_close()
        for connection in list(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def dying(self, request: Request) -> None:
        """The behaviour of a server that is killed."""
        self.stop()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        loopback = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def setup(self) -> None:
                super().setup()
                with loopback._counting:
                    loopback.connections += 1
                    loopback._open.add(self.connection)

            def finish(self) -> None:
                with contextlib.suppress(OSError):
                    super().finish()
                with loopback._counting:
                    loopback._open.discard(self.connection)

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                request = Request(loopback, self, body)
                if self.path not in (EMBEDDINGS, EMBED_SPARSE, POOLING, TOKENIZE):
                    request.refuse(404, "no such page")
                    return
                with contextlib.suppress(OSError):  # the client has given up
                    loopback._answer(request)

            def log_message(self, *_: object) -> None:
                pass

        return Handler

    def _answer(self, request: Request) -> None:
        with self._counting:
            self.requests.append(request)
            behaviour = self.script.popleft() if self.script else self.always
            self._being_answered += 1
            self.at_once = max(self.at_once, self._being_answered)
        try:
            time.sleep(self.delay)
            behaviour(request)
        finally:
            with self._counting:
                self._being_answered -= 1


class _Listener(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, *_: object) -> None:
        """A connection that ends is no error here."""


@contextmanager
def loopback_server() -> Iterator[LoopbackServer]:
    server = LoopbackServer()
    server.start()
    with pytest.MonkeyPatch.context() as patch:
        # The client follows HTTP_PROXY, which a machine can have.
        for name in ("NO_PROXY", "no_proxy"):
            patch.setenv(name, "127.0.0.1")
        try:
            yield server
        finally:
            server.released.set()
            server.stop()


def openai_settings(url: str, **changed: object) -> Settings:
    fields = {
        "embedder": "openai",
        "vectors": ("dense", "sparse"),
        "embedding_url": url,
        "embedding_model": MODEL,
        "embedding_dimensions": DIMENSION,
        "embedding_seconds": 10,
    }
    return Settings(**fields | changed)  # type: ignore[arg-type]


@contextmanager
def openai_embedder(
    url: str, *, patience: Patience = SOON, breaker: CircuitBreaker | None = None, **changed: object
) -> Iterator[OpenAIEmbedder]:
    """An embedder of its own, which soon gives up."""
    server = partial(EmbeddingServer, patient=patience, urgent=patience, breaker=breaker)
    embedder = OpenAIEmbedder(Options.of(openai_settings(url, **changed)), server_of=server)
    try:
        yield embedder
    finally:
        embedder.close()
