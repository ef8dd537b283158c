"""The Delta lake: what steps, checks and planners write to and read from.

Every write replaces the files of whole partitions in one commit, after the rows were found to keep the table's
contract. So a reader sees a partition as it was or as it is, never half of it. Of two writers that commit at once, the
later one reads the log again and commits again; its rows are long written, and of one partition, it is the one to stay.
"""

import random
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import Field

from resources.lake import health as lake_health
from resources.lake.completion import ContractError, Partition, completed, refuse_names, shown
from resources.lake.encoding import encoded_files, upload
from resources.lake.health import Maintenance
from resources.lake.log import DeltaLog, File, Key, NewFile, Overtaken, explained, log_of
from resources.lake.migration import OtherTable, changed_fields
from resources.lake.reading import Damaged, for_polars, rows_of, uri_of
from resources.lake.rows_copy import FILE, copied_rows, copy_rows
from resources.lake.schemas import arrow_schema, defaults, polars_schema
from resources.lake.tables import TABLES

if TYPE_CHECKING:
    import polars as pl

    Rows = pl.DataFrame | Iterable[pl.DataFrame]

# Any commit in between counts as a conflict, so a writer among many must be able to lose often.
ATTEMPTS = 100
ATTEMPTS_ON_A_VERSION = 5
"""Of commits to one version of the log: where nobody else's commit came between, it is the store that refuses."""
FIRST_PAUSE_S = 0.05
LONGEST_PAUSE_S = 0.8
COPIED_FROM = 100
"""So many files that `read_whole` has to open make it write its copy anew: opening them takes 0.02 s, writing a copy of
10,000 rows 0.05 s."""


class PartitionMissing(LookupError):
    """The partition that was asked for is not in the table."""


