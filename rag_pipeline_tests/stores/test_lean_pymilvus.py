"""pymilvus comes without pandas and SciPy, and gets them once it uses them."""

from __future__ import annotations

import subprocess
import sys

from rag_pipeline_tests.support.stores import Stores
from rag_pipeline_tests.support.workspace import clean_environment


def _printed(program: str, *arguments: str) -> str:
    command = [sys.executable, "-c", program, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=clean_environment())
    return done.stdout.strip()


def test_the_index_is_written_and_searched_without_them(stores: Stores) -> None:
    program = """
import sys
from uuid import uuid4
from rag_pipeline.months import Month
from rag_pipeline.stores.milvus.client import Milvus
from rag_pipeline.stores.milvus.collections import Collections, generations
uri, prefix = sys.argv[1:]
milvus, month = Milvus(uri), Month(2024, 3)
collections = Collections(milvus, generations(prefix, "cheap", 4, 4, ("dense", "sparse")))
collections.ensure(month)
vectors = {"dense": [1.0, 0, 0, 0], "sparse": {7: 1.0}}
more = {"dense": {}, "sparse": {"vocabulary_size": 1}}
with milvus.client() as client:
    for kind, vector in vectors.items():
        name = collections.generations[kind].name
        row = {"id": str(uuid4()), "vector": vector, "document_id": "d", "source_type": "filesystem", "language": "ja",
               "chunk_position": 0, "created_timestamp": int(month.start.timestamp()), **more[kind]}
        client.upsert(name, [row], partition_name=month.milvus_partition)
        hits = client.search(name, data=[vector], anns_field="vector", limit=1, output_fields=["language"])
        client.delete(name, ids=[row["id"]])
        print(hits[0][0]["entity"]["language"])
print([name for name in ("pandas", "pyarrow", "scipy.sparse") if name in sys.modules])
"""
    assert _printed(program, stores.endpoints.milvus_uri, stores.prefix).split() == ["ja", "ja", "[]"]


def test_pymilvus_knows_the_sparse_vectors_of_scipy_once_that_is_imported() -> None:
    program = """
import sys
from rag_pipeline.stores.milvus.lean_pymilvus import import_pymilvus
import_pymilvus()
from pymilvus.client.entity_helper import entity_is_sparse_matrix
assert entity_is_sparse_matrix([{7: 1.0}]) and not entity_is_sparse_matrix([[1.0]])
assert "scipy.sparse" not in sys.modules
from scipy.sparse import csr_array, csr_matrix
print(entity_is_sparse_matrix(csr_array([[0, 1.0]])), entity_is_sparse_matrix(csr_matrix([[0, 1.0]])))
"""
    assert _printed(program) == "True True"


def test_pymilvus_gets_pandas_once_it_uses_it() -> None:
    program = """
import sys
from rag_pipeline.stores.milvus.lean_pymilvus import import_pymilvus
import_pymilvus()
import_pymilvus()
assert "pandas" not in sys.modules
from pymilvus.orm import schema, types
print(types.infer_dtype_bydata([1.5, 2.5]).name, types.infer_dtype_bydata("text").name)
import pandas, pandas.api.types
assert schema.pd.DataFrame is pandas.DataFrame
assert schema.is_valid_insert_data(pandas.DataFrame())
"""
    assert _printed(program) == "FLOAT_VECTOR VARCHAR"


def test_pandas_that_is_imported_already_is_the_one_that_pymilvus_gets() -> None:
    program = """
import pandas
from rag_pipeline.stores.milvus.lean_pymilvus import import_pymilvus
import_pymilvus()
from pymilvus.orm import schema
print(schema.pd is pandas)
"""
    assert _printed(program) == "True"
