"""A retriever for LangChain over the search service: python langchain_retriever.py QUESTION

Needs RAG_URL (default http://127.0.0.1:8000) and RAG_API_KEY.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import httpx
from langchain_core.callbacks import CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from pydantic import Field


class RagPipelineRetriever(BaseRetriever):
    """Passages that the service finds, best first, with what is needed to cite them as metadata."""

    url: str = "http://127.0.0.1:8000"
    api_key: str
    limit: int = 5
    filters: dict[str, Any] = Field(default_factory=dict)

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun
    ) -> list[Document]:
        answer = httpx.post(
            f"{self.url}/v1/search",
            json={"query": query, "limit": self.limit, "filters": self.filters},
            headers={"Authorization": f"Bearer {self.api_key}"},
            timeout=30,
        )
        answer.raise_for_status()
        return [
            Document(id=hit["chunk_id"], page_content=hit.pop("content"), metadata=hit)
            for hit in answer.json()["hits"]
        ]


if __name__ == "__main__":
    retriever = RagPipelineRetriever(
        url=os.environ.get("RAG_URL", "http://127.0.0.1:8000"), api_key=os.environ["RAG_API_KEY"], limit=3
    )
    for document in retriever.invoke(sys.argv[1]):
        print(f"{document.metadata['title']} ({document.metadata['source_id']}): {document.page_content[:80]!r}")
