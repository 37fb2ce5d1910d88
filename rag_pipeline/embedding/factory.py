"""Load or describe the embedder that the settings name."""

from __future__ import annotations

import threading
from collections.abc import Hashable
from dataclasses import dataclass

from rag_pipeline.embedding.base import Embedder
from rag_pipeline.settings import Settings

_loaded: dict[tuple[str, Hashable], Embedder] = {}
_loading = threading.Lock()
_SHAREABLE = ("local", "bge-m3")
"""The embedders that load a model of ours, and only at their first use."""


@dataclass(frozen=True)
class EmbedderDescription:
    """What collections and checks need to know about an embedder."""

    fingerprint: str
    dimension: int
    multi_dimension: int


def load_embedder(settings: Settings, recorded: EmbedderDescription | None = None) -> Embedder:
    """Return the embedder of `RAG_EMBEDDER`, one for the whole process.

    `recorded` is what the embedder of an index was. If it can be this one, its dimension need not be asked for.

    Raises `ConfigError` if it is unknown, not installed or cannot be loaded.
    """
    name = settings.embedder
    # A test or a program can change the settings between two calls, and must not get the first embedder again.
    depends_on: dict[str, Hashable] = {
        "bge-m3": (settings.bge_m3_model, settings.bge_m3_multi_vectors),
        "local": settings.local_precision,
    }
    if name == "openai":
        from rag_pipeline.embedding.openai.options import Options

        depends_on[name] = (Options.of(settings), _recorded_dimension(settings, recorded))
    key = (name, (settings.shared_model, settings.home, depends_on.get(name)))
    with _loading:
        if key not in _loaded:
            _loaded[key] = _load(settings, recorded)
        return _loaded[key]


def describe_embedder(settings: Settings, recorded: EmbedderDescription | None = None) -> EmbedderDescription:
    """Return the fingerprint and dimensions of the embedder.

    `local` costs nothing, because it loads its model with the first text. `bge-m3` reads the model's folder, after
    downloading it the first time. `openai` asks its server, unless RAG_EMBEDDING_DIMENSIONS is set or the dimension is
    `recorded`. A custom embedder is loaded. Raises what `load_embedder` raises, and `StoreUnavailableError` if that server
    does not answer.
    """
    return describe(load_embedder(settings, recorded))


def described_with(settings: Settings, dimension: int) -> EmbedderDescription | None:
    """Describe the embedder `openai` without asking its server: if the settings leave the dimension open, with this one.

    None for other embedders. Raises `ConfigError` if a setting of it is missing or malformed.
    """
    if settings.embedder != "openai":
        return None
    from rag_pipeline.embedding.openai.embedder import fingerprint
    from rag_pipeline.embedding.openai.options import Options

    options = Options.of(settings)
    known = dimension if options.dimensions is None else options.dimensions
    return EmbedderDescription(fingerprint(options, known), known, known)


def describe(embedder: Embedder) -> EmbedderDescription:
    """The fingerprint and dimensions of an embedder that is at hand."""
    return EmbedderDescription(embedder.fingerprint, embedder.dimension, embedder.multi_dimension)


def _recorded_dimension(settings: Settings, recorded: EmbedderDescription | None) -> int | None:
    """Return the dimension of an embedder `openai` that the settings leave open, if it was recorded."""
    if recorded is None or settings.embedding_dimensions is not None:
        return None
    from rag_pipeline.embedding.openai.embedder import fingerprint
    from rag_pipeline.embedding.openai.options import Options

    is_it = fingerprint(Options.of(settings), recorded.dimension) == recorded.fingerprint
    return recorded.dimension if is_it else None


def _load(settings: Settings, recorded: EmbedderDescription | None) -> Embedder:
    embedder = _of_this_process(settings, recorded)
    if not settings.shared_model or settings.embedder not in _SHAREABLE:
        return embedder
    from rag_pipeline.embedding.shared_model import shared_model

    return shared_model(settings, embedder)


def _of_this_process(settings: Settings, recorded: EmbedderDescription | None) -> Embedder:
    if settings.embedder == "local":
        from rag_pipeline.embedding.local import LocalEmbedder

        return LocalEmbedder(settings.local_precision, settings.home / "models")
    if settings.embedder == "bge-m3":
        from rag_pipeline.embedding.bge_m3 import BgeM3Embedder

        return BgeM3Embedder(settings.bge_m3_model, settings.bge_m3_multi_vectors)
    if settings.embedder == "openai":
        from rag_pipeline.embedding.openai.embedder import OpenAIEmbedder
        from rag_pipeline.embedding.openai.options import Options

        return OpenAIEmbedder(
            Options.of(settings),
            settings.home / "models",
            recorded_dimension=_recorded_dimension(settings, recorded),
        )
    from rag_pipeline.embedding.custom import load_custom

    return load_custom(settings.embedder)
