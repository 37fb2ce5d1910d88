"""What a Milvus cluster does and Lite does not: whole paths through a proxy that answers as one, see docs/milvus.md."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import grpc
import numpy as np
import pytest
from pymilvus.client.connection_manager import ConnectionManager
from pymilvus.exceptions import MilvusException
from pymilvus.grpc_gen import common_pb2

from rag_pipeline.consistency import comparison, row_checks
from rag_pipeline.consistency.checker import Consistency, DataConsistencyChecker
from rag_pipeline.consistency.repair import RepairResult, repair
from rag_pipeline.endpoints import Endpoints
from rag_pipeline.errors import StoreUnavailableError
from rag_pipeline.generations import registry, switching
from rag_pipeline.indexing import verify
from rag_pipeline.indexing.drain_deletions import drain_deletions
from rag_pipeline.indexing.retention import RetentionResult, apply_retention
from rag_pipeline.months import Month
from rag_pipeline.pipeline import Pipeline
from rag_pipeline.search.engine import search
from rag_pipeline.stores.filters import NO_FILTERS, Filters
from rag_pipeline.stores.milvus import collections, index_rebuild, key_ranges, partitions, rows
from rag_pipeline.stores.milvus.client import Milvus
from rag_pipeline_tests.support import milvus_proxy
from rag_pipeline_tests.support.generations import WIDE, GenerationIndex
from rag_pipeline_tests.support.index import Index, sections
from rag_pipeline_tests.support.index_state import stored_ids
from rag_pipeline_tests.support.milvus import milvus_client
from rag_pipeline_tests.support.milvus_proxy import (
    Lost,
    MilvusProxy,
    Refused,
    node_down,
    not_loaded,
    quota_exceeded,
    rate_limited,
)
from rag_pipeline_tests.support.stores import Stores

OLD, NEW, NOW = Month(2024, 1), Month(2024, 5), Month(2024, 6)
SINCE_NEW = Filters(from_date=NEW.start)
SINCE_OLD = Filters(from_date=OLD.start)
UNFINISHED = "SELECT embedding_status, count(*) FROM document_chunks WHERE NOT live GROUP BY 1"


def through(proxy: MilvusProxy, stores: Stores) -> Stores:
    """The same stores, with Milvus as a cluster."""
    servers = stores.endpoints
    return Stores(Endpoints(servers.postgres_url, proxy.uri, servers.redis_url), stores.prefix)


class ClusterIndex(Index):
    """An index whose Milvus is a cluster. `direct` is the Lite server behind."""

    def __init__(self, folder: Path, stores: Stores, proxy: MilvusProxy) -> None:
        super().__init__(folder, through(proxy, stores))
        self.direct = stores.endpoints.milvus_uri

    def fill(self) -> None:
        self.write("old.md", sections("一", "二"), "2024-01-10")
        self.write("new.md", sections("三", "四"), "2024-05-10")
        self.write("last.md", sections("五"), "2024-05-20")

    def found(self, query: str = "三", filters: Filters = NO_FILTERS) -> list[str]:
        """Return the documents that a search finds, the best first, each once."""
        with self.open() as pipeline:
            return list(dict.fromkeys(hit.source_id for hit in search(pipeline, query, filters=filters).hits))

    def check(self) -> Consistency:
        with self.open() as pipeline:
            return DataConsistencyChecker(pipeline).check_consistency(None)

    def repair(self) -> RepairResult:
        with self.open() as pipeline:
            return repair(pipeline)

    def expire(self) -> RetentionResult:
        with self.open(retention_months=4) as pipeline:
            return apply_retention(pipeline, NOW)


@pytest.fixture(scope="module")
def proxy_of_session(server_endpoints: Endpoints) -> Iterator[MilvusProxy]:
    with MilvusProxy(server_endpoints.milvus_uri) as proxy:
        yield proxy


@pytest.fixture
def proxy(proxy_of_session: MilvusProxy) -> MilvusProxy:
    proxy_of_session.reset()
    return proxy_of_session


@pytest.fixture
def index(tmp_path: Path, prepared_stores: Stores, proxy: MilvusProxy) -> ClusterIndex:
    """An empty index of the test's own, on a cluster."""
    return ClusterIndex(tmp_path, prepared_stores, proxy)


