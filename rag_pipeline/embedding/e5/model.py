"""multilingual-e5-small, run by onnxruntime on all cores."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import numpy as np

from rag_pipeline.embedding.base import FloatArray
from rag_pipeline.embedding.e5 import graph
from rag_pipeline.embedding.e5.model_file import HIDDEN, INNER, LAYERS, MAX_TOKENS, ModelFile
from rag_pipeline.embedding.e5.tokenizer import Tokenizer
from rag_pipeline.errors import RagError
from rag_pipeline.settings import Precision

Prefix = Literal["passage: ", "query: "]
"""The model was trained with it before each text (arXiv:2402.05672)."""

_WINDOW = MAX_TOKENS - 2


class Model:
    """Texts → unit vectors. Thread-safe, and usable in a forked child.

    A text has the same vector to the last bit whatever else is in the call. `int8` and `fp32` differ by about 0.001
    (1 - cosine). Bits may differ between kinds of processor and versions of onnxruntime.
    """

    def __init__(self, precision: Precision, file: ModelFile, tokenizer: Callable[[], Tokenizer]) -> None:
        """Load the model: 25 MB resident in `int8`, 90 MB in `fp32`. `tokenizer` is called last: it can be loading."""
        # Read when the library is loaded. Without it, it keeps an id of this machine and reports to its makers.
        os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
        import onnxruntime

        self.precision = precision
        self._file = file
        self._start, self._end = self._file.start, self._file.end
        types = self._file.floats("emb.type").reshape(-1, HIDDEN)
        self._positions = self._file.floats("emb.pos").reshape(-1, HIDDEN) + types[0]
        names, values = [], []
        for name, value in _weights(self._file, precision):
            names.append(name)
            values.append(onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(value)))
        options = onnxruntime.SessionOptions()
        # one text a run and a run a core: batches of whole chunks are slower
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        # all optimizations would fuse Add and LayerNormalization into an operator that is five times slower
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        # sums of two products in 16 bits overflow on processors without VNNI; this takes the instructions that do not
        options.add_session_config_entry("session.x64quantprecision", "1")
        options.add_external_initializers(names, values)
        self._session: Any = onnxruntime.InferenceSession(
            self._graph(), options, providers=["CPUExecutionProvider"]
        )
        self._check()
        self._tokenizer = tokenizer()

    def _graph(self) -> bytes:
        return graph.path(self.precision).read_bytes()

    def vectors(self, texts: Sequence[str], prefix: Prefix) -> FloatArray:
        """Return the vectors of texts: (n, 384), unit rows.

        A text of more than 510 tokens is the mean of its windows, each weighted by its length.
        """
        windows: list[tuple[int, list[int]]] = []
        for number, text in enumerate(texts):
            ids = self._tokenizer.ids(prefix + text)
            windows += [(number, ids[at : at + _WINDOW]) for at in range(0, len(ids), _WINDOW)]
        sums = np.zeros((len(texts), HIDDEN), np.float32)
        for (number, ids), mean in zip(windows, self._means([ids for _, ids in windows]), strict=True):
            sums[number] += len(ids) * mean
        return sums / np.linalg.norm(sums, axis=1, keepdims=True)

    def _means(self, windows: list[list[int]]) -> list[FloatArray]:
        lanes = min(_cores(), len(windows))
        if lanes < 2:
            return [self._mean(ids) for ids in windows]
        # the longest first, so that no core ends with a long one alone
        order = sorted(range(len(windows)), key=lambda at: -len(windows[at]))
        means: list[FloatArray] = [self._positions[0]] * len(windows)
        with ThreadPoolExecutor(lanes) as pool:
            found = pool.map(self._mean, [windows[at] for at in order])
            for at, mean in zip(order, found, strict=True):
                means[at] = mean
        return means

    def _mean(self, ids: list[int]) -> FloatArray:
        tokens = np.array([self._start, *ids, self._end])
        x = self._file.word_vectors(tokens) + self._positions[: len(tokens)]
        mean: FloatArray = self._session.run(None, {"x": x[None]})[0][0]
        return mean

    def _check(self) -> None:
        """Raise `RagError` if this processor computes something else than the model."""
        found = self._mean(_KNOWN_IDS)[:: HIDDEN // len(_KNOWN_MEAN)]
        difference = np.linalg.norm(found - _KNOWN_MEAN) / np.linalg.norm(_KNOWN_MEAN)
        if not difference < _LARGEST_DIFFERENCE:
            raise RagError(
                f"the local embedder computes wrong vectors on this processor, {difference:.0%} off: "
                "set RAG_LOCAL_PRECISION=fp32, or RAG_EMBEDDER to another embedder"
            )


# What the exact weights give for 「passage: PostgreSQLのバックアップは毎日」, every 24th number.
_KNOWN_IDS = [46692, 12, 2795, 7134, 158897, 154, 105284, 30528, 342, 43683]
_KNOWN_MEAN = (
    *(0.2599, 0.2267, -0.3934, -0.0259, -0.2529, 0.2818, 0.2806, -0.2203),
    *(-0.298, 0.0601, 0.0989, 0.2263, -0.2074, -0.2398, -0.2087, -0.3043),
)
_LARGEST_DIFFERENCE = 0.05  # int8 is 0.035 off


def _cores() -> int:
    """The cores that this process may use. Ray tells its workers their share, as others do, in `OMP_NUM_THREADS`."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    share = os.environ.get("OMP_NUM_THREADS", "")
    return min(cores, int(share)) if share.isdigit() and int(share) else cores


def _weights(file: ModelFile, precision: Precision) -> Iterator[tuple[str, Any]]:
    """Yield the graph's initializers: name and array."""
    yield "embedding.norm.weight", file.floats("emb.ln.w")
    yield "embedding.norm.bias", file.floats("emb.ln.b")
    for number in range(LAYERS):
        theirs, ours = f"l{number}.", f"{number}."
        yield f"{ours}attention.norm.weight", file.floats(f"{theirs}aln.w")
        yield f"{ours}attention.norm.bias", file.floats(f"{theirs}aln.b")
        yield f"{ours}outer.norm.weight", file.floats(f"{theirs}oln.w")
        yield f"{ours}outer.norm.bias", file.floats(f"{theirs}oln.b")
        for name, tensors, columns in (
            ("qkv", ("q", "k", "v"), HIDDEN),
            ("attention", ("ao",), HIDDEN),
            ("inner", ("fi",), HIDDEN),
            ("outer", ("fo",), INNER),
        ):
            yield f"{ours}{name}.bias", np.concatenate([file.floats(f"{theirs}{tensor}.b") for tensor in tensors])
            matrix = np.concatenate([file.matrix(f"{theirs}{tensor}.w", columns) for tensor in tensors])
            if precision == "fp32":
                yield f"{ours}{name}.matrix", matrix.T
            else:
                scales = np.abs(matrix).max(axis=1) / 127
                yield f"{ours}{name}.matrix", np.rint(matrix / scales[:, None]).astype(np.int8).T
                yield f"{ours}{name}.scales", scales
