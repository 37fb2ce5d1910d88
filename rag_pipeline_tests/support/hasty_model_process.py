"""A `model_process` that soon ends, and that some texts kill or freeze. It writes its pid into the folder of its socket."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from socket import AF_UNIX
from socket import socket as listener

from rag_pipeline.embedding import model_process
from rag_pipeline.embedding.base import ChunkVectors
from rag_pipeline.errors import ConfigError

FROZEN = Path(sys.argv[1]).with_name("frozen")
FREEZE_AT_START = Path(sys.argv[1]).with_name("freeze at start")


def freeze() -> None:
    """Stop the process. The signal can be another thread's to take: meanwhile this one must not go on."""
    os.kill(os.getpid(), signal.SIGSTOP)
    time.sleep(60)


class HastyEmbedder:
    fingerprint, dimension, multi_dimension = "hasty", 1, 1

    def encode(self, texts: list[str], kinds: list[str]) -> list[ChunkVectors]:
        if "die" in texts:
            os.kill(os.getpid(), 9)
        if "freeze" in texts:
            freeze()
        if "freeze once" in texts and not FROZEN.exists():
            FROZEN.touch()
            freeze()
        if "slow" in texts:
            time.sleep(5)
        if "refuse" in texts:
            raise ConfigError("the GPU is full")
        if "fail" in texts:
            _ = 1 / 0
        return [ChunkVectors(None, {1: 1.0}, None) for _ in texts]


if __name__ == "__main__":
    socket = Path(sys.argv[1])
    with (socket.parent / "pids").open("a") as file:
        file.write(f"{os.getpid()}\n")
    if FREEZE_AT_START.exists():
        FREEZE_AT_START.unlink()
        with listener(AF_UNIX) as listening:
            listening.bind(str(socket))
            listening.listen()
            freeze()
    model_process.BUSY_SECONDS = 0.1
    model_process.serve(socket, HastyEmbedder(), idle_seconds=0.2)  # type: ignore[arg-type]
