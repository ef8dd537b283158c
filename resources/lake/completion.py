"""Rows as a step hands them over, made the rows that a table stores, or refused."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from resources.lake.contracts import WHOLE_PARTITION, checks
from resources.lake.schemas import polars_schema
from resources.lake.tables import TABLES

if TYPE_CHECKING:
    import polars as pl

    Rows = pl.DataFrame | Iterable[pl.DataFrame]

LONGEST_DATA_VERSION = 32
"""Longer strings are cut in the Delta log's statistics, which is where versions are read from."""
NULLS = ("", "__HIVE_DEFAULT_PARTITION__")
"""Values of a partition column that Delta, or its readers, take for null."""
Partition = Mapping[str, str]


class ContractError(ValueError):
    """Rows break the contract of the table that they were meant for; nothing was written."""


def refuse_names(table: str, partition: Partition, data_version: str) -> None:
    declared = TABLES[table].partition_by
    if set(partition) != set(declared):
        raise ContractError(f"{table} is partitioned by {declared}, not by {tuple(partition)}")
    for name, value in partition.items():
        if not isinstance(value, str) or value in NULLS:
            raise ContractError(f"{table}: {value!r} cannot name a partition by {name}")
    if not 0 < len(data_version) <= LONGEST_DATA_VERSION:
        raise ContractError(f"{table} {shown(partition)}: a data version has 1 to 32 characters, not {data_version!r}")


def completed(table: str, frame: "pl.DataFrame", partition: Partition, **constants: str) -> "pl.DataFrame":
    """The frame with all declared columns in their order and types. Raises ContractError for what breaks a contract
    that can be told from a part of a partition."""
    import polars as pl

    for name in set(partition) & set(frame.columns):
        if (frame[name].drop_nulls() != partition[name]).any():
            raise ContractError(f"{table} {shown(partition)}: the rows name another {name}")
    frame = frame.with_columns(pl.lit(value).alias(name) for name, value in {**partition, **constants}.items())
    schema = polars_schema(table)
    frame = frame.select(*(name for name in schema if name in frame.columns), pl.exclude(*schema))
    for name, kind in frame.schema.items():
        if name in schema and kind != schema[name] and _loses_nothing(kind, schema[name]):
            try:
                frame = frame.with_columns(pl.col(name).cast(schema[name]))
            except pl.exceptions.PolarsError as error:
                raise ContractError(f"{table} {shown(partition)}: {name}: {error}") from error
    by_name = checks(table)
    found = by_name.pop("schema_matches")(frame)
    if not found:
        found = [v for name, check in by_name.items() if name not in WHOLE_PARTITION for v in check(frame)]
    if found:
        raise ContractError(f"{table} {shown(partition)}: {'; '.join(found)}")
    return frame


def _loses_nothing(kind: "pl.DataType", declared: "pl.DataType") -> bool:
    """Whether every value of a column's type has its equal in the declared type, or else fails to be cast."""
    import polars as pl

    if kind == pl.Null:
        return True
    if isinstance(kind, pl.List | pl.Array) and isinstance(declared, pl.List):
        inner: Any = kind.inner
        # Vectors come as float64 from Python lists; float32 is what they are declared to be worth.
        return bool(_loses_nothing(inner, declared.inner) or inner == declared.inner or inner == pl.Float64)  # type: ignore[arg-type]
    if kind.is_integer():
        return declared.is_integer() or declared == pl.Float64
    return kind == pl.Float32 and declared == pl.Float64


def shown(partition: Mapping[str, str | None]) -> str:
    return ", ".join(f"{name}={value}" for name, value in partition.items())
