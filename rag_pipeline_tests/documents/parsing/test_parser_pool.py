"""Documents that cannot be parsed in time or in memory, and what becomes of the processes that tried."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import psutil
import pytest

from rag_pipeline.documents.parsing import parser
from rag_pipeline.documents.parsing.parser_pool import ParserPool
from rag_pipeline.errors import DocumentError, RagError
from rag_pipeline_tests.support.document_files import docx, pdf, pdf_of_forms
from rag_pipeline_tests.support.workspace import clean_environment

ENDLESS = pdf_of_forms([0, 0])
"""Fills the memory of a worker, in seconds."""
SLOW = b"<table><thead>" + b"<tr><td>a<td>b" * 30_000
"""Keeps a worker busy for many minutes, in little memory."""
PAGE = "<title>題</title><meta name=keywords content='a, b'><h1>見出し</h1><p>本文です。</p>".encode()

only_on_linux = pytest.mark.skipif(sys.platform != "linux", reason="memory is limited on Linux only")


@pytest.fixture
def pool() -> Iterator[ParserPool]:
    pool = ParserPool(2, 300, 1024)
    yield pool
    pool.close()


def workers(parent: int) -> list[psutil.Process]:
    return [process for process in psutil.Process(parent).children() if _is_worker(process)]


def _is_worker(process: psutil.Process) -> bool:
    try:
        return any("parse_worker" in argument for argument in process.cmdline())
    except psutil.NoSuchProcess:
        return False


def only_worker() -> psutil.Process:
    (worker,) = workers(os.getpid())
    return worker


def busy_worker(parent: int) -> psutil.Process:
    """Return a worker as soon as one has used some time since it started."""
    while True:
        for process in workers(parent):
            if sum(process.cpu_times()[:2]) > 0.5:
                return process


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (PAGE, "a.html"),
        (pdf(["text"], info={"Title": "題"}), "a.pdf"),
        (docx([("見出し 1", "題"), ("", "text")]), "a.docx"),
        ("長い文書。".encode() * 20_000, "a.md"),
        (b"# short", "a.md"),
    ],
)
def test_a_worker_returns_what_the_parser_returns(pool: ParserPool, data: bytes, name: str) -> None:
    assert pool.parse(data, name, language="ja") == parser.parse(data, name, language="ja")


def test_dates(pool: ParserPool) -> None:
    day = datetime(2024, 3, 5, tzinfo=UTC)
    assert pool.created_at(pdf(["x"], info={"CreationDate": "D:20240305"}), "a.pdf") == day
    assert pool.created_at(docx([], core="<dcterms:created>2024-03-05</dcterms:created>"), "a.docx") == day
    assert pool.created_at(pdf(["x"]), "a.pdf") is None
    assert pool.created_at(b"%PDF-1.7 and nothing else", "a.pdf") is None
    assert pool.created_at(b"---\ndate: 2024-03-05\n---\n", "a.md") == day


def test_errors_are_those_of_the_parser(pool: ParserPool) -> None:
    with pytest.raises(DocumentError) as error:
        pool.parse(b"%PDF-1.7 and nothing else", "broken\n.pdf")
    with pytest.raises(DocumentError) as expected:
        parser.parse(b"%PDF-1.7 and nothing else", "broken\n.pdf")
    assert str(error.value) == str(expected.value)


def test_short_texts_start_no_worker(pool: ParserPool) -> None:
    pool.parse(b"# short", "a.md")
    pool.created_at(b"<meta name=date content=2024-03-05>", "a.html")
    assert workers(os.getpid()) == []


def test_a_document_that_takes_too_long_is_rejected_and_its_worker_is_replaced() -> None:
    pool = ParserPool(1, 3, 1024)
    try:
        with pytest.raises(
            DocumentError, match=r"^a\.html: parsing takes more than RAG_PARSE_SECONDS \(3\): split"
        ):
            pool.parse(SLOW, "a.html")
        assert workers(os.getpid()) == []
    finally:
        pool.close()


@only_on_linux
@pytest.mark.parametrize(
    ("data", "name", "reason"),
    [
        (b"<p>a" * 900_000, "a.html", "takes more memory than RAG_PARSE_MEMORY_MB (512): split"),
        (b"a\n\n" * 5_000_000, "a.txt", "takes more memory than RAG_PARSE_MEMORY_MB (512): split"),
        (ENDLESS, "a.pdf", "the parser crashed (SIGABRT), perhaps because RAG_PARSE_MEMORY_MB (512)"),
    ],
)
def test_a_document_that_takes_too_much_memory_is_rejected(data: bytes, name: str, reason: str) -> None:
    pool = ParserPool(1, 300, 512)
    try:
        with pytest.raises(DocumentError) as error:
            pool.parse(data, name)
        assert reason in str(error.value)
        assert pool.parse(PAGE, "b.html").title == "題"
    finally:
        pool.close()


def test_a_worker_that_is_killed_takes_no_other_document_with_it(pool: ParserPool) -> None:
    with ThreadPoolExecutor() as threads:
        bad = threads.submit(pool.parse, SLOW, "a.html")
        worker = busy_worker(os.getpid())
        assert pool.parse(PAGE, "b.html").title == "題"
        worker.kill()
        with pytest.raises(DocumentError, match=r"^a\.html: the parser crashed \(SIGKILL\)"):
            bad.result()
    assert pool.parse(PAGE, "b.html").title == "題"


def test_an_idle_worker_that_is_killed_is_replaced(pool: ParserPool) -> None:
    pool.parse(PAGE, "a.html")
    worker = only_worker()
    worker.kill()
    psutil.wait_procs([worker], timeout=60)
    assert pool.parse(PAGE, "a.html").title == "題"


def test_closing_ends_all_workers_and_is_not_the_fault_of_the_document(pool: ParserPool) -> None:
    with ThreadPoolExecutor() as threads:
        parsing = threads.submit(pool.parse, SLOW, "a.html")
        busy_worker(os.getpid())
        pool.close()
        with pytest.raises(RagError, match="has been closed") as error:
            parsing.result()
    assert not isinstance(error.value, DocumentError)
    assert workers(os.getpid()) == []
    with pytest.raises(RagError, match="has been closed"):
        pool.parse(PAGE, "a.html")


def test_workers_are_reused_and_not_more_than_the_cpus(pool: ParserPool) -> None:
    many = ParserPool(64, 300, 1024)
    try:
        with ThreadPoolExecutor(16) as threads:
            list(threads.map(lambda number: many.parse(PAGE, f"{number}.html"), range(100)))
        assert 1 <= len(workers(os.getpid())) <= (os.cpu_count() or 1)
    finally:
        many.close()


def test_a_worker_of_a_large_process_is_reused_too() -> None:
    ballast = b"x" * (400 << 20)  # more than half of the limit, at which a worker is replaced
    pool = ParserPool(1, 300, 512)
    try:
        pool.parse(PAGE, "a.html")
        first = only_worker()
        pool.parse(PAGE, "a.html")
        assert only_worker() == first
    finally:
        pool.close()
    del ballast


@only_on_linux
def test_a_worker_has_neither_the_secrets_nor_the_files_of_its_parent(
    pool: ParserPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAG_POSTGRES_URL", "postgresql://user:secret@localhost/db")
    with socket.create_server(("127.0.0.1", 0)):
        pool.parse(PAGE, "a.html")
        worker = only_worker()
        assert "secret" not in str(worker.environ())
        assert os.listdir(f"/proc/{worker.pid}/fd") == ["0", "1", "2"]


def test_a_worker_imports_no_store_and_no_dagster() -> None:
    code = (
        "import sys, rag_pipeline.documents.parsing.parse_worker as worker\n"
        "worker._answer(b'<p>a', {'what': 'document', 'name': 'a.html', 'language': None})\n"
        "print({name.split('.')[0] for name in sys.modules} & {'dagster', 'pymilvus', 'psycopg', 'redis', 'onnxruntime'})"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=clean_environment(), check=True, capture_output=True, text=True
    )
    assert done.stdout == "set()\n"


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGINT], ids=["killed", "interrupted"])
def test_workers_end_with_their_parent(sent: signal.Signals) -> None:
    code = (
        "import signal\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell's background processes ignore it
        "from rag_pipeline.documents.parsing.parser_pool import ParserPool\n"
        "from rag_pipeline_tests.documents.parsing.test_parser_pool import SLOW\n"
        "pool = ParserPool(2, 300, 1024)\n"
        "try: pool.parse(SLOW, 'a.html')\n"
        "except KeyboardInterrupt: print('interrupted')\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code],
        env=clean_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        worker = busy_worker(parent.pid)
    finally:
        os.killpg(parent.pid, sent)
    output, errors = parent.communicate(timeout=60)
    assert psutil.wait_procs([worker], timeout=60)[1] == []
    assert errors == ""
    assert output == ("interrupted\n" if sent == signal.SIGINT else "")


def test_a_worker_that_cannot_start_is_not_the_fault_of_the_document(
    pool: ParserPool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "rag_pipeline.py").write_text("raise ImportError", "utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(
        RagError, match=r"does not start \(exit code 1\): run `.*parse_worker` to see why"
    ) as error:
        pool.parse(PAGE, "a.html")
    assert not isinstance(error.value, DocumentError)
