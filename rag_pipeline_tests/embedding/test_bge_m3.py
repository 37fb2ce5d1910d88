from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag_pipeline.embedding import bge_m3
from rag_pipeline.embedding.bge_m3 import BgeM3Embedder, lexical_weights
from rag_pipeline.embedding.bge_m3_folder import digest
from rag_pipeline.embedding.bge_m3_model import Arithmetic
from rag_pipeline.embedding.validation import validate
from rag_pipeline.errors import ConfigError
from rag_pipeline.language.words import comparable
from rag_pipeline.settings import VECTOR_KINDS

TEXTS = [
    "PostgreSQLのバックアップを取得する",
    "Keep the retrieval index true. " * 20,
    "",
    "検索",
    "検索検索検索",
    "※※",
    " \n\t",
    "The backup of PostgreSQL is restored 毎朝、失敗した処理はもう一度行われる。" * 9,
    "😀 emoji, é accents; ｶﾀｶﾅ and ﬁ ligatures",
    "文書は検索される" * 300,
]
VERY_LONG = "Every document is cut into chunks 検索索引を最新に保つ " * 1000


@pytest.fixture(scope="module")
def embedder(tiny_bge_m3: Path) -> BgeM3Embedder:
    """In fp32 whatever the device, so that only what is tested can differ."""
    return BgeM3Embedder(str(tiny_bge_m3), arithmetic="fp32")


@pytest.mark.parametrize(
    "texts", [TEXTS, [VERY_LONG], ["", "", ""], ["検索"]], ids=["many", "long", "empty", "one"]
)
def test_vectors_equal_those_of_flagembedding(
    embedder: BgeM3Embedder, tiny_bge_m3: Path, texts: list[str]
) -> None:
    from FlagEmbedding import BGEM3FlagModel

    reference = BGEM3FlagModel(str(tiny_bge_m3), use_fp16=False, devices="cpu").encode(
        [comparable(text) for text in texts],
        batch_size=3,
        max_length=8192,
        return_dense=True,
        return_sparse=True,
        return_colbert_vecs=True,
    )
    found = embedder.encode(texts, VECTOR_KINDS)
    assert len(found) == len(texts)
    for index, of_text in enumerate(found):
        np.testing.assert_allclose(of_text.dense, reference["dense_vecs"][index], atol=1e-5)
        np.testing.assert_allclose(of_text.multi, reference["colbert_vecs"][index], atol=1e-5)
        expected = {int(term): float(w) for term, w in reference["lexical_weights"][index].items()}
        assert of_text.sparse == pytest.approx(expected, abs=1e-5)
    assert any(of_text.sparse for of_text in found) == any(texts)


@pytest.mark.parametrize(("arithmetic", "tolerance"), [("bf16", 1e-3), ("fp16", 1e-5), (None, 1e-3)])
def test_halves_differ_by_rounding_only(
    embedder: BgeM3Embedder, tiny_bge_m3: Path, arithmetic: Arithmetic | None, tolerance: float
) -> None:
    half = BgeM3Embedder(str(tiny_bge_m3), arithmetic=arithmetic)
    assert half.fingerprint == embedder.fingerprint
    texts = [*TEXTS, VERY_LONG]
    found = validate(half.encode(texts, VECTOR_KINDS), half.dimension, VECTOR_KINDS)
    for of_text, exact in zip(found, embedder.encode(texts, VECTOR_KINDS), strict=True):
        assert of_text.dense.dtype == of_text.multi.dtype == np.float32
        assert float(of_text.dense @ exact.dense) > 1 - tolerance
        assert np.einsum("ij,ij->i", of_text.multi, exact.multi).min() > 1 - tolerance
        # A cosine differs by the square of what numbers do.
        assert of_text.sparse == pytest.approx(exact.sparse, abs=tolerance**0.5)


def test_rows_are_of_unit_length_in_halves_too(tiny_bge_m3: Path) -> None:
    for of_text in BgeM3Embedder(str(tiny_bge_m3), arithmetic="bf16").encode(TEXTS, ["dense", "multi"]):
        np.testing.assert_allclose(np.linalg.norm(of_text.multi, axis=1), 1, atol=1e-6)
        np.testing.assert_allclose(np.linalg.norm(of_text.dense), 1, atol=1e-6)


