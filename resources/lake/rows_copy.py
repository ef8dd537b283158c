"""A copy of a small table's rows in one file, so that not every partition's file has to be opened."""

import io
from collections.abc import Iterable
from hashlib import sha256
from typing import TYPE_CHECKING

from resources.lake.log import DeltaLog
from resources.lake.schemas import polars_schema

if TYPE_CHECKING:
    import polars as pl

    Rows = pl.DataFrame | Iterable[pl.DataFrame]

COPY = "_copy/rows"
"""A SHA-256, then a Parquet file of a small table's rows. Readers and VACUUM leave names with an underscore alone."""
DIGEST_BYTES = 32
FILE = "file of the table"
"""A column beside the declared ones, which have no spaces."""


def copied_rows(log: DeltaLog, table: str) -> "pl.DataFrame":
    """The copy's rows with their files; none where there is no copy, or a damaged or older one."""
    import polars as pl

    nothing = pl.DataFrame(schema={**polars_schema(table), FILE: pl.String()})
    try:
        with log.store().open_input_file(COPY) as copy:
            digest, data = copy.read(DIGEST_BYTES), copy.read()
    except OSError:
        return nothing
    # Before it is opened: of a changed file, readers may also make other rows, or end the process.
    if sha256(data).digest() != digest:
        return nothing
    rows = pl.read_parquet(io.BytesIO(data))
    return rows if rows.schema == nothing.schema else nothing


def copy_rows(log: DeltaLog, rows: "pl.DataFrame") -> None:
    copy = io.BytesIO()
    rows.write_parquet(copy, compression="zstd")
    data = copy.getvalue()
    # It appears whole; of two writers the last one's stays, and both are right.
    with log.store().open_output_stream(COPY, buffer_size=DIGEST_BYTES + len(data) + 1) as target:
        target.write(sha256(data).digest() + data)
