"""One index for all tests of the package, because filling one takes longer than most of them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from rag_pipeline.endpoints import Endpoints
from rag_pipeline_tests.support.damaged_index import DamagedIndex, SharedIndex


@pytest.fixture(scope="package")
def shared_index(server_endpoints: Endpoints, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharedIndex]:
    shared = SharedIndex(server_endpoints, lambda: tmp_path_factory.mktemp("damaged"))
    yield shared
    shared.remove()


@pytest.fixture
def damaged(shared_index: SharedIndex) -> DamagedIndex:
    """A consistent index, for the test to damage."""
    return shared_index.take()


@pytest.fixture(autouse=True)
def short_pauses(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the checker's pause before its second look, except where a test writes in between."""
    if not request.module.__name__.endswith("test_meanwhile"):
        monkeypatch.setattr("rag_pipeline.consistency.row_checks._PAUSE_SECONDS", 0.01)
        monkeypatch.setattr("rag_pipeline.consistency.comparison._PAUSE_SECONDS", 0.01)
