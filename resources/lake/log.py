"""A Delta table's log, read once by a process and then followed: which files the table has now, and commits to it.

delta-rs replays the whole log at each opening, each update and each commit: 30 ms a write at 10,000 files, 155 ms at
100,000 (`python benchmarks/scale.py`). So the list of files is kept here and brought up to date by reading the commits
that came since, and a commit to a local table is written here. Everything else is delta-rs: creating, the first
reading, checkpoints, commits to object stores, and tables with features that this module does not know.
"""

import contextlib
import json
import os
import re
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from sys import intern
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote, unquote

from resources.errors import Unavailable

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa
    from deltalake import DeltaTable
    from pyarrow.fs import PyFileSystem

COMMITS_PER_CHECKPOINT = 100
"""As in delta-rs. A checkpoint of 10,000 files takes 0.1 s and of 100,000 0.3 s, that is 1 to 3 ms a commit; opening
takes that much longer for each thirty commits that none covers."""
PLAIN_WRITER = 2
"""The highest Delta writer version that asks nothing of a commit but to add and remove files."""

Key = tuple[str | None, ...]
"""Values of the partition columns, in their declared order."""


class File(NamedTuple):
    """A data file as the log has it. path: within the table, quoted once more than in the store. size: bytes.
    version: the data version of its rows; "" where it has none or several."""

    path: str
    size: int
    rows: int
    version: str

    @property
    def stored_at(self) -> str:
        """Its path in the store, within the table."""
        return unquote(self.path)


class NewFile(NamedTuple):
    """A data file that a commit adds. path: in the store, within the table. size: bytes."""

    path: str
    size: int
    partition: Mapping[str, str]
    statistics: str  # JSON, as Delta has it


class Overtaken(Exception):
    """The log has a commit of that version already, or takes none, or did not say in time whether it took this one."""


REFUSALS = re.compile(
    r"\b(ExpiredToken|InvalidAccessKeyId|SignatureDoesNotMatch|InvalidToken|TokenRefreshRequired|AccessDenied)\b"
)
"""What S3 says of credentials, in the texts of errors."""


@contextlib.contextmanager
def explained(uri: str) -> Iterator[None]:
    """Says in words that a store refuses the credentials; any other trouble goes on as it is."""
    from deltalake.exceptions import DeltaError

    try:
        yield
    except (OSError, DeltaError) as error:
        if found := REFUSALS.search(str(error)):
            do = "grant them" if found[1] == "AccessDenied" else "renew them"
            raise Unavailable(
                f"the store of {uri} refuses the credentials ({found[1]}); {do}, then run this again; what was not "
                "finished has changed nothing"
            ) from error
        raise


@contextlib.contextmanager
def _committed() -> Iterator[None]:
    """Around a commit by delta-rs. Raises Overtaken, OSError and DeltaError."""
    from deltalake.exceptions import CommitFailedError

    try:
        yield
    except CommitFailedError as error:
        raise Overtaken(str(error)) from error
    except OSError as error:
        # delta-rs asks again after every other failure: a commit whose answer is late may have been made.
        if "timed out" not in str(error):
            raise
        raise Overtaken(str(error)) from error


