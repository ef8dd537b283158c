"""The Delta lake: the graph's IO manager, and what its steps and checks call directly.

Every write replaces whole partitions in one commit, named by an escaped predicate, after the rows were found to keep the
table's contract. So a reader sees a partition as it was or as it is, never half of it, and two writers of different
partitions never meet. Two writers of one partition conflict; the later one reads the log again and writes again.
"""

import random
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import dagster as dg

from resources.tables import TABLES, arrow_schema, checks, column_schema, polars_schema, violations

if TYPE_CHECKING:
    import polars as pl
    from deltalake import DeltaTable

    Rows = pl.DataFrame | Iterable[pl.DataFrame]

ATTEMPTS = 8
FIRST_PAUSE_S = 0.05
ROWS_PER_GROUP = 1024
"""Rows that the Parquet writer holds back at once: a thousand JPEGs are about 20 MB."""

T = TypeVar("T")


class PartitionMissing(LookupError):
    """The partition that was asked for is not in the table."""


class ContractError(ValueError):
    """Rows break the contract of the table that they were meant for; nothing was written."""


class DeltaLake(dg.ConfigurableIOManager):
    """The tables of `resources.tables` in one place.

    uri:             a folder, or `s3://bucket/prefix`.
    storage_options: for object stores, as delta-rs takes them; credentials come from the environment by default.
    """

    uri: str
    storage_options: dict[str, str] = {}

    # ---- tables --------------------------------------------------------------------------------------------------

    def table_uri(self, table: str) -> str:
        """Raises KeyError for a table that is not declared."""
        return f"{self.uri.rstrip('/')}/{TABLES[table].name}"

    def create_tables(self) -> None:
        """Create the tables that do not exist yet, with their declared schemas. Safe to race."""
        for table in TABLES:
            self._open_or_create(table)

    def table_version(self, table: str) -> int:
        """The table's newest Delta version."""
        return self._open_or_create(table).version()

    def _open(self, table: str) -> "DeltaTable | None":
        """The table, or None when it does not exist. Any other trouble is raised."""
        from deltalake import DeltaTable
        from deltalake.exceptions import TableNotFoundError

        try:
            return DeltaTable(self.table_uri(table), storage_options=self.storage_options or None)
        except TableNotFoundError:
            return None

    def _open_or_create(self, table: str) -> "DeltaTable":
        from deltalake import DeltaTable
        from deltalake.exceptions import DeltaError

        def open_or_create() -> "DeltaTable":
            found = self._open(table)
            if found is not None:
                return found
            if "://" not in self.uri:
                Path(self.table_uri(table)).mkdir(parents=True, exist_ok=True)
            try:
                return DeltaTable.create(
                    self.table_uri(table),
                    schema=arrow_schema(table),
                    partition_by=list(TABLES[table].partition_by),
                    name=table,
                    description=TABLES[table].description,
                    storage_options=self.storage_options or None,
                )
            except DeltaError:
                created_by_another = self._open(table)
                if created_by_another is None:
                    raise
                return created_by_another

        return open_or_create()

    # ---- writing -------------------------------------------------------------------------------------------------

    def write(self, table: str, partition: Mapping[str, str], rows: "Rows", data_version: str) -> int:
        """Replace one partition by `rows` in one commit; returns their number.

        rows: a frame, or frames that are consumed one by one, without partition columns and `data_version` (or with
        them; they are overwritten). Frames are cast to the declared types where that loses nothing.
        Raises ContractError, having written nothing, for rows that break the table's contract; OSError or DeltaError
        when the store fails, in which case readers still see the partition as it was.
        """
        import polars as pl

        frames = [rows] if isinstance(rows, pl.DataFrame) else rows
        with _spooled(table, (self._complete(table, partition, frame, data_version) for frame in frames)) as spool:
            if spool.rows:
                self._commit(table, partition, spool)
            else:
                self._delete(table, partition)
            return spool.rows

    def _complete(
        self, table: str, partition: Mapping[str, str], frame: "pl.DataFrame", data_version: str
    ) -> "pl.DataFrame":
        """The frame with all declared columns in their order and types."""
        import polars as pl

        declared = TABLES[table]
        if set(partition) != set(declared.partition_by):
            raise ContractError(f"{table} is partitioned by {declared.partition_by}, not by {tuple(partition)}")
        constants = {**partition, "data_version": data_version}
        frame = frame.with_columns(pl.lit(value).alias(name) for name, value in constants.items())
        schema = polars_schema(table)
        if set(frame.columns) == set(schema):
            try:
                frame = frame.select(list(schema)).cast(dict(schema))
            except pl.exceptions.PolarsError as error:
                raise ContractError(f"{table} {_shown(partition)}: {error}") from error
        found = violations(table, frame) if declared.name != "shots" else checks(table)["schema_matches"](frame)
        if found:
            raise ContractError(f"{table} {_shown(partition)}: {'; '.join(found)}")
        return frame

    def _commit(self, table: str, partition: Mapping[str, str], spool: "_Spool") -> None:
        from deltalake import write_deltalake

        predicate = _predicate(partition)
        properties = _writer_properties(table)

        def overwrite() -> None:
            write_deltalake(
                self._open_or_create(table),
                spool.reader(),
                mode="overwrite",
                predicate=predicate,
                writer_properties=properties,
            )

        _retrying(overwrite)

    def _delete(self, table: str, partition: Mapping[str, str]) -> None:
        _retrying(lambda: self._open_or_create(table).delete(_predicate(partition)))

    # ---- reading -------------------------------------------------------------------------------------------------

    def read(self, table: str, **partition: str) -> "pl.DataFrame":
        """The rows of one partition, or of all partitions that agree in the columns given, in the declared columns.

        Opens the files of those partitions only. Raises PartitionMissing when there are none.
        """
        import polars as pl

        unknown = set(partition) - set(TABLES[table].partition_by)
        if unknown or not partition:
            raise ValueError(f"{table} is partitioned by {TABLES[table].partition_by}, not by {tuple(partition)}")
        found = self._open(table)
        filters = [(name, "=", value) for name, value in partition.items()]
        if found is None or not found.file_uris(filters):
            raise PartitionMissing(f"{table} has no partition {_shown(partition)} in {self.uri}")
        rows = pl.scan_delta(found).filter(*(pl.col(name) == value for name, value in partition.items())).collect()
        return rows.select(list(polars_schema(table)))

    def scan(self, table: str) -> "pl.LazyFrame":
        """The whole table, lazily."""
        import polars as pl

        return pl.scan_delta(self._open_or_create(table))

    def data_versions(self, table: str) -> dict[tuple[str, ...], str]:
        """The data version of every partition, by the values of the partition columns in their declared order.

        Read from the Delta log alone: `data_version` is one value per partition, so it is its own minimum.
        """
        found = self._open(table)
        if found is None:
            return {}
        actions = found.get_add_actions(flatten=True)
        names = [f"partition.{name}" for name in TABLES[table].partition_by]
        columns = [actions[name].to_pylist() for name in (*names, "min.data_version")] if actions.num_rows else []
        return {tuple(key): version for *key, version in zip(*columns, strict=True)}

    # ---- Dagster -------------------------------------------------------------------------------------------------

    def write_metadata(self, table: str, partition: Mapping[str, str]) -> dict[str, Any]:
        """What a materialisation of the partition says in the UI: where it is, how many rows, in which version."""
        found = self._open_or_create(table)
        actions = found.get_add_actions(flatten=True)
        wanted = [actions[f"partition.{name}"].to_pylist() for name in partition] if actions.num_rows else []
        counts = actions["num_records"].to_pylist() if actions.num_rows else []
        rows = sum(count for key, count in zip(zip(*wanted, strict=True), counts) if key == tuple(partition.values()))
        return {
            "dagster/row_count": rows,
            "dagster/uri": self.table_uri(table),
            "dagster/column_schema": column_schema(table),
            "partition": _shown(partition),
            "delta_version": found.version(),
        }

    def handle_output(self, context: dg.OutputContext, obj: Any) -> None:
        """Write what an asset returns; the table is named by the last part of the asset's key.

        A run over one partition returns a frame, a run over several a mapping of frames by partition key: one commit
        each. An unpartitioned asset returns a frame with the table's partition columns. A frame's `data_version` is
        its own column, else the output metadata's `data_version`.
        """
        table = context.asset_key.path[-1]
        if context.has_asset_partitions:
            keys = list(context.asset_partition_keys)
            frames = obj if isinstance(obj, Mapping) else {keys[0]: obj} if len(keys) == 1 else None
            if frames is None or set(frames) != set(keys):
                got = sorted(frames) if frames is not None else type(obj).__name__
                raise ContractError(f"{table}: the run covers the partitions {keys}, but the step returned {got}")
            column = (
                TABLES[table].partition_by[-1]
                if "title_id" in TABLES[table].partition_by
                else TABLES[table].partition_by[0]
            )
            parts = [({column: key}, frames[key]) for key in keys]
        else:
            names = list(TABLES[table].partition_by)
            groups = obj.partition_by(names, as_dict=True)
            parts = [(dict(zip(names, key, strict=True)), frame) for key, frame in groups.items()]
        rows = 0
        for partition, frame in parts:
            own = frame["data_version"][0] if "data_version" in frame.columns and len(frame) else None
            rows += self.write(table, partition, frame, own or context.definition_metadata.get("data_version", ""))
        context.add_output_metadata(
            {
                "dagster/row_count": rows,
                "dagster/uri": self.table_uri(table),
                "dagster/column_schema": column_schema(table),
            }
        )

    def load_input(self, context: dg.InputContext) -> Any:
        """The frame of one partition, a mapping of frames by key for several, a lazy frame for the whole table."""
        table = context.asset_key.path[-1]
        if not context.has_asset_partitions:
            return self.scan(table)
        column = "title_id" if "title_id" in TABLES[table].partition_by else TABLES[table].partition_by[0]
        keys = list(context.asset_partition_keys)
        frames = {key: self.read(table, **{column: key}) for key in keys}
        return frames[keys[0]] if len(keys) == 1 else frames


