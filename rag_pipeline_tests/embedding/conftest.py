"""A BGE-M3 model in its real layout on disk, small and random, so that the real loading code runs anywhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from rag_pipeline_tests.support.bge_m3 import short_vocabulary, write_model


@pytest.fixture(scope="session")
def tiny_bge_m3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an XLM-RoBERTa with BGE-M3's two heads: 2 layers, 64 dimensions, 3 MB, random weights."""
    pytest.importorskip("FlagEmbedding", reason="needs the extra bge-m3")
    folder = tmp_path_factory.mktemp("bge-m3")
    write_model(folder, short_vocabulary())
    return folder
