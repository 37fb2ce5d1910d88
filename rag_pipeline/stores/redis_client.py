"""The Redis client, and the error for a URL that it cannot use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rag_pipeline.errors import ConfigError

if TYPE_CHECKING:
    import redis

_MAX_CONNECTIONS = 20


def connect_redis(
    url: str, *, connect_timeout: float = 1, socket_timeout: float = 5, max_connections: int = _MAX_CONNECTIONS
) -> redis.Redis:
    """Return a client with at most 20 connections, or another number, that tries each command once; it connects at the first command.

    Redis only caches: waiting for it must never cost more than doing without. Timeouts are in seconds. Raises
    `ConfigError`, without any part of the URL, if the URL is malformed.
    """
    import redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    try:
        client = redis.Redis.from_url(
            url,
            max_connections=max_connections,
            socket_connect_timeout=connect_timeout,
            socket_timeout=socket_timeout,
            retry=Retry(NoBackoff(), 0),
        )
        # Constructing a connection checks the URL's parameters, which `from_url` does not; nothing is sent.
        client.connection_pool.connection_class(**client.connection_pool.connection_kwargs)
    except (ValueError, TypeError, redis.RedisError):
        # The error quotes what it could not read, which can be part of the password.
        raise ConfigError(
            "RAG_REDIS_URL: malformed; write it as redis://:password@host:6379/0, "
            "with special characters in the password percent-encoded"
        ) from None
    return client
