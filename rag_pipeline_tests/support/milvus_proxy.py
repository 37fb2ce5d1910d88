"""A gRPC proxy that makes a Milvus Lite server answer as a Milvus cluster does, and refuse, delay and lag on demand.

Messages pass as bytes; one is decoded only where a cluster answers it differently. What a cluster does is from its
source, see `docs/milvus.md`: its version, limits, the release of partitions, count(*), statistics, aliases, and reads
that lag behind writes unless they ask for strong consistency.

What it does not imitate: several nodes, memory, compaction, users, sizes of answers.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import grpc
from google.protobuf.message_factory import GetMessageClass
from pymilvus.grpc_gen import common_pb2, milvus_pb2

VERSION = "v2.6.4"
MAX_MESSAGE = 64 * 1024 * 1024
MAX_WINDOW = 16_384
MAX_PARTITIONS = 1024
SECONDS_BETWEEN_FLUSHES = 10

_SERVICE = milvus_pb2.DESCRIPTOR.services_by_name["MilvusService"]
_UNEXPECTED = 65_535
_READS = ("Query", "Search")
_WRITES = ("Upsert", "Delete")


class Refused(Exception):  # noqa: N818 - an answer of the server, not an error of ours
    """A status with an error, as a server answers instead of doing what it was asked."""

    def __init__(self, code: int, reason: str, *, retriable: bool = False) -> None:
        super().__init__(reason)
        legacy = {0: 0, 8: common_pb2.RateLimit, 9: common_pb2.ForceDeny, 100: common_pb2.CollectionNotExists}
        self.status = common_pb2.Status(
            code=code, error_code=legacy.get(code, common_pb2.UnexpectedError), reason=reason, retriable=retriable
        )


class Lost(Exception):  # noqa: N818 - what a network does
    """The connection ends without an answer, as when a node stops. `details` are gRPC's words for it."""

    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        super().__init__(details)
        self.code, self.details = code, details


def rate_limited() -> Refused:
    """What a cluster answers to a write above a rate that it is configured with."""
    words = "request is rejected by grpc RateLimiter middleware, please retry later: rate limit exceeded[rate=0.1]"
    return Refused(8, words, retriable=True)


def quota_exceeded(reason: str = "disk quota exceeded, please allocate more resources") -> Refused:
    """What a cluster answers to writes while its disk or memory is used up."""
    return Refused(9, f"quota exceeded[reason={reason}]")


def not_loaded(collection: str) -> Refused:
    """What a cluster answers to a read of a collection that is released."""
    return Refused(101, f"failed to search: collection not loaded[collection={collection}]")


def node_down() -> Lost:
    """What a client sees while the node that it talks to stops."""
    return Lost(grpc.StatusCode.UNAVAILABLE, "connection reset by peer")


@dataclass(frozen=True)
class Call:
    """One call that came in."""

    method: str
    content: bytes

    @property
    def request(self) -> Any:
        """The request, decoded."""
        return _class(self.method, "input").FromString(self.content)


@dataclass
class _Fault:
    methods: tuple[str, ...]
    what: Callable[[Call], None]
    when: Callable[[Call], bool]
    times: float
    lost: Refused | Lost | None = None
    """What is answered instead of the server's answer, once the server has done what it was asked."""
    hits: list[Call] = field(default_factory=list)


