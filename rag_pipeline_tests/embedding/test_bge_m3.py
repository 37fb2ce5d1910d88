from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from rag_pipeline.embedding.bge_m3 import BgeM3Embedder
from rag_pipeline.embedding.bge_m3_folder import digest
from rag_pipeline.embedding.validation import validate
from rag_pipeline.errors import ConfigError
from rag_pipeline.settings import VECTOR_KINDS

TEXTS = [
    "PostgreSQLのバックアップを取得する",
    "Keep the retrieval index true. " * 20,
    "",
    "検索",
    "検索検索検索",
    "※※",
]


@pytest.fixture(scope="module")
def embedder(tiny_bge_m3: Path) -> BgeM3Embedder:
    return BgeM3Embedder(str(tiny_bge_m3))


def test_vectors_equal_those_of_flagembedding(embedder: BgeM3Embedder, tiny_bge_m3: Path) -> None:
    from FlagEmbedding import BGEM3FlagModel

    reference = BGEM3FlagModel(str(tiny_bge_m3), use_fp16=False, devices="cpu").encode(
        TEXTS, batch_size=3, max_length=8192, return_dense=True, return_sparse=True, return_colbert_vecs=True
    )
    found = embedder.encode(TEXTS, VECTOR_KINDS)
    for index, of_text in enumerate(found):
        np.testing.assert_allclose(of_text.dense, reference["dense_vecs"][index], atol=1e-5)
        np.testing.assert_allclose(of_text.multi, reference["colbert_vecs"][index], atol=1e-5)
        expected = {int(term): float(w) for term, w in reference["lexical_weights"][index].items()}
        assert of_text.sparse == pytest.approx(expected, abs=1e-5)
    assert any(of_text.sparse for of_text in found)


def test_vectors_are_valid(embedder: BgeM3Embedder) -> None:
    found = validate(embedder.encode(TEXTS, VECTOR_KINDS), embedder.dimension, VECTOR_KINDS)
    assert embedder.dimension == 64
    assert [len(v.multi_positions or []) for v in found] == [len(v.multi) for v in found if v.multi is not None]
    assert found[2].sparse == {}  # the empty text


def test_a_text_has_the_same_vectors_in_any_batch(embedder: BgeM3Embedder) -> None:
    together = embedder.encode(TEXTS * 3, VECTOR_KINDS)[: len(TEXTS)]
    for text, of_batch in zip(TEXTS, together, strict=True):
        alone = embedder.encode([text], VECTOR_KINDS)[0]
        np.testing.assert_allclose(alone.dense, of_batch.dense, atol=1e-5)
        np.testing.assert_allclose(alone.multi, of_batch.multi, atol=1e-5)
        assert alone.sparse == pytest.approx(of_batch.sparse, abs=1e-5)


def test_only_the_requested_kinds_are_built(embedder: BgeM3Embedder) -> None:
    (found,) = embedder.encode(["検索"], ["sparse"])
    assert found.sparse
    assert found.dense is None
    assert found.multi is None


def test_no_texts_yield_no_vectors(embedder: BgeM3Embedder) -> None:
    assert embedder.encode([], VECTOR_KINDS) == []


def test_multi_vectors_do_not_keep_the_batch_alive(embedder: BgeM3Embedder) -> None:
    found = embedder.encode(TEXTS, ["multi"])
    assert all(of_text.multi is not None and of_text.multi.base is None for of_text in found)


def test_nothing_is_printed(embedder: BgeM3Embedder, capfd: pytest.CaptureFixture[str]) -> None:
    embedder.encode(["検索"] * 300, VECTOR_KINDS)
    printed = capfd.readouterr()
    assert printed.out == ""
    assert printed.err == ""


def test_a_lone_surrogate_is_accepted(embedder: BgeM3Embedder) -> None:
    assert len(embedder.encode(["x\ud800y\0z"], VECTOR_KINDS)) == 1


def test_several_threads_can_use_it(embedder: BgeM3Embedder) -> None:
    alone = embedder.encode_query(TEXTS[0], ["dense"]).dense
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: embedder.encode_query(TEXTS[0], ["dense"]).dense, range(40)))
        counts = set(pool.map(embedder.count_tokens, [TEXTS[0]] * 40))
    assert all(np.allclose(vector, alone, atol=1e-6) for vector in found)
    assert len(counts) == 1


def test_an_error_in_the_model_is_not_hidden(embedder: BgeM3Embedder, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_args: object, **_kwargs: object) -> None:
        raise RuntimeError("device-side assert")

    monkeypatch.setattr(embedder._model.model, "forward", fail)
    with pytest.raises(RuntimeError, match="device-side assert"):
        embedder.encode(["検索"], ["dense"])


def test_a_batch_that_does_not_fit_into_memory_is_halved(
    embedder: BgeM3Embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    whole = embedder._model.model.forward
    rows: list[int] = []

    def small_memory(inputs: dict[str, torch.Tensor], **kinds: bool) -> object:
        rows.append(len(inputs["input_ids"]))
        if rows[-1] > 2:
            raise torch.OutOfMemoryError("out of memory")
        return whole(inputs, **kinds)

    monkeypatch.setattr(embedder._model.model, "forward", small_memory)
    found = embedder.encode(TEXTS, ["dense"])
    assert rows[0] == len(TEXTS)
    assert all(of_text.dense is not None for of_text in found)


@pytest.mark.parametrize("head", ["sparse_linear.pt", "colbert_linear.pt"])
def test_a_model_without_a_head_is_rejected(tiny_bge_m3: Path, tmp_path: Path, head: str) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_bge_m3, folder)
    (folder / head).unlink()
    with pytest.raises(ConfigError, match=head):
        BgeM3Embedder(str(folder))


def test_the_fingerprint_depends_on_the_model_and_not_on_its_folder(tiny_bge_m3: Path, tmp_path: Path) -> None:
    folder = tmp_path / "elsewhere"
    shutil.copytree(tiny_bge_m3, folder)
    assert BgeM3Embedder(str(folder)).fingerprint == BgeM3Embedder(str(tiny_bge_m3)).fingerprint
    weights = folder / "model.safetensors"
    changed = bytearray(weights.read_bytes())
    changed[-1] ^= 1
    weights.write_bytes(changed)
    assert digest(folder) != digest(tiny_bge_m3)


@pytest.mark.skipif(find_spec("FlagEmbedding") is None, reason="needs the extra bge-m3")
def test_an_unavailable_model_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match="RAG_BGE_M3_MODEL=nobody/no-such-model"):
        BgeM3Embedder("nobody/no-such-model")


@pytest.mark.skipif(find_spec("FlagEmbedding") is not None, reason="the extra bge-m3 is installed")
def test_without_the_extra_the_error_says_how_to_get_it() -> None:
    with pytest.raises(ConfigError, match=r"pip install 'rag-pipeline\[bge-m3\]'"):
        BgeM3Embedder("BAAI/bge-m3")
