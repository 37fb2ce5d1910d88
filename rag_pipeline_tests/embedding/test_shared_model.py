"""`RAG_SHARED_MODEL`: one process embeds for all, is started by whoever comes first, and ends when all have left."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Client
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rag_pipeline.embedding import shared_model as module
from rag_pipeline.embedding.base import ChunkVectors
from rag_pipeline.embedding.bge_m3 import BgeM3Embedder
from rag_pipeline.embedding.bge_m3_folder import token_counter
from rag_pipeline.embedding.factory import load_embedder
from rag_pipeline.embedding.local import LocalEmbedder
from rag_pipeline.embedding.query_batches import QueriesEmbedder
from rag_pipeline.embedding.shared_model import ModelProcess, SharedModelEmbedder, shared_model
from rag_pipeline.errors import ConfigError, RagError, StoreUnavailableError
from rag_pipeline.settings import Settings
from rag_pipeline_tests.support.bge_m3 import short_vocabulary, write_model
from rag_pipeline_tests.support.forked import in_forked_child

KINDS = ("dense", "sparse", "multi")
TEXTS = ["PostgreSQLのバックアップは毎日取得する。復元は年に一度試す。", "A short text.", "", "🙂 \ud800"]
LOCAL = {"embedder": "local", "precision": "int8"}


@pytest.fixture
def home() -> Iterator[Path]:
    # Short, because the path of a socket is.
    with tempfile.TemporaryDirectory(prefix="rp-") as name:
        yield Path(name)
        for process in of_models(Path(name)):
            process.kill()
            process.wait(10)


def of_models(home: Path) -> list[psutil.Process]:
    """The processes that hold models, those that are going down included."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        line = process.info["cmdline"] or ()
        if "rag_pipeline.embedding.model_process" in line and any(str(home) in part for part in line):
            found.append(process)
    return found


def wait_until(holds: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def assert_same(found: list[ChunkVectors], expected: list[ChunkVectors]) -> None:
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one.dense, other.dense)
        np.testing.assert_array_equal(one.multi, other.multi)
        assert (one.sparse, one.multi_positions, one.token_count) == (
            other.sparse,
            other.multi_positions,
            other.token_count,
        )


def of_home(home: Path, **more: Any) -> Any:
    return load_embedder(Settings(home=home, shared_model=True, **more))


def test_vectors_are_those_of_an_own_model_and_no_model_is_loaded_here(home: Path) -> None:
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from rag_pipeline.embedding.factory import load_embedder\n"
        "from rag_pipeline.settings import Settings\n"
        "embedder = load_embedder(Settings(home=Path(sys.argv[1]), shared_model=True))\n"
        "assert embedder.count_tokens('a text') == 2\n"
        "assert embedder.encode(['a text'], ['dense', 'sparse', 'multi'])[0].dense.shape == (384,)\n"
        "print(sorted({'onnxruntime', 'torch'} & set(sys.modules)))\n"
    )
    for _ in range(2):
        done = subprocess.run([sys.executable, "-c", program, home], capture_output=True, text=True, check=True)
        assert (done.stdout, done.stderr) == ("[]\n", "")
    embedder, own = of_home(home), LocalEmbedder()
    assert_same(embedder.encode(TEXTS, KINDS), own.encode(TEXTS, KINDS))
    assert embedder.encode([], KINDS) == []
    assert (embedder.fingerprint, embedder.dimension, embedder.multi_dimension) == (own.fingerprint, 384, 384)
    frequency = lambda words: (10, dict.fromkeys(words, 1))  # noqa: E731
    assert (
        embedder.encode_query("休暇", KINDS, frequency).sparse == own.encode_query("休暇", KINDS, frequency).sparse
    )
    assert not isinstance(embedder, QueriesEmbedder), "neither has the embedder"
    assert len(of_models(home)) == 1, "all of them used the same one"


