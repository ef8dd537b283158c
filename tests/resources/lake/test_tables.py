"""One declaration of every table: what comes from it agrees, and breaking it is told."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from resources.lake import TABLES, arrow_schema, checks, column_schema, polars_schema
from resources.lake import violations as violations_of
from resources.lake.contracts import WHOLE_PARTITION
from resources.lake.document import as_markdown
from tests.resources.lake_rows import fused, stored, vectors

REPOSITORY = Path(__file__).parents[3]


@pytest.mark.parametrize("table", TABLES)
def test_rows_as_declared_break_nothing(table: str) -> None:
    assert violations_of(table, stored(table, 1 if not TABLES[table].key else 4)) == []


@pytest.mark.parametrize("table", TABLES)
def test_no_rows_break_nothing(table: str) -> None:
    assert violations_of(table, stored(table, 0)) == []


@pytest.mark.parametrize("table", TABLES)
def test_every_schema_says_the_same(table: str) -> None:
    declared = TABLES[table]
    names = [column.name for column in declared.columns]
    assert names[: len(declared.partition_by)] == list(declared.partition_by)
    assert set(declared.key) < set(names)
    assert list(polars_schema(table)) == arrow_schema(table).names == [c.name for c in column_schema(table).columns]
    empty = pl.DataFrame(schema=dict(polars_schema(table))).to_arrow()
    assert empty.cast(arrow_schema(table)).schema.types == arrow_schema(table).types
    for column, field in zip(declared.columns, arrow_schema(table), strict=True):
        assert field.nullable == (column.nullable or column.default is not None)
        assert field.metadata[b"comment"].decode() == column.description
        assert column.description.endswith((".", "…"))
    assert not any(pa.types.is_fixed_size_list(kind) for kind in arrow_schema(table).types)


def test_every_contract_has_a_name_and_says_what_it_holds() -> None:
    assert {"schema_matches", "keys_unique", "vectors_valid", "norms_unit"} <= set(checks("fused_embeddings"))
    assert "shots_tile_the_title" in checks("shots")
    assert "vectors_valid" not in checks("titles")
    for table in TABLES:
        assert all(check.__doc__ for check in checks(table).values())
        assert set(WHOLE_PARTITION) & set(checks(table))


def vector(value: object, length: int = 768) -> pl.Expr:
    """The first row's vector replaced by `length` times a value; the others as they are."""
    return pl.when(pl.int_range(pl.len()) == 0).then(
        pl.lit(pl.Series([[value] * length], dtype=pl.List(pl.Float32))).first()
    ).otherwise(pl.col("embedding")).alias("embedding")  # fmt: skip


def as_lists(matrix: np.ndarray) -> pl.Series:
    return pl.Series(matrix.tolist(), dtype=pl.List(pl.Float32))


