"""A copy of a small table's rows in one file, so that not every partition's file has to be opened."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from resources.lake.log import DeltaLog
from resources.lake.schemas import polars_schema

if TYPE_CHECKING:
    import polars as pl

    Rows = pl.DataFrame | Iterable[pl.DataFrame]

COPY = "_copy/rows.parquet"
"""Of a small table's rows. Readers and VACUUM leave names with an underscore alone."""
FILE = "file of the table"
"""A column beside the declared ones, which have no spaces."""


def copied_rows(log: DeltaLog, table: str) -> "pl.DataFrame":
    """The copy's rows with their files; none where there is no copy, or a damaged or older one."""
    import polars as pl
    import pyarrow as pa
    import pyarrow.parquet as pq

    nothing = pl.DataFrame(schema={**polars_schema(table), FILE: pl.String()})
    try:
        with log.store().open_input_file(COPY) as copy:
            # Not `read_table`, which imports pandas: half a second and 40 MiB.
            file = pq.ParquetFile(pa.BufferReader(copy.read()), page_checksum_verification=True)
            rows = pl.DataFrame(file.read())
    except (OSError, pa.ArrowException):
        return nothing
    return rows if rows.schema == nothing.schema else nothing


def copy_rows(log: DeltaLog, rows: "pl.DataFrame") -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    copy = pa.BufferOutputStream()
    pq.write_table(rows.to_arrow(), copy, compression="zstd", write_page_checksum=True)
    data = copy.getvalue()
    # It appears whole; of two writers the last one's stays, and both are right.
    with log.store().open_output_stream(COPY, buffer_size=data.size + 1) as target:
        target.write(data)