@contextmanager
def impatient(module: ModuleType) -> Iterator[None]:
    """Have the calls of one module wait half a second for an answer, and try again for as long, instead of 30.

    For calls that cannot succeed: others might not within that time.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "TIMEOUT_SECONDS", 0.5)
        yield


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test here changes anything between two looks."""
    for module in (comparison, row_checks):
        monkeypatch.setattr(module, "_PAUSE_SECONDS", 0)
    monkeypatch.setattr(verify, "_PAUSES_SECONDS", ())
    monkeypatch.setattr(index_rebuild, "_POLL_SECONDS", 0.01)


def damage_index(index: ClusterIndex) -> str:
    """Give the dense collection an index with other parameters, behind the pipeline's back. Return its name."""
    name = index.collections()["dense"]
    with milvus_client(index.direct) as client:
        client.release_collection(name)
        client.drop_index(name, "vector")
        params = client.prepare_index_params()
        params.add_index("vector", index_name="vector", index_type="FLAT", metric_type="IP")
        client.create_index(name, params)
        client.load_collection(name)
    return name


def assert_strong(proxy: MilvusProxy) -> None:
    """Every read asked for strong consistency in so many words.

    Without them the collection's own level counts, which is that of whoever created it.
    """
    reads = proxy.of("Query", "Search")
    assert reads
    asked = {(call.method, call.request.use_default_consistency, call.request.consistency_level) for call in reads}
    assert asked <= {("Query", False, 0), ("Search", False, 0)}


def test_whole_paths_make_only_calls_that_a_cluster_accepts(index: ClusterIndex, proxy: MilvusProxy) -> None:
    """Ingest, search, edit, delete, check, repair and retention, over the branches for a real server."""
    index.fill()
    assert index.ingest().complete
    index.write("new.md", sections("三", "新"), "2024-05-10")
    index.delete("last.md")
    assert index.ingest(confirm_deletions=True).complete
    index.write("new.md", sections("零", "三", "新"), "2024-05-10")
    moved = index.ingest()
    assert moved.complete
    assert moved.stats.moved
    assert index.found("新の本文")[0] == "docs:new.md"
    assert index.found(filters=SINCE_NEW) == ["docs:new.md"]
    assert index.check().findings == []
    names = index.collections()
    with milvus_client(index.direct) as client:
        client.delete(names["dense"], ids=[min(stored_ids(index.direct, names["dense"]))])
        client.release_collection(names["sparse"])
    assert index.repair().remaining.findings == []
    assert index.expire().expired == [OLD]
    dropped = [
        (call.method, call.request.collection_name) for call in proxy.of("ReleasePartitions", "DropPartition")
    ]
    assert dropped == [
        (method, name) for name in sorted(names.values()) for method in ("ReleasePartitions", "DropPartition")
    ]
    assert_strong(proxy)
    assert not proxy.of("Flush"), "a server seals and indexes by itself, and limits how often it can be asked to"
    counts = [call.request for call in proxy.of("Query") if list(call.request.output_fields) == ["count(*)"]]
    assert counts, "a server's statistics are not exact"
    assert all(request.partition_names for request in counts)
    assert not proxy.of("GetPartitionStatistics")
    index.assert_consistent()


def test_a_generation_is_built_switched_and_dropped_on_a_cluster_that_lags(
    tmp_path: Path, prepared_stores: Stores, proxy: MilvusProxy
) -> None:
    index = GenerationIndex(tmp_path, through(proxy, prepared_stores))
    index.write("new.md", sections("三"), "2024-05-10")
    proxy.lagging = True
    assert index.ingest().complete
    row = index.build()
    with index.opened() as pipeline:
        switching.switch(pipeline)
    assert index.found("三") == ["docs:new.md"]
    with index.opened(embedder=WIDE) as pipeline:
        registry.drop(pipeline, 1)
    assert index.found("三", embedder=WIDE) == ["docs:new.md"]
    assert_strong(proxy)
    index.assert_complete(row)


def test_a_read_that_asks_for_less_than_strong_consistency_is_stale(
    index: ClusterIndex, proxy: MilvusProxy
) -> None:
    """That the proxy does what the next test is about."""
    index.fill()
    index.ingest()
    name = index.collections()["dense"]
    key = min(index.vector_ids("dense"))
    with milvus_client(proxy.uri) as client:
        proxy.lagging = True
        client.delete(name, ids=[key])

        def there(level: str) -> bool:
            rows = client.query(name, filter=f'id in ["{key}"]', output_fields=["id"], consistency_level=level)
            return bool(rows)

        assert [there("Eventually"), there("Bounded"), there("Strong"), there("Bounded")] == [
            True,
            True,
            False,
            False,
        ]


