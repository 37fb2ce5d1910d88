"""`embedding_cache` in Redis: what was embedded once is not embedded again.

It makes a re-run, a moved document or a copied passage cheap, and a crash cost at most one batch. It is never
needed: with Redis away every text is a miss and is embedded.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any

from rag_pipeline.embedding import serialization
from rag_pipeline.embedding.base import ChunkVectors, Embedder
from rag_pipeline.embedding.validation import validate
from rag_pipeline.errors import RagError, one_line
from rag_pipeline.settings import VECTOR_KINDS

logger = logging.getLogger(__name__)

MAX_VALUE_BYTES = 1024 * 1024
"""Larger values are not cached: they would push out hundreds of others. (A long chunk's ColBERT vectors are.)"""

PAUSE_SECONDS = 30.0
"""How long Redis is left alone after it failed, so that a dead one does not cost a timeout for every batch."""

_warned = False


class EmbeddingCache:
    """The cache of one embedder, under `embedding_cache:<fingerprint's digest>:<kinds>:<SHA-256 of the text>`.

    `redis` is a client; `days` is how long an entry lives after its last use. Nothing here raises because
    of Redis: `unreachable` says whether it failed last time and `failures` how often it did.
    """

    def __init__(self, redis: Any, fingerprint: str, days: int) -> None:
        self._redis = redis
        self._prefix = f"embedding_cache:{hashlib.sha256(fingerprint.encode()).hexdigest()[:16]}"
        self._seconds = days * 24 * 60 * 60
        self._resume_at = 0.0
        self.unreachable = False
        self.failures = 0

    def get(self, texts: Sequence[str], kinds: Sequence[str]) -> dict[str, ChunkVectors]:
        """The texts that are cached, with their vectors; each begins its life anew. One round trip."""
        keys = [self._key(text, kinds) for text in texts]
        # GETEX and not MGET: reading and prolonging in one.
        replies = self._run([("GETEX", key, "EX", self._seconds) for key in keys])
        found = {}
        for text, value in zip(texts, replies, strict=False):
            vectors = serialization.unpack(value) if value is not None else None
            if vectors is not None:
                found[text] = vectors
        return found

    def put(self, vectors: Mapping[str, ChunkVectors], kinds: Sequence[str]) -> None:
        """Keeps the vectors of these texts. One round trip."""
        commands: list[tuple[Any, ...]] = []
        for text, of_text in vectors.items():
            value = serialization.pack(of_text)
            if len(value) <= MAX_VALUE_BYTES:
                commands.append(("SET", self._key(text, kinds), value, "EX", self._seconds))
        self._run(commands)

    def _key(self, text: str, kinds: Sequence[str]) -> str:
        named = "+".join(kind for kind in VECTOR_KINDS if kind in kinds)
        return f"{self._prefix}:{named}:{hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()}"

    def _run(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        """The replies; [] if Redis failed now or a short while ago."""
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
                "embedding_cache: Redis failed, so every text is embedded again until it is back: %s",
                one_line(error),
            )


def encode_cached(
    embedder: Embedder, cache: EmbeddingCache | None, texts: Sequence[str], kinds: Sequence[str]
) -> tuple[list[ChunkVectors], int, int]:
    """The vectors of each text, in order, how many texts were embedded for it and how many were not.

    Only distinct texts that are not cached are embedded; they are checked (`checks.validate`, whose errors this
    raises) and cached before this returns. Cached vectors equal computed ones bit for bit.
    """
    distinct = list(dict.fromkeys(texts))
    found = cache.get(distinct, kinds) if cache is not None else {}
    missing = [text for text in distinct if text not in found]
    if missing:
        computed = embedder.encode(missing, kinds)
        if len(computed) != len(missing):
            raise RagError(f"the embedder gave {len(computed)} results for {len(missing)} texts")
        checked = validate(computed, embedder.dimension, kinds, multi_dimension=embedder.multi_dimension)
        fresh = dict(zip(missing, checked, strict=True))
        if cache is not None:
            cache.put(fresh, kinds)
        found |= fresh
    return [found[text] for text in texts], len(missing), len(texts) - len(missing)
