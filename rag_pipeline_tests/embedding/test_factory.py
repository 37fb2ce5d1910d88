from __future__ import annotations

import subprocess
import sys

import pytest

from rag_pipeline.embedding.bge_m3 import BgeM3Embedder
from rag_pipeline.embedding.custom import CustomEmbedder
from rag_pipeline.embedding.factory import describe_embedder, load_embedder
from rag_pipeline.embedding.local import LocalEmbedder
from rag_pipeline.errors import ConfigError
from rag_pipeline.settings import Settings

CHEAP = "rag_pipeline_tests.support.embedders:cheap"


def test_the_settings_choose_the_embedder(tiny_bge_m3: object) -> None:
    assert isinstance(load_embedder(Settings(embedder="bge-m3", bge_m3_model=str(tiny_bge_m3))), BgeM3Embedder)


def test_the_number_of_multi_vectors_chooses_another_embedder(tiny_bge_m3: object) -> None:
    settings = Settings(embedder="bge-m3", bge_m3_model=str(tiny_bge_m3))
    pooled = load_embedder(settings.model_copy(update={"bge_m3_multi_vectors": 64}))
    assert pooled is not load_embedder(settings)
    assert pooled.fingerprint != load_embedder(settings).fingerprint


def test_local_and_custom_embedders_are_chosen_by_name() -> None:
    assert isinstance(load_embedder(Settings(embedder="local")), LocalEmbedder)
    assert isinstance(load_embedder(Settings(embedder=CHEAP)), CustomEmbedder)


def test_one_embedder_serves_the_whole_process() -> None:
    assert load_embedder(Settings(embedder="local")) is load_embedder(Settings(embedder="local", batch_size=7))


def test_a_description_holds_what_a_collection_needs() -> None:
    found = describe_embedder(Settings(embedder="local"))
    assert (found.dimension, found.multi_dimension) == (384, 384)
    assert found.fingerprint.startswith("e5-small-int8-384+")


def test_the_precision_of_the_local_embedder_is_part_of_its_fingerprint() -> None:
    found = describe_embedder(Settings(embedder="local", local_precision="fp32"))
    assert found.fingerprint.startswith("e5-small-fp32-384+")


def test_a_wrong_name_is_a_configuration_error() -> None:
    with pytest.raises(ConfigError, match="RAG_EMBEDDER=bge: "):
        load_embedder(Settings(embedder="bge"))


def test_describing_the_local_embedder_loads_no_model() -> None:
    program = (
        "import sys\n"
        "from rag_pipeline.embedding import bge_m3, cache, custom, factory, validation\n"
        "from rag_pipeline.settings import Settings\n"
        "factory.describe_embedder(Settings(embedder='local'))\n"
        "print(sorted({'onnxruntime', 'sentencepiece', 'sudachipy', 'torch', 'FlagEmbedding', 'redis'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"
