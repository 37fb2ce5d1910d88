"""Generation: one index of the documents, made by one embedder and chunker; what a pipeline works with.

Which settings make a generation, which generation a process works with if the live one was made with other settings
than the process has, and everything that is opened for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from shlex import quote
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from rag_pipeline.errors import AnotherEmbedderError, DimensionMismatchError, RagError
from rag_pipeline.settings import Settings
from rag_pipeline.stores.milvus.collections import Collections, Generation, generations, suffix_of
from rag_pipeline.stores.milvus.partitions import prefix_in_use
from rag_pipeline.stores.postgres import generations as generations_table

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


def settings_of(row: GenerationRow, settings: Settings, own_row: GenerationRow | None = None) -> Settings:
    """Return a process's settings with those that make a generation in their place.

    `own_row` is the generation that the process's own settings made: a server of both has the address, and the login,
    that the process knows it by.
    """
    made_with: dict[str, Any] = dict(row.settings)
    own = configuration(settings)
    if made_with == own:
        return settings
    overlaid = {**settings.model_dump(exclude_unset=True), **made_with}
    if made_with["embedder"] == "openai":
        overlaid |= {name: None for name in _OF_SPARSE_SERVER if name not in made_with}
        for url, key in _KEYS.items():
            known_as = {own.get(url), own_row.settings.get(url) if own_row else None}
            if url in own and made_with.get(url) is not None and made_with[url] in known_as:
                overlaid[url] = getattr(settings, url)  # With the login that it can have.
            elif _host(made_with.get(url)) != _host(own.get(url)):
                overlaid[key] = None  # It is for another server.
    return Settings(**overlaid)


def _host(url: str | None) -> str | None:
    return None if url is None else urlsplit(url).netloc


def same_configuration(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    """Whether two configurations are the same, whatever address each knows a server by."""
    return _without_addresses(first) == _without_addresses(second)


def fits(own: Mapping[str, Any], row: GenerationRow) -> bool:
    """Whether a process with this configuration goes on with a generation as it is: kinds can be added to one."""
    settings = dict(row.settings)
    if own.get("embedding_dimensions") is not None and settings.get("embedding_dimensions") is None:
        settings["embedding_dimensions"] = row.dimension
    return same_configuration({**own, "vectors": None}, {**settings, "vectors": None})


def made_alike(own: Mapping[str, Any], row: GenerationRow) -> bool:
    """Whether this configuration can have made a generation, if it leaves the dimension to a server."""
    return fits(own, row) or (
        own.get("embedding_dimensions") is None and fits({**own, "embedding_dimensions": row.dimension}, row)
    )


def made_by(settings: Settings, rows: Sequence[GenerationRow]) -> GenerationRow | None:
    """Return the first of these generations that a process's settings can have made; None if they made none of them."""
    own = configuration(settings)
    return next((row for row in rows if made_alike(own, row)), None)


