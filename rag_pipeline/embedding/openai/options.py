"""The settings of embedding servers, checked: where they are, their models, and the limits of a request."""

from __future__ import annotations

import re
from base64 import b64encode
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, unquote, urlsplit, urlunsplit

from pydantic import SecretStr

from rag_pipeline.errors import ConfigError

if TYPE_CHECKING:
    from rag_pipeline.settings import Settings

_DENSE_VARIABLE, _SPARSE_VARIABLE = "RAG_EMBEDDING_URL", "RAG_EMBEDDING_SPARSE_URL"
_DENSE_TAKES = f"{_DENSE_VARIABLE}: takes the base URL of an embedding server, such as http://127.0.0.1:8080/v1"
_SPARSE_TAKES = (
    f"{_SPARSE_VARIABLE}: takes an endpoint for sparse vectors, TEI's http://127.0.0.1:8080/embed_sparse or vLLM's "
    "http://127.0.0.1:8000/pooling"
)
_ENDPOINT = "/embeddings"
_TEI, _VLLM, _TOKENIZE = "/embed_sparse", "/pooling", "/tokenize"
_HEADER_VALUE = re.compile(r"[!-~]+")


@dataclass(frozen=True)
class Address:
    """Where a server is, and what it is shown. Hashable; its repr shows no secret."""

    variable: str
    """The setting that says where it is, such as `RAG_EMBEDDING_URL`."""
    url: str
    """Where requests go, without user and password: `http://host:8080/v1/embeddings`."""
    authorization: SecretStr | None
    """The value of the header of that name."""
    secrets: tuple[SecretStr, ...]
    """What no message may quote, even if the server does."""

    @property
    def key_variable(self) -> str:
        """The setting that has the key."""
        return _key_variable(self.variable)


@dataclass(frozen=True)
class SparseOptions:
    """What an embedder needs to know about a server of sparse vectors."""

    address: Address
    model: str

    @property
    def is_tei(self) -> bool:
        """Whether it is TEI's endpoint; else it is vLLM's."""
        return self.address.url.endswith(_TEI)

    @property
    def tokenize_url(self) -> str:
        """The endpoint of vLLM that has the tokens of a text."""
        return self.address.url.removesuffix(_VLLM) + _TOKENIZE

    @property
    def kind(self) -> str:
        """What its vectors depend on besides the model: part of the embedder's fingerprint."""
        return "embed_sparse" if self.is_tei else "token_classify"


@dataclass(frozen=True)
class Options:
    """What an embedder needs to know about its servers. Hashable; its repr shows no secret."""

    dense: Address
    model: str
    sparse: SparseOptions | None
    """None: sparse vectors are BM25."""
    dimensions: int | None
    query_prefix: str
    passage_prefix: str
    batch_tokens: int
    batch_texts: int
    concurrency: int
    """Requests at a time, to each server."""
    seconds: float
    """The most that one request may take."""

    @classmethod
    def of(cls, settings: Settings) -> Options:
        """Return what the settings say.

        Raises `ConfigError` if a URL or a model is missing, a URL or a key is malformed, or multi-vectors are
        to be built: no server has them in this API, and a vector per sentence would cost about ten times the tokens.
        """
        if "multi" in settings.vectors:
            raise ConfigError(
                "RAG_VECTORS: RAG_EMBEDDER=openai builds no multi vectors, since no server has them in this API: "
                "set RAG_VECTORS=dense,sparse"
            )
        if settings.embedding_url is None:
            raise ConfigError(f"{_DENSE_TAKES}; RAG_EMBEDDER=openai needs it")
        if not settings.embedding_model:
            raise ConfigError(
                "RAG_EMBEDDING_MODEL: RAG_EMBEDDER=openai needs the name of a model that the server has"
            )
        return cls(
            dense=_address(_DENSE_VARIABLE, _dense_endpoint(settings.embedding_url), settings.embedding_api_key),
            model=settings.embedding_model,
            sparse=_sparse(settings),
            dimensions=settings.embedding_dimensions,
            query_prefix=settings.embedding_query_prefix,
            passage_prefix=settings.embedding_passage_prefix,
            batch_tokens=settings.embedding_batch_tokens,
            batch_texts=settings.embedding_batch_texts,
            concurrency=settings.embedding_concurrency,
            seconds=settings.embedding_seconds,
        )


