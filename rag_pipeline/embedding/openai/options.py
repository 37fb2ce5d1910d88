"""The settings of an embedding server, checked: where it is, its model, and the limits of a request."""

from __future__ import annotations

import re
from base64 import b64encode
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit, urlunsplit

from pydantic import SecretStr

from rag_pipeline.errors import ConfigError

if TYPE_CHECKING:
    from rag_pipeline.settings import Settings

_URL = "RAG_EMBEDDING_URL: takes the base URL of an embedding server, such as http://127.0.0.1:8080/v1"
_ENDPOINT = "/embeddings"
_HEADER_VALUE = re.compile(r"[!-~]+")


@dataclass(frozen=True)
class Options:
    """What an embedder needs to know about its server. Hashable; its repr shows no secret."""

    url: str
    """Where requests go, without user and password: `http://host:8080/v1/embeddings`."""
    model: str
    authorization: SecretStr | None
    """The value of the header of that name."""
    secrets: tuple[SecretStr, ...]
    """What no message may quote, even if the server does."""
    dimensions: int | None
    query_prefix: str
    passage_prefix: str
    batch_tokens: int
    batch_texts: int
    concurrency: int
    """Requests at a time."""
    seconds: float
    """The most that one request may take."""

    @classmethod
    def of(cls, settings: Settings) -> Options:
        """Return what the settings say.

        Raises `ConfigError` if the URL or the model is missing, the URL or the key is malformed, or multi-vectors are
        to be built: no server has them in this API, and a vector per sentence would cost about ten times the tokens.
        """
        if "multi" in settings.vectors:
            raise ConfigError(
                "RAG_VECTORS: RAG_EMBEDDER=openai builds no multi vectors, since no server has them in this API: "
                "set RAG_VECTORS=dense,sparse"
            )
        if settings.embedding_url is None:
            raise ConfigError(f"{_URL}; RAG_EMBEDDER=openai needs it")
        if not settings.embedding_model:
            raise ConfigError(
                "RAG_EMBEDDING_MODEL: RAG_EMBEDDER=openai needs the name of a model that the server has"
            )
        url, login = _address(settings.embedding_url.get_secret_value().strip())
        authorization, secrets = _authorization(settings.embedding_api_key, login)
        return cls(
            url=url,
            model=settings.embedding_model,
            authorization=authorization,
            secrets=secrets,
            dimensions=settings.embedding_dimensions,
            query_prefix=settings.embedding_query_prefix,
            passage_prefix=settings.embedding_passage_prefix,
            batch_tokens=settings.embedding_batch_tokens,
            batch_texts=settings.embedding_batch_texts,
            concurrency=settings.embedding_concurrency,
            seconds=settings.embedding_seconds,
        )


def without_login(url: SecretStr) -> str:
    """Return the endpoint of a server's URL, which can be shown and stored. Raises `ConfigError` if it is malformed."""
    return _address(url.get_secret_value().strip())[0]


def _address(url: str) -> tuple[str, str]:
    """Return the URL of the endpoint and `user:password`, which is empty if the URL has none.

    A base without a path gets `/v1`. One with a path is taken as it is: some servers have another one than `/v1`.
    """
    try:
        parts = urlsplit(url)
        is_valid = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        is_valid = False
    # A key in the query would be in every log of requests.
    if not is_valid or re.search(r"\s", url) or parts.query or parts.fragment:
        raise ConfigError(f"{_URL}, with nothing behind the path")
    login, _, host = parts.netloc.rpartition("@")
    base = parts.path.rstrip("/") or "/v1"
    path = base if base.endswith(_ENDPOINT) else base + _ENDPOINT
    return urlunsplit((parts.scheme, host, path, "", "")), login


def _authorization(key: SecretStr | None, login: str) -> tuple[SecretStr | None, tuple[SecretStr, ...]]:
    """Return the value of the header, and its secrets."""
    token = key.get_secret_value().strip() if key is not None else ""
    if token and login:
        raise ConfigError(
            "RAG_EMBEDDING_API_KEY: the server takes a key or a password, not both: remove the one in RAG_EMBEDDING_URL"
        )
    if token:
        if not _HEADER_VALUE.fullmatch(token):
            raise ConfigError("RAG_EMBEDDING_API_KEY: takes printable ASCII characters without spaces")
        return SecretStr(f"Bearer {token}"), (SecretStr(token),)
    if login:
        user, _, password = map(unquote, login.partition(":"))
        encoded = b64encode(f"{user}:{password}".encode()).decode()
        hidden = [part for part in (encoded, password, login.partition(":")[2]) if part]
        return SecretStr(f"Basic {encoded}"), tuple(map(SecretStr, hidden))
    return None, ()