def test_texts_that_are_tokenized_ahead_have_the_same_vectors(
    embedder: BgeM3Embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = embedder.encode(TEXTS, VECTOR_KINDS)
    monkeypatch.setattr(bge_m3, "_WINDOW_CHARS", 30)
    for found, of_text in zip(embedder.encode(TEXTS, VECTOR_KINDS), expected, strict=True):
        np.testing.assert_allclose(found.dense, of_text.dense, atol=1e-5)
        np.testing.assert_allclose(found.multi, of_text.multi, atol=1e-5)
        assert found.sparse == pytest.approx(of_text.sparse, abs=1e-5)


def test_tokens_are_counted_while_the_model_runs(embedder: BgeM3Embedder, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = embedder._model.encoder.forward
    counts: list[int] = []

    def counting(**inputs: object) -> object:
        with ThreadPoolExecutor(1) as other:
            counts.append(other.submit(embedder.count_tokens, "検索").result(timeout=30))
        return whole(**inputs)

    monkeypatch.setattr(embedder._model.encoder, "forward", counting)
    embedder.encode(["検索"], ["dense"])
    assert counts == [embedder.count_tokens("検索")]


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

    monkeypatch.setattr(embedder._model.encoder, "forward", fail)
    with pytest.raises(RuntimeError, match="device-side assert"):
        embedder.encode(["検索"], ["dense"])


def test_a_batch_that_does_not_fit_into_memory_is_halved(
    embedder: BgeM3Embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    whole = embedder._model.encoder.forward
    rows: list[int] = []

    def small_memory(input_ids: torch.Tensor, **mask: torch.Tensor) -> object:
        rows.append(len(input_ids))
        if rows[-1] > 2:
            raise torch.OutOfMemoryError("out of memory")
        return whole(input_ids=input_ids, **mask)

    texts = [f"検索 {number}" for number in range(6)]
    expected = embedder.encode(texts, ["dense"])
    monkeypatch.setattr(embedder._model.encoder, "forward", small_memory)
    found = embedder.encode(texts, ["dense"])
    assert rows == [6, 3, 1, 2, 3, 1, 2]
    for of_text, alone in zip(found, expected, strict=True):
        np.testing.assert_allclose(of_text.dense, alone.dense, atol=1e-5)


def test_a_text_that_does_not_fit_into_memory_alone_is_an_error(
    embedder: BgeM3Embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    def no_memory(**_inputs: torch.Tensor) -> None:
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(embedder._model.encoder, "forward", no_memory)
    with pytest.raises(torch.OutOfMemoryError):
        embedder.encode(["検索", "文書"], ["dense"])


@given(st.lists(st.lists(st.tuples(st.integers(0, 5), st.integers(-2, 4)), min_size=1, max_size=9), max_size=5))
def test_a_term_has_the_largest_weight_of_its_tokens(texts: list[list[tuple[int, int]]]) -> None:
    tokens = [token for text in texts for token in text]
    ids = np.array([term for term, _ in tokens], dtype=np.int64)
    weights = np.array([weight / 4 for _, weight in tokens], dtype=np.float32)
    found = lexical_weights(ids, weights, [len(text) for text in texts])
    for of_text, text in zip(found, texts, strict=True):
        largest = {term: max(w for t, w in text if t == term) / 4 for term, _ in text}
        assert of_text == {term: weight for term, weight in largest.items() if weight > 0}


@pytest.fixture(scope="module")
def pooling(tiny_bge_m3: Path) -> BgeM3Embedder:
    return BgeM3Embedder(str(tiny_bge_m3), multi_vectors=8, arithmetic="fp32")


def test_a_chunk_has_at_most_as_many_multi_vectors_as_the_setting_says(
    pooling: BgeM3Embedder, embedder: BgeM3Embedder
) -> None:
    found = validate(pooling.encode(TEXTS, VECTOR_KINDS), pooling.dimension, VECTOR_KINDS)
    whole = embedder.encode(TEXTS, VECTOR_KINDS)
    sizes = [(len(of_text.multi), len(all_rows.multi)) for of_text, all_rows in zip(found, whole, strict=True)]
    assert all(1 <= kept <= min(8, rows) for kept, rows in sizes)
    assert any(kept == 8 for kept, _ in sizes)
    for of_text, all_rows in zip(found, whole, strict=True):
        positions = of_text.multi_positions
        assert positions == sorted(set(positions))
        assert len(positions) == len(of_text.multi)
        assert positions[-1] < len(all_rows.multi)
        assert of_text.token_count == all_rows.token_count
        np.testing.assert_allclose(of_text.dense, all_rows.dense, atol=1e-5)
        assert of_text.sparse == pytest.approx(all_rows.sparse, abs=1e-5)
        # Each of the text's tokens has something near: that is what MaxSim asks for.
        assert float((all_rows.multi @ of_text.multi.T).max(axis=1).mean()) > 0.5


def test_punctuation_has_no_multi_vector(pooling: BgeM3Embedder, embedder: BgeM3Embedder) -> None:
    text = "検索。,"
    (of_text,), (whole,) = pooling.encode([text], ["multi"]), embedder.encode([text], ["multi"])
    tokens = embedder._model.tokenizer.convert_ids_to_tokens(embedder._token_ids([text])[0])[1:]
    kept = [position for position, token in enumerate(tokens) if token.strip("▁。,")]
    assert 1 < len(kept) < len(tokens)
    assert of_text.multi_positions == kept
    np.testing.assert_array_equal(of_text.multi, whole.multi[kept])


def test_queries_keep_all_their_multi_vectors(pooling: BgeM3Embedder, embedder: BgeM3Embedder) -> None:
    text = TEXTS[1]
    expected = embedder.encode_query(text, ["multi"]).multi
    np.testing.assert_array_equal(pooling.encode_query(text, ["multi"]).multi, expected)
    np.testing.assert_array_equal(pooling.encode_queries([text], ["multi"], [None])[0].multi, expected)


def test_the_fingerprint_depends_on_the_number_of_multi_vectors(tiny_bge_m3: Path) -> None:
    made = [BgeM3Embedder(str(tiny_bge_m3), most).fingerprint for most in (None, 8, 9)]
    assert len(set(made)) == 3


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
