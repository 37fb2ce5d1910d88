"""An ingest killed between store operations: the next one leaves nothing twice, missing, left behind or stuck, in Dagster neither.

A few points of the matrix; all of them: `python -m rag_pipeline_tests.kill_matrix --points 200`.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from rag_pipeline_tests.kill_matrix import KillMatrix
from rag_pipeline_tests.support.stores import Stores

pytestmark = pytest.mark.slow


def test_killed_at_some_points_of_a_round(tmp_path: Path, stores: Stores) -> None:
    matrix = KillMatrix(tmp_path, stores)
    for _ in range(2):
        matrix.change()
        names = matrix.points()
    killed = 0
    for share in (0.15, 0.4, 0.6, 0.85):
        matrix.change()
        point = int(len(names) * share)
        outcome = matrix.kill_at(point)
        assert outcome is None or outcome.passed, (names[point - 1], outcome)
        killed += outcome is not None
    assert killed >= 3
    assert matrix.open_alerts() == []
