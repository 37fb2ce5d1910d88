"""Errors that come from another process, or are told with more words, keep their kind: who catches them goes by it."""

from __future__ import annotations

import pickle

import pytest

from rag_pipeline.accounts.passwords import PasswordError
from rag_pipeline.embedding.openai.server import RefusedTextError
from rag_pipeline.errors import DimensionMismatchError, RagError, StoreUnavailableError

ERRORS = [
    DimensionMismatchError(384, 100, "chunk 3"),
    PasswordError("length"),
    RefusedTextError("refused", "http://127.0.0.1"),
    StoreUnavailableError("PostgreSQL is down"),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_an_error_survives_another_process_and_can_be_told_with_more_words(error: RagError) -> None:
    error.add_note("what a server has printed")
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), vars(copy)) == (type(error), str(error), vars(error))
    told = error.saying(f"worker on node a: {error}")
    assert (type(told), str(told)) == (type(error), f"worker on node a: {error}")
    assert pickle.loads(pickle.dumps(told)).args == told.args
