"""The same files in Haystack and Milvus: python -m benchmarks.peer_haystack FOLDER

Runs in an environment of its own, which `benchmarks.peers` makes, on the server in PEER_MILVUS_URI. Haystack keeps no state: each run writes everything
again. Prints the numbers of chunks in the collection and of those embedded now.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from haystack import Document, Pipeline, component
from haystack.components.converters import TextFileToDocument
from haystack.components.preprocessors import RecursiveDocumentSplitter
from haystack.components.writers import DocumentWriter
from haystack.document_stores.types import DuplicatePolicy
from milvus_haystack import MilvusDocumentStore

from benchmarks.free_vectors import dense_vector


@component
class FreeDocumentEmbedder:
    @component.output_types(documents=list[Document])
    def run(self, documents: list[Document]) -> dict[str, list[Document]]:
        for document in documents:
            document.embedding = dense_vector(document.content or "").tolist()
        return {"documents": documents}


def main() -> None:
    (folder,) = sys.argv[1:]
    store = MilvusDocumentStore(
        "passages",
        connection_args={"uri": os.environ["PEER_MILVUS_URI"]},
        index_params={"index_type": "HNSW", "metric_type": "IP", "params": {"M": 16, "efConstruction": 256}},
    )
    pipeline = Pipeline()
    pipeline.add_component("converter", TextFileToDocument())
    pipeline.add_component(
        "splitter",
        RecursiveDocumentSplitter(split_length=1600, split_unit="char", separators=["\n\n", "\n", "。"]),
    )
    pipeline.add_component("embedder", FreeDocumentEmbedder())
    pipeline.add_component("writer", DocumentWriter(store, policy=DuplicatePolicy.OVERWRITE))
    pipeline.connect("converter", "splitter")
    pipeline.connect("splitter", "embedder")
    pipeline.connect("embedder", "writer")
    done = pipeline.run({"converter": {"sources": sorted(Path(folder).rglob("*.md"))}})
    print(json.dumps({"chunks": store.count_documents(), "embedded": done["writer"]["documents_written"]}))


if __name__ == "__main__":
    main()