def test_nothing_is_stale_on_a_cluster_whose_reads_lag_behind_its_writes(
    index: ClusterIndex, proxy: MilvusProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also in collections that were made with another level, which counts for reads that do not say theirs."""
    monkeypatch.setattr(proxy, "_levels", {})
    proxy.lagging = True
    index.fill()
    assert index.ingest().complete
    index.write("new.md", sections("三", "新"), "2024-05-10")
    index.delete("last.md")
    assert index.ingest(confirm_deletions=True).complete
    index.write("new.md", sections("零", "三", "新"), "2024-05-10")
    assert index.ingest().complete
    assert index.found("新の本文")[0] == "docs:new.md"
    assert index.check().findings == []
    assert_strong(proxy)


def test_searches_may_be_behind_and_show_nothing_that_is_gone(index: ClusterIndex, proxy: MilvusProxy) -> None:
    """What was written to Milvus a moment ago may be missing; what PostgreSQL has not is never shown."""
    index.fill()
    assert index.ingest().complete
    with (
        index.open(search_consistency="bounded") as bounded,
        index.open() as strong,
        milvus_client(proxy.uri) as client,
    ):

        def found(pipeline: Pipeline) -> set[str]:
            return {hit.source_id for hit in search(pipeline, "三の本文").hits}

        everything = {"docs:old.md", "docs:new.md", "docs:last.md"}
        # The first search of a process looks at the collections too, for which the proxy would catch up.
        assert found(bounded) == found(strong) == everything
        proxy.reset()
        proxy.lagging = True
        chunks = {
            str(chunk)
            for (chunk,) in index.rows(
                "SELECT c.id FROM document_chunks c JOIN documents d ON d.id = c.document_id "
                "WHERE d.source_id = 'docs:new.md'"
            )
        }
        for kind, name in index.collections().items():
            client.delete(name, ids=[key for key in sorted(index.expected_ids(kind)) if key[:36] in chunks])
        proxy.calls.clear()
        assert found(bounded) == everything, "Milvus has not deleted them yet"
        asked = {
            (call.request.use_default_consistency, call.request.consistency_level)
            for call in proxy.of("Search", "Query")
        }
        assert asked == {(False, common_pb2.Bounded)}
        index.rows("DELETE FROM documents WHERE source_id = 'docs:last.md' RETURNING id")
        assert found(bounded) == {"docs:old.md", "docs:new.md"}
        assert found(strong) == {"docs:old.md"}
        assert found(bounded) == {"docs:old.md"}, "it has caught up"


def test_writes_above_the_rate_are_tried_again_and_nothing_is_lost(
    index: ClusterIndex, proxy: MilvusProxy
) -> None:
    index.fill()
    with proxy.failing("Upsert", error=rate_limited(), times=4) as refused:
        result = index.ingest()
    assert result.complete, result.errors
    assert len(refused) == 4
    index.assert_consistent()
    index.delete("last.md")
    with proxy.failing("Delete", error=rate_limited(), times=3) as refused:
        assert index.ingest(confirm_deletions=True).complete
    assert len(refused) == 3
    index.assert_consistent()


def test_a_rate_that_stays_too_low_is_an_error_that_names_it(index: ClusterIndex, proxy: MilvusProxy) -> None:
    index.fill()
    with (
        impatient(rows),
        proxy.failing("Upsert", error=rate_limited()) as refused,
        pytest.raises(StoreUnavailableError) as raised,
    ):
        index.ingest()
    assert "rate limit exceeded[rate=0.1]" in str(raised.value)
    assert "did not answer" not in str(raised.value)
    assert "nothing was lost, run again later" in str(raised.value)
    assert "\n" not in str(raised.value)
    assert len(refused) > 3, "tried again until the time was over"
    assert index.rows(UNFINISHED) == [("pending", 2)], "those of the month that it began with"
    assert index.ingest().complete
    index.assert_consistent()


def test_a_quota_is_no_chunk_s_fault(index: ClusterIndex, proxy: MilvusProxy) -> None:
    """Writes are refused as a whole, deletions too, so that what was written cannot be taken back either."""
    reasons = [
        "disk quota exceeded, please allocate more resources",
        "memory quota exceeded, please allocate more resources",
        "access has been disabled by the administrator",
        "time tick long delay",
    ]
    index.fill()
    for reason in reasons:
        with (
            proxy.failing("Upsert", "Delete", error=quota_exceeded(reason)) as refused,
            pytest.raises(StoreUnavailableError) as raised,
        ):
            index.ingest()
        assert f"refuses to work: quota exceeded[reason={reason}]; nothing was lost" in str(raised.value)
        assert len([call for call in refused if call.method == "Upsert"]) == 3, (
            "one for each collection, no halves"
        )
        assert index.rows(UNFINISHED) == [("pending", 2)]
        assert index.rows("SELECT count(*) FROM document_chunks WHERE embedding_error IS NOT NULL") == [(0,)]
    assert index.ingest().complete
    index.assert_consistent()


def test_deletions_that_a_quota_refuses_stay_in_the_outbox(index: ClusterIndex, proxy: MilvusProxy) -> None:
    index.fill()
    index.ingest()
    index.rows("DELETE FROM documents WHERE source_id = 'docs:last.md'")
    waiting = "SELECT count(*) FROM vector_deletions"
    with index.open() as pipeline:
        with (
            proxy.failing("Delete", error=quota_exceeded()),
            pytest.raises(StoreUnavailableError, match="disk quota exceeded"),
        ):
            drain_deletions(pipeline)
        assert index.rows(waiting) == [(1,)]
        assert drain_deletions(pipeline) == 1
    assert index.rows(waiting) == [(0,)]


def test_a_write_whose_answer_is_lost_is_written_once(index: ClusterIndex, proxy: MilvusProxy) -> None:
    index.fill()
    with proxy.failing("Upsert", error=node_down(), times=2, after=True) as lost:
        assert index.ingest().complete
    assert len(lost) == 2
    index.assert_consistent()


def test_a_cluster_that_does_not_answer_ends_the_run(index: ClusterIndex, proxy: MilvusProxy) -> None:
    index.fill()
    with (
        impatient(rows),
        proxy.hanging("Upsert") as hung,
        pytest.raises(StoreUnavailableError, match="did not answer within"),
    ):
        index.ingest()
    assert hung
    assert index.rows(UNFINISHED) == [("pending", 2)]
    assert index.ingest().complete
    index.assert_consistent()


def test_calls_about_indexes_are_bounded_too(index: ClusterIndex, proxy: MilvusProxy) -> None:
    """pymilvus waits for ever, and tries 75 times, if it is given no time."""
    index.fill()
    index.ingest()
    with (
        impatient(index_rebuild),
        proxy.hanging("DescribeIndex"),
        pytest.raises(StoreUnavailableError, match="did not answer"),
    ):
        index.check()
    with (
        impatient(index_rebuild),
        proxy.failing("DescribeIndex", error=node_down()) as lost,
        pytest.raises(StoreUnavailableError, match="does not answer"),
    ):
        index.check()
    assert len(lost) < 10


def test_an_alias_that_cannot_be_looked_up_does_not_count_as_missing(
    index: ClusterIndex, proxy: MilvusProxy
) -> None:
    answers = [
        (901, "node not found[node=3]"),
        (500, "channel not found[channel=by-dev-rootcoord-dml_1]"),
        (1, "service not ready[rootcoord]: Initializing"),
    ]
    index.write("new.md", sections("三"), "2024-05-10")
    for code, words in answers:
        with (
            proxy.failing("DescribeAlias", error=Refused(code, words)),
            pytest.raises(StoreUnavailableError) as raised,
        ):
            index.ingest()
        assert f"refuses to work: {words}" in str(raised.value)
    assert not proxy.of("CreateAlias", "AlterAlias", "CreateCollection")
    assert index.ingest().complete


REFUSALS: list[tuple[Refused | Lost, str]] = [
    (Refused(3, "memory limit exceeded[predict=9, limit=8]"), "refuses to work: memory limit exceeded"),
    (Refused(103, "collection not fully loaded[collection=7]", retriable=True), "not fully loaded"),
    (Refused(905, "node not available[node=3]: connection timeout"), "refuses to work: node not available"),
    (Refused(1401, "PrivilegeSearch: permission deny to rag"), "refuses the connection: PrivilegeSearch"),
    (
        Lost(grpc.StatusCode.RESOURCE_EXHAUSTED, "grpc: received message larger than max (69059933 vs. 67108864)"),
        "takes no requests of this size: .*67108864.*serverMaxRecvSize",
    ),
]


@pytest.mark.parametrize(("error", "message"), REFUSALS, ids=["memory", "loading", "node", "privilege", "size"])
def test_a_refusal_is_one_line_with_the_server_s_words(
    proxy: MilvusProxy, error: Refused | Lost, message: str
) -> None:
    milvus = Milvus(proxy.uri)
    try:
        with (
            proxy.failing("ShowCollections", error=error),
            pytest.raises(StoreUnavailableError, match=message) as raised,
            milvus.client() as client,
        ):
            client.list_collections(timeout=5)
        assert "\n" not in str(raised.value)
    finally:
        milvus.close()


def test_an_attempt_to_connect_that_fails_leaves_no_connection(proxy: MilvusProxy) -> None:
    milvus, kept = Milvus(proxy.uri), ConnectionManager.get_instance()._dedicated
    before = len(kept)
    for _ in range(3):
        with (
            proxy.failing("GetVersion", error=Refused(65_535, "starting")) as refused,
            pytest.raises(StoreUnavailableError, match="starting"),
            milvus.client(),
        ):
            pass
        assert refused
        assert len(kept) == before
    assert not milvus.is_lite
    assert len(kept) == before + 1
    milvus.close()
    assert len(kept) == before


def test_searches_go_on_where_the_retention_was_interrupted(index: ClusterIndex, proxy: MilvusProxy) -> None:
    """Between releasing a partition and dropping it: a cluster refuses a search that names such a partition."""
    index.fill()
    index.ingest()
    with (
        proxy.failing("DropPartition", error=Refused(905, "node not available[node=3]")),
        pytest.raises(StoreUnavailableError, match="node not available"),
    ):
        index.expire()
    assert set(index.found(filters=SINCE_OLD)) == {"docs:new.md", "docs:last.md"}
    assert set(index.found()) == {"docs:new.md", "docs:last.md"}
    assert index.expire().expired == [OLD]
    index.assert_consistent()


def test_a_partition_that_goes_while_a_search_begins_is_left_out(index: ClusterIndex, proxy: MilvusProxy) -> None:
    index.fill()
    index.ingest()
    with proxy.before("Search", do=lambda _: index.expire() and None) as searches:
        assert set(index.found(filters=SINCE_OLD)) == {"docs:new.md", "docs:last.md"}
    assert len(searches) == 1


def test_a_released_partition_is_found_and_repaired(index: ClusterIndex) -> None:
    index.fill()
    index.ingest()
    name = index.collections()["dense"]
    with milvus_client(index.endpoints.milvus_uri) as client:
        client.release_partitions(name, [OLD.milvus_partition])
    (finding,) = index.check().findings
    assert (finding.check, finding.where, finding.month) == ("index_issues", "dense_collection", OLD)
    assert finding.sample[0]["problem"] == "partition not loaded"
    embedded = index.embedder.texts
    assert index.repair().remaining.findings == []
    assert index.embedder.texts == embedded
    index.assert_consistent()


def test_a_collection_that_is_not_loaded_is_loaded_by_the_search(index: ClusterIndex, proxy: MilvusProxy) -> None:
    index.fill()
    index.ingest()
    loading = Refused(103, "collection not fully loaded[collection=7]", retriable=True)
    for error in (not_loaded("7"), loading):
        proxy.reset()
        with proxy.failing("Search", error=error, times=1) as refused:
            assert "docs:new.md" in index.found()
        assert len(refused) == 1
        assert len(proxy.of("LoadCollection")) == 1


def test_searches_follow_an_alias_that_moves_to_a_copy_and_back(
    index: ClusterIndex, proxy: MilvusProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While an index is rebuilt, of a collection whose statistics say nothing because nothing was flushed.

    Rows are copied some at a time all the same: a cluster refuses answers of more than 100 MB.
    """
    monkeypatch.setattr(index_rebuild, "_ROWS_PER_QUERY", 1)
    index.write("old.md", sections(*"一二三四五六七八"), "2024-01-10")
    index.write("new.md", sections("三"), "2024-05-10")
    index.ingest()
    damage_index(index)
    proxy.reset()
    found: list[list[str]] = []
    moving = threading.Lock()

    def look(_: Any) -> None:
        with moving:
            found.append(sorted(index.found()))

    with proxy.before("AlterAlias", "DropCollection", do=look, times=10):
        assert index.repair().remaining.findings == []
    assert found == [["docs:new.md", "docs:old.md"]] * 3, "before the copy is used, and twice while it is"
    copied = [call.request for call in proxy.of("Query") if list(call.request.output_fields) == ["*"]]
    limits = {pair.value for request in copied for pair in request.query_params if pair.key == "limit"}
    assert limits == {"4"}
    assert len(copied) > 4
    assert len(proxy.of("Flush")) == 1
    index.assert_consistent()


def test_a_collection_is_dropped_without_its_aliases(index: ClusterIndex, proxy: MilvusProxy) -> None:
    """A cluster refuses to drop one that an alias points to. This one has the dimension of another embedder."""
    index.fill()
    index.ingest()
    with index.open() as pipeline:
        generation = pipeline.collections.generations["dense"]
    with milvus_client(index.direct) as client:
        client.drop_alias(generation.alias)
        client.drop_collection(generation.name)
        client.create_collection(generation.name, dimension=3, id_type="string", max_length=255)
        client.create_alias(generation.name, generation.alias)
    with milvus_client(proxy.uri) as client, pytest.raises(MilvusException, match="remove all aliases"):
        client.drop_collection(generation.name)
    assert index.repair().remaining.findings == []
    index.assert_consistent()


@pytest.mark.parametrize("whose", [milvus_proxy, partitions], ids=["the server's", "ours"])
def test_a_limit_of_partitions_ends_the_months_that_do_not_fit(
    index: ClusterIndex, monkeypatch: pytest.MonkeyPatch, whose: ModuleType
) -> None:
    monkeypatch.setattr(whose, "MAX_PARTITIONS", 2)
    index.fill()
    result = index.ingest()
    (error,) = result.errors
    assert error.startswith("2024-05: ")
    assert "allows a collection 2 partitions at most (rootCoord.maxPartitionNum)" in error
    assert "RAG_RETENTION_MONTHS" in error
    assert index.found() == ["docs:old.md"]


def test_requests_stay_far_below_the_largest_message(
    proxy: MilvusProxy, server_endpoints: Endpoints, milvus_prefix: str
) -> None:
    """What they are estimated to weigh is what they weigh, whatever the rows are made of."""
    name = f"{milvus_prefix}dense"
    generation = collections.generations(milvus_prefix, "e", 4096, 4096)["dense"]
    milvus = Milvus(proxy.uri)
    try:
        with milvus.client() as client:
            collections.create(client, generation, name)
        proxy.lagging = True  # so that nothing need be stored
        vector = np.ones(4096, dtype=np.float32)
        common = {"document_id": "d" * 36, "source_type": "s" * 50, "language": "ja", "chunk_position": 1}
        made: list[rows.Row] = [
            {"id": f"{n:036}_dense", "vector": vector, "created_timestamp": 1, **common} for n in range(1100)
        ]
        rows.write(milvus, name, "_default", made)
        sizes = [len(call.content) for call in proxy.of("Upsert")]
        assert len(sizes) == 2
        assert sum(sizes) > 17 * 1024 * 1024
        assert max(sizes) < 17 * 1024 * 1024
    finally:
        proxy.reset()
        milvus.close()


def test_a_cluster_s_limits_are_those_of_the_pipeline() -> None:
    assert key_ranges.MAX_ROWS == milvus_proxy.MAX_WINDOW
    assert partitions.MAX_PARTITIONS == milvus_proxy.MAX_PARTITIONS
    assert rows._REQUEST_BYTES * 2 < milvus_proxy.MAX_MESSAGE


LIMITS: list[tuple[Callable[[Any, str], object], str]] = [
    (lambda client, name: client.query(name, filter="", limit=16_385), "max query result window"),
    (lambda client, name: client.search(name, [[1.0] * 4], limit=16_000, offset=385), "top k should be"),
    (lambda client, name: client.query(name, filter=""), "empty expression should be used with limit"),
    (
        lambda client, name: client.query(name, filter="", limit=1, partition_names=["m"]),
        "partition name m not found",
    ),
    (lambda client, name: client.upsert(name, [{"id": "a", "vector": [1.0] * 4}] * 2), "duplicate primary keys"),
    (
        lambda client, name: [client.create_partition(name, "p"), client.drop_partition(name, "p")],
        "partition is loaded, please release it first",
    ),
    (lambda client, name: [client.flush(name, timeout=seconds) for seconds in (30, 0.1)], "rate limit exceeded"),
]


def test_the_proxy_has_the_limits_of_a_cluster(proxy: MilvusProxy, milvus_prefix: str) -> None:
    name = f"{milvus_prefix}limits"
    with milvus_client(proxy.uri) as client:
        client.create_collection(name, dimension=4, id_type="string", max_length=255)
        for call, words in LIMITS:
            with pytest.raises(MilvusException, match=words):
                call(client, name)
