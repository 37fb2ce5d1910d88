"""Run the Milvus Lite server: `python -P milvus_server.py PIDFILE DATA_DIR PORT`. Never imported.

Writes its pid, and makes SIGINT and SIGTERM act as Ctrl-C, on which the server closes its files: a process that a
shell starts in the background ignores SIGINT, and SIGTERM, as at a reboot, would end it without closing them.
"""

import os
import signal
import sys
from pathlib import Path


def main(pidfile: str, data_dir: str, port: str) -> int:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    Path(pidfile).write_text(f"{os.getpid()}\n")

    from milvus_lite.cmdline import main as milvus_lite

    return milvus_lite(["server", "--data-dir", data_dir, "--host", "127.0.0.1", "--port", port])


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
