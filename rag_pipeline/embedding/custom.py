"""Anyone's own embedder, named `package.module:factory`.

`factory` is called without arguments and returns the embedder (an object that has `encode` may also be named
itself). The interface is `base.Embedder`; this module takes less than that, and makes it whole:

- `encode(texts)`, with or without `kinds`, returns one of
    - a list of `ChunkVectors`, or of objects that have some of its attributes,
    - an object with the attributes, or a dict with the keys, `dense`, `sparse`, `multi`; or a tuple in that order,
    - a matrix or a list of vectors, which are dense.
  `dense` is (n, d); `sparse` a list of dicts, term id (a number or its digits) → weight, or of pairs (ids, weights);
  `multi` a list of (k, d). Anything that NumPy takes will do, and PyTorch tensors. What is missing is None.
- `encode_query(text)`, with or without `kinds` and `document_frequency`; where missing, a query is encoded as a text.
- `count_tokens(text)`; where missing, `estimated_tokens`.
- `fingerprint`, a string or a tuple: must change whenever the vectors do. The dimension is added to it.
- `dimension` and `multi_dimension`; where missing, one short text is encoded to see.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping, Sequence
from math import ceil
from typing import Any

from rag_pipeline.embedding.base import ChunkVectors, DocumentFrequency
from rag_pipeline.embedding.custom_output import as_chunk_vectors
from rag_pipeline.errors import ConfigError, RagError, one_line
from rag_pipeline.settings import VECTOR_KINDS

_PROBE = "dimension"


class CustomEmbedder:
    """Someone's object as an `Embedder`; `name` is what errors call it."""

    def __init__(self, custom: Any, name: str) -> None:
        self._custom = custom
        self._name = name
        self._encode_takes = _parameters(custom.encode)
        query = getattr(custom, "encode_query", None)
        self._encode_query = query if callable(query) else None
        self._query_takes = _parameters(query) if callable(query) else frozenset()
        counter = getattr(custom, "count_tokens", None)
        self._count_tokens = counter if callable(counter) else estimated_tokens
        self.dimension, self.multi_dimension = self._dimensions()
        self.fingerprint = self._fingerprint()

    def encode(self, texts: Sequence[str], kinds: Sequence[str]) -> list[ChunkVectors]:
        """What the object's own `encode` returns, as `ChunkVectors`."""
        if not texts:
            return []
        given = {"kinds": tuple(kinds)}
        returned = self._custom.encode(list(texts), **_accepted(given, self._encode_takes))
        return self._vectors(returned, texts, kinds)

    def encode_query(
        self, text: str, kinds: Sequence[str], document_frequency: DocumentFrequency | None = None
    ) -> ChunkVectors:
        """What the object's own `encode_query` returns, or `encode` for the query as a text."""
        if self._encode_query is None:
            return self.encode([text], kinds)[0]
        given = {"kinds": tuple(kinds), "document_frequency": document_frequency}
        returned = self._encode_query(text, **_accepted(given, self._query_takes))
        return self._vectors(returned, [text], kinds)[0]

    def count_tokens(self, text: str) -> int:
        """The object's own count, or `estimated_tokens`."""
        return int(self._count_tokens(text))

    def _vectors(self, returned: Any, texts: Sequence[str], kinds: Sequence[str]) -> list[ChunkVectors]:
        try:
            return as_chunk_vectors(returned, texts, kinds, self.count_tokens)
        except (TypeError, ValueError) as error:
            raise RagError(
                f"RAG_EMBEDDER={self._name}: what it returned cannot be read: {one_line(error)}"
            ) from error

    def _dimensions(self) -> tuple[int, int]:
        dense, multi = (getattr(self._custom, name, None) for name in ("dimension", "multi_dimension"))
        if dense is None or multi is None:
            try:
                seen = self.encode([_PROBE], VECTOR_KINDS)[0]
            except RagError as error:
                raise ConfigError(str(error)) from error
            if dense is None and seen.dense is None:
                raise ConfigError(
                    f"RAG_EMBEDDER={self._name}: has no attribute dimension and gives no dense vector"
                )
            dense = len(seen.dense) if dense is None and seen.dense is not None else dense
            if multi is None:
                multi = dense if seen.multi is None else seen.multi.shape[1]
        try:
            return int(dense), int(multi)  # type: ignore[arg-type]  # None was refused above
        except (TypeError, ValueError):
            raise ConfigError(f"RAG_EMBEDDER={self._name}: its dimension is not a number") from None

    def _fingerprint(self) -> str:
        given = getattr(self._custom, "fingerprint", None)
        parts = [given] if isinstance(given, str) else given
        if not isinstance(parts, Sequence) or not any(str(part) for part in parts):
            raise ConfigError(
                f"RAG_EMBEDDER={self._name}: give it an attribute fingerprint, a string such as 'my-model-v1' that "
                "changes whenever its vectors do; without one, vectors of two models could be mixed"
            )
        return "-".join(str(part) for part in (*parts, self.dimension))


def load_custom(name: str) -> CustomEmbedder:
    """The embedder that `package.module:factory` names.

    Raises `ConfigError` if the name is malformed, the module or the factory is missing or fails, or what it returns
    is no embedder.
    """
    module_name, colon, factory_name = name.partition(":")
    if not (module_name and colon and factory_name):
        raise ConfigError(f"RAG_EMBEDDER={name}: give local, bge-m3, or package.module:factory")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and (module_name == error.name or module_name.startswith(error.name + ".")):
            raise ConfigError(
                f"RAG_EMBEDDER={name}: there is no module {error.name}; install it, or put its folder on PYTHONPATH"
            ) from error
        raise ConfigError(
            f"RAG_EMBEDDER={name}: {module_name} needs a module that is missing: {error.name}"
        ) from error
    except Exception as error:
        raise ConfigError(f"RAG_EMBEDDER={name}: importing {module_name} failed: {one_line(error)}") from error
    try:
        named = getattr(module, factory_name)
    except AttributeError:
        raise ConfigError(f"RAG_EMBEDDER={name}: {module_name} has no {factory_name}") from None
    return CustomEmbedder(_made_by(named, name), name)


def estimated_tokens(text: str) -> int:
    """About the tokens of a text for a multilingual vocabulary such as XLM-RoBERTa's, on the high side.

    A token is four ASCII characters, or one and a half of any other script; Japanese prose has about 1.8.
    """
    ascii_chars = len(text.encode("ascii", "ignore"))
    return ceil(ascii_chars / 4 + (len(text) - ascii_chars) / 1.5)


def _made_by(named: Any, name: str) -> Any:
    made = named
    if inspect.isclass(named) or not hasattr(named, "encode"):
        if not callable(named):
            raise ConfigError(f"RAG_EMBEDDER={name}: is neither a function nor an embedder")
        try:
            made = named()
        except Exception as error:
            raise ConfigError(f"RAG_EMBEDDER={name}: calling it failed: {one_line(error)}") from error
    if not callable(getattr(made, "encode", None)):
        raise ConfigError(f"RAG_EMBEDDER={name}: {type(made).__name__} has no method encode(texts)")
    return made


def _parameters(function: Any) -> frozenset[str]:
    """The names that may be passed; `**` if any may."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # a C function may have none
        return frozenset()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return frozenset({"**"})
    return frozenset(p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY))


def _accepted(given: Mapping[str, Any], names: frozenset[str]) -> dict[str, Any]:
    return {key: value for key, value in given.items() if "**" in names or key in names}
