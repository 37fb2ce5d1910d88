"""Where the three servers are: the `RAG_*` URLs, checked, and the value that is handed to whoever connects.

Nothing here connects, and nothing here knows the embedded servers: `pipeline.find_endpoints` asks those for what no
URL names.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

from rag_pipeline.errors import ConfigError, StoreUnavailableError
from rag_pipeline.urls import mask_url

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rag_pipeline.settings import Settings

VARIABLES = {"postgres": "RAG_POSTGRES_URL", "milvus": "RAG_MILVUS_URI", "redis": "RAG_REDIS_URL"}
"""Server → the variable that names one to use in place of the embedded one."""

_SCHEMES = {
    "postgres": ("postgresql://", "postgres://"),
    "milvus": ("http://", "https://", "tcp://"),
    "redis": ("redis://", "rediss://"),
}


@dataclass(frozen=True, repr=False)
class Endpoints:
    """Where the three servers are, with passwords; its repr has none."""

    postgres_url: str
    milvus_uri: str
    redis_url: str

    @classmethod
    def of(cls, urls: Mapping[str, str]) -> Endpoints:
        """From the URLs by server: `postgres`, `milvus`, `redis`."""
        return cls(postgres_url=urls["postgres"], milvus_uri=urls["milvus"], redis_url=urls["redis"])

    def __repr__(self) -> str:
        fields = ", ".join(f"{key}={mask_url(value)!r}" for key, value in vars(self).items())
        return f"Endpoints({fields})"


def external_urls(settings: Settings) -> dict[str, str]:
    """The servers that `RAG_*` URLs name. Raises `ConfigError` for a URL of another kind of server, or a file."""
    given = {"postgres": settings.postgres_url, "milvus": settings.milvus_uri, "redis": settings.redis_url}
    urls = {key: url.get_secret_value() for key, url in given.items() if url is not None}
    for key, url in urls.items():
        if not url.startswith(_SCHEMES[key]):
            raise ConfigError(
                f"{VARIABLES[key]}: takes the address of a server, such as {_SCHEMES[key][0]}host:port"
            )
    return urls


class MilvusAddress(NamedTuple):
    """Where a Milvus server listens; as text, `host:port`."""

    host: str
    port: int
    secure: bool

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def milvus_address(uri: str) -> MilvusAddress:
    """Return the address in a URI, for the client and the probe alike.

    Without a port it is 443 for https, as in pymilvus, and else 19530. Raises `StoreUnavailableError` if the URI is
    malformed.
    """
    try:
        parts = urlsplit(uri)
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if not host or not uri.startswith(_SCHEMES["milvus"]):
        raise StoreUnavailableError(
            "Milvus: the URI is malformed: check RAG_MILVUS_URI, such as http://host:19530"
        )
    secure = parts.scheme == "https"
    return MilvusAddress(host, port or (443 if secure else 19530), secure)
