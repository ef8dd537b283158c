"""The declared columns of a table as polars, pyarrow and Dagster have them."""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from resources.lake.lineage import MADE_FROM
from resources.lake.tables import TABLES, TRACK_FIELDS, TRACKS, Column

if TYPE_CHECKING:
    import dagster as dg
    import numpy as np
    import polars as pl


@cache
def polars_schema(table: str) -> "Mapping[str, pl.DataType]":
    """The columns of the table in order, as polars types."""
    import polars as pl

    types: dict[str, Any] = {
        "string": pl.String(),
        "int32": pl.Int32(),
        "int64": pl.Int64(),
        "float64": pl.Float64(),
        "bool": pl.Boolean(),
        "binary": pl.Binary(),
        "timestamp": pl.Datetime("us", "UTC"),
        "list<string>": pl.List(pl.String()),
        "list<int64>": pl.List(pl.Int64()),
        "list<float32>": pl.List(pl.Float32()),
        TRACKS: pl.List(pl.Struct({name: pl.String() for name in TRACK_FIELDS})),
    }
    return {column.name: types[column.type] for column in TABLES[table].columns}


@cache
def arrow_schema(table: str) -> Any:
    """The columns of the table as a pyarrow schema, with nullability and descriptions: what Delta is created with."""
    import pyarrow as pa

    types = {
        "string": pa.string(),
        "int32": pa.int32(),
        "int64": pa.int64(),
        "float64": pa.float64(),
        "bool": pa.bool_(),
        "binary": pa.binary(),
        "timestamp": pa.timestamp("us", "UTC"),
        "list<string>": pa.list_(pa.string()),
        "list<int64>": pa.list_(pa.int64()),
        "list<float32>": pa.list_(pa.float32()),
        TRACKS: pa.list_(pa.struct([pa.field(name, pa.string()) for name in TRACK_FIELDS])),
    }
    return pa.schema(
        pa.field(
            column.name,
            types[column.type],
            column.nullable or column.default is not None,
            {"comment": column.description},
        )
        for column in TABLES[table].columns
    )


def defaults(table: str) -> "list[pl.Expr]":
    """The columns that have a default, with it for null."""
    import polars as pl

    columns = TABLES[table].columns
    return [pl.col(column.name).fill_null(column.default) for column in columns if column.default is not None]


def column_schema(table: str) -> "dg.TableSchema":
    """The columns of the table as the Dagster UI shows them. It has no place for their lineage, so each says itself
    what it is made from."""
    import dagster as dg

    def description(column: Column) -> str:
        sources = MADE_FROM.get(table, {}).get(column.name, ())
        return column.description + (f" From {', '.join(f'`{source}`' for source in sources)}." if sources else "")

    def constraints(column: Column) -> list[str]:
        lengths = [f"{column.length} numbers"] if column.length else []
        return lengths + (["part of the key"] if column.name in TABLES[table].key else [])

    return dg.TableSchema(
        columns=[
            dg.TableColumn(
                column.name,
                column.type,
                description(column),
                constraints=dg.TableColumnConstraints(nullable=column.nullable, other=constraints(column)),
            )
            for column in TABLES[table].columns
        ]
    )


def typed_rows(table: str, rows: Sequence[Mapping[str, Any]]) -> "pl.DataFrame":
    """Rows of one partition in the declared types, as `DeltaLake.write` takes them: without the partition columns and
    `data_version`. Columns that a row does not have are null."""
    import polars as pl

    filled_in = {*TABLES[table].partition_by, "data_version"}
    return pl.DataFrame(
        rows, schema={name: kind for name, kind in polars_schema(table).items() if name not in filled_in}
    )


def vectors(rows: "pl.DataFrame", column: str = "embedding") -> "np.ndarray":
    """The vectors of n rows as (n, d) float32. Raises ValueError where their lengths differ."""
    return rows[column].explode().to_numpy().reshape(len(rows), -1)