class DeltaLog:
    """One table's log at its newest version, or for ever at a pinned one. Use `log_of`. Safe among threads."""

    def __init__(
        self, uri: str, partition_by: tuple[str, ...], storage_options: dict[str, str], pinned: int | None
    ) -> None:
        self.uri = uri
        self.local = "://" not in uri
        self._partition_by = partition_by
        self.storage_options = storage_options
        self._pinned = pinned
        self._turn = threading.RLock()
        self._clear()

    def _clear(self) -> None:
        self._version: int | None = None
        self._stamp: Any = None
        self._listed: pl.DataFrame | None = None
        self._files: dict[Key, tuple[File, ...]] = {}
        self._data_versions: dict[Key, str] = {}
        self._rows = 0
        self._schema: pa.Schema | None = None
        self._partitioned_by: tuple[str, ...] = ()
        self._plain = False

    # ---- what it says --------------------------------------------------------------------------------------------

    def version(self) -> int | None:
        """The version; None when there is no table. Any other trouble is raised."""
        with self._turn:
            self._follow()
            return self._version

    def created_with(self) -> "tuple[pa.Schema | None, tuple[str, ...]]":
        """The table's columns, and those that it is partitioned by, whatever is declared."""
        with self._turn:
            self._follow()
            return self._schema, self._partitioned_by

    def data_versions(self) -> dict[Key, str]:
        """The data version of each partition; "" where its files have none or several."""
        with self._turn:
            self._follow()
            return self._data_versions.copy()

    def files(self, partition: Mapping[str, str]) -> dict[Key, tuple[File, ...]]:
        """The files of the partitions that agree in the columns given."""
        wanted = [partition.get(name) for name in self._partition_by]
        with self._turn:
            self._follow()
            by_key = self._by_key()
            if None not in wanted:
                key = tuple(wanted)
                return {key: by_key[key]} if key in by_key else {}
            return {
                key: files
                for key, files in by_key.items()
                if all(want is None or want == value for want, value in zip(wanted, key, strict=True))
            }

    def rows(self) -> int:
        """The number of rows of the whole table."""
        with self._turn:
            self._follow()
            return self._rows

    def added_in(self, key: Key, data_version: str | None) -> int | None:
        """The newest version of the log that added the partition, in that data version if one is given, as far as the
        commits go back that are still there; None when there is none. Reads commit after commit, the newest first."""
        version = self.version()
        while version is not None and version >= 0 and (found := self._read(version)) is not None:
            for line in found[0].splitlines():
                add = json.loads(line).get("add") if line.strip() else None
                if add and tuple(add["partitionValues"].get(name) or None for name in self._partition_by) == key:
                    made = json.loads(add.get("stats") or "{}").get("minValues", {}).get("data_version")
                    if data_version in (None, made):
                        return version
            version -= 1
        return None

    def open(self) -> "DeltaTable | None":
        """The table for delta-rs's own readers, replayed anew; None when it does not exist."""
        from deltalake import DeltaTable
        from deltalake.exceptions import TableNotFoundError

        try:
            with explained(self.uri):
                return DeltaTable(self.uri, self._pinned, self.storage_options or None)
        except TableNotFoundError:
            return None

    def store(self) -> "PyFileSystem":
        """The table's folder."""
        from deltalake.fs import DeltaStorageHandler
        from pyarrow.fs import PyFileSystem

        return PyFileSystem(DeltaStorageHandler(self.uri, self.storage_options or None))

    # ---- following it --------------------------------------------------------------------------------------------

    def _follow(self) -> None:
        with explained(self.uri):
            self._follow_on()

    def _follow_on(self) -> None:
        """Read the commits that came since the last call. From the start again, when the commit that was read last is
        no longer there or another (the table was made anew, or the log cleaned up), or when one does more than add and
        remove files."""
        if self._version is not None and self._pinned is not None:
            return None
        if self._version is None or self._stamp is None or self._stamp_of(self._version) != self._stamp:
            return self._reload()
        while (found := self._read(self._version + 1)) is not None:
            text, stamp = found
            try:
                actions = [json.loads(line) for line in text.split("\n") if line.strip()]
            except ValueError:
                return self._reload()  # which says what is wrong with it
            if any(action.keys() - {"add", "remove", "commitInfo", "txn"} for action in actions):
                return self._reload()
            for action in actions:
                if "remove" in action:
                    self._remove(action["remove"])
            for action in actions:
                if "add" in action:
                    self._add(action["add"])
            self._version, self._stamp = self._version + 1, stamp
        return None

    def _reload(self) -> None:
        import polars as pl
        import pyarrow as pa

        table = self.open()
        self._clear()
        if table is None:
            return
        # The stamp first: of a table that is made anew meanwhile, it is then the older one's.
        stamp = self._stamp_of(table.version())
        self._listed = _added(table, self._partition_by)
        self._rows = int(self._listed["rows"].sum())
        for version, *values in self._listed.select("version", pl.exclude(File._fields)).iter_rows():
            key = tuple(value and intern(value) for value in values)  # the same titles are in many tables
            self._data_versions[key] = version if self._data_versions.get(key, version) == version else ""
        self._schema = pa.schema(table.schema().to_arrow())
        self._partitioned_by = tuple(table.metadata().partition_columns)
        self._plain = table.protocol().min_writer_version <= PLAIN_WRITER
        self._version, self._stamp = table.version(), stamp

    def _by_key(self) -> dict[Key, tuple[File, ...]]:
        """The files of each partition. They are made Python's objects when first asked for: who only compares versions
        has no use for them."""
        if self._listed is not None:
            size = len(File._fields)
            for row in self._listed.iter_rows():
                self._files[row[size:]] = (*self._files.get(row[size:], ()), File(*row[:size]))
            self._listed = None
        return self._files

    def _add(self, add: Mapping[str, Any]) -> None:
        key = tuple(add["partitionValues"].get(name) or None for name in self._partition_by)
        statistics = json.loads(add.get("stats") or "{}")
        low, high = (statistics.get(end, {}).get("data_version") for end in ("minValues", "maxValues"))
        self._drop([key], add["path"])
        version = low if low == high and low else ""
        self._put(key, File(add["path"], add["size"], statistics.get("numRecords") or 0, version))

    def _remove(self, remove: Mapping[str, Any]) -> None:
        values = remove.get("partitionValues")
        keys = [tuple(values.get(name) or None for name in self._partition_by)] if values else list(self._by_key())
        self._drop(keys, remove["path"])

    def _put(self, key: Key, file: File) -> None:
        by_key = self._by_key()
        others = by_key.get(key, ())
        by_key[key] = (*others, file)
        self._rows += file.rows
        self._data_versions[key] = _common_version(by_key[key]) if others else file.version

    def _drop(self, keys: Sequence[Key], path: str) -> None:
        by_key = self._by_key()
        for key in keys:
            files = by_key.get(key, ())
            left = tuple(file for file in files if file.path != path)
            self._rows -= sum(file.rows for file in files) - sum(file.rows for file in left)
            if left:
                by_key[key] = left
                self._data_versions[key] = _common_version(left)
            elif files:
                del by_key[key], self._data_versions[key]

    def _path_of(self, version: int) -> str:
        return f"_delta_log/{version:020}.json"

    def _stamp_of(self, version: int) -> Any:
        """What tells a commit from another of that version; None when there is none."""
        if self.local:
            try:
                return _stamp(os.stat(f"{self.uri}/{self._path_of(version)}"))
            except OSError:
                return None
        (info,) = self.store().get_file_info([self._path_of(version)])
        return (info.mtime, info.size) if info.is_file else None

    def _read(self, version: int) -> tuple[str, Any] | None:
        """A commit and its stamp; None when there is none."""
        if self.local:
            try:
                with open(f"{self.uri}/{self._path_of(version)}", encoding="utf-8") as commit:
                    return commit.read(), _stamp(os.fstat(commit.fileno()))
            except (FileNotFoundError, IsADirectoryError):
                return None
        stamp = self._stamp_of(version)
        if stamp is None:
            return None
        with self.store().open_input_file(self._path_of(version)) as commit:
            return commit.read().decode(), stamp

    # ---- writing to it -------------------------------------------------------------------------------------------

    def commit(self, version: int, removed: Sequence[tuple[Key, File]], added: Sequence[NewFile]) -> None:
        """Make the commit of that version: all of it, or nothing. Raises Overtaken when there is one already, OSError
        and DeltaError for other trouble with the store."""
        if not (self.local and self._plain):
            with explained(self.uri):
                return self._commit_by_delta_rs(version, removed, added)
        now = int(time.time() * 1000)
        parameters = {"mode": "Append", "partitionBy": json.dumps(self._partition_by)}
        about = {"timestamp": now, "operation": "WRITE", "operationParameters": parameters, "engineInfo": "mediafm"}
        actions: list[dict[str, Any]] = [{"commitInfo": about}]
        for key, file in removed:
            remove = {"path": file.path, "dataChange": True, "deletionTimestamp": now, "extendedFileMetadata": True}
            values = dict(zip(self._partition_by, key, strict=True))
            actions.append({"remove": {**remove, "partitionValues": values, "size": file.size}})
        for new in added:
            add = {"path": quote(new.path, safe="/="), "partitionValues": dict(new.partition), "size": new.size}
            more = {"modificationTime": now, "dataChange": True, "stats": new.statistics}
            actions.append({"add": {**add, **more}})
        target = Path(self.uri) / self._path_of(version)
        written = target.with_name(f"_commit_{uuid.uuid4()}.json.tmp")
        try:
            written.write_text("".join(json.dumps(action) + "\n" for action in actions))
            # A link, as in delta-rs: it appears whole, and only where there is none.
            os.link(written, target)
        except FileExistsError as error:
            raise Overtaken(str(error)) from error
        finally:
            written.unlink(missing_ok=True)
        if version % COMMITS_PER_CHECKPOINT == 0:
            self._checkpoint()
        return None

    def _commit_by_delta_rs(self, version: int, removed: Sequence[tuple[Key, File]], added: Sequence[NewFile]) -> None:
        from deltalake import CommitProperties, DeltaTable
        from deltalake.transaction import AddAction, RemoveAction

        now = int(time.time() * 1000)
        table = DeltaTable(self.uri, version - 1, self.storage_options or None)
        removals = [  # paths are quoted once more on their way to the log
            RemoveAction(file.stored_at, True, now, file.size, dict(zip(self._partition_by, key, strict=True)))
            for key, file in removed
        ]
        additions = [AddAction(new.path, new.size, new.partition, now, True, new.statistics) for new in added]
        with _committed():
            table.create_write_transaction(
                [*removals, *additions],
                mode="append",  # of the actions: the removals are among them
                schema=table.schema(),
                partition_by=list(self._partition_by),
                commit_properties=CommitProperties(max_commit_retries=0),
            )

    def change_columns(self, version: int, fields: "Sequence[pa.Field]") -> None:
        """Make the commit of that version: the table gets these nullable columns; those that it has become nullable.
        Raises as `commit`."""
        import pyarrow as pa
        from deltalake import CommitProperties, DeltaTable, Schema

        table = DeltaTable(self.uri, version - 1, self.storage_options or None)
        with _committed():
            table.alter.add_columns(
                Schema.from_arrow(pa.schema(fields)).fields, commit_properties=CommitProperties(max_commit_retries=0)
            )

    def _checkpoint(self) -> None:
        from deltalake.exceptions import DeltaError

        # The commit is made. What a checkpoint fails of, the next one or `maintain` reports.
        with contextlib.suppress(DeltaError, OSError):
            if (table := self.open()) is not None:
                table.create_checkpoint()


