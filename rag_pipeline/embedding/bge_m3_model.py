"""BGE-M3 on its device: batches of token ids in, one forward pass each, the three kinds of vectors out.

FlagEmbedding loads the model. Its three heads are computed here, those that are asked for, and only for tokens that
are no padding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from rag_pipeline.embedding.base import FloatArray
from rag_pipeline.errors import ConfigError, one_line

Arithmetic = Literal["fp32", "bf16", "fp16"]
"""Of a forward pass. The vectors of halves are those of fp32 but for rounding, so an index can hold all of them.

With trained weights of 12 layers (`python -m benchmarks.bge_m3 --trained --arithmetic fp16`) 1 - cosine is at most
0.000001 in fp16, and in bf16 0.00003 for dense vectors and 0.0002 for those of tokens.
"""

NOT_INSTALLED = "RAG_EMBEDDER=bge-m3 needs the extra bge-m3: pip install 'rag-pipeline[bge-m3]'"


_CPU_BATCH = 2048
"""Tokens of a batch, padding included. Smaller ones are slower, and larger ones leave the processor's caches."""
_CPU_PASS = {"fp32": 40, "bf16": 128, "fp16": 128}
"""Tokens that take as long as a pass without any, which reads the weights: for `batch_plan.plan`."""
_GPU_BATCH, _GPU_PASS = 16_384, 1024


@dataclass(frozen=True)
class Outputs:
    """The vectors of a batch of b texts. Of a kind that is not asked for: None."""

    dense: FloatArray | None
    """(b, d), unit rows."""
    weights: FloatArray | None
    """(t,): of each token but the start tokens, the texts' tokens one after the other."""
    multi: FloatArray | None
    """(t, d), unit rows, of the same tokens."""


class BgeM3Model:
    """A loaded model. One thread at a time may call `launch`, and one at a time the tokenizer."""

    def __init__(self, folder: Path, arithmetic: Arithmetic | None = None) -> None:
        """Load the model; `arithmetic` defaults to the quickest.

        Raises `ConfigError` if that is not possible: incompatible versions, a damaged file, a full GPU.
        """
        try:
            import torch
            from FlagEmbedding import BGEM3FlagModel
        except ImportError as error:  # partly installed, or incompatible versions
            raise ConfigError(f"{NOT_INSTALLED} ({one_line(error)})") from error

        self.on_gpu = torch.cuda.is_available()
        self._device = "cuda:0" if self.on_gpu else "cpu"
        self.arithmetic = arithmetic or _quickest(self.on_gpu)
        try:
            loaded = BGEM3FlagModel(
                str(folder),
                use_fp16=self.arithmetic == "fp16",
                use_bf16=self.arithmetic == "bf16",
                devices=self._device,
            )
            # A full or broken GPU fails here.
            loaded.model.to(self._device)
            loaded.model.eval()
        except (OSError, ValueError, RuntimeError, KeyError) as error:
            raise ConfigError(f"RAG_BGE_M3_MODEL: {folder} cannot be loaded: {one_line(error)}") from error
        self.tokenizer: Any = loaded.tokenizer
        self.encoder: Any = loaded.model.model
        self.encoder.pooler = None  # no head uses what it computes
        # In fp32: it costs nothing, and a weight is a number of its own, whose rounding nothing averages.
        self._sparse_head: Any = loaded.model.sparse_linear.float()
        self._multi_head: Any = loaded.model.colbert_linear
        self.batch_tokens, self.pass_tokens = _CPU_BATCH, _CPU_PASS[self.arithmetic]
        if self.on_gpu:
            free, _ = torch.cuda.mem_get_info()
            # Of a pass, a token takes about 40 bytes per dimension: most in the layer of four times the width.
            fit = free // 2 // (40 * self.encoder.config.hidden_size)
            self.batch_tokens, self.pass_tokens = max(512, min(_GPU_BATCH, fit)), _GPU_PASS

    def launch(self, token_ids: Sequence[Sequence[int]], kinds: Sequence[str]) -> Callable[[], Outputs]:
        """Start a forward pass; what is returned waits for it. A GPU computes while the next pass is prepared.

        Raises `torch.OutOfMemoryError` if the batch does not fit into the device's memory.
        """
        import torch
        from torch.nn.functional import normalize

        lengths = np.array([len(ids) for ids in token_ids])
        longest = int(lengths.max())
        real = np.arange(longest) < lengths[:, None]
        padded = np.full(real.shape, self.tokenizer.pad_token_id, dtype=np.int64)
        padded[real] = np.concatenate(token_ids)
        with torch.inference_mode():
            states = self.encoder(
                input_ids=self._moved(padded),
                # Without a mask, attention has quicker kernels.
                attention_mask=None if real.all() else self._moved(real.astype(np.int64)),
            ).last_hidden_state
            parts: dict[str, Any] = {}
            if "dense" in kinds:
                parts["dense"] = normalize(states[:, 0].float(), dim=-1)
            if "sparse" in kinds or "multi" in kinds:
                real[:, 0] = False
                rows = states.flatten(0, 1)[self._moved(np.flatnonzero(real))]
                if "sparse" in kinds:
                    parts["weights"] = self._sparse_head(rows.float()).relu().squeeze(-1)
                if "multi" in kinds:
                    # In fp32 although that is twice the bytes to copy: halves are not of unit length.
                    parts["multi"] = normalize(self._multi_head(rows).float(), dim=-1)
            return self._copied(parts)

    def _moved(self, array: Any) -> Any:
        import torch

        return torch.from_numpy(array).to(self._device)

    def _copied(self, parts: dict[str, Any]) -> Callable[[], Outputs]:
        """Start one copy off the device; what is returned waits for it."""
        import torch

        if not self.on_gpu:
            found = {name: part.numpy() for name, part in parts.items()}
            return lambda: Outputs(found.get("dense"), found.get("weights"), found.get("multi"))
        flat = torch.cat([part.flatten() for part in parts.values()])
        copy = torch.empty(flat.shape, dtype=flat.dtype, pin_memory=True)
        copy.copy_(flat, non_blocking=True)
        copied = torch.cuda.Event()
        copied.record()
        shapes = {name: part.shape for name, part in parts.items()}

        def wait() -> Outputs:
            copied.synchronize()
            pieces = copy.split([shape.numel() for shape in shapes.values()])
            arrays = {
                n: piece.view(shape).numpy() for (n, shape), piece in zip(shapes.items(), pieces, strict=True)
            }
            return Outputs(arrays.get("dense"), arrays.get("weights"), arrays.get("multi"))

        return wait


def _quickest(on_gpu: bool) -> Arithmetic:
    """Return the quickest arithmetic of the device.

    A GPU takes as long for bf16 as for fp16, which is a hundred times nearer to fp32. A processor is three to four
    times as quick in bf16 if it has the tiles of AMX, and slower if it has only AVX-512's instructions for bf16.
    """
    import torch

    if on_gpu:
        return "fp16"
    has_amx = getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    return "bf16" if has_amx() else "fp32"
