"""A partition's rows as a Parquet file, made on local disk and then uploaded."""

import json
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from resources.lake import health as lake_health
from resources.lake.completion import ContractError, Partition, shown
from resources.lake.contracts import WHOLE_PARTITION, checks
from resources.lake.log import DeltaLog, NewFile
from resources.lake.schemas import arrow_schema
from resources.lake.tables import TABLES
from resources.scratch import scratch_folder

if TYPE_CHECKING:
    import polars as pl

    Rows = pl.DataFrame | Iterable[pl.DataFrame]

ROWS_PER_GROUP = 1024
BYTES_PER_GROUP = 16 * 1024 * 1024
"""Of a Parquet row group, whichever is reached first: what a write holds in memory."""
UPLOAD_BYTES = 8 * 1024 * 1024


@dataclass(frozen=True)
class _DataFile:
    """A partition's rows as Parquet on local disk: made once, whatever becomes of the commit."""

    path: Path
    partition: Partition
    rows: int
    statistics: dict[str, Any]


@contextmanager
def encoded_files(table: str, frames: "Iterable[pl.DataFrame]") -> "Iterator[list[_DataFile]]":
    """Frames as data files, one for each partition, in a temporary folder; the frames of a partition follow each other.

    Written by pyarrow as they come: delta-rs holds all of a write in memory, seven times over. Raises ContractError for
    what only a whole partition tells.
    """
    declared = TABLES[table].partition_by
    with scratch_folder() as folder:
        files = []
        full = (frame for frame in frames if len(frame))
        for number, (values, of_partition) in enumerate(
            groupby(full, lambda frame: tuple(frame[name][0] for name in declared))
        ):
            partition = dict(zip(declared, values, strict=True))
            files.append(_encode(table, partition, of_partition, folder / f"{number}.parquet"))
        yield files


def _encode(table: str, partition: Partition, frames: "Iterable[pl.DataFrame]", path: Path) -> _DataFile:
    import polars as pl
    import pyarrow as pa
    import pyarrow.parquet as pq

    declared = TABLES[table]
    types = {column.name: column.type for column in declared.columns}
    numbered = {name for name in declared.key if types[name] in ("int32", "int64")}
    looked_up = [name for name in types if name == "data_version" or name in numbered]
    whole = {"data_version", *declared.partition_by, *declared.key}
    light = [name for name, kind in types.items() if name in whole or kind in ("int32", "int64", "float64")]
    # Partition columns are in the log. Dictionaries for plain text only: vectors and blobs never repeat, and trying to
    # find out makes the write three times slower and the file larger.
    schema = pa.schema(
        field.remove_metadata() for field in arrow_schema(table) if field.name not in declared.partition_by
    )
    kept: list[pl.DataFrame] = []
    with pq.ParquetWriter(
        path,
        schema,
        compression="zstd",
        use_dictionary=[name for name in schema.names if types[name] == "string"],
        write_statistics=looked_up,
    ) as writer:
        for group in _row_groups(frames):
            kept.append(group.select(light))
            writer.write_table(group.select(schema.names).to_arrow().cast(schema))
    partition_rows = pl.concat(kept)
    found = [v for name, check in checks(table).items() if name in WHOLE_PARTITION for v in check(partition_rows)]
    if found:
        raise ContractError(f"{table} {shown(partition)}: {'; '.join(found)}")
    statistics = {
        "numRecords": len(partition_rows),
        "minValues": {name: partition_rows[name].min() for name in looked_up},
        "maxValues": {name: partition_rows[name].max() for name in looked_up},
        "nullCount": dict.fromkeys(looked_up, 0),
    }
    return _DataFile(path, partition, len(partition_rows), statistics)


def _row_groups(frames: "Iterable[pl.DataFrame]") -> "Iterator[pl.DataFrame]":
    """The same rows in frames of a row group each: whatever is smaller, `ROWS_PER_GROUP` or `BYTES_PER_GROUP`."""
    import polars as pl

    waiting: list[pl.DataFrame] = []
    for frame in frames:
        for part in frame.iter_slices(ROWS_PER_GROUP):
            waiting.append(part)
            rows, size = sum(map(len, waiting)), sum(frame.estimated_size() for frame in waiting)
            if rows >= ROWS_PER_GROUP or size >= BYTES_PER_GROUP:
                yield pl.concat(waiting)
                waiting = []
    if waiting:
        yield pl.concat(waiting)


def upload(log: DeltaLog, file: _DataFile) -> NewFile:
    """Copy a data file into the table's folder, where no reader sees it before a commit names it. What a failure
    leaves there is for `maintain`. Its name holds a digest, by which `lake_health` tells its bytes from others."""
    folders = [f"{name}={quote(value, safe='')}" for name, value in file.partition.items()]
    with file.path.open("rb") as source:
        digest = lake_health.digest_of(source)
    # The random part: of two equal writes, the removal of one must not take the other's file.
    path = "/".join([*folders, f"{uuid.uuid4()}.{digest}.zstd.parquet"])
    # Without a buffer larger than what is written, pyarrow hands over Buffers, which delta-rs does not take.
    with file.path.open("rb") as source, log.store().open_output_stream(path, buffer_size=UPLOAD_BYTES) as target:
        while block := source.read(UPLOAD_BYTES // 8):
            target.write(block)
    return NewFile(path, file.path.stat().st_size, file.partition, json.dumps(file.statistics))