@lru_cache(maxsize=64)  # a lake has some twenty tables; logs of lakes that nobody asks about any more go
def _log_of(
    uri: str, partition_by: tuple[str, ...], storage_options: tuple[tuple[str, str], ...], pinned: int | None
) -> DeltaLog:
    return DeltaLog(uri, partition_by, dict(storage_options), pinned)


def log_of(uri: str, partition_by: Sequence[str], storage_options: Mapping[str, str], pinned: int | None) -> DeltaLog:
    """The process's one reading of the log of the table in a folder or at a URI."""
    place = uri if "://" in uri else os.path.abspath(uri)
    return _log_of(place, tuple(partition_by), tuple(storage_options.items()), pinned)


def _common_version(files: Sequence[File]) -> str:
    return files[0].version if all(file.version == files[0].version for file in files) else ""


def _stamp(info: os.stat_result) -> tuple[int, int, int]:
    return info.st_ino, info.st_mtime_ns, info.st_size


def _added(table: "DeltaTable", partition_by: Sequence[str]) -> "pl.DataFrame":
    """The table's files: the fields of `File`, then the values of its partition."""
    import polars as pl

    files = pl.DataFrame(table.get_add_actions(flatten=True))
    values, ends = [f"partition.{name}" for name in partition_by], ["min.data_version", "max.data_version"]
    for name in (*values, *ends):
        if name not in files.columns:  # as long as no file has it
            files = files.with_columns(pl.lit(None, dtype=pl.String).alias(name))
    low, high = pl.col(ends[0]), pl.col(ends[1])
    version = pl.when(low == high).then(low).otherwise(pl.lit("")).fill_null("")
    own = (pl.col("path"), pl.col("size_bytes"), pl.col("num_records").fill_null(0), version)
    return files.select(*(of.alias(name) for name, of in zip(File._fields, own, strict=True)), *values)
