"""The real `rag-pipeline`, run as a process on a test's own stores."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from rag_pipeline.settings import VECTOR_KINDS
from rag_pipeline_tests.support.imported import run_imported
from rag_pipeline_tests.support.index_state import assert_vectors_match
from rag_pipeline_tests.support.stores import Stores
from rag_pipeline_tests.support.workspace import Workspace, clean_environment

TEXT = "---\ndate: 2024-03-05\n---\n# 見出し {n}\n\n" + "\n\n".join(
    f"段落{{n}}の{p}。索引を正しく保つ方法を述べる。" * 3 for p in range(6)
)


_PROGRESS = re.compile(r"[^:]+: [\d,]+( of [\d,]+)?")


class CommandLine(Workspace):
    """A folder of documents and the command line that indexes it; `environment` is that of its processes."""

    def __init__(self, folder: Path, stores: Stores) -> None:
        super().__init__(folder, stores)
        self.environment = {
            **clean_environment(),
            **self.variables,
            "RAG_BATCH_SIZE": "16",
            "RAG_CHUNK_TOKENS": "64",
        }

    def start(self, *arguments: str, stdin: int | None = None, **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "rag_pipeline.cli", *arguments],
            env={**self.environment, **environment},
            cwd=self.folder,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run to the end, without the time for imports; `start` is a new interpreter."""
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            code = run_imported(arguments, {**self.environment, **environment}, self.folder, out, err)
            texts = []
            for file in (out, err):
                file.seek(0)
                texts.append(file.read().decode())
        return subprocess.CompletedProcess(("rag-pipeline", *arguments), code, *texts)

    def on_a_terminal(self, *arguments: str) -> str:
        """Run on a terminal and return what it receives: from standard output and error, with every control."""
        terminal, end = pty.openpty()
        command = [sys.executable, "-m", "rag_pipeline.cli", *arguments]
        process = subprocess.Popen(command, env=self.environment, cwd=self.folder, stdout=end, stderr=end)
        os.close(end)
        received = b""
        with (
            contextlib.suppress(OSError),
            os.fdopen(terminal, "rb", buffering=0) as file,
        ):  # EIO is the end on Linux
            while piece := file.read(4096):
                received += piece
        process.wait()
        return received.decode()

    def json(self, *arguments: str, code: int = 0, **environment: str) -> dict[str, Any]:
        """Run with --json, assert the exit code, and return the parsed output."""
        done = self.run(*arguments, "--json", **environment)
        assert done.returncode == code, done.stderr
        return json.loads(done.stdout)


def fill(cli: CommandLine, count: int) -> None:
    """Write documents of several chunks each."""
    for n in range(count):
        (cli.docs / f"{n}.md").write_text(TEXT.format(n=n), "utf-8")


def assert_consistent(cli: CommandLine) -> None:
    """Nothing is missing, duplicated, left over or unfinished."""
    assert_vectors_match(cli.endpoints, {kind: f"{cli.prefix}{kind}_collection" for kind in VECTOR_KINDS})


def one_line(text: str) -> str:
    """Return the only line of an error message, after asserting that it is one, besides a slow machine's progress."""
    lines = [line for line in text.splitlines() if line and not _PROGRESS.fullmatch(line)]
    assert len(lines) == 1, text
    assert "Traceback" not in text
    return lines[0]
