"""HTTP connections that cost a stranger something: whoever connects has to send a request soon, and to take the answer.

uvicorn limits how long a connection may be idle after a request, and neither how long the one before it may take, nor how
large its head is, how many requests wait on one connection, or how long nobody reads what was written. Its other protocol,
with h11, limits heads, but it is written in Python and takes several times as long for each request.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
import struct
from collections import Counter
from typing import TYPE_CHECKING, Any

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from rag_pipeline.service.addresses import network
from rag_pipeline.service.problems import MEDIA_TYPE, ProblemError

if TYPE_CHECKING:
    from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

HEAD_SECONDS = 10.0
TAKE_SECONDS = 20.0
"""Who takes nothing of what was written to them for so long is cut off."""
MOST_HEAD_BYTES = 64 * 1024
_MOST_MESSAGE_BYTES = 1024 * 1024
"""Of a request in all, also when it was refused for its size and the rest is only read to be thrown away."""
_PIECE_BYTES = 4096
"""What is parsed at once: the parser itself keeps a header of any length, and copies it again with each read."""
_MOST_WAITING = 4
"""Requests that wait on a connection for the one before them."""
MOST_CONNECTIONS, MOST_OF_ADDRESS = 2000, 500
"""Beyond them the connection that waits longest for its client gives way to the new one."""

_moments = itertools.count()


class PatientProtocol(HttpToolsProtocol):
    """A connection of which the time and the memory are limited that whoever is at its other end can take."""

    _impatience: asyncio.TimerHandle | None = None
    _watch: asyncio.TimerHandle | None = None
    _untaken = 0
    _message_bytes = 0
    _is_in_head = False
    _is_refused = False
    """What still comes is of no request."""
    _asks_for_another_protocol = False
    """Whether the head that has come is parsed once more, without that wish."""
    _handled: RequestResponseCycle | None = None
    """The request whose turn it is; `cycle` is the last one that came."""
    _who = ""
    _waits_since = 0
    """The number of the moment from which on it waits: of two, the clock can say the same."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._who = network(self.client[0]) if self.client else ""
        self._waits_since = next(_moments)
        self._wait()
        if len(self.connections) > MOST_OF_ADDRESS:
            self._make_room()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        self._stop_watching()
        # uvicorn says so only to the last request that came. The others would write to a connection that is closed.
        self.pipeline.clear()
        if self._handled is not None and not self._handled.response_complete:
            self._handled.disconnected = True
            self._handled.message_event.set()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        for start in range(0, len(data), _PIECE_BYTES):
            if self._is_refused or self.transport.is_closing():
                return
            piece = data[start : start + _PIECE_BYTES]
            self._parse(piece)
            self._message_bytes += len(piece)
            if self._is_in_head and self._message_bytes > MOST_HEAD_BYTES:
                self._refuse()
            elif self._message_bytes > _MOST_MESSAGE_BYTES:
                self._close()

    def _parse(self, data: bytes) -> None:
        """Parse a piece. Who asks for another protocol, as Java's client does with each request, is answered in this one.

        The parser takes what follows such a head for the other protocol and not for the request's body. uvicorn answers a
        request without a body then, and logs two lines of advice.
        """
        self._unset_keepalive_if_required()
        while True:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserError:
                self.logger.warning("Invalid HTTP request received.")
                self.send_400_response("Invalid HTTP request received.")
            except httptools.HttpParserUpgrade as upgrade:
                if self._asks_for_another_protocol:
                    data = self._head_of_this_protocol() + data[upgrade.args[0] :]
                    self._asks_for_another_protocol = False
                    self.parser = httptools.HttpRequestParser(self)
                    self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # As uvicorn's own.
                    continue
            return

    def _head_of_this_protocol(self) -> bytes:
        lines = [b"%s %s HTTP/%s" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())]
        for name, value in self.headers:
            if name == b"connection":
                tokens = [token.strip() for token in value.split(b",")]
                kept = b", ".join(token for token in tokens if token.lower() != b"upgrade")
                lines.append(b"connection: " + kept)
            elif name != b"upgrade":
                lines.append(b"%s: %s" % (name, value))
        return b"\r\n".join(lines) + b"\r\n\r\n"

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._message_bytes, self._is_in_head = 0, True
        self._wait()

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._is_in_head:  # Those after a body are in nobody's way as long as they are not kept.
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._is_in_head = False
        self._stop_waiting()
        if self._is_refused:
            return
        if self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT":
            self._asks_for_another_protocol = True
            return
        if len(self.pipeline) >= _MOST_WAITING:
            # Those that came are answered, and the connection ends after them: the client asks the others anew.
            self._is_refused = True
            self.cycle.keep_alive = False
            return
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        if not self._is_refused:
            super().on_body(body)

    def on_message_complete(self) -> None:
        if not self._is_refused and not self._asks_for_another_protocol:
            super().on_message_complete()

    def on_response_complete(self) -> None:
        self._waits_since = next(_moments)
        super().on_response_complete()
        if self.transport.is_closing():
            self._watch_writing()
        elif self.cycle.response_complete and self.cycle.more_body:
            self._wait()  # For the rest of a request that was answered before it had come.

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_writing()

    def resume_writing(self) -> None:
        super().resume_writing()
        if not self.transport.is_closing():
            self._stop_watching()

    def timeout_keep_alive_handler(self) -> None:
        self._close()

    def send_400_response(self, msg: str) -> None:
        super().send_400_response(msg)
        self._watch_writing()

    @property
    def _waits(self) -> bool:
        """Whether nothing goes on here before the client sends or takes something."""
        handled = self._handled
        return handled is None or handled.response_complete or handled.more_body or self.flow.write_paused

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._handled = cycle
        super()._start_asgi_task(cycle, app)

    def _make_room(self) -> None:
        """Cut off a connection if this one is too many: the one that waits longest, of whoever has the most."""
        everybody: list[PatientProtocol] = [one for one in self.connections if isinstance(one, PatientProtocol)]
        # Those of a proxy are of many people.
        proxies = getattr(self.config.loaded_app, "trusted_hosts", ())
        is_proxy = self.client is not None and self.client[0] in proxies
        crowd = [] if is_proxy else [one for one in everybody if one._who == self._who]
        if len(crowd) <= MOST_OF_ADDRESS:
            if len(everybody) <= MOST_CONNECTIONS:
                return
            ((most, _),) = Counter(one._who for one in everybody).most_common(1)
            crowd = [one for one in everybody if one._who == most]
        waiting = (one for one in crowd if one._waits)
        longest = min(waiting, key=lambda one: one._waits_since, default=self)
        self.connections.discard(longest)
        longest._cut_off()

    def _refuse(self) -> None:
        """Refuse a request for its head."""
        self._is_refused = True
        if self._handled is None or self._handled.response_complete:
            body = bytes(
                ProblemError(431, f"the head of a request has at most {MOST_HEAD_BYTES} bytes").response().body
            )
            head = f"content-type: {MEDIA_TYPE}\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
            self.transport.write(STATUS_LINE[431] + head.encode() + body)
        self._close()

    def _close(self) -> None:
        if not self.transport.is_closing():
            self.transport.close()
            self._watch_writing()

    def _cut_off(self) -> None:
        """End the connection with a reset: the system would go on offering what was written."""
        with contextlib.suppress(OSError):
            end = self.transport.get_extra_info("socket")
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()

    def _wait(self) -> None:
        self._stop_waiting()
        self._impatience = self.loop.call_later(HEAD_SECONDS, self._close)

    def _stop_waiting(self) -> None:
        if self._impatience is not None:
            self._impatience.cancel()
            self._impatience = None

    def _watch_writing(self) -> None:
        """Cut the connection off if nothing is taken. Called when nothing more is written before something is."""
        if self._watch is None:
            self._untaken = self.transport.get_write_buffer_size()
            self._watch = self.loop.call_later(TAKE_SECONDS, self._look)

    def _look(self) -> None:
        self._watch = None
        if self.transport.get_write_buffer_size() < self._untaken:
            self._watch_writing()
        else:
            self._cut_off()

    def _stop_watching(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
