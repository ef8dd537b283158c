"""Other teams' readers: each opens the tables in a process that knows nothing of this project."""

import json
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import pytest

from resources.lake import TABLES, DeltaLake
from resources.lake.tables import TRACK_FIELDS, TRACKS
from tests.resources.lake_rows import partition, rows

ROWS = 3
STRANGE_TITLE = "it's 100%/ü"

# Each prints, for each table, its rows, the names of its columns with their types in the reader's own words, the
# lengths of its vectors, and the first partition's values.
READERS = {
    "polars": """
import polars as pl
def look(uri):
    frame = pl.read_delta(uri)
    types = {name: str(kind) for name, kind in frame.schema.items()}
    lengths = frame["embedding"].list.len().to_list() if "embedding" in types else []
    return len(frame), types, lengths, frame.to_dicts()[0]
""",
    "pyarrow": """
from deltalake import DeltaTable
def look(uri):
    table = DeltaTable(uri).to_pyarrow_dataset().to_table()
    types = {field.name: str(field.type) for field in table.schema}
    lengths = [len(v) for v in table["embedding"].to_pylist()] if "embedding" in types else []
    return len(table), types, lengths, table.to_pylist()[0]
""",
    "pandas": """
from deltalake import DeltaTable
def look(uri):
    frame = DeltaTable(uri).to_pandas()
    types = {name: str(kind) for name, kind in frame.dtypes.items()}
    lengths = [len(v) for v in frame["embedding"]] if "embedding" in types else []
    return len(frame), types, lengths, frame.to_dict("records")[0]
""",
    "duckdb": """
import duckdb
from deltalake import DeltaTable
def look(uri):
    stored = DeltaTable(uri).to_pyarrow_dataset()
    types = {name: kind for name, kind, *_ in duckdb.sql("describe select * from stored").fetchall()}
    lengths = []
    if "embedding" in types:
        lengths = [n for n, in duckdb.sql("select len(embedding) from stored").fetchall()]
    ((count,),) = duckdb.sql("select count(*) from stored").fetchall()
    return count, types, lengths, dict(zip(types, duckdb.sql("select * from stored limit 1").fetchall()[0]))
""",
}
PRINT = """
import json, os, sys
seen = {table: look(sys.argv[1] + "/" + table) for table in sys.argv[2:]}
assert not {"resources", "model", "mediafm_assets", "dagster"} & {*sys.modules}
keys = ("title_id", "encoder_version", "task", "run_id", "step", "data_version")
print(json.dumps({table: (n, types, lengths, {key: first[key] for key in keys if key in first})
                  for table, (n, types, lengths, first) in seen.items()}), flush=True)
os._exit(0)  # pyarrow's threads abort one interpreter in 200 that ends in the ordinary way
"""

# The declared type in each reader's words.
TYPES = {
    "polars": {
        "string": "String", "int32": "Int32", "int64": "Int64", "float64": "Float64", "bool": "Boolean",
        "binary": "Binary", "timestamp": "Datetime(time_unit='us', time_zone='UTC')", "list<string>": "List(String)",
        "list<int64>": "List(Int64)", "list<float32>": "List(Float32)",
        TRACKS: "List(Struct({%s}))" % ", ".join(f"'{field}': String" for field in TRACK_FIELDS),  # noqa: UP031
    },
    "pyarrow": {
        "string": "string", "int32": "int32", "int64": "int64", "float64": "double", "bool": "bool",
        "binary": "binary", "timestamp": "timestamp[us, tz=UTC]", "list<string>": "list<element: string>",
        "list<int64>": "list<element: int64>", "list<float32>": "list<element: float>",
        TRACKS: f"list<element: struct<{', '.join(f'{field}: string' for field in TRACK_FIELDS)}>>",
    },
    "pandas": {
        "int32": "int32", "int64": "int64", "float64": "float64", "bool": "bool", "timestamp": "datetime64[us, UTC]",
    },
    "duckdb": {
        "string": "VARCHAR", "int32": "INTEGER", "int64": "BIGINT", "float64": "DOUBLE", "bool": "BOOLEAN",
        "binary": "BLOB", "timestamp": "TIMESTAMP WITH TIME ZONE", "list<string>": "VARCHAR[]",
        "list<int64>": "BIGINT[]", "list<float32>": "FLOAT[]",
        TRACKS: 'STRUCT("name" VARCHAR, "language" VARCHAR, kind VARCHAR, format VARCHAR, sha256 VARCHAR)[]',
    },
}  # fmt: skip


def rows_of(table: str) -> int:
    return ROWS if TABLES[table].key else 1


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> DeltaLake:
    """Every table with one partition of few rows."""
    lake = DeltaLake(uri=str(tmp_path_factory.mktemp("lake")))
    for table in TABLES:
        if any(column.name == "data_version" for column in TABLES[table].columns):
            lake.write(table, partition(table, STRANGE_TITLE), rows(table, rows_of(table)), "v1")
        else:
            lake.append(table, rows(table, rows_of(table)))
    return lake


@pytest.fixture(scope="module", params=READERS)
def seen(request: pytest.FixtureRequest, lake: DeltaLake, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The reader's name, and what it saw in each table."""
    ran = subprocess.run(
        # Isolated (-I): neither this checkout nor the environment's PYTHONPATH is looked into.
        [sys.executable, "-I", "-c", READERS[request.param] + PRINT, lake.uri, *TABLES],
        cwd=tmp_path_factory.mktemp("elsewhere"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return request.param, json.loads(ran.stdout)


def test_every_row_is_there(seen: tuple[str, Mapping[str, Any]]) -> None:
    _, tables = seen
    assert {table: count for table, (count, *_) in tables.items()} == {table: rows_of(table) for table in TABLES}


def test_columns_have_their_declared_names_and_types(seen: tuple[str, Mapping[str, Any]]) -> None:
    reader, tables = seen
    for table, (_, types, _, _) in tables.items():
        assert set(types) == {column.name for column in TABLES[table].columns}
        for column in TABLES[table].columns:
            if reader == "pandas" and (column.nullable or column.type not in TYPES[reader]):
                continue  # object, or its own string type; a column of nulls is what pandas makes of it
            assert types[column.name] == TYPES[reader][column.type], f"{table}.{column.name}"


def test_vectors_have_their_lengths(seen: tuple[str, Mapping[str, Any]]) -> None:
    _, tables = seen
    assert tables["fused_embeddings"][2] == [2304] * ROWS
    for modality in ("video", "audio", "text"):
        assert tables[f"{modality}_embeddings"][2] == [768] * ROWS
    assert tables["contextual_embeddings"][2] == [32] * ROWS
    assert tables["global_embeddings"][2] == [32]


def test_keys_come_back_as_they_were_written(seen: tuple[str, Mapping[str, Any]]) -> None:
    _, tables = seen
    for table, (*_, first) in tables.items():
        named = partition(table, STRANGE_TITLE)
        for name, value in {**named, "data_version": "v1"}.items() if named else []:
            assert first[name] == value, f"{table}.{name}"
