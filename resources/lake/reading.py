"""The rows of data files, whatever columns were declared when they were written."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING
from urllib.parse import unquote

from resources.lake import health as lake_health
from resources.lake.completion import shown
from resources.lake.log import DeltaLog, File, Key
from resources.lake.rows_copy import FILE
from resources.lake.schemas import defaults, polars_schema
from resources.lake.tables import TABLES

if TYPE_CHECKING:
    import polars as pl
    from deltalake import DeltaTable

URI = "uri of the file"
"""A column beside the declared ones, which have no spaces."""


class Damaged(OSError):
    """The files of the partition that was asked for are not as they were written. It has to be made again."""


def uri_of(log: DeltaLog, file: File) -> str:
    return f"{log.uri}/{file.stored_at}"


def scanned(
    table: str,
    uris: Sequence[str],
    storage_options: Mapping[str, str] | None = None,
    include_file_paths: str | None = None,
) -> "pl.LazyFrame":
    """Rows of data files of the table, lazily: in the declared columns but the partition's, which files do not hold,
    with defaults. include_file_paths: a column for the files' names."""
    import polars as pl

    partition_by = TABLES[table].partition_by
    return pl.scan_parquet(
        list(uris),
        # Files may be older than a column, or than its disappearance.
        schema={name: kind for name, kind in polars_schema(table).items() if name not in partition_by},
        missing_columns="insert",
        extra_columns="ignore",
        glob=False,
        hive_partitioning=False,
        include_file_paths=include_file_paths,
        storage_options=dict(storage_options or {}) or None,
    ).with_columns(defaults(table))


def rows_of(
    table: str, log: DeltaLog, files: Sequence[tuple[Key, File]], equal: Mapping[str, str] | None = None
) -> "pl.DataFrame":
    """Their rows, with the partition's columns, and the files' paths in `FILE`. equal: values that the wanted rows have
    in columns of the files; others are not even decoded. Raises Damaged."""
    import polars as pl

    partition_by = TABLES[table].partition_by
    uris = [uri_of(log, file) for _, file in files]
    of_file = pl.DataFrame(
        [(uri, *key, file.path) for uri, (key, file) in zip(uris, files, strict=True)],
        schema=dict.fromkeys((URI, *partition_by, FILE), pl.String()),
        orient="row",
    )
    try:
        # A join: replacing values one by one is quadratic in the number of files.
        rows = scanned(table, uris, log.storage_options, URI).filter(**(equal or {})).collect()
        return rows.join(of_file, on=URI, how="left").drop(URI)
    # A cut or changed file fails in many ways, one of which is a panic of polars.
    except (OSError, pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        damaged = lake_health.damages(log, [file for _, file in files], deep=False) or lake_health.damages(
            log, [file for _, file in files], deep=True
        )
        for key, file in files:
            if reason := damaged.get(file.path):
                values = shown(dict(zip(partition_by, key, strict=True)))
                raise Damaged(
                    f"{table} {values} in {log.uri} is damaged: {reason}. `mediafm materialize` makes it again; "
                    "`mediafm verify` looks for more."
                ) from error
        raise


def _usable(table: "DeltaTable", uris: list[str]) -> list[str]:
    """Files as they can be opened: delta-rs quotes a local table's folder, though not what follows."""
    root = table.table_uri.removeprefix("file://")
    return [unquote(root) + uri.removeprefix(root) for uri in uris] if root != table.table_uri else uris


def for_polars(table: "DeltaTable") -> "DeltaTable":
    """The table, so that polars finds its files in a folder with a space or an umlaut in its name, too."""
    if unquote(table.table_uri) != table.table_uri:
        uris = _usable(table, table.file_uris())
        table.file_uris = lambda *_, **__: uris  # type: ignore[method-assign]
    return table
