from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from rag_pipeline.endpoints import Endpoints
from rag_pipeline_tests.support.http_service import Service, running
from rag_pipeline_tests.support.search_index import SearchIndex, fill, fill_library, new_index


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory, server_endpoints: Endpoints) -> Iterator[SearchIndex]:
    """Documents of three sources, one of which is for `hr`."""
    with new_index(tmp_path_factory.mktemp("library"), server_endpoints) as index:
        fill_library(index)
        yield index


@pytest.fixture(scope="module")
def service(library: SearchIndex) -> Iterator[Service]:
    """The service over the library."""
    with running(library.pipeline) as service:
        yield service


@pytest.fixture
def index(tmp_path: Path, server_endpoints: Endpoints) -> Iterator[SearchIndex]:
    """A few documents, for a test that changes them."""
    with new_index(tmp_path, server_endpoints) as index:
        fill(index)
        yield index
