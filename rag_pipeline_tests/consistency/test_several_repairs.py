"""Repairs of several months at once, as a backfill of `repair_month` starts them."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

from rag_pipeline.consistency.repair import RepairResult, repair
from rag_pipeline.months import Month
from rag_pipeline_tests.support.damaged_index import DamagedIndex

MONTHS = [Month(2024, number) for number in (3, 4, 5, 6)]


def test_all_of_them_succeed_whatever_belongs_to_the_whole_index(damaged: DamagedIndex) -> None:
    for month in MONTHS[2:]:
        damaged.index.write(f"{month}.md", f"# {month}\n\n本文。\n\n## 二\n\n段落。\n", f"{month}-05")
    damaged.index.ingest()
    for index in ("idx_chunks_parent", "idx_chunks_hierarchy", "idx_documents_language", "idx_documents_category"):
        damaged.sql(f"DROP INDEX {index}")
    damaged.sql("ALTER TABLE document_chunks DISABLE TRIGGER cleanup_document_vectors")
    damaged.sql("UPDATE sources SET total_documents = 70")
    damaged.sql("UPDATE documents SET chunk_count = 50")
    with damaged.milvus() as client:
        name = damaged.collection("dense")
        client.release_collection(name)
        client.drop_index(name, "vector")
    start = threading.Barrier(len(MONTHS))

    def one(month: Month) -> RepairResult:
        with damaged.index.open() as pipeline:
            start.wait()
            return repair(pipeline, [month])

    with ThreadPoolExecutor(len(MONTHS)) as pool:
        results = list(pool.map(one, MONTHS))
    assert [finding for result in results for finding in result.remaining.findings if finding.month] == []
    assert damaged.check().findings == []
    damaged.index.assert_consistent()
    damaged.restore()
