"""A receiver of alerts that really listens, and the tables that alerting fills."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TABLES = "alert_cursors, alert_states, alert_outbox, alert_receivers, alert_deliveries"


@dataclass
class Inbox:
    """An HTTP server on this machine that keeps the messages it accepted."""

    messages: list[dict] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    status: int = 200
    on_message: Callable[[dict], None] = lambda message: None
    server: ThreadingHTTPServer | None = None
    port: int = 0

    def start(self) -> Inbox:
        inbox = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                message = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                inbox.on_message(message)
                if inbox.status == 200:
                    inbox.messages.append(message)
                    inbox.keys.append(self.headers["Idempotency-Key"])
                self.send_response(inbox.status)
                self.end_headers()

            def log_message(self, *arguments: object) -> None:
                """Keep standard error clean."""

        self.server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def stop(self) -> None:
        if self.server is not None:
            self.server.shutdown()
            self.server.server_close()
            self.server = None

    @property
    def url(self) -> str:
        return f"json://user:hunter2@127.0.0.1:{self.port}/token-0123456789"

    @property
    def titles(self) -> list[str]:
        return [message["title"] for message in self.messages]

    def bodies(self) -> str:
        return "\n".join(message["message"] for message in self.messages)
