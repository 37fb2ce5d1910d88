"""Generation: one index of the documents, made by one embedder and chunker; what a pipeline works with.

Which settings make a generation, which generation a process works with if the live one was made with other settings
than the process has, and everything that is opened for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from rag_pipeline.errors import AnotherEmbedderError, DimensionMismatchError
from rag_pipeline.settings import Settings
from rag_pipeline.stores.milvus.collections import Collections, Generation, generations, suffix_of

if TYPE_CHECKING:
    from rag_pipeline.embedding.base import Embedder
    from rag_pipeline.embedding.cache import EmbeddingCache
    from rag_pipeline.embedding.factory import EmbedderDescription
    from rag_pipeline.settings import VectorKind
    from rag_pipeline.stores.connections import StoreConnections
    from rag_pipeline.stores.postgres.generations import GenerationRow

_OF_EMBEDDER: dict[str, tuple[str, ...]] = {
    "local": ("local_precision",),
    "bge-m3": ("bge_m3_model", "bge_m3_multi_vectors"),
    "openai": (
        "embedding_url",
        "embedding_model",
        "embedding_dimensions",
        "embedding_query_prefix",
        "embedding_passage_prefix",
    ),
}
"""The settings that make an embedder what it is; how fast it is asked is each process's own."""
_OF_ANY_EMBEDDER = ("chunk_tokens", "vectors")
"""Settings of a generation that do not make an embedder what it is."""
_OF_SPARSE_SERVER = ("embedding_sparse_url", "embedding_sparse_model")
"""Recorded only of an embedder that has one: what was recorded before there could be one stays what it is."""
_KEYS = {"embedding_url": "embedding_api_key", "embedding_sparse_url": "embedding_sparse_api_key"}
"""The settings of URLs that can hold a password, and those of the keys for the same servers."""


def configuration(settings: Settings) -> dict[str, Any]:
    """Return the settings that make a generation, as `generations.settings` keeps them: nothing secret among them.

    Raises `ConfigError` if the URL of an embedding server is malformed.
    """
    made_with = {name: getattr(settings, name) for name in _OF_EMBEDDER.get(settings.embedder, ())}
    if settings.embedder == "openai":
        from rag_pipeline.embedding.openai.options import sparse_without_login, without_login

        if settings.embedding_url is not None:
            made_with["embedding_url"] = without_login(settings.embedding_url)
        if settings.embedding_sparse_url is not None:
            made_with["embedding_sparse_url"] = sparse_without_login(settings.embedding_sparse_url)
            made_with["embedding_sparse_model"] = settings.embedding_sparse_model
    return {
        "embedder": settings.embedder,
        **made_with,
        "chunk_tokens": settings.chunk_tokens,
        "vectors": list(settings.vectors),
    }


def settings_of(row: GenerationRow, settings: Settings) -> Settings:
    """Return a process's settings with those that make a generation in their place."""
    made_with: dict[str, Any] = dict(row.settings)
    own = configuration(settings)
    if made_with == own:
        return settings
    overlaid = {**settings.model_dump(exclude_unset=True), **made_with}
    if made_with["embedder"] == "openai":
        overlaid |= {name: None for name in _OF_SPARSE_SERVER if name not in made_with}
        for url, key in _KEYS.items():
            if url in made_with and made_with[url] == own.get(url):
                overlaid[url] = getattr(settings, url)  # With the login that it can have.
            elif _host(made_with.get(url)) != _host(own.get(url)):
                overlaid[key] = None  # It is for another server.
    return Settings(**overlaid)


def _host(url: str | None) -> str | None:
    return None if url is None else urlsplit(url).netloc


