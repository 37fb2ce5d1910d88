from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from rag_pipeline.embedding.base import ChunkVectors, Embedder
from rag_pipeline.embedding.custom import CustomEmbedder, estimated_tokens, load_custom
from rag_pipeline.embedding.validation import validate
from rag_pipeline.errors import ConfigError, RagError
from rag_pipeline.settings import VECTOR_KINDS
from rag_pipeline_tests.support.embedders import CheapEmbedder

TEXTS = ["索引", "検索", "復元"]
DENSE = [[1.0, 0.0], [0.0, 2.0], [3.0, 4.0]]
SPARSE = [{"5": 1.0}, {"6": 0.5, "7": 2.0}, {}]
MULTI = [[[1.0, 0.0, 0.0]], [[0.0, 1.0, 0.0]] * 2, [[0.0, 0.0, 1.0]] * 3]


def wrapped(encode: Callable[..., Any], **attributes: Any) -> CustomEmbedder:
    known = {"fingerprint": "mine-1", "dimension": 2, "multi_dimension": 3}
    return CustomEmbedder(SimpleNamespace(encode=encode, **(known | attributes)), "mine:make")


@pytest.mark.parametrize(
    "returned",
    [
        {"dense": DENSE, "sparse": SPARSE, "multi": MULTI},
        {"dense": np.array(DENSE), "sparse": SPARSE, "multi": [np.array(rows) for rows in MULTI]},
        (DENSE, SPARSE, MULTI),
        (np.array(DENSE), [([int(i) for i in s], list(s.values())) for s in SPARSE], MULTI),
        SimpleNamespace(dense=DENSE, sparse=SPARSE, multi=MULTI),
        [SimpleNamespace(dense=d, sparse=s, multi=m) for d, s, m in zip(DENSE, SPARSE, MULTI, strict=True)],
        [
            ChunkVectors(np.array(d), {int(i): w for i, w in s.items()}, np.array(m))
            for d, s, m in zip(DENSE, SPARSE, MULTI, strict=True)
        ],
    ],
    ids=["dict of lists", "dict of arrays", "tuple", "pairs", "object", "objects", "ChunkVectors"],
)
def test_all_shapes_are_equivalent(returned: Any) -> None:
    found = wrapped(lambda _texts: returned).encode(TEXTS, VECTOR_KINDS)
    for index, of_text in enumerate(found):
        np.testing.assert_array_equal(of_text.dense, np.array(DENSE[index], dtype=np.float32))
        np.testing.assert_array_equal(of_text.multi, np.array(MULTI[index], dtype=np.float32))
        assert of_text.dense.dtype == of_text.multi.dtype == np.float32
        assert of_text.sparse == {int(term): weight for term, weight in SPARSE[index].items()}
        assert of_text.token_count == estimated_tokens(TEXTS[index])
    validate(found, 2, VECTOR_KINDS, multi_dimension=3)


@pytest.mark.parametrize("returned", [DENSE, np.array(DENSE), (np.array(DENSE),), {"dense": DENSE}])
def test_dense_vectors_alone_are_enough(returned: Any) -> None:
    found = wrapped(lambda _texts: returned).encode(TEXTS, VECTOR_KINDS)
    np.testing.assert_array_equal(np.stack([v.dense for v in found]), DENSE)
    assert all(v.sparse is None and v.multi is None for v in found)


def test_tensors_are_accepted() -> None:
    torch = pytest.importorskip("torch", reason="needs the extra bge-m3")
    tensors = torch.tensor(DENSE, dtype=torch.bfloat16, requires_grad=True)
    found = wrapped(lambda _texts: tensors).encode(TEXTS, ["dense"])
    np.testing.assert_array_equal(np.stack([v.dense for v in found]), DENSE)


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (DENSE[:2], "2 dense vectors for 3 texts"),
        ((DENSE, SPARSE[:1], None), "1 sparse vectors for 3 texts"),
        ([ChunkVectors(None, None, None)], "1 results for 3 texts"),
        ({"vectors": DENSE}, "none of the keys dense, sparse, multi"),
        ({"dense": [1.0, 2.0, 3.0]}, "dense has 1 dimensions"),
        ({"multi": DENSE}, "a multi vector has 1 dimensions"),
        ({"sparse": [{"word": 1.0}] * 3}, "invalid literal"),
        ("text", "could not convert"),
        (None, "encode returned None"),
        (7, "dense has 0 dimensions"),
    ],
)
def test_an_unsupported_result_is_reported_in_one_line_with_the_embedder(returned: Any, message: str) -> None:
    with pytest.raises(RagError, match=message) as caught:
        wrapped(lambda _texts: returned).encode(TEXTS, VECTOR_KINDS)
    assert str(caught.value).startswith("RAG_EMBEDDER=mine:make")
    assert "\n" not in str(caught.value)


