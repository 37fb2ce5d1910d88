"""An embedder for tests that kill: it takes its time, and writes down what it was asked, across processes.

`RAG_EMBEDDER=rag_pipeline_tests.slow_embedder:slow`; the log's path is `RAG_TEST_EMBED_LOG`, seconds a batch
`RAG_TEST_EMBED_SECONDS`.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Sequence
from pathlib import Path

from rag_pipeline.embedding.base import ChunkVectors
from rag_pipeline_tests.embedders import CheapEmbedder


class SlowEmbedder(CheapEmbedder):
    def encode(self, texts: Sequence[str], kinds: Sequence[str]) -> list[ChunkVectors]:
        digests = "".join(hashlib.sha256(text.encode()).hexdigest() + "\n" for text in texts)
        with Path(os.environ["RAG_TEST_EMBED_LOG"]).open("a", encoding="utf-8") as log:
            log.write(digests)
        time.sleep(float(os.environ.get("RAG_TEST_EMBED_SECONDS", "0.05")))
        return super().encode(texts, kinds)


def slow() -> SlowEmbedder:
    return SlowEmbedder()
