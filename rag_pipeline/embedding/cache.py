"""`embedding_cache` in Redis: a text that was embedded once is not embedded again.

The cache makes a second run, a moved document or a copied passage cheap, and limits the cost of a crash to one batch.
It is optional: while Redis is unreachable or refuses writes, every text is a miss and is embedded.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any

from rag_pipeline.embedding.base import ChunkVectors, Embedder
from rag_pipeline.embedding.serialization import deserialize, serialize
from rag_pipeline.embedding.validation import validate
from rag_pipeline.errors import RagError, one_line
from rag_pipeline.redis_errors import refuses_writes
from rag_pipeline.settings import VECTOR_KINDS

logger = logging.getLogger(__name__)

MAX_VALUE_BYTES = 1024 * 1024
"""Larger values, such as the ColBERT vectors of a long chunk, are not cached: each would evict hundreds of others."""

PAUSE_SECONDS = 30.0
"""How long Redis is not called after a failure, so that an outage does not cost a timeout per batch."""

_warned = False


class EmbeddingCache:
    """The cache of one embedder, under `embedding_cache:<fingerprint's digest>:<kinds>:<SHA-256 of the text>`.

    `redis` is a client; `days` is the lifetime of an entry after its last use. Failures of Redis raise nothing:
    `unreachable` is whether the last call failed, and `failures` counts failed calls.
    """

    def __init__(self, redis: Any, fingerprint: str, days: int) -> None:
        self._redis = redis
        self._prefix = f"embedding_cache:{hashlib.sha256(fingerprint.encode()).hexdigest()[:16]}"
        self._seconds = days * 24 * 60 * 60
        self._resume_at = 0.0
        self.unreachable = False
        self.failures = 0

    def get(self, texts: Sequence[str], kinds: Sequence[str]) -> dict[str, ChunkVectors]:
        """Return the cached texts with their vectors, and restart their lifetime. One round trip."""
        keys = [self._key(text, kinds) for text in texts]
        # GETEX instead of MGET: it also sets the new lifetime.
        replies = self._run([("GETEX", key, "EX", self._seconds) for key in keys])
        found = {}
        for text, value in zip(texts, replies, strict=False):
            vectors = deserialize(value) if value is not None else None
            if vectors is not None:
                found[text] = vectors
        return found

    def count(self, texts: Sequence[str], kinds: Sequence[str]) -> int:
        """Return how many of these texts are cached, without reading them. One round trip."""
        return sum(self._run([("EXISTS", self._key(text, kinds)) for text in texts]))

    def put(self, vectors: Mapping[str, ChunkVectors], kinds: Sequence[str]) -> None:
        """Store the vectors of these texts. One round trip."""
        commands: list[tuple[Any, ...]] = []
        for text, of_text in vectors.items():
            value = serialize(of_text)
            if len(value) <= MAX_VALUE_BYTES:
                commands.append(("SET", self._key(text, kinds), value, "EX", self._seconds))
        self._run(commands)

    def _key(self, text: str, kinds: Sequence[str]) -> str:
        named = "+".join(kind for kind in VECTOR_KINDS if kind in kinds)
        return f"{self._prefix}:{named}:{hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()}"

    def _run(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Return the replies; [] if Redis fails or failed within the last `PAUSE_SECONDS`."""
        from redis import RedisError

        if not commands or time.monotonic() < self._resume_at:
            return []
        try:
            with self._redis.pipeline(transaction=False) as pipeline:
                for command in commands:
                    pipeline.execute_command(*command)
                replies = pipeline.execute()
        except (RedisError, OSError) as error:
            self._failed(error)
            return []
        self.unreachable = False
        return replies

    def _failed(self, error: Exception) -> None:
        global _warned
        self.unreachable = True
        self.failures += 1
        self._resume_at = time.monotonic() + PAUSE_SECONDS
        if not _warned:
            _warned = True
            logger.warning(
                "embedding_cache: Redis %s; texts are re-embedded until it %s: %s",
                *(("refuses writes", "takes them") if refuses_writes(error) else ("is unreachable", "is back")),
                one_line(
                    RagError(str(error).rpartition("caused error: ")[2])
                ),  # Without the command and its value.
            )


def encode_cached(
    embedder: Embedder, cache: EmbeddingCache | None, texts: Sequence[str], kinds: Sequence[str]
) -> tuple[list[ChunkVectors], int, int]:
    """Return the vectors of each text in order, the number of embedded texts and the number of reused ones.

    Only distinct texts that are not cached are embedded. Their vectors are validated (`validation.validate`, whose
    errors this raises) and cached. Cached vectors equal computed ones bit for bit.
    """
    distinct = list(dict.fromkeys(texts))
    found = cache.get(distinct, kinds) if cache is not None else {}
    missing = [text for text in distinct if text not in found]
    if missing:
        computed = embedder.encode(missing, kinds)
        if len(computed) != len(missing):
            raise RagError(
                f"the embedder returned {len(computed)} results for {len(missing)} texts: see RAG_EMBEDDER"
            )
        checked = validate(computed, embedder.dimension, kinds, multi_dimension=embedder.multi_dimension)
        fresh = dict(zip(missing, checked, strict=True))
        if cache is not None:
            cache.put(fresh, kinds)
        found |= fresh
    return [found[text] for text in texts], len(missing), len(texts) - len(missing)
