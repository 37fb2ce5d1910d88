"""Custom embedders, named `package.module:factory`, wrapped as an `Embedder`.

`factory` is called without arguments and returns the embedder; an object that has `encode` can also be named
directly. The interface is `base.Embedder`, but less is enough, and the wrapper supplies the rest:

- `encode(texts)`, with or without `kinds`, returns one of
    - a list of `ChunkVectors`, or of objects that have some of its attributes,
    - an object with the attributes, or a dict with the keys, `dense`, `sparse`, `multi`; or a tuple in that order,
    - a matrix or a list of vectors, which are dense.
  `dense` is (n, d); `sparse` is a list of dicts, term id (a number or its digits) → weight, or of pairs
  (ids, weights); `multi` is a list of (k, d). Anything that NumPy accepts is allowed, and so are PyTorch tensors.
  Missing kinds are None.
- `encode_query(text)`, with or without `kinds` and `document_frequency`. Without it, a query is encoded as a text.
- `count_tokens(text)`. Without it, tokens are estimated by `estimated_tokens`.
- `fingerprint`, a string or a tuple, which must change whenever the vectors do. The dimension is appended.
- `dimension` and `multi_dimension`. Without them, one short text is encoded to find out.
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
    """A custom object as an `Embedder`. Errors call it `name`."""

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
        """Return the result of the object's `encode` as `ChunkVectors`."""
        if not texts:
            return []
        given = {"kinds": tuple(kinds)}
        returned = self._custom.encode(list(texts), **_accepted(given, self._encode_takes))
        return self._vectors(returned, texts, kinds)

    def encode_query(
        self, text: str, kinds: Sequence[str], document_frequency: DocumentFrequency | None = None
    ) -> ChunkVectors:
        """Return the result of the object's `encode_query`, or of `encode` if it has none."""
        if self._encode_query is None:
            return self.encode([text], kinds)[0]
        given = {"kinds": tuple(kinds), "document_frequency": document_frequency}
        returned = self._encode_query(text, **_accepted(given, self._query_takes))
        return self._vectors(returned, [text], kinds)[0]

    def count_tokens(self, text: str) -> int:
        """Return the object's count, or `estimated_tokens` if it has none."""
        return int(self._count_tokens(text))

    def _vectors(self, returned: Any, texts: Sequence[str], kinds: Sequence[str]) -> list[ChunkVectors]:
        try:
            return as_chunk_vectors(returned, texts, kinds, self.count_tokens)
        except (TypeError, ValueError) as error:
            raise RagError(
                f"RAG_EMBEDDER={self._name}: the embedder returned an unsupported result: {one_line(error)}"
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
                    f"RAG_EMBEDDER={self._name}: add an attribute dimension, because encode returns no dense vector"
                )
            dense = len(seen.dense) if dense is None and seen.dense is not None else dense
            if multi is None:
                multi = dense if seen.multi is None else seen.multi.shape[1]
        try:
            return int(dense), int(multi)  # type: ignore[arg-type]  # None was rejected above
        except (TypeError, ValueError):
            raise ConfigError(f"RAG_EMBEDDER={self._name}: dimension is not a number") from None

    def _fingerprint(self) -> str:
        given = getattr(self._custom, "fingerprint", None)
        parts = [given] if isinstance(given, str) else given
        if not isinstance(parts, Sequence) or not any(str(part) for part in parts):
            raise ConfigError(
                f"RAG_EMBEDDER={self._name}: add an attribute fingerprint, a string such as 'my-model-v1' that "
                "changes whenever the vectors do; without one, vectors of two models could be mixed"
            )
        return "-".join(str(part) for part in (*parts, self.dimension))


def load_custom(name: str) -> CustomEmbedder:
    """Load the embedder that `package.module:factory` names.

    Raises `ConfigError` if the name is malformed, the module or the factory is missing or fails, or the result is
    not an embedder.
    """
    module_name, colon, factory_name = name.partition(":")
    if not (module_name and colon and factory_name):
        raise ConfigError(
            f"RAG_EMBEDDER={name}: unknown embedder: use local, bge-m3, openai, or package.module:factory"
        )
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and (module_name == error.name or module_name.startswith(error.name + ".")):
            raise ConfigError(
                f"RAG_EMBEDDER={name}: no module {error.name}: install it, or put its folder on PYTHONPATH"
            ) from error
        raise ConfigError(
            f"RAG_EMBEDDER={name}: {module_name} needs the missing module {error.name}: install it"
        ) from error
    except Exception as error:
        raise ConfigError(f"RAG_EMBEDDER={name}: importing {module_name} failed: {one_line(error)}") from error
    try:
        named = getattr(module, factory_name)
    except AttributeError:
        raise ConfigError(f"RAG_EMBEDDER={name}: {module_name} has no {factory_name}") from None
    return CustomEmbedder(_create(named, name), name)


def estimated_tokens(text: str) -> int:
    """Return a high estimate of the tokens of a text in a multilingual vocabulary such as XLM-RoBERTa's.

    A token is four ASCII characters, or 1.5 characters of any other script (Japanese prose has about 1.8).
    """
    ascii_chars = len(text.encode("ascii", "ignore"))
    return ceil(ascii_chars / 4 + (len(text) - ascii_chars) / 1.5)


def _create(named: Any, name: str) -> Any:
    made = named
    if inspect.isclass(named) or not hasattr(named, "encode"):
        if not callable(named):
            raise ConfigError(f"RAG_EMBEDDER={name}: neither a function nor an embedder")
        try:
            made = named()
        except Exception as error:
            raise ConfigError(f"RAG_EMBEDDER={name}: calling it failed: {one_line(error)}") from error
    if not callable(getattr(made, "encode", None)):
        raise ConfigError(f"RAG_EMBEDDER={name}: {type(made).__name__} has no method encode(texts)")
    return made


def _parameters(function: Any) -> frozenset[str]:
    """Return the keyword arguments that a function accepts; `**` if it accepts any."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # C functions can lack a signature
        return frozenset()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return frozenset({"**"})
    return frozenset(p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY))


def _accepted(given: Mapping[str, Any], names: frozenset[str]) -> dict[str, Any]:
    return {key: value for key, value in given.items() if "**" in names or key in names}