class _Spool:
    """A partition's rows on local disk, so that a conflicting commit can be tried again without making them again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows = 0

    def reader(self) -> Any:
        import pyarrow as pa

        return pa.ipc.open_stream(pa.OSFile(str(self.path)))


@contextmanager
def _spooled(table: str, frames: "Iterable[pl.DataFrame]") -> Iterator[_Spool]:
    """Frames written to a temporary file as they come, then checked as a whole where frames alone do not tell."""
    import polars as pl
    import pyarrow as pa

    schema = arrow_schema(table)
    small = [name for name in polars_schema(table) if name not in ("embedding", "jpeg", "data")]
    kept: list[pl.DataFrame] = []
    with tempfile.TemporaryDirectory(prefix="mediafm-write-") as folder:
        spool = _Spool(Path(folder) / "rows.arrow")
        with pa.OSFile(str(spool.path), "wb") as file, pa.ipc.new_stream(file, schema) as stream:
            for frame in frames:
                kept.append(frame.select(small))
                spool.rows += len(frame)
                for batch in frame.to_arrow().cast(schema).to_batches(max_chunksize=ROWS_PER_GROUP):
                    stream.write_batch(batch)
        whole = pl.concat(kept) if kept else None
        if whole is not None:
            spanning = [
                check for name, check in checks(table).items() if name in ("keys_unique", "shots_tile_the_title")
            ]
            found = [violation for check in spanning for violation in check(whole)]
            if found:
                raise ContractError(f"{table}: {'; '.join(found)}")
        yield spool


def _retrying(commit: Callable[[], T]) -> T:
    """Try a commit again, after a growing pause with jitter, when another writer's commit came between."""
    from deltalake.exceptions import CommitFailedError

    for attempt in range(ATTEMPTS):
        try:
            return commit()
        except CommitFailedError:
            if attempt == ATTEMPTS - 1:
                raise
            time.sleep(FIRST_PAUSE_S * 2**attempt * (0.5 + random.random()))
    raise AssertionError("unreachable")


def _predicate(partition: Mapping[str, str]) -> str:
    """Values come from outside: quotes are doubled, as SQL wants them; names are our own."""
    return " AND ".join(f"{name} IN ('{_escaped(value)}')" for name, value in partition.items())


def _escaped(value: str) -> str:
    return value.replace("'", "''")


def _shown(partition: Mapping[str, str]) -> str:
    return ", ".join(f"{name}={value}" for name, value in partition.items())


def _writer_properties(table: str) -> Any:
    """Dictionaries for plain text columns only: vectors and blobs never repeat, and trying to find out makes the write
    three times slower and the file larger. (delta-rs cannot name a list's elements, so off is the default here.)"""
    from deltalake import ColumnProperties, WriterProperties

    texts = [column.name for column in TABLES[table].columns if column.type == "string"]
    return WriterProperties(
        compression="ZSTD",
        max_row_group_size=ROWS_PER_GROUP,
        default_column_properties=ColumnProperties(dictionary_enabled=False),
        column_properties={name: ColumnProperties(dictionary_enabled=True) for name in texts},
    )
