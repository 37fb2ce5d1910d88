"""pymilvus comes without pandas, and gets it once it uses it."""

from __future__ import annotations

import subprocess
import sys

from rag_pipeline_tests.support.stores import Stores
from rag_pipeline_tests.support.workspace import clean_environment


def _printed(program: str, *arguments: str) -> str:
    command = [sys.executable, "-c", program, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=clean_environment())
    return done.stdout.strip()


def test_the_index_is_written_and_searched_without_pandas(stores: Stores) -> None:
    program = """
import sys
from uuid import uuid4
from rag_pipeline.months import Month
from rag_pipeline.stores.milvus.client import Milvus
from rag_pipeline.stores.milvus.collections import Collections, generations
uri, prefix = sys.argv[1:]
milvus, month = Milvus(uri), Month(2024, 3)
collections = Collections(milvus, generations(prefix, "cheap", 4, 4, ("dense",)))
collections.ensure(month)
name = collections.generations["dense"].name
row = {"id": str(uuid4()), "vector": [1.0, 0, 0, 0], "document_id": "d", "source_type": "filesystem", "language": "ja",
       "chunk_position": 0, "created_timestamp": int(month.start.timestamp())}
with milvus.client() as client:
    client.upsert(name, [row], partition_name=month.milvus_partition)
    hits = client.search(name, data=[[1.0, 0, 0, 0]], anns_field="vector", limit=1, output_fields=["language"])
    client.delete(name, ids=[row["id"]])
print(hits[0][0]["entity"]["language"], [name for name in ("pandas", "pyarrow") if name in sys.modules])
"""
    assert _printed(program, stores.endpoints.milvus_uri, stores.prefix) == "ja []"


def test_pymilvus_gets_pandas_once_it_uses_it() -> None:
    program = """
import sys
from rag_pipeline.stores.milvus.pandas_on_demand import import_pymilvus
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
from rag_pipeline.stores.milvus.pandas_on_demand import import_pymilvus
import_pymilvus()
from pymilvus.orm import schema
print(schema.pd is pandas)
"""
    assert _printed(program) == "True"
