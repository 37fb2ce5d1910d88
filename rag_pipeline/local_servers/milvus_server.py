"""Run the Milvus Lite server: `python -P milvus_server.py PIDFILE DATA_DIR PORT PASSWORD_FILE`.

Writes its pid, and makes SIGINT and SIGTERM act as Ctrl-C, on which the server closes its files: a process that a
shell starts in the background ignores SIGINT, and SIGTERM, as at a reboot, would end it without closing them.

Milvus Lite accepts everybody who can connect, so every user of the machine. Here each call has to carry the password,
in the header that clients of Milvus send it in. Imported only for `USER`.
"""

import base64
import hmac
import os
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

USER = "rag"

_MESSAGE_BYTES = 256 * 1024 * 1024
"""As Milvus standalone."""


def main(pidfile: str, data_dir: str, port: str, password_file: str) -> int:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    Path(pidfile).write_text(f"{os.getpid()}\n")

    import grpc
    from milvus_lite.adapter.grpc.server import DEFAULT_MAX_WORKERS
    from milvus_lite.adapter.grpc.servicer import MilvusServicer
    from milvus_lite.db import MilvusLite
    from pymilvus.grpc_gen.milvus_pb2_grpc import add_MilvusServiceServicer_to_server

    # As milvus_lite.adapter.grpc.server.run_server, which takes no interceptor.
    database = MilvusLite(data_dir)
    server = grpc.server(
        ThreadPoolExecutor(DEFAULT_MAX_WORKERS),
        interceptors=[_login(Path(password_file).read_text())],
        options=[(f"grpc.max_{way}_message_length", _MESSAGE_BYTES) for way in ("receive", "send")],
    )
    add_MilvusServiceServicer_to_server(MilvusServicer(database), server)
    server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    try:
        server.wait_for_termination()
    except KeyboardInterrupt:
        print("Shutting down")  # noqa: T201 - its log
    finally:
        server.stop(grace=5)
        database.close()
    return 0


def _login(password: str) -> Any:
    import grpc

    expected = base64.b64encode(f"{USER}:{password}".encode())

    def refuse(request: Any, context: Any) -> None:
        context.abort(grpc.StatusCode.UNAUTHENTICATED, "wrong user or password")

    class Login(grpc.ServerInterceptor):
        def intercept_service(self, continuation: Any, call: Any) -> Any:
            given = dict(call.invocation_metadata).get("authorization", "")
            if hmac.compare_digest(given.encode(), expected):
                return continuation(call)
            return grpc.unary_unary_rpc_method_handler(refuse)

    return Login()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