def _without_addresses(made_with: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out where servers are: two machines can reach one by different names. The kind of an endpoint stays."""
    kept = {name: value for name, value in made_with.items() if name != "embedding_url"}
    if kept.get("embedding_sparse_url") is not None:
        kept["embedding_sparse_url"] = urlsplit(kept["embedding_sparse_url"]).path.rpartition("/")[2]
    return kept


def settings_in_use(
    settings: Settings, live: GenerationRow, others: Sequence[GenerationRow], embedder: Embedder | None
) -> Settings:
    """Return the settings of the live generation for a process with these.

    They are the process's own, unless those made another generation that still exists: a process that was started
    before a switch then goes on with the generation that is live. Settings that made none stay, so that a mistake in
    them is found.
    """
    if embedder is not None:
        is_live = embedder.fingerprint == live.embedder
        own_row = next((o for o in others if o.embedder == embedder.fingerprint), None)
    else:
        is_live = fits(configuration(settings), live)
        own_row = made_by(settings, others)
    return settings if is_live or own_row is None else settings_of(live, settings, own_row)


def refuse_another_prefix(row: GenerationRow, settings: Settings, recorded: str | None = None) -> None:
    """Raise a `RagError` if a generation's collections have another prefix than these settings say.

    In Milvus its collections would look lost, and a repair would build all of them once more. `recorded` is the prefix if
    the row does not have it.
    """
    prefix = row.milvus_prefix if recorded is None else recorded
    if prefix is None or prefix == settings.milvus_prefix:
        return
    back = f"set RAG_MILVUS_PREFIX={prefix}" if prefix else "unset RAG_MILVUS_PREFIX"
    raise RagError(
        f"the collections of {row.name} are not under RAG_MILVUS_PREFIX={settings.milvus_prefix}: {back}; if they are to be, "
        "or those are another index's, `rag-pipeline repair --restored` builds them there, and leaves the others alone"
    )


def _refuse_another_embedder(row: GenerationRow, described: EmbedderDescription, settings: Settings) -> None:
    """Raise `DimensionMismatchError` or `AnotherEmbedderError` if a generation was made with another embedder than this.

    It is PostgreSQL that says so, whatever Milvus holds: if Milvus has lost everything, a repair would otherwise fill it
    with this embedder's vectors, and the right one would be refused from then on.
    """
    if row.embedder == described.fingerprint:
        return
    back = " and ".join(_set_back(row, settings)) or "set RAG_EMBEDDER and what belongs to it back"
    remedy = (
        f"the index was made with another embedder: {back}, or build an index of this one beside it: "
        f"`rag-pipeline generations build`; {row.name} holds the vectors of {row.embedder}, and these settings name "
        f"{described.fingerprint}"
    )
    for found, wanted in (
        (row.dimension, described.dimension),
        (row.multi_dimension, described.multi_dimension),
    ):
        if found != wanted:
            raise DimensionMismatchError(found, wanted, remedy)
    raise AnotherEmbedderError(remedy)


def _set_back(row: GenerationRow, settings: Settings) -> list[str]:
    """Return what to do to each variable that is not as it was when a generation was made, as phrases."""
    own, made_with = configuration(settings), dict(row.settings)
    if own["embedder"] == made_with["embedder"]:
        made_with = {**dict.fromkeys(own), **made_with}  # A server of sparse vectors can be what is too much.
    wanted: dict[str, Any] = {}
    for name, value in made_with.items():
        found = own[name] if name in own else getattr(settings, name)
        if name not in _OF_ANY_EMBEDDER and (found or None) != (value or None):
            wanted[name] = value
    if made_with["embedder"] == "openai" and "multi" in settings.vectors:
        wanted["vectors"] = ",".join(made_with["vectors"])  # With multi-vectors it would be refused.
    return [
        # Quoted, because prefixes end in a blank.
        f"set RAG_{name.upper()}={quote(str(value))}" if value else f"unset RAG_{name.upper()}"
        for name, value in wanted.items()
    ]


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
        """The version and settings of the chunker, as `documents.chunked_with` holds them.

        Raises a `RagError` if the generation came by a switch, and these settings would cut its documents anew.
        """
        from rag_pipeline.documents.chunking.chunker import CHUNKER_VERSION

        row = self.row
        if row is not None and row.own_aliases and row.settings["chunk_tokens"] != self.settings.chunk_tokens:
            raise RagError(
                f"{row.name} was switched to with RAG_CHUNK_TOKENS={row.settings['chunk_tokens']}, and these settings say "
                f"{self.settings.chunk_tokens}: set it back, or build an index with it beside this one: "
                "`rag-pipeline generations build`"
            )
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

    def refuse_another_embedder(self) -> None:
        """Raise what `collections` raises if the generation was made with another embedder; asks no server for anything.

        Before a server is asked that may be the wrong one, and down.
        """
        row = self.row
        if row is None or self._embedder is not None:
            return
        made = {**configuration(self.settings), "chunk_tokens": row.settings["chunk_tokens"]}
        if self.settings.embedder != "openai" and made_alike(made, row):
            return  # To describe some embedders is to load them.
        from rag_pipeline.embedding.factory import described_with

        described = described_with(self.settings, row.dimension) or self.description
        _refuse_another_embedder(row, described, self.settings)

    def _of_kinds(self) -> dict[VectorKind, Generation]:
        if self.row is not None:
            self._look_for_prefix(self.row)
        self.refuse_another_embedder()
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

    def _look_for_prefix(self, row: GenerationRow) -> None:
        """Raise a `RagError` if its collections have another prefix; note the prefix if no program has done so yet."""
        own, found = self.settings.milvus_prefix, row.milvus_prefix
        if found is None:
            found = prefix_in_use(self._stores.milvus, row.collections, own)
            if found == own:
                with self._stores.database.connection() as connection:
                    generations_table.adopt_prefix(connection, row.id, own)
        refuse_another_prefix(row, self.settings, found)

    def recorded(self, row: GenerationRow) -> None:
        """Take over what was recorded of a generation that was opened before it had a row."""
        self.row = row
        self.collections.generations = self._of_kinds()

    @property
    def cache_unreachable(self) -> bool:
        """Whether `embedding_cache` was used and did not answer."""
        return "cache" in self.__dict__ and self.cache.failures > 0