def test_runs_that_begin_together_start_one_process(home: Path) -> None:
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from rag_pipeline.embedding.factory import load_embedder\n"
        "from rag_pipeline.settings import Settings\n"
        "embedder = load_embedder(Settings(home=Path(sys.argv[1]), shared_model=True))\n"
        "for number in range(20):\n"
        "    assert len(embedder.encode([f'text {number}', 'b'], ['dense'])) == 2\n"
        "input()\n"
    )
    command = [sys.executable, "-c", program, home]
    runs = [subprocess.Popen(command, stdin=subprocess.PIPE, text=True) for _ in range(4)]
    try:
        wait_until(lambda: len(list((home / "models").glob("*.sock"))) == 1)
        path = next((home / "models").glob("*.sock"))
        for run in runs:
            run.communicate("\n", timeout=120)
            assert run.returncode == 0
    finally:
        for run in runs:
            run.kill()
    assert len(of_models(home)) == 1
    assert path.parent.stat().st_mode & 0o077 == 0, "nobody else can have texts embedded, or send pickles"


def test_threads_and_forked_children_use_it_side_by_side(home: Path) -> None:
    embedder, own = of_home(home), LocalEmbedder()
    parts = [[f"節 {number} {text}" for text in "abc"] for number in range(8)]
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda texts: embedder.encode(texts, KINDS), parts))
    for of_part, texts in zip(found, parts, strict=True):
        assert_same(of_part, own.encode(texts, KINDS))
    assert in_forked_child(lambda: len(embedder.encode(TEXTS, ["dense"]))) == len(TEXTS)
    assert len(embedder.encode(TEXTS, ["dense"])) == len(TEXTS)
    assert len(of_models(home)) == 1


def test_another_process_takes_the_place_of_one_that_dies(home: Path) -> None:
    embedder = of_home(home)
    expected = embedder.encode(TEXTS, KINDS)
    for _ in range(2):
        (process,) = of_models(home)
        process.kill()
        process.wait(10)
        assert_same(embedder.encode(TEXTS, KINDS), expected)
    stopped = threading.Event()
    failures: list[BaseException] = []
    calls: Counter[int] = Counter()

    def embed() -> None:
        try:
            while not stopped.is_set():
                assert_same(embedder.encode(TEXTS, KINDS), expected)
                calls[threading.get_ident()] += 1
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=embed) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(3):
        calls.clear()
        wait_until(lambda: len(calls) == len(threads) or bool(failures))
        for process in of_models(home):
            process.kill()
            process.wait(10)
    stopped.set()
    for thread in threads:
        thread.join(60)
    assert not failures