class DeltaLake(dg.ConfigurableResource):
    """The declared tables in one place.

    uri:             a folder, or `s3://bucket/prefix`.
    storage_options: for object stores, as delta-rs takes them; credentials come from the environment by default.
    pinned:          Delta versions of tables that are to be read as they were then; see `at_present`.

    delta-rs does not survive a fork: processes that use a lake must be spawned, as Dagster's are.
    """

    uri: str
    storage_options: dict[str, str] = Field(default={})
    pinned: dict[str, int] = Field(default={})

    # ---- tables --------------------------------------------------------------------------------------------------

    def table_uri(self, table: str) -> str:
        """Raises KeyError for a table that is not declared."""
        return f"{self.uri.rstrip('/')}/{TABLES[table].name}"

    def create_tables(self) -> None:
        """Create the tables that do not exist yet, and give the others the columns that are declared by now. Safe to
        race. Raises ContractError for a table that cannot get them."""
        for table in TABLES:
            self._migrate(table, self._created(table))

    def table_version(self, table: str) -> int:
        """The table's newest Delta version, or the one that it is pinned to."""
        return self._version_of(self._created(table))

    def at_present(self, *tables: str) -> "DeltaLake":
        """This lake for reading, with these tables as they are now, whatever is written later."""
        pinned = {table: self.table_version(table) for table in tables}
        return DeltaLake(uri=self.uri, storage_options=self.storage_options, pinned=pinned)

    def _log(self, table: str) -> DeltaLog:
        """What the table's log says, which this process reads once and then follows."""
        uri, pinned = self.table_uri(table), self.pinned.get(table)
        return log_of(uri, TABLES[table].partition_by, self.storage_options, pinned)

    def _version_of(self, log: DeltaLog) -> int:
        version = log.version()
        if version is None:
            raise OSError(f"There is no Delta table in {log.uri}, though there was one just now. See who removes it.")
        return version

    def _created(self, table: str) -> DeltaLog:
        """The log of the table, which is created where it does not exist."""
        from deltalake import CommitProperties, DeltaTable
        from deltalake.exceptions import DeltaError

        log = self._log(table)
        if log.version() is not None:
            return log
        if log.local:
            Path(log.uri).mkdir(parents=True, exist_ok=True)
        declared = TABLES[table]
        try:
            DeltaTable.create(
                log.uri,
                schema=arrow_schema(table),
                partition_by=list(declared.partition_by),
                name=table,
                description=declared.description,
                configuration={
                    "delta.dataSkippingStatsColumns": ",".join(
                        column.name for column in declared.columns if column.name in ("data_version", *declared.key)
                    ),
                    **lake_health.LOG_RETENTION,
                },
                storage_options=self.storage_options or None,
                # Without this, the loser of a race creates the table once more, as version 1 over the winner's.
                commit_properties=CommitProperties(max_commit_retries=0),
            )
        except (DeltaError, OSError):
            if log.version() is None:
                raise  # else another was first, or the answer was late
        return log

    # ---- writing -------------------------------------------------------------------------------------------------

    def write(self, table: str, partition: Partition, rows: "Rows", data_version: str) -> int:
        """Replace one partition by `rows` in one commit; returns their number. No rows leave no partition.

        rows: a frame, or frames that are consumed one by one, in any order of columns. Partition columns and
        `data_version` may be there or not: they are filled in, `data_version` is overwritten, and another partition's
        rows are refused. Integers of another width, whole numbers for decimals and columns of nulls are cast.
        Raises ContractError, having written nothing, for rows that break the table's contract; whatever the rows'
        iterator raises; Unavailable when the store refuses the credentials, OSError or DeltaError when it fails
        otherwise. Readers then still see the partition as it was.
        """
        import polars as pl

        frames = [rows] if isinstance(rows, pl.DataFrame) else rows
        refuse_names(table, partition, data_version)
        return self._replace(
            table, [partition], (completed(table, f, partition, data_version=data_version) for f in frames)
        )

    def append(self, table: str, rows: "pl.DataFrame") -> None:
        """Add rows to a table without partitions, in one commit. Raises as `write`."""
        if TABLES[table].partition_by:
            raise ContractError(f"{table} has partitions, which are replaced whole")
        self._replace(table, [], [completed(table, rows, {})])

    def write_partitions(self, table: str, rows: "pl.DataFrame") -> int:
        """Replace, in one commit, every partition that `rows` name in their partition columns; returns their number.

        Each partition's data version stands in its rows. Raises as `write`.
        """
        declared = TABLES[table].partition_by
        missing = [name for name in declared if name not in rows.columns]
        if missing:
            raise ContractError(f"{table}: the rows do not say their {', '.join(missing)}")
        parts = []
        for values, frame in rows.partition_by(declared, as_dict=True, maintain_order=True).items():
            partition = dict(zip(declared, values, strict=True))
            versions = frame["data_version"].unique().to_list() if "data_version" in frame.columns else []
            if len(versions) != 1 or versions[0] is None:
                raise ContractError(f"{table}: the rows of a partition need one data version, but have {versions}")
            refuse_names(table, partition, versions[0])
            parts.append((partition, completed(table, frame, partition)))
        if not parts:
            return 0
        return self._replace(table, [partition for partition, _ in parts], (frame for _, frame in parts))

    def delete(self, table: str, partition: Partition) -> int:
        """Remove, in one commit, the partitions that agree in the columns given, at least one; returns the bytes of
        their files, which `maintain` frees later. Nothing happens when there are none. Raises ValueError for other
        columns."""
        log = self._created(table)
        files = [file for of_key in self._files_of(table, log, partition).values() for file in of_key]
        self._replace(table, [partition], [])
        return sum(file.size for file in files)

    def _replace(self, table: str, partitions: Sequence[Partition], frames: "Iterable[pl.DataFrame]") -> int:
        with encoded_files(table, frames) as files:
            log = self._created(table)
            self._migrate(table, log)
            with explained(log.uri):
                added = [upload(log, file) for file in files]

            def commit(version: int) -> None:
                if _are_there(log, added):
                    return  # by an earlier try: a store may take a commit and lose the answer
                found = [log.files(partition) for partition in partitions]
                replaced = [(key, file) for by_key in found for key, files in by_key.items() for file in files]
                if replaced or added:
                    log.commit(version, replaced, added)

            self._commit(table, log, commit)
            return sum(file.rows for file in files)

    def _migrate(self, table: str, log: DeltaLog) -> None:
        """Give the table the columns that it does not have as declared, in a commit that touches no data file."""

        def commit(version: int) -> None:
            try:
                fields = changed_fields(table, log)
            except OtherTable as error:
                raise ContractError(f"{table} in {self.uri} {error}") from None
            if fields:
                log.change_columns(version, fields)

        if log.created_with() != (arrow_schema(table), TABLES[table].partition_by):
            self._commit(table, log, commit)

    def _commit(self, table: str, log: DeltaLog, commit: Callable[[int], None]) -> None:
        """Make a commit: `commit` gets its version, and is told again, after a growing pause with jitter, when another
        writer's commit came between.

        Raises OSError for a race that was lost too often, and for a log that takes no commit although nobody else
        writes to it.
        """
        failures: Counter[int] = Counter()
        while True:
            version = self._version_of(log)
            try:
                # A commit between this reading of the log and the next can do no harm: it overtakes this one.
                return commit(version + 1)
            except Overtaken as error:
                failures[version] += 1
                if failures.total() == ATTEMPTS or failures[version] == ATTEMPTS_ON_A_VERSION:
                    raise OSError(
                        f"The Delta log of {table} in {self.uri} took none of {failures.total()} commits, the last "
                        f"{failures[version]} of them on version {version} ({error}). Nothing was "
                        "changed. See whether the store is full or read-only, or who writes to the table without end."
                    ) from error
            pause = min(FIRST_PAUSE_S * 2 ** failures.total(), LONGEST_PAUSE_S)
            time.sleep(pause * (0.5 + random.random()))

    # ---- reading -------------------------------------------------------------------------------------------------

    def read(self, table: str, **partition: str) -> "pl.DataFrame":
        """The rows of one partition, or of all partitions that agree in the columns given, in the declared columns, in
        the order of the key.

        Opens the files of those partitions only. Raises PartitionMissing when there are none, Damaged when one of them
        is not as it was written.
        """
        declared = TABLES[table]
        log = self._log(table)
        found = self._files_of(table, log, partition)
        if not found:
            raise PartitionMissing(f"{table} has no partition {shown(partition)} in {self.uri}")
        rows = rows_of(table, log, [(key, file) for key, files in found.items() for file in files])
        return rows.select(list(polars_schema(table))).sort(*declared.partition_by, *declared.key)

    def read_as_made(self, table: str, partition: Partition, data_version: str | None = None) -> "pl.DataFrame":
        """The rows of one partition in that data version, or in its latest: as it is, or else as it was, while the
        table's history still has it (`maintain` removes what is older than its retention).

        Raises PartitionMissing where it has not, Damaged as `read`.
        """
        log, key = self._log(table), tuple(partition[name] for name in TABLES[table].partition_by)
        now = log.data_versions().get(key)
        if now is not None and data_version in (None, now):
            return self.read(table, **partition)
        version = log.added_in(key, data_version)
        gone = f"{table} {shown(partition)} is in {self.uri} no more, nor in what is kept of its history"
        if version is None:
            raise PartitionMissing(gone)
        then = DeltaLake(uri=self.uri, storage_options=self.storage_options, pinned={table: version})
        try:
            return then.read(table, **partition)
        except Damaged as error:
            raise PartitionMissing(gone) from error

    def read_whole(self, table: str) -> "pl.DataFrame":
        """All rows of a table whose rows are small, in the declared columns, in the order of partition and key.

        Opening a file takes as long as reading a thousand such rows, so a copy of them lies beside the files, from
        which those come that are in the table still; a file's name is its rows' identity. Of the others, each is
        opened, and when they are many, the copy is written anew. Raises Damaged as `read`.
        """
        import polars as pl

        declared = TABLES[table]
        log = self._created(table)
        names = {file.path: (key, file) for key, files in log.files({}).items() for file in files}
        copied = copied_rows(log, table)
        copied = copied.filter(pl.col(FILE).is_in(list(names)))
        missing = names.keys() - set(copied[FILE])
        rows = copied
        if missing:
            opened = rows_of(table, log, [names[path] for path in sorted(missing)])
            rows = pl.concat([copied, opened.select(copied.columns)])
        if len(missing) >= COPIED_FROM and table not in self.pinned:
            copy_rows(log, rows)
        return rows.drop(FILE).sort(*declared.partition_by, *declared.key)

    def read_equal(self, table: str, equal: Mapping[str, str]) -> "pl.DataFrame":
        """The rows of a table that have these values in columns that it is not partitioned by. Raises Damaged as
        `read`."""
        import polars as pl

        log = self._created(table)
        files = [(key, file) for key, of_key in log.files({}).items() for file in of_key]
        declared = polars_schema(table)
        rows = rows_of(table, log, files, equal) if files else pl.DataFrame(schema=declared)
        return rows.select(list(declared))

    def scan(self, table: str) -> "pl.LazyFrame":
        """The whole table, lazily, in the declared columns. A damaged file fails it when it is collected: see
        `discard_damaged`."""
        import polars as pl

        found = self._created(table).open()
        if found is None:
            raise OSError(f"There is no table {table} in {self.uri}, though there was one just now.")
        rows, declared = pl.scan_delta(for_polars(found)), polars_schema(table)
        there = rows.collect_schema().names()
        missing = [pl.lit(None, kind).alias(name) for name, kind in declared.items() if name not in there]
        return rows.with_columns(missing).with_columns(defaults(table)).select(list(declared))

    def partition_files(self, table: str, partition: Partition) -> list[str]:
        """URIs of the data files of the partitions that agree in the columns given."""
        log = self._log(table)
        found = self._files_of(table, log, partition)
        return [uri_of(log, file) for files in found.values() for file in files]

    def partition_bytes(self, table: str, partition: Partition) -> int:
        """The size of those files together."""
        found = self._files_of(table, self._log(table), partition)
        return sum(file.size for files in found.values() for file in files)

    def _files_of(self, table: str, log: DeltaLog, partition: Partition) -> dict[Key, tuple[File, ...]]:
        declared = TABLES[table].partition_by
        if set(partition) - set(declared) or (declared and not partition):
            raise ValueError(f"{table} is partitioned by {declared}, not by {tuple(partition)}")
        return log.files(partition)

    def data_versions(self, table: str) -> dict[tuple[str, ...], str]:
        """The data version of every partition, by the values of the partition columns in their declared order.

        Read from the Delta log alone: `data_version` is one value per partition, so it is its own minimum and maximum.
        A partition in which somebody else wrote several, or none, has the version "", which no step would produce.
        """
        return self._log(table).data_versions()  # type: ignore[return-value]  # null only where others wrote

    # ---- health --------------------------------------------------------------------------------------------------

    def damaged(self, table: str, partition: Partition | None = None, *, deep: bool = False) -> dict[Key, str]:
        """The partitions whose files are not as they were written, each with the reason. Changes nothing.

        partition: look at those that agree in these columns; None looks at all.
        deep: compare contents too, which reads every byte; else only whether each file is there in its size.
        """
        return {key: reason for key, (reason, _) in self._damage(table, partition, deep).items()}

    def discard_damaged(self, table: str, partition: Partition | None = None, *, deep: bool = False) -> dict[Key, str]:
        """Take damaged partitions out of the table, so that they count as missing for everybody and are made again.

        Returns them with the reasons. One commit, which leaves alone what was written anew meanwhile; the files stay
        until `maintain` removes them. Arguments as of `damaged`.
        """
        found = self._damage(table, partition, deep)
        if found:
            log = self._log(table)
            lost = {file.path for _, files in found.values() for file in files}

            def commit(version: int) -> None:
                now = log.files({})
                still_there = [(key, file) for key in found for file in now.get(key, ()) if file.path in lost]
                if still_there:
                    log.commit(version, still_there, [])

            self._commit(table, log, commit)
        return {key: reason for key, (reason, _) in found.items()}

    def _damage(self, table: str, partition: Partition | None, deep: bool) -> dict[Key, tuple[str, tuple[File, ...]]]:
        log = self._log(table)
        found = log.files(partition or {})
        reasons = lake_health.damages(log, [file for files in found.values() for file in files], deep)
        damage = {}
        for key, files in found.items():
            if damaged := tuple(file for file in files if file.path in reasons):
                # A partition is lost as a whole; a file of a table without partitions stands for itself.
                damage[key] = ("; ".join(reasons[file.path] for file in damaged), files if key else damaged)
        return damage

    def maintain(self, table: str, retention_hours: int = lake_health.RETENTION_HOURS) -> Maintenance:
        """Keep the table small and quick to open: a checkpoint of its log, then without the commits, and the files that
        nothing names, that are older than the retention.

        Whoever reads the table as it was within that time (`at_present`) still can. Safe beside writers, unless a
        single write takes longer than the retention.
        """
        return lake_health.maintain(self._created(table), retention_hours)

    # ---- Dagster -------------------------------------------------------------------------------------------------

    def write_metadata(self, table: str, partition: Partition) -> dict[str, Any]:
        """What a materialisation of the partition says in the UI: the rows of the whole table and those of the
        partition, and the Delta version that holds them. From the log alone."""
        log = self._created(table)
        files = log.files(partition)
        return {
            "dagster/row_count": log.rows(),
            "dagster/partition_row_count": sum(file.rows for of_key in files.values() for file in of_key),
            "delta_version": self._version_of(log),
        }


def _are_there(log: DeltaLog, added: Sequence[NewFile]) -> bool:
    """Whether the log names all of these files, some at least. Their names are their own, by chance."""
    return bool(added) and all(
        any(file.stored_at == new.path for files in log.files(new.partition).values() for file in files)
        for new in added
    )
