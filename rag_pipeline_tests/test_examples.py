"""The examples, without the frameworks that they are for, which are not installed here."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from rag_pipeline_tests.support.command_line import one_line
from rag_pipeline_tests.support.live import free_port
from rag_pipeline_tests.support.workspace import clean_environment

EXAMPLES = Path(__file__).parents[1] / "examples"
FRAMEWORKS = {
    "langchain_core/callbacks.py": "CallbackManagerForRetrieverRun = object",
    "langchain_core/documents.py": "Document = dict",
    "langchain_core/retrievers.py": (
        "import pydantic\n\nclass BaseRetriever(pydantic.BaseModel):\n"
        "    def invoke(self, query):\n        return self._get_relevant_documents(query, run_manager=None)\n"
    ),
    "llama_index/core/base/base_retriever.py": (
        "from types import SimpleNamespace\n\nclass BaseRetriever:\n"
        "    def retrieve(self, query):\n        return self._retrieve(SimpleNamespace(query_str=query))\n"
    ),
    "llama_index/core/schema.py": "NodeWithScore = QueryBundle = TextNode = dict",
}


@pytest.mark.parametrize("example", ["langchain_retriever.py", "llama_index_retriever.py"])
def test_an_example_says_in_one_line_that_the_service_does_not_answer(tmp_path: Path, example: str):
    for name, text in FRAMEWORKS.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, "utf-8")
    url = f"http://127.0.0.1:{free_port()}"

    def said(**environment: str) -> str:
        done = subprocess.run(
            [sys.executable, str(EXAMPLES / example), "豆腐"],
            env={**clean_environment(), "PYTHONPATH": str(tmp_path), **environment},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 1
        return one_line(done.stderr)

    assert said(RAG_API_KEY="rag_x", RAG_SEARCH_URL=f"{url}/").startswith(f"{url} does not answer (")
    assert said(RAG_SEARCH_URL=url).startswith("set RAG_API_KEY")