def test_it_ends_when_all_have_left_and_not_before(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MODULE", "rag_pipeline_tests.support.hasty_model_process")
    first, second = (ModelProcess(home / "models", LOCAL | {"folder": str(home / "models")}) for _ in range(2))
    first.encode(["a"], ["sparse"])
    second.encode(["a"], ["sparse"])
    (process,) = (psutil.Process(int(pid)) for pid in (home / "models" / "pids").read_text().split())
    second.close()
    with pytest.raises(psutil.TimeoutExpired):
        process.wait(1)  # five times as long as it waits for somebody
    first.close()
    process.wait(30)
    assert len(first.encode(["a"], ["sparse"])) == 1, "and comes back"
    assert len((home / "models" / "pids").read_text().split()) == 2
    first.close()


def test_a_text_that_kills_it_twice_is_an_error_that_names_the_log(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MODULE", "rag_pipeline_tests.support.hasty_model_process")
    process = ModelProcess(home / "models", LOCAL | {"folder": str(home / "models")})
    with pytest.raises(StoreUnavailableError) as raised:
        process.encode(["die"], ["dense"])
    assert "ended twice while it embedded 1 texts: see " in str(raised.value)
    assert len((home / "models" / "pids").read_text().split()) == 2
    assert len(process.encode(["live"], ["sparse"])) == 1
    with pytest.raises(ConfigError, match=r"^the GPU is full$"):
        process.encode(["refuse"], ["dense"])
    with pytest.raises(RagError, match=r"^ZeroDivisionError: division by zero$"):
        process.encode(["fail"], ["dense"])
    assert "Traceback" in process.log.read_text()
    assert len((home / "models" / "pids").read_text().split()) == 3, "neither ends it"
    process.close()


def test_a_process_that_does_not_start_is_an_error_that_names_the_log(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MODULE", "rag_pipeline.no_such_module")
    process = ModelProcess(home / "models", LOCAL)
    with pytest.raises(StoreUnavailableError, match=r"^RAG_SHARED_MODEL: .* does not start \(exit code 1\): see "):
        process.encode(["a"], ["dense"])
    assert "No module named" in process.log.read_text()


def pids(home: Path) -> list[int]:
    """The hasty processes that were started."""
    return [int(pid) for pid in (home / "models" / "pids").read_text().split()]


def test_a_frozen_one_is_ended_and_replaced_and_a_slow_one_is_waited_for(
    home: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "_MODULE", "rag_pipeline_tests.support.hasty_model_process")
    monkeypatch.setattr(module, "_SILENT_SECONDS", 3.0)
    monkeypatch.setattr(module, "_REMINDER_SECONDS", 1.0)
    options = LOCAL | {"folder": str(home / "models")}
    process, newcomer = ModelProcess(home / "models", options), ModelProcess(home / "models", options)

    assert len(process.encode(["slow"], ["dense"])) == 1, "longer than it may be silent"
    assert len(pids(home)) == 1
    assert f"{module._NAMED} still embeds 1 texts" in caplog.text

    assert len(process.encode(["freeze once"], ["dense"])) == 1
    first, second = pids(home)
    assert f"(pid {first}) has been silent for 3 s: it is ended" in caplog.text

    psutil.Process(second).suspend()
    assert len(process.encode(["long " * 1_000_000], ["dense"])) == 1, "it does not read"
    third = pids(home)[2]

    psutil.Process(third).suspend()
    assert len(newcomer.encode(["a"], ["dense"])) == 1, "it does not greet"
    wait_until(lambda: not any(psutil.pid_exists(pid) for pid in (first, second, third)))

    with pytest.raises(StoreUnavailableError, match="ended twice while it embedded 1 texts"):
        process.encode(["freeze"], ["dense"])
    process.close()
    newcomer.close()


def test_one_that_freezes_while_it_starts_is_replaced(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MODULE", "rag_pipeline_tests.support.hasty_model_process")
    monkeypatch.setattr(module, "_SILENT_SECONDS", 2.0)
    process = ModelProcess(home / "models", LOCAL | {"folder": str(home / "models")})
    (home / "models").mkdir(mode=0o700)
    (home / "models" / "freeze at start").touch()
    assert len(process.encode(["a"], ["dense"])) == 1
    first, _ = pids(home)
    wait_until(lambda: not psutil.pid_exists(first))
    process.close()


def test_what_is_left_of_others_is_removed_unless_it_is_new_or_in_use(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MODULE", "rag_pipeline_tests.support.hasty_model_process")
    folder = home / "models"
    folder.mkdir(mode=0o700)
    yesterday = time.time() - 2 * 86_400
    listening = socket.socket(socket.AF_UNIX)
    for name in ("gone", "new", "used"):
        for suffix in (".log", ".lock"):
            (folder / f"model-{name}{suffix}").touch()
        with listening if name == "used" else socket.socket(socket.AF_UNIX) as of_process:
            of_process.bind(str(folder / f"model-{name}.sock"))
            if name == "used":
                of_process.listen()
                listening = of_process.dup()
        for path in folder.glob(f"model-{name}.*"):
            if name != "new":
                os.utime(path, (yesterday, yesterday))
    process = ModelProcess(folder, LOCAL | {"folder": str(folder)})
    with listening:
        process.encode(["a"], ["sparse"])
    process.close()
    left = {path.stem for path in folder.glob("model-*")}
    assert left == {"model-new", "model-used", process.socket.stem}
    assert len(list(folder.glob("model-used.*"))) == 3


def test_another_model_in_the_same_folder_is_another_process(
    home: Path, tmp_path: Path, tiny_bge_m3: Path
) -> None:
    model = tmp_path / "model"
    shutil.copytree(tiny_bge_m3, model)
    first = of_home(home, embedder="bge-m3", bge_m3_model=str(model))
    before = first.encode(["a text"], ["dense"])
    for head in ("sparse_linear.pt", "colbert_linear.pt"):
        (model / head).unlink()
    write_model(model, short_vocabulary(), hidden=128)
    second = shared_model(
        Settings(home=home, embedder="bge-m3", bge_m3_model=str(model)), own := BgeM3Embedder(str(model))
    )
    assert first.fingerprint != second.fingerprint == own.fingerprint
    assert_same(second.encode(["a text"], KINDS), own.encode(["a text"], KINDS))
    assert_same(first.encode(["a text"], ["dense"]), before)
    # Once the first one's process has ended, its model is gone for good.
    first._process.close()
    for process in of_models(home):
        process.kill()
        process.wait(10)
    with pytest.raises(StoreUnavailableError, match="does not start"):
        first.encode(["a text"], ["dense"])
    assert f"{first.fingerprint} is wanted" in first._process.log.read_text()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_nothing_is_unpickled_from_a_folder_of_somebody_else(home: Path) -> None:
    folder = home / "models"
    folder.mkdir(mode=0o700)
    os.chown(folder, 12345, 12345)
    with pytest.raises(ConfigError, match=r"belongs to another user, or others can enter it: .*chmod 700"):
        of_home(home).encode(["a"], ["dense"])


def test_others_are_kept_out_of_the_folder_and_a_missing_home_is_made(home: Path) -> None:
    (home / "models").mkdir(mode=0o777)
    (home / "models").chmod(0o777)
    assert len(of_home(home).encode(["a"], ["dense"])) == 1
    assert (home / "models").stat().st_mode & 0o077 == 0
    assert len(of_home(home / "not" / "there").encode(["a"], ["dense"])) == 1


def test_each_device_has_a_process_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    names = set()
    for devices in ("", "0", "1"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", devices)
        names.add(ModelProcess(Path("/m"), LOCAL).socket)
    assert len(names) == 3


def test_it_gets_no_secret(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAG_POSTGRES_URL", "postgresql://u:hunter2@h/d")
    monkeypatch.setenv("DAGSTER_PG_URL", "postgresql://u:hunter2@h/d")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    monkeypatch.setenv("DATABASE_URL", "postgresql://u:hunter2@h/d")
    monkeypatch.setenv("HTTPS_PROXY", "http://u:hunter2@proxy")
    monkeypatch.setenv("HF_TOKEN", "hunter2")
    monkeypatch.setenv("LANGSMITH_API_KEY", "hunter2")
    monkeypatch.setenv("HOMEBREW_GITHUB_API_TOKEN", "hunter2")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    of_home(home).encode(["a"], ["dense"])
    (process,) = of_models(home)
    assert "hunter2" not in str(process.environ()) + str(process.cmdline())
    assert process.environ()["OMP_NUM_THREADS"] == "1"


def test_models_that_differ_have_processes_of_their_own(home: Path) -> None:
    names = {
        ModelProcess(home, options).socket
        for options in (LOCAL, LOCAL | {"precision": "fp32"}, {"embedder": "bge-m3", "model": "/m"})
    }
    assert len(names) == 3


def test_a_home_that_is_too_long_for_a_socket_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^RAG_SHARED_MODEL: .* give RAG_HOME a shorter one$"):
        of_home(tmp_path / ("x" * 100))


def test_without_the_setting_and_for_other_embedders_nothing_is_shared(home: Path) -> None:
    assert isinstance(load_embedder(Settings(home=home)), LocalEmbedder)
    cheap = Settings(home=home, shared_model=True, embedder="rag_pipeline_tests.support.embedders:cheap")
    assert not isinstance(load_embedder(cheap), SharedModelEmbedder)


def test_bge_m3_is_shared_with_its_queries_at_home(home: Path, tiny_bge_m3: Path) -> None:
    embedder = of_home(home, embedder="bge-m3", bge_m3_model=str(tiny_bge_m3))
    own = BgeM3Embedder(str(tiny_bge_m3))
    assert isinstance(embedder, SharedModelEmbedder)
    assert_same(embedder.encode(TEXTS, KINDS), own.encode(TEXTS, KINDS))
    assert isinstance(embedder, QueriesEmbedder)
    assert_same(embedder.encode_queries(["休暇"], KINDS, [None]), own.encode_queries(["休暇"], KINDS, [None]))
    assert embedder.fingerprint == own.fingerprint
    with pytest.raises(OSError, match=r"refused|No such file"):
        Client(str(home / "models" / "nobody.sock"), "AF_UNIX")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(max_size=200))
def test_tokens_are_counted_without_the_model_as_with_it(tiny_bge_m3: Path, text: str) -> None:
    own = _own.setdefault(tiny_bge_m3, (BgeM3Embedder(str(tiny_bge_m3)), token_counter(tiny_bge_m3)))
    assert own[1](text) == own[0].count_tokens(text)


_own: dict[Path, tuple[BgeM3Embedder, Callable[[str], int]]] = {}
