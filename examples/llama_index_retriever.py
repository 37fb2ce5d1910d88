"""A retriever for LlamaIndex over the search service: python llama_index_retriever.py QUESTION

Needs RAG_API_KEY, and RAG_SEARCH_URL unless the service is at http://127.0.0.1:8000.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import httpx
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode


class RagPipelineRetriever(BaseRetriever):
    """Passages that the service finds, best first, with what is needed to cite them as metadata."""

    def __init__(self, url: str, api_key: str, limit: int = 5, filters: dict[str, Any] | None = None) -> None:
        super().__init__()
        self._url = url
        self._api_key = api_key
        self._body = {"limit": limit, "filters": filters or {}}

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        answer = httpx.post(
            f"{self._url}/v1/search",
            json={"query": query_bundle.query_str, **self._body},
            headers={"Authorization": f"Bearer {self._api_key}"},
            timeout=30,
        )
        answer.raise_for_status()
        return [
            NodeWithScore(
                node=TextNode(id_=hit["chunk_id"], text=hit.pop("content"), metadata=hit), score=hit["score"]
            )
            for hit in answer.json()["hits"]
        ]


def main() -> None:
    """Print what is found for the question, or one line that says what is wrong."""
    url = os.environ.get("RAG_SEARCH_URL", "http://127.0.0.1:8000").rstrip("/")
    if len(sys.argv) != 2 or not os.environ.get("RAG_API_KEY"):
        sys.exit(f"set RAG_API_KEY, and write: python {sys.argv[0]} QUESTION")
    try:
        retriever = RagPipelineRetriever(url, os.environ["RAG_API_KEY"], limit=3)
        for found in retriever.retrieve(sys.argv[1]):
            print(f"{found.node.metadata['title']} ({found.node.metadata['source_id']}): {found.node.text[:80]!r}")
    except httpx.HTTPStatusError as error:
        sys.exit(f"{url} answered {error.response.status_code}: {' '.join(error.response.text.split())}")
    except (httpx.TransportError, httpx.InvalidURL) as error:
        sys.exit(
            f"{url} does not answer ({error}): start `rag-pipeline serve`, or set RAG_SEARCH_URL to its address"
        )


if __name__ == "__main__":
    main()