class MilvusProxy:
    """One proxy. `uri` is what a client connects to, with the login of the server behind it.

    `calls` are all calls so far. With `lagging`, writes are confirmed at once and applied when a call needs them: a
    read that asks for less than strong consistency does not, and is answered from before them.
    """

    def __init__(self, target: str) -> None:
        parts = urlsplit(target)
        # A connection of its own: the one that tests and pipelines share per process closes when they do.
        self._channel = grpc.insecure_channel(
            f"{parts.hostname}:{parts.port}",
            options=[
                ("grpc.max_send_message_length", -1),
                ("grpc.max_receive_message_length", -1),
                ("grpc.use_local_subchannel_pool", 1),
            ],
        )
        self._pool = ThreadPoolExecutor(32, thread_name_prefix="milvus-proxy")
        self._server = grpc.server(
            self._pool,
            options=[
                ("grpc.max_send_message_length", -1),
                ("grpc.max_receive_message_length", MAX_MESSAGE),
                ("grpc.so_reuseport", 0),
            ],
        )
        self._server.add_generic_rpc_handlers((_Handlers(self._answer),))
        port = self._server.add_insecure_port("127.0.0.1:0")
        self.uri = parts._replace(netloc=f"{parts.netloc.rpartition(':')[0]}:{port}").geturl()
        self.calls: list[Call] = []
        self.lagging = False
        self.clock: Callable[[], float] = time.monotonic
        self._faults: list[_Fault] = []
        self._released: set[tuple[str, str]] = set()
        self._levels: dict[str, int] = {}
        self._flushed_at: dict[str, float] = {}
        self._flushed_rows: dict[tuple[str, str], int] = {}
        self._behind: dict[str, list[tuple[str, bytes, Any]]] = defaultdict(list)
        self._lock = threading.RLock()
        self._closing = threading.Event()

    def __enter__(self) -> MilvusProxy:
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._server.stop(grace=0).wait()
        self._pool.shutdown()
        self._channel.close()

    def reset(self) -> None:
        """Forget the calls, the flushes, and writes that lag behind: the next test begins."""
        self.calls.clear()
        self._flushed_at.clear()
        self.lagging = False
        self._behind.clear()

    def of(self, *methods: str) -> list[Call]:
        """Return the calls of these methods so far."""
        return [call for call in list(self.calls) if call.method in methods]

    @contextmanager
    def failing(
        self,
        *methods: str,
        error: Refused | Lost,
        times: float = float("inf"),
        when: Callable[[Call], bool] = lambda _: True,
        after: bool = False,
    ) -> Iterator[list[Call]]:
        """Have calls of these methods fail, the first `times` of those for which `when` is true. Yields them.

        `after`: the server does what it is asked, and only its answer is lost.
        """

        def fail(call: Call) -> None:
            if not after:
                raise error

        with self._with(_Fault(methods, fail, when, times, error if after else None)) as fault:
            yield fault.hits

    @contextmanager
    def hanging(self, *methods: str) -> Iterator[list[Call]]:
        """Have calls of these methods get no answer until the block ends. Yields them."""
        over = threading.Event()

        def hang(call: Call) -> None:
            while not (over.is_set() or self._closing.is_set()):
                over.wait(0.05)
            raise Lost(grpc.StatusCode.CANCELLED, "nobody waits any more")

        try:
            with self._with(_Fault(methods, hang, lambda _: True, float("inf"))) as fault:
                yield fault.hits
        finally:
            over.set()

    @contextmanager
    def before(self, *methods: str, do: Callable[[Call], None], times: float = 1) -> Iterator[list[Call]]:
        """Call a function before calls of these methods are answered. Yields them."""
        with self._with(_Fault(methods, do, lambda _: True, times)) as fault:
            yield fault.hits

    @contextmanager
    def _with(self, fault: _Fault) -> Iterator[_Fault]:
        with self._lock:
            self._faults.append(fault)
        try:
            yield fault
        finally:
            with self._lock:
                self._faults.remove(fault)

    def _answer(self, method: str, content: bytes, context: Any) -> bytes:
        call = Call(method, content)
        self.calls.append(call)
        lost: Refused | Lost | None = None
        try:
            for fault in self._due(call):
                fault.what(call)
                lost = lost or fault.lost
            answer = self._as_a_cluster(call, context.invocation_metadata())
            if lost:
                raise lost
            return answer
        except Refused as refusal:
            return _with_status(method, refusal.status).SerializeToString()
        except Lost as ended:
            context.abort(ended.code, ended.details)
        except grpc.RpcError as error:  # of the server behind
            context.abort(error.code(), error.details())  # type: ignore[attr-defined]
        raise AssertionError("aborted")

    def _due(self, call: Call) -> list[_Fault]:
        due = []
        with self._lock:
            for fault in self._faults:
                if call.method in fault.methods and len(fault.hits) < fault.times and fault.when(call):
                    fault.hits.append(call)
                    due.append(fault)
        return due

    def _as_a_cluster(self, call: Call, metadata: Any) -> bytes:
        ask = _Server(self._channel, metadata)
        if self.lagging and call.method in _WRITES:
            return self._write_later(call, ask)
        if self.lagging and not (call.method in _READS and self._may_lag(call, ask)):
            self._catch_up()
        answer = getattr(self, f"_{call.method}", None)
        return answer(call, ask) if answer else ask.bytes(call.method, call.content)

    # Reads that lag behind writes.

    def _write_later(self, call: Call, ask: _Server) -> bytes:
        request = call.request
        if call.method == "Upsert":
            self._refuse_upsert(request, ask)
        with self._lock:
            self._behind[ask.name(request.collection_name)].append((call.method, call.content, ask))
        count = request.num_rows if call.method == "Upsert" else 0
        return milvus_pb2.MutationResult(upsert_cnt=count).SerializeToString()

    def _may_lag(self, call: Call, ask: _Server) -> bool:
        request = call.request
        level = request.consistency_level
        if request.use_default_consistency:
            level = self._levels.get(ask.name(request.collection_name), common_pb2.Bounded)
        return level != common_pb2.Strong

    def _catch_up(self) -> None:
        with self._lock:
            for writes in self._behind.values():
                for method, content, writer in writes:
                    status = milvus_pb2.MutationResult.FromString(writer.bytes(method, content)).status
                    assert not status.code, status.reason
                writes.clear()

    # What a cluster answers differently; a method's name is that of the call.

    def _GetVersion(self, call: Call, ask: _Server) -> bytes:  # noqa: N802
        return milvus_pb2.GetVersionResponse(version=VERSION).SerializeToString()

    def _CreateCollection(self, call: Call, ask: _Server) -> bytes:  # noqa: N802
        request = call.request
        self._levels[request.collection_name] = request.consistency_level
        return ask.bytes(call.method, call.content)

    def _DropCollection(self, call: Call, ask: _Server) -> bytes:  # noqa: N802
        name = call.request.collection_name
        if aliases := list(ask("ListAliases", collection_name=name).aliases):
            raise Refused(
                _UNEXPECTED,
                f"unable to drop the collection [{name}] because it has associated aliases {aliases}, please remove "
                "all aliases before dropping the collection",
            )
        self._released = {one for one in self._released if one[0] != name}
        return ask.bytes(call.method, call.content)

    def _DescribeAlias(self, call: Call, ask: _Server) -> bytes:  # noqa: N802
        answer = ask.bytes(call.method, call.content)
        if milvus_pb2.DescribeAliasResponse.FromString(answer).status.code:
            raise Refused(1600, f"alias not found[database=default][alias={call.request.alias}]")
        return answer

    def _LoadCollection(self, call: Call, ask: _Server) -> bytes:  # noqa: N802
        if self._released:
            name = ask.name(call.request.collection_name)
            self._released = {one for one in self._released if one[0] != name}
        return ask.bytes(call.method, call.content)

    def _GetLoadState(self, call: Call, ask: _Server) -> bytes:  # noqa: N802
        request = call.request
        name = ask.name(request.collection_name) if request.partition_names else ""
        if any((name, partition) in self._released for partition in request.partition_names):
            return milvus_pb2.GetLoadStateResponse(state=common_pb2.LoadStateNotLoad).SerializeToString()
        return ask.bytes(call.method, call.content)

    def _CreatePartition(self, call: Call, ask: _Server) -> bytes:  # noqa: N802
        request = call.request
        existing = ask.partitions(request.collection_name)
        if request.partition_name in existing:
            return common_pb2.Status().SerializeToString()
        if len(existing) >= MAX_PARTITIONS:
            raise Refused(
                _UNEXPECTED,
                f"partition number ({len(existing)}) exceeds max configuration ({MAX_PARTITIONS}), "
                f"collection: {request.collection_name}",
            )
        return ask.bytes(call.method, call.content)

    def _ReleasePartitions(self, call: Call, ask: _Server) -> bytes:  # noqa: N802
        request = call.request
        name = ask.name(request.collection_name)
        for partition in request.partition_names:
            self._require(partition, ask.partitions(name), 200)
            self._released.add((name, partition))
        return common_pb2.Status().SerializeToString()

    def _DropPartition(self, call: Call, ask: _Server) -> bytes:  # noqa: N802
        request = call.request
        one = (ask.name(request.collection_name), request.partition_name)
        if ask.is_loaded(one[0]) and one not in self._released:
            raise Refused(_UNEXPECTED, "partition cannot be dropped, partition is loaded, please release it first")
        answer = ask.bytes(call.method, call.content)
        self._released.discard(one)
        return answer

    def _GetPartitionStatistics(self, call: Call, ask: _Server) -> bytes:  # noqa: N802
        """Rows of sealed segments: those written since the last flush are missing, those deleted are counted."""
        request = call.request
        rows = self._flushed_rows.get((ask.name(request.collection_name), request.partition_name), 0)
        return milvus_pb2.GetPartitionStatisticsResponse(
            stats=[common_pb2.KeyValuePair(key="row_count", value=str(rows))]
        ).SerializeToString()

    def _Flush(self, call: Call, ask: _Server) -> bytes:  # noqa: N802
        names = list(call.request.collection_names)
        for name in names:
            if self.clock() - self._flushed_at.get(name, float("-inf")) < SECONDS_BETWEEN_FLUSHES:
                raise rate_limited()
        answer = ask.bytes(call.method, call.content)
        for name in names:
            self._flushed_at[name] = self.clock()
            for partition in ask.partitions(name):
                stats = ask("GetPartitionStatistics", collection_name=name, partition_name=partition).stats
                self._flushed_rows[name, partition] = int({pair.key: pair.value for pair in stats}["row_count"])
        return answer

    def _Upsert(self, call: Call, ask: _Server) -> bytes:  # noqa: N802
        self._refuse_upsert(call.request, ask)
        return ask.bytes(call.method, call.content)

    def _refuse_upsert(self, request: Any, ask: _Server) -> None:
        if request.partition_name:
            self._require(request.partition_name, ask.partitions(request.collection_name), 200)
        for column in request.fields_data:
            keys = list(column.scalars.string_data.data)
            if column.field_name == "id" and len(keys) > len(set(keys)):
                raise Refused(1100, "duplicate primary keys are not allowed in the same batch: invalid parameter")

    def _Query(self, call: Call, ask: _Server) -> bytes:  # noqa: N802
        request = call.request
        given = {pair.key: pair.value for pair in request.query_params}
        counts = list(request.output_fields) == ["count(*)"]
        window = int(given.get("offset", 0)) + int(given.get("limit", 0))
        if window > MAX_WINDOW:
            words = f"(offset+limit) should be in range [1, {MAX_WINDOW}], but got {window}"
            raise Refused(_UNEXPECTED, f"invalid max query result window, {words}")
        if not (request.expr or "limit" in given or counts):
            raise Refused(1100, "empty expression should be used with limit: invalid parameter")
        self._restrict(request, ask)
        if not counts:
            return ask.bytes(call.method, request.SerializeToString())
        # Lite counts all partitions, so their keys are counted.
        del request.output_fields[:], request.query_params[:]
        request.output_fields.append("id")
        found = milvus_pb2.QueryResults.FromString(ask.bytes(call.method, request.SerializeToString()))
        if found.status.code:
            return found.SerializeToString()
        count = sum(len(one.scalars.string_data.data) for one in found.fields_data if one.field_name == "id")
        answer = milvus_pb2.QueryResults(collection_name=found.collection_name, output_fields=["count(*)"])
        column = answer.fields_data.add(field_name="count(*)", type=5)
        column.scalars.long_data.data.append(count)
        return answer.SerializeToString()

    def _Search(self, call: Call, ask: _Server) -> bytes:  # noqa: N802
        request = call.request
        given = {pair.key: pair.value for pair in request.search_params}
        window = int(given.get("offset", 0)) + int(given.get("topk", 0))
        if window > MAX_WINDOW:
            words = f"top k should be in range [1, {MAX_WINDOW}], but got {window}"
            raise Refused(_UNEXPECTED, f"offset+topk [{window}] is invalid, {words}")
        self._restrict(request, ask)
        return ask.bytes(call.method, request.SerializeToString())

    def _restrict(self, request: Any, ask: _Server) -> None:
        """Refuse a read that names a partition that does not exist or is released; leave these out of all others."""
        released: set[str] = set()
        if self._released:
            name = ask.name(request.collection_name)
            released = {partition for collection, partition in self._released if collection == name}
        if not (request.partition_names or released):
            return
        existing = ask.partitions(request.collection_name)
        for partition in request.partition_names:
            self._require(partition, existing, _UNEXPECTED)
            if partition in released:
                words = f"partition not loaded[partition=[{partition}]]"
                raise Refused(_UNEXPECTED, f"fail to {type(request).__name__} on QueryNode 1: {words}")
        if not request.partition_names:
            request.partition_names.extend(one for one in existing if one not in released)

    @staticmethod
    def _require(partition: str, existing: list[str], code: int) -> None:
        if partition not in existing:
            words = f"partition name {partition} not found"
            raise Refused(code, f"partition not found[partition={partition}]" if code == 200 else words)