def without_login(url: SecretStr) -> str:
    """Return the endpoint of RAG_EMBEDDING_URL, which can be shown and stored. Raises `ConfigError` if it is malformed."""
    return _dense_endpoint(url)[0]


def sparse_without_login(url: SecretStr) -> str:
    """Return the endpoint of RAG_EMBEDDING_SPARSE_URL as `without_login` does."""
    return _sparse_endpoint(url)[0]


def _sparse(settings: Settings) -> SparseOptions | None:
    # Also if RAG_VECTORS leaves them out: the fingerprint stays when they are added.
    if settings.embedding_sparse_url is None:
        return None
    if not settings.embedding_sparse_model:
        raise ConfigError(
            f"RAG_EMBEDDING_SPARSE_MODEL: {_SPARSE_VARIABLE} needs the name of the model that the server has"
        )
    endpoint = _sparse_endpoint(settings.embedding_sparse_url)
    address = _address(_SPARSE_VARIABLE, endpoint, settings.embedding_sparse_api_key)
    return SparseOptions(address, settings.embedding_sparse_model)


def _dense_endpoint(url: SecretStr) -> tuple[str, str]:
    """Return the URL of the endpoint and `user:password`, which is empty if the URL has none.

    A base without a path gets `/v1`. One with a path is taken as it is: some servers have another one than `/v1`.
    """
    parts, login = _split(url, _DENSE_TAKES)
    base = parts.path or "/v1"
    return urlunsplit(parts._replace(path=base if base.endswith(_ENDPOINT) else base + _ENDPOINT)), login


def _sparse_endpoint(url: SecretStr) -> tuple[str, str]:
    parts, login = _split(url, _SPARSE_TAKES)
    if not parts.path.endswith((_TEI, _VLLM)):
        raise ConfigError(_SPARSE_TAKES)
    return urlunsplit(parts), login


def _split(url: SecretStr, takes: str) -> tuple[SplitResult, str]:
    text = url.get_secret_value().strip()
    try:
        parts = urlsplit(text)
        is_valid = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        is_valid = False
    # A key in the query would be in every log of requests.
    if not is_valid or re.search(r"\s", text) or parts.query or parts.fragment:
        raise ConfigError(f"{takes}, with nothing behind the path")
    login, _, host = parts.netloc.rpartition("@")
    return parts._replace(netloc=host, path=parts.path.rstrip("/")), login


def _address(variable: str, endpoint: tuple[str, str], key: SecretStr | None) -> Address:
    url, login = endpoint
    return Address(variable, url, *_authorization(variable, key, login))


def _key_variable(variable: str) -> str:
    """The setting that has the key for the server that a setting names."""
    return variable.removesuffix("URL") + "API_KEY"


def _authorization(
    variable: str, key: SecretStr | None, login: str
) -> tuple[SecretStr | None, tuple[SecretStr, ...]]:
    """Return the value of the header, and its secrets."""
    key_variable = _key_variable(variable)
    token = key.get_secret_value().strip() if key is not None else ""
    if token and login:
        raise ConfigError(
            f"{key_variable}: the server takes a key or a password, not both: remove the one in {variable}"
        )
    if token:
        if not _HEADER_VALUE.fullmatch(token):
            raise ConfigError(f"{key_variable}: takes printable ASCII characters without spaces")
        return SecretStr(f"Bearer {token}"), (SecretStr(token),)
    if login:
        user, _, password = map(unquote, login.partition(":"))
        encoded = b64encode(f"{user}:{password}".encode()).decode()
        hidden = [part for part in (encoded, password, login.partition(":")[2]) if part]
        return SecretStr(f"Basic {encoded}"), tuple(map(SecretStr, hidden))
    return None, ()
