"""Runs the real `rag-pipeline` in a process of its own, on the test's own corner of the stores."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from rag_pipeline.endpoints import Endpoints


class CommandLine:
    """A folder of documents, and the command line that indexes it."""

    def __init__(self, folder: Path, endpoints: Endpoints, prefix: str) -> None:
        self.folder = folder
        self.docs = folder / "docs"
        self.docs.mkdir()
        self.sources = folder / "sources.yaml"
        self.sources.write_text("sources: [{name: docs, type: filesystem, path: ./docs}]\n", "utf-8")
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("RAG_", "DAGSTER_"))},
            "RAG_HOME": str(folder / "home"),
            "RAG_SOURCES": str(self.sources),
            "RAG_POSTGRES_URL": endpoints.postgres_url,
            "RAG_MILVUS_URI": endpoints.milvus_uri,
            "RAG_REDIS_URL": endpoints.redis_url,
            "RAG_MILVUS_PREFIX": prefix,
            "RAG_EMBEDDER": "rag_pipeline_tests.embedders:cheap",
            "RAG_BATCH_SIZE": "16",
            "RAG_CHUNK_TOKENS": "64",
            "PYTHONPATH": str(Path(__file__).parent.parent),
        }

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "rag_pipeline.cli", *arguments],
            env={**self.environment, **environment},
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        process = self.start(*arguments, **environment)
        out, err = process.communicate(timeout=240)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def json(self, *arguments: str, code: int = 0, **environment: str) -> dict[str, Any]:
        done = self.run(*arguments, "--json", **environment)
        assert done.returncode == code, done.stderr
        return json.loads(done.stdout)