def test_only_accepted_arguments_are_passed() -> None:
    seen: dict[str, Any] = {}

    def encode_query(text: str, document_frequency: object) -> dict[str, Any]:
        seen.update(text=text, document_frequency=document_frequency)
        return {"dense": DENSE[0], "sparse": {"1": 2.0}}

    def statistics(_words: object) -> tuple[int, dict[str, int]]:
        return 0, {}

    def encode(texts: list[str], **options: object) -> list[list[float]]:
        seen.update(options)
        return DENSE[: len(texts)]

    embedder = wrapped(encode, encode_query=encode_query)
    embedder.encode(TEXTS, ["dense"])
    found = embedder.encode_query("索引", VECTOR_KINDS, statistics)
    assert seen == {"kinds": ("dense",), "text": "索引", "document_frequency": statistics}
    assert found.sparse == {1: 2.0}


def test_without_encode_query_a_query_is_encoded_as_a_text() -> None:
    found = wrapped(lambda texts: DENSE[: len(texts)]).encode_query("索引", ["dense"])
    np.testing.assert_array_equal(found.dense, DENSE[0])


def test_missing_dimensions_are_found_by_encoding_a_text() -> None:
    embedder = wrapped(lambda _texts: (DENSE[:1], None, MULTI[:1]), dimension=None, multi_dimension=None)
    assert (embedder.dimension, embedder.multi_dimension) == (2, 3)
    assert wrapped(lambda _texts: DENSE[:1], dimension=None, multi_dimension=None).multi_dimension == 2


def test_the_fingerprint_always_contains_the_dimension() -> None:
    assert wrapped(lambda _texts: DENSE, fingerprint=("acme", 3)).fingerprint == "acme-3-2"
    with pytest.raises(ConfigError, match="attribute fingerprint"):
        wrapped(lambda _texts: DENSE, fingerprint=None)


@pytest.fixture
def on_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("someones_")]:
        del sys.modules[name]


def test_a_complete_embedder_is_loaded_by_name() -> None:
    embedder = load_custom("rag_pipeline_tests.support.embedders:cheap")
    assert isinstance(embedder, Embedder)
    expected = CheapEmbedder().encode(TEXTS, VECTOR_KINDS)
    for found, own in zip(embedder.encode(TEXTS, VECTOR_KINDS), expected, strict=True):
        np.testing.assert_array_equal(found.dense, own.dense)
        np.testing.assert_array_equal(found.multi, own.multi)
        assert (found.sparse, found.multi_positions, found.token_count) == (
            own.sparse,
            own.multi_positions,
            own.token_count,
        )


@pytest.mark.parametrize("name", ["make", "Mine", "ready"])
def test_a_function_a_class_or_an_object_can_be_named(on_path: Path, name: str) -> None:
    (on_path / "someones_model.py").write_text(
        "class Mine:\n"
        "    fingerprint = 'mine-1'\n"
        "    def encode(self, texts):\n"
        "        return [[1.0, 2.0] for _ in texts]\n"
        "def make():\n"
        "    return Mine()\n"
        "ready = Mine()\n"
    )
    assert load_custom(f"someones_model:{name}").encode(["a", "b"], ["dense"])[1].dense.tolist() == [
        1.0,
        2.0,
    ]


@pytest.mark.parametrize(
    ("name", "source", "message"),
    [
        ("lcoal", "", "use local, bge-m3, openai, or package.module:factory"),
        ("someones_model:", "", "use local, bge-m3, openai, or package.module:factory"),
        ("someones_absent:make", "", "no module someones_absent"),
        ("someones_model.deep:make", "", "someones_model"),
        (
            "someones_model:make",
            "import someones_dependency",
            "needs the missing module someones_dependency",
        ),
        ("someones_model:make", "1 / 0", "importing someones_model failed: division by zero"),
        ("someones_model:make", "", "has no make"),
        ("someones_model:make", "make = 7", "neither a function nor an embedder"),
        ("someones_model:make", "def make():\n    raise OSError('no\\nkey')", "calling it failed: no key"),
        ("someones_model:make", "def make(key): ...", "missing 1 required positional argument"),
        ("someones_model:make", "def make():\n    return 7", "int has no method encode"),
    ],
)
def test_a_problem_with_a_name_is_reported_in_one_line(
    on_path: Path, name: str, source: str, message: str
) -> None:
    (on_path / "someones_model.py").write_text(source)
    with pytest.raises(ConfigError, match=message) as caught:
        load_custom(name)
    assert str(caught.value).startswith(f"RAG_EMBEDDER={name}: ")
    assert "\n" not in str(caught.value)
