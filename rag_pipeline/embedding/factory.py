"""Which embedder the settings name.

Knowing an embedder is kept apart from loading it where that is cheap: `local` loads its model at the first text, so
its fingerprint and dimension cost nothing.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

from rag_pipeline.embedding.base import Embedder
from rag_pipeline.settings import Settings

_loaded: dict[tuple[str, ...], Embedder] = {}
_loading = threading.Lock()


@dataclass(frozen=True)
class EmbedderDescription:
    """What collections and checks need to know of an embedder."""

    fingerprint: str
    dimension: int
    multi_dimension: int


def load_embedder(settings: Settings) -> Embedder:
    """The embedder of `RAG_EMBEDDER`, one for the whole process.

    Raises `ConfigError` if it is unknown, not installed or cannot be loaded.
    """
    name = settings.embedder
    # What a test or a program changes between two calls must not be answered with the first one's embedder.
    key = (name, settings.bge_m3_model) if name == "bge-m3" else (name,)
    with _loading:
        if key not in _loaded:
            _loaded[key] = _load(settings)
        return _loaded[key]


def describe_embedder(settings: Settings) -> EmbedderDescription:
    """The embedder's fingerprint and dimensions.

    Free for `local`; for `bge-m3` it reads the model's folder, and downloads it the first time; one of your own is
    loaded. Raises what `load_embedder` raises.
    """
    return describe(load_embedder(settings))


def describe(embedder: Embedder) -> EmbedderDescription:
    """The fingerprint and dimensions of an embedder that is at hand."""
    return EmbedderDescription(embedder.fingerprint, embedder.dimension, embedder.multi_dimension)


def _load(settings: Settings) -> Embedder:
    if settings.embedder == "local":
        from rag_pipeline.embedding.local import LocalEmbedder

        return LocalEmbedder()
    if settings.embedder == "bge-m3":
        from rag_pipeline.embedding.bge_m3 import BgeM3Embedder

        return BgeM3Embedder(settings.bge_m3_model)
    from rag_pipeline.embedding.custom import load_custom

    return load_custom(settings.embedder)
