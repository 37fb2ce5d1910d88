from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from rag_pipeline.endpoints import Endpoints
from rag_pipeline_tests.support.search_index import SearchIndex, fill, new_index


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, server_endpoints: Endpoints) -> Iterator[SearchIndex]:
    """A few documents with vectors of the cheap embedder, for tests that only search."""
    with new_index(tmp_path_factory.mktemp("shared"), server_endpoints) as index:
        fill(index)
        yield index


@pytest.fixture
def index(tmp_path: Path, server_endpoints: Endpoints) -> Iterator[SearchIndex]:
    """The same documents, for a test that changes them."""
    with new_index(tmp_path, server_endpoints) as index:
        fill(index)
        yield index
