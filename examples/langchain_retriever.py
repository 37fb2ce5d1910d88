"""A retriever for LangChain over the search service: python langchain_retriever.py QUESTION

Needs RAG_API_KEY, and RAG_SEARCH_URL unless the service is at http://127.0.0.1:8000.
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


def main() -> None:
    """Print what is found for the question, or one line that says what is wrong."""
    url = os.environ.get("RAG_SEARCH_URL", "http://127.0.0.1:8000").rstrip("/")
    if len(sys.argv) != 2 or not os.environ.get("RAG_API_KEY"):
        sys.exit(f"set RAG_API_KEY, and write: python {sys.argv[0]} QUESTION")
    try:
        retriever = RagPipelineRetriever(url=url, api_key=os.environ["RAG_API_KEY"], limit=3)
        for document in retriever.invoke(sys.argv[1]):
            print(
                f"{document.metadata['title']} ({document.metadata['source_id']}): {document.page_content[:80]!r}"
            )
    except httpx.HTTPStatusError as error:
        sys.exit(f"{url} answered {error.response.status_code}: {' '.join(error.response.text.split())}")
    except (httpx.TransportError, httpx.InvalidURL) as error:
        sys.exit(
            f"{url} does not answer ({error}): start `rag-pipeline serve`, or set RAG_SEARCH_URL to its address"
        )


if __name__ == "__main__":
    main()