def _made_alike(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    """Whether two generations are made with the same embedder and chunks: kinds can be added to one that exists."""
    return {**first, "vectors": None} == {**second, "vectors": None}


def settings_in_use(
    settings: Settings, live: GenerationRow, others: Sequence[GenerationRow], embedder: Embedder | None
) -> Settings:
    """Return the settings of the live generation for a process with these.

    They are the process's own, unless those made another generation that still exists: a process that was started
    before a switch then goes on with the generation that is live. Settings that made none stay, so that a mistake in
    them is found.
    """
    if embedder is not None:
        is_stale = embedder.fingerprint != live.embedder and any(
            o.embedder == embedder.fingerprint for o in others
        )
    else:
        own = configuration(settings)
        is_stale = not _made_alike(own, live.settings) and any(_made_alike(own, o.settings) for o in others)
    return settings_of(live, settings) if is_stale else settings


def _refuse_another_embedder(row: GenerationRow, described: EmbedderDescription, settings: Settings) -> None:
    """Raise `DimensionMismatchError` or `AnotherEmbedderError` if a generation was made with another embedder than this.

    It is PostgreSQL that says so, whatever Milvus holds: if Milvus has lost everything, a repair would otherwise fill it
    with this embedder's vectors, and the right one would be refused from then on.
    """
    if row.embedder == described.fingerprint:
        return
    own = configuration(settings)
    made_with = {name: row.settings[name] for name in row.settings if name not in _OF_ANY_EMBEDDER}
    back = [
        f"unset RAG_{name.upper()}" if value is None else f"set RAG_{name.upper()}={value}"
        for name, value in made_with.items()
        if own.get(name) != value
    ]
    remedy = (
        f"the index was made with another embedder: {' and '.join(back) or 'set RAG_EMBEDDER and what belongs to it back'}, "
        f"or build an index of this one beside it: `rag-pipeline generations build`; {row.name} holds the vectors of "
        f"{row.embedder}, and these settings name {described.fingerprint}"
    )
    for found, wanted in (
        (row.dimension, described.dimension),
        (row.multi_dimension, described.multi_dimension),
    ):
        if found != wanted:
            raise DimensionMismatchError(found, wanted, remedy)
    raise AnotherEmbedderError(remedy)


class OpenGeneration:
    """The embedder, the cache and the collections of a generation, each opened at its first use.

    Threads share it. What it is opened for never changes: after a switch, a pipeline has another one.
    """

    def __init__(
        self,
        settings: Settings,
        stores: StoreConnections,
        row: GenerationRow | None,
        embedder: Embedder | None,
        *,
        is_live: bool = True,
    ) -> None:
        self.settings = settings
        """Those that it is made with, in the place of the process's."""
        self.row = row
        """None before the first run of a month."""
        self.is_live = is_live
        self._stores = stores
        self._embedder = embedder

    @property
    def vectors(self) -> tuple[VectorKind, ...]:
        """The kinds that are built."""
        return self.settings.vectors

    @property
    def chunker(self) -> str:
        """The version and settings of the chunker, as `documents.chunked_with` holds them."""
        from rag_pipeline.documents.chunking.chunker import CHUNKER_VERSION

        return f"{CHUNKER_VERSION}/{self.settings.chunk_tokens}"

    @cached_property
    def embedder(self) -> Embedder:
        if self._embedder is not None:
            return self._embedder
        from rag_pipeline.embedding.factory import load_embedder

        return load_embedder(self.settings, self._recorded)

    @cached_property
    def description(self) -> EmbedderDescription:
        """The fingerprint and dimensions of the embedder, without loading one that can be described without."""
        from rag_pipeline.embedding.factory import describe, describe_embedder

        if self._embedder is not None:
            return describe(self._embedder)
        return describe_embedder(self.settings, self._recorded)

    def refuse_another_embedder(self) -> None:
        """Raise as `collections` does if it was made with another embedder; with the same settings nothing is loaded."""
        if self.row is None:
            return
        chunks_aside: dict[str, Any] = {"chunk_tokens": None}
        own, made_with = configuration(self.settings) | chunks_aside, dict(self.row.settings) | chunks_aside
        if not _made_alike(own, made_with):
            _refuse_another_embedder(self.row, self.description, self.settings)

    @property
    def _recorded(self) -> EmbedderDescription | None:
        """What the row says of the embedder that made it; None if these settings ask a server for another dimension."""
        from rag_pipeline.embedding.factory import EmbedderDescription

        row = self.row
        if row is None or row.settings.get("embedding_dimensions") != self.settings.embedding_dimensions:
            return None
        return EmbedderDescription(row.embedder, row.dimension, row.multi_dimension)

    @cached_property
    def cache(self) -> EmbeddingCache:
        """`embedding_cache`. If Redis does not answer, every look-up is a miss."""
        from rag_pipeline.embedding.cache import EmbeddingCache

        return EmbeddingCache(self._stores.redis, self.embedder.fingerprint, self.settings.embedding_cache_days)

    @cached_property
    def collections(self) -> Collections:
        return Collections(self._stores.milvus, self._of_kinds())

    def _of_kinds(self) -> dict[VectorKind, Generation]:
        described, row = self.description, self.row
        if row is not None:
            _refuse_another_embedder(row, described, self.settings)
        return generations(
            self.settings.milvus_prefix,
            described.fingerprint,
            described.dimension,
            described.multi_dimension,
            self.settings.vectors,
            suffix=suffix_of(described.fingerprint) if row is None else row.collections,
            own_aliases=row is not None and row.own_aliases,
            has_sources=row is not None and row.has_sources,
            is_live=self.is_live,
        )

    def recorded(self, row: GenerationRow) -> None:
        """Take over what was recorded of a generation that was opened before it had a row."""
        self.row = row
        self.collections.generations = self._of_kinds()

    @property
    def cache_unreachable(self) -> bool:
        """Whether `embedding_cache` was used and did not answer."""
        return "cache" in self.__dict__ and self.cache.failures > 0
