from __future__ import annotations

from pathlib import Path

import pytest

from rag_pipeline_tests.support.index import Index
from rag_pipeline_tests.support.stores import Stores


@pytest.fixture
def index(tmp_path: Path, stores: Stores) -> Index:
    """An empty index of the test's own."""
    return Index(tmp_path, stores)
