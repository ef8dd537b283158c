"""The rows of label files and of pairs files: CSV, JSON lines and Parquet."""

import csv
import io
import json
import math
import os
from collections.abc import Collection, Iterator
from typing import Any

from resources.errors import BadInput, one_line, printable
from resources.landing.untrusted import BYTE_ORDER_MARK, TITLE_ID

PARQUET_ROWS_LIMIT = 5_000_000
UNPACKED_LIMIT = 256 << 20


def rows_of(name: str, data: bytes, columns: Collection[str]) -> Iterator[tuple[int, dict[str, Any] | BadInput]]:
    """The rows of a CSV, JSON lines or Parquet file, each with its line (in Parquet: row, counted from 1), or what is
    wrong with that line.

    columns: those that are read of a Parquet file, which may have many more. Raises BadInput for a file that is no such
    file at all.
    """
    kind = os.path.splitext(name)[1].lower()
    if kind == ".parquet":
        yield from enumerate(_parquet_rows(name, data, columns), 1)
    elif kind == ".csv":
        yield from _csv_rows(data)
    else:
        for number, line in enumerate(data.removeprefix(BYTE_ORDER_MARK).split(b"\n"), 1):
            if line.strip():
                yield number, _json_row(line)


def _parquet_rows(name: str, data: bytes, columns: Collection[str]) -> Iterator[dict[str, Any]]:
    # Not polars, which prints a backtrace for each damaged page.
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(io.BytesIO(data))
        rows, groups = file.metadata.num_rows, range(file.metadata.num_row_groups)
        unpacked = sum(file.metadata.row_group(group).total_byte_size for group in groups)
        # A few bytes of Parquet may stand for any number of rows.
        if rows > PARQUET_ROWS_LIMIT or unpacked > UNPACKED_LIMIT:
            raise BadInput(
                f"{name} holds {rows} rows, {unpacked >> 20} MiB unpacked; the limit is {PARQUET_ROWS_LIMIT} rows and "
                f"{UNPACKED_LIMIT >> 20} MiB"
            )
        read = [column for column in file.schema_arrow.names if column in columns]
        for batch in file.iter_batches(1024, columns=read):
            yield from batch.to_pylist()
    except (pa.ArrowException, OSError, ValueError) as error:
        raise BadInput(f"{name} cannot be read as Parquet ({one_line(error, 160)}); write it again") from None


def _csv_rows(data: bytes) -> Iterator[tuple[int, dict[str, Any] | BadInput]]:
    # What is not UTF-8 becomes surrogates, which no row may have: one bad line does not hide the others.
    text = data.removeprefix(BYTE_ORDER_MARK).decode("utf-8", "surrogateescape")
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    header: list[str] | None = None
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
            "".join(cells).encode()
        except StopIteration:
            return
        except csv.Error as error:
            yield line, BadInput(f"this is not CSV ({error})")
            continue
        except UnicodeEncodeError:
            yield line, BadInput("the text is not UTF-8; save the file as UTF-8")
            continue
        if header is None:
            header = cells
        elif len(cells) > len(header):
            yield line, BadInput(f"it has {len(cells)} cells, and the header {len(header)}; quote lists and texts")
        elif cells:
            yield line, dict(zip(header, cells, strict=False))


def _json_row(line: bytes) -> dict[str, Any] | BadInput:
    try:
        said = json.loads(line.decode())
    except UnicodeDecodeError:
        return BadInput("the text is not UTF-8; save the file as UTF-8")
    except (ValueError, RecursionError):
        return BadInput("this is not JSON")
    return said if isinstance(said, dict) else BadInput("this is not a JSON object")


def span_of(said: dict[str, Any]) -> tuple[str, float, float]:
    """title_id, start_s and end_s of a row; ValueError says what is wrong with them."""
    title_id = said.get("title_id")
    if not isinstance(title_id, str) or not TITLE_ID.fullmatch(title_id):
        raise ValueError(f'title_id "{printable(title_id)}" is not a legal title id')
    start_s, end_s = number_of(said, "start_s"), number_of(said, "end_s")
    if not 0 <= start_s < end_s:
        raise ValueError(f"start_s {start_s:g} and end_s {end_s:g} are not 0 <= start_s < end_s")
    return title_id, start_s, end_s


def number_of(said: dict[str, Any], key: str) -> float:
    try:
        number = float(said[key])
    except (KeyError, TypeError, ValueError, OverflowError):
        raise ValueError(f"{key} must be a number") from None
    if not math.isfinite(number):
        raise ValueError(f"{key} is not finite")
    return number
