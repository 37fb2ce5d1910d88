"""A cluster of this machine only, for as long as its parent lives: `python -m rag_pipeline.distributed.local_cluster`.

Prints the address of its head, and ends when its standard input does. A process of its own, because Ray starts its
servers by a fork that runs Python, which hangs now and then in a process with threads, such as one that uses Milvus.
"""

from __future__ import annotations

import logging
import sys

_OBJECT_STORE_BYTES = 128 * 1024 * 1024
"""What passes between a run and its workers is small."""


def main() -> None:
    import ray

    ray.init(
        address="local",
        include_dashboard=False,
        object_store_memory=_OBJECT_STORE_BYTES,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    print(ray.get_runtime_context().gcs_address, flush=True)  # noqa: T201
    sys.stdin.read()
    ray.shutdown()


if __name__ == "__main__":
    main()