class _Server:
    """Asks the server behind, with the login of the client that asked the proxy."""

    def __init__(self, channel: grpc.Channel, metadata: Any) -> None:
        self._channel = channel
        self._metadata = [(key, value) for key, value in metadata if key in ("authorization", "dbname")]

    def bytes(self, method: str, content: bytes) -> bytes:
        call = self._channel.unary_unary(f"/{_SERVICE.full_name}/{method}")
        answer: bytes = call(content, metadata=self._metadata, timeout=60)
        return answer

    def __call__(self, method: str, **fields: Any) -> Any:
        request = _class(method, "input")(**fields)
        return _class(method, "output").FromString(self.bytes(method, request.SerializeToString()))

    def name(self, collection_or_alias: str) -> str:
        described = self("DescribeAlias", alias=collection_or_alias)
        return str(described.collection) if not described.status.code else collection_or_alias

    def partitions(self, collection: str) -> list[str]:
        return list(self("ShowPartitions", collection_name=collection).partition_names)

    def is_loaded(self, collection: str) -> bool:
        return bool(self("GetLoadState", collection_name=collection).state == common_pb2.LoadStateLoaded)


class _Handlers(grpc.GenericRpcHandler):
    def __init__(self, answer: Callable[[str, bytes, Any], bytes]) -> None:
        self._answer = answer

    def service(self, details: Any) -> Any:
        method = details.method.rpartition("/")[2]
        return grpc.unary_unary_rpc_method_handler(lambda content, context: self._answer(method, content, context))


def _class(method: str, way: str) -> Any:
    return GetMessageClass(getattr(_SERVICE.methods_by_name[method], f"{way}_type"))


def _with_status(method: str, status: Any) -> Any:
    answer = _class(method, "output")
    return status if answer is common_pb2.Status else answer(status=status)