Break = Callable[[pl.DataFrame], pl.DataFrame]
BREAKS: dict[str, tuple[str, Break, str]] = {
    "a column is missing": ("shots", lambda rows: rows.drop("detector"), "missing: detector"),
    "a column is not declared": ("shots", lambda rows: rows.with_columns(x=1), "not declared: x"),
    "a column has another type": (
        "shots",
        lambda rows: rows.with_columns(pl.col("start_frame").cast(pl.Int32)),
        "start_frame is Int32, not Int64",
    ),
    "a vector is a fixed-size array": (
        "fused_embeddings",
        lambda rows: rows.with_columns(pl.col("embedding").list.to_array(2304)),
        "embedding is Array",
    ),
    "columns are in another order": ("shots", lambda rows: rows.select(reversed(rows.columns)), "declared order"),
    "a null where none is declared": (
        "titles",
        lambda rows: rows.with_columns(title=pl.lit(None, dtype=pl.String)),
        "title is null in 1 rows",
    ),
    "two data versions in one partition": (
        "clip_labels",
        lambda rows: rows.with_columns(data_version=pl.col("clip_id")),
        "4 data versions",
    ),
    "a key occurs twice": (
        "clip_labels",
        lambda rows: pl.concat([rows, rows[:1]]),
        "1 keys (clip_id) occur more than once, the first: c0",
    ),
    "a number is not finite": (
        "probe_metrics",
        lambda rows: rows.with_columns(ci_low=float("nan")),
        "ci_low is NaN or infinite in 4 rows",
    ),
    "a vector is too short": ("video_embeddings", lambda rows: rows.with_columns(vector(1.0, 767)), "do not have 768"),
    "a vector is empty": ("global_embeddings", lambda rows: rows.with_columns(vector(1.0, 0)), "do not have"),
    "vectors differ in length where none is declared": (
        "contextual_embeddings",
        lambda rows: rows.with_columns(vector(1.0, 31)),
        "3 vectors of embedding do not have 31",
    ),
    "a vector holds NaN": (
        "contextual_embeddings",
        lambda rows: rows.with_columns(vector(float("nan"), 32)),
        "32 numbers that are null, NaN or infinite",
    ),
    "a vector holds infinity": ("video_embeddings", lambda rows: rows.with_columns(vector(float("inf"))), "infinite"),
    "a vector holds null": ("video_embeddings", lambda rows: rows.with_columns(vector(None)), "768 numbers that are"),
    "an absent modality has a vector": (
        "text_embeddings",
        lambda rows: rows.with_columns(vector(0.5)),
        "1 vectors are not zero although present is false",
    ),
    "a present modality has none": (
        "audio_embeddings",
        lambda rows: rows.with_columns(present=True),
        "1 vectors are zero although present is true",
    ),
    "a fused vector has sound though the flag says no": (
        "fused_embeddings",
        lambda rows: rows.with_columns(has_audio=False),
        "3 vectors are not zero although has_audio is false",
    ),
    "a fused vector has no words though the flag says so": (
        "fused_embeddings",
        lambda rows: rows.with_columns(has_text=True),
        "2 vectors are zero although has_text is true",
    ),
    "a fused vector is too long by 2e-5": (
        "fused_embeddings",
        lambda rows: rows.with_columns(embedding=as_lists(fused(4) * np.float32(1 + 2e-5))),
        "4 fused vectors are not of unit norm",
    ),
    "a span ends before it starts": ("clip_labels", lambda rows: rows.with_columns(end_s=-1.0), "4 spans"),
    "a gap between shots": (
        "shots",
        lambda rows: rows.with_columns(pl.col("end_frame") - 1),
        "start_frame is not the end_frame of the one before it",
    ),
    "an overlap of shots": ("shots", lambda rows: rows.with_columns(pl.col("end_s") + 0.1), "start_s is not the end_s"),
    "the first frames belong to no shot": (
        "shots",
        lambda rows: rows.with_columns(pl.col("start_frame") + 1, pl.col("end_frame") + 1),
        "does not begin at frame 0",
    ),
    "a shot of no frames": (
        "shots",
        lambda rows: rows.with_columns(end_frame=pl.col("start_frame")),
        "end_frame does not lie after its start_frame",
    ),
    "some shots have no frames": (
        "shots",
        lambda rows: rows.with_columns(start_frame=pl.when(pl.col("shot_index") > 1).then("start_frame")),
        "some shots have frames and some have none",
    ),
    "segments of sound overlap": (
        "shots",
        lambda rows: rows.with_columns(pl.col("end_s") + 0.1, start_frame=None, end_frame=None).cast(
            {"start_frame": pl.Int64, "end_frame": pl.Int64}
        ),
        "start_s is not the end_s",
    ),
    "a fused vector is zero though it has a picture": (
        "fused_embeddings",
        lambda rows: rows.with_columns(vector(0.0, 2304)),
        "1 vectors are zero although has_video is true",
    ),
    "a shot is missing": ("shots", lambda rows: rows.filter(pl.col("shot_index") != 1), "not numbered 0, 1, 2"),
}  # fmt: skip


@pytest.mark.parametrize("broken", BREAKS)
def test_a_broken_contract_is_told(broken: str) -> None:
    table, change, sentence = BREAKS[broken]
    rows = change(stored(table, 1 if not TABLES[table].key else 4))
    if broken not in ("columns are in another order", "a column is missing", "a column is not declared"):
        rows = rows.select(list(polars_schema(table)))
    assert sentence in "; ".join(violations_of(table, rows))


def test_a_fused_vector_within_the_tolerance_is_of_unit_norm() -> None:
    rows = stored("fused_embeddings").with_columns(embedding=as_lists(fused(4) * np.float32(1 + 5e-6)))
    assert violations_of("fused_embeddings", rows) == []


def test_a_vector_of_any_length_is_allowed_where_none_is_declared() -> None:
    for length in (768, 3072):
        rows = stored("global_embeddings", 1).with_columns(embedding=as_lists(vectors(1, length)))
        assert violations_of("global_embeddings", rows) == []


def test_the_tables_document_is_current() -> None:
    said = subprocess.run(
        [sys.executable, "-m", "resources.lake.document"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    ).stdout
    document = (REPOSITORY / "docs" / "tables.md").read_text()
    assert said == document == as_markdown(), "run `python -m resources.lake.document > docs/tables.md`"
    for table in TABLES.values():
        assert f"\n## {table.name}\n" in document
        assert all(f"| `{column.name}` | {column.type}" in document for column in table.columns)


def test_the_declarations_cost_no_heavy_import() -> None:
    heavy = {"polars", "deltalake", "pyarrow", "numpy"}
    code = f"import sys, resources.lake.tables, resources.lake; print({heavy} & {{*sys.modules}})"
    said = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "set()"


def test_what_is_only_heard_has_neither_frames_nor_pictures() -> None:
    no_number = pl.lit(None, dtype=pl.Int64)
    heard = {
        "titles": stored("titles", 1).with_columns(has_picture=False, width=pl.lit(None, pl.Int32)),
        "shots": stored("shots").with_columns(start_frame=no_number, end_frame=no_number),
        "shot_frames": stored("shot_frames").with_columns(jpeg=pl.lit(None, dtype=pl.Binary)),
    }
    for table, rows in heard.items():
        assert violations_of(table, rows) == []


def test_a_shot_without_any_modality_is_a_vector_of_zeros() -> None:
    nothing = {f"has_{name}": pl.lit(False) for name in ("video", "audio", "text")}
    rows = stored("fused_embeddings", 1).with_columns(vector(0.0, 2304), **nothing)
    assert violations_of("fused_embeddings", rows) == []
