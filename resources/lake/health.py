"""Whether a table's data files are as they were written, and what keeps a table small."""

import hashlib
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import IO, Any

from resources.lake.log import DeltaLog, File

RETENTION_HOURS = 168
"""How long a reader may go on reading a table as it was: longer than any training."""
LOG_RETENTION = {"delta.logRetentionDuration": f"interval {RETENTION_HOURS} hours"}
"""Delta's own 30 days keep a hundred thousand commits in the folder after a large import, and opening lists them."""

DIGEST_CHARACTERS = 32
NAMED_BY_DIGEST = re.compile(rf"\.([0-9a-f]{{{DIGEST_CHARACTERS}}})\.zstd\.parquet$")
PIECE_BYTES = 1 << 20


def digest_of(file: IO[bytes]) -> str:
    """128 bits of the content's SHA-256, in hex: what the name of a data file holds."""
    digest = hashlib.sha256()
    while piece := file.read(PIECE_BYTES):
        digest.update(piece)
    return digest.hexdigest()[:DIGEST_CHARACTERS]


# ---- damage ----------------------------------------------------------------------------------------------------------


def damages(log: DeltaLog, files: Sequence[File], deep: bool) -> dict[str, str]:
    """Which of the files are not as they were written, by their paths in the log, and in what way.

    deep: compare contents, by the digest in a file's name; a file that others wrote is decoded whole instead.
    """
    found: dict[str, str] = {}
    for file, size in zip(files, _sizes(log, files), strict=True):
        if size is None:
            found[file.path] = f"{file.stored_at} is gone"
        elif size != file.size:
            found[file.path] = f"{file.stored_at} has {size} bytes instead of {file.size}"
        elif deep and (reason := _damaged_content(log, file)):
            found[file.path] = reason
    return found


def _sizes(log: DeltaLog, files: Sequence[File]) -> Iterable[int | None]:
    """The size of each file in the store; None where there is none.

    In a folder each is asked for, 2.5 µs: listing costs 10 µs, since each partition is a folder of its own. A bucket is
    listed, a thousand files a request, unless few are asked for.
    """
    if log.local:
        return [_local_size(f"{log.uri}/{file.stored_at}") for file in files]
    if log.uri.startswith("s3://") and len(files) > 10:
        listed = _listed(log)
        return [listed.get(file.stored_at) for file in files]
    infos = log.store().get_file_info([file.stored_at for file in files])
    return [info.size if info.is_file else None for info in infos]


def _local_size(path: str) -> int | None:
    try:
        return os.stat(path).st_size
    except (FileNotFoundError, NotADirectoryError):
        return None


def _listed(log: DeltaLog) -> dict[str, int]:
    """All objects of the table with their sizes. delta-rs's file system asks once for each folder instead."""
    import boto3

    bucket, _, prefix = log.uri.removeprefix("s3://").partition("/")
    given = {key.lower().removeprefix("aws_"): value for key, value in log.storage_options.items()}
    names = {
        "endpoint": "endpoint_url",
        "endpoint_url": "endpoint_url",
        "region": "region_name",
        "access_key_id": "aws_access_key_id",
        "secret_access_key": "aws_secret_access_key",
        "session_token": "aws_session_token",
    }
    options: dict[str, Any] = {names[key]: value for key, value in given.items() if key in names}
    pages = boto3.client("s3", **options).get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=f"{prefix}/")
    return {
        found["Key"].removeprefix(f"{prefix}/"): found["Size"] for page in pages for found in page.get("Contents", [])
    }


def _damaged_content(log: DeltaLog, file: File) -> str | None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with (
        open(f"{log.uri}/{file.stored_at}", "rb")
        if log.local
        else log.store().open_input_file(file.stored_at) as content
    ):
        named = NAMED_BY_DIGEST.search(file.stored_at)
        if named:
            return None if digest_of(content) == named[1] else f"{file.stored_at} has other bytes than were written"
        try:
            for _ in pq.ParquetFile(content).iter_batches():
                pass
        except (pa.ArrowException, OSError) as error:
            return f"{file.stored_at} cannot be decoded ({error})"
    return None


# ---- maintenance -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Maintenance:
    """What was done to a table. checkpoint: the log's version that it was made at. files: data files removed that no
    version within the retention names. bytes: their size."""

    checkpoint: int
    log_files: int
    files: int
    bytes: int


def maintain(log: DeltaLog, retention_hours: int) -> Maintenance:
    """See `DeltaLake.maintain`."""
    table = log.open()
    if table is None:
        return Maintenance(-1, 0, 0, 0)
    retention = {"delta.logRetentionDuration": f"interval {retention_hours} hours"}
    if not retention.items() <= table.metadata().configuration.items():
        table.alter.set_table_properties(retention)
    unnamed = table.vacuum(retention_hours, dry_run=True, enforce_retention_duration=False, full=True)
    freed = 0
    if unnamed:
        store = log.store()
        freed = sum(info.size or 0 for info in store.get_file_info(unnamed))
        table.vacuum(retention_hours, dry_run=False, enforce_retention_duration=False, full=True)
    before = _log_files(log)
    table.create_checkpoint()
    table.cleanup_metadata()
    after = _log_files(log)
    return Maintenance(table.version(), len(before - after), len(unnamed), freed)


def _log_files(log: DeltaLog) -> set[str]:
    from pyarrow.fs import FileSelector

    return {info.base_name for info in log.store().get_file_info(FileSelector("_delta_log"))}
