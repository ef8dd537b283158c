"""Every table of the lake, declared once: the Delta schema, Dagster's column schema, the checks and docs/tables.md all
come from here.

Vectors are stored as list<float32>: a fixed-size array writes, but polars then refuses to read it through read_delta.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import dagster as dg
    import numpy as np
    import polars as pl

UNIT_NORM_TOLERANCE = 1e-5
TRACK_FIELDS = ("name", "language", "kind", "format", "sha256")
TRACKS = f"list<struct<{', '.join(f'{field}: string' for field in TRACK_FIELDS)}>>"


@dataclass(frozen=True)
class Column:
    """A column of a table.

    type:   string, int32, int64, float64, bool, binary, timestamp (microseconds, UTC), list<string>, list<int64>,
            list<float32> (a vector) or `TRACKS` (the timed-text files of a drop).
    length: of a vector, where it is fixed.
    default: of a column that is declared of a table that exists: what the lake reads for it in rows that were written
            before. Other readers of the Delta table see null there.
    """

    name: str
    type: str
    description: str
    nullable: bool = False
    length: int | None = None
    default: str | int | float | bool | None = None


@dataclass(frozen=True)
class Table:
    """A Delta table.

    partition_by: its partition columns; they are also its first columns. A table without any is only added to, and its
                  rows have no data version.
    key:          columns that name a row within a partition.
    """

    name: str
    description: str
    partition_by: tuple[str, ...]
    key: tuple[str, ...]
    columns: tuple[Column, ...]

    def column(self, name: str) -> Column:
        return next(column for column in self.columns if column.name == name)


TITLE = Column("title_id", "string", "The title: the name of its folder in the landing zone.")
ENCODER_VERSION = Column("encoder_version", "string", "The encoder's version; newer ones sort after older ones.")
TASK = Column("task", "string", "ad_relevancy, clip_popularity, clip_tone, clip_genre or clip_retrieval.")
DATA_VERSION = Column(
    "data_version",
    "string",
    "Hash of everything the partition was made from; equal versions hold equal data. The same in all its rows.",
)
SHOT = Column("shot_index", "int32", "The shot's number in its title, from 0.")
START = Column("start_s", "float64", "Where it begins, in seconds from the start of the media.")
END = Column("end_s", "float64", "Where it ends (exclusive), in seconds from the start of the media.")
ENCODED_BY = Column("encoder", "string", "The embedding space: model, weights and preprocessing. Never mix two.")
PRESENT = Column("present", "bool", "False where the shot has nothing of this modality; the vector is then all zeros.")


def _modality(what: str, length: int) -> tuple[Column, ...]:
    return (SHOT, Column("embedding", "list<float32>", what, length=length), PRESENT, ENCODED_BY)


def _table(
    name: str, description: str, partition_by: tuple[Column, ...], key: tuple[str, ...], *columns: Column
) -> Table:
    # data_version stands before the rest, among the columns whose minimum and maximum the Delta log keeps.
    names = tuple(column.name for column in partition_by)
    return Table(name, description, names, key, (*partition_by, DATA_VERSION, *columns))


TABLES: Mapping[str, Table] = {
    table.name: table
    for table in (
        _table(
            "titles",
            "A title that landed: its metadata, its film as probed, and the hashes that decide what changed.",
            (TITLE,),
            (),
            Column("title", "string", "Its name."),
            Column("type", "string", "movie, episode, trailer, …"),
            Column("synopsis", "string", "Its synopsis; empty when none was given."),
            Column("tags", "list<string>", "Its tags."),
            Column("genres", "list<string>", "Its genres, as given."),
            Column("language", "string", "Language of dialogue and of the timed text used (BCP 47).", nullable=True),
            Column("series_id", "string", "The series it belongs to; splits never cut through one.", nullable=True),
            Column("media_uri", "string", "Where the film lay when it was registered."),
            Column("media_sha256", "string", "SHA-256 of the film's bytes."),
            Column("duration_s", "float64", "Length in seconds."),
            Column(
                "fps",
                "float64",
                "Average frame rate, where the file tells; frames have their own times.",
                nullable=True,
            ),
            Column("width", "int32", "Width in pixels as displayed: upright, with square pixels."),
            Column("height", "int32", "Height in pixels as displayed."),
            Column("has_audio", "bool", "Whether the film has a sound track that can be decoded."),
            Column("text_tracks", TRACKS, "Its timed-text files; language and kind are null where unknown."),
            Column("extra", "string", "Keys of title.json that this project does not know, as JSON."),
            Column("drop_fingerprint", "string", "Cheap fingerprint (names, sizes, times) of the drop as registered."),
            Column("landed_at", "timestamp", "When its title.json was written."),
        ),
        _table(
            "shots",
            "A shot: half-open ranges of frames and seconds that tile the title without gap or overlap.",
            (TITLE,),
            ("shot_index",),
            SHOT,
            START,
            END,
            Column("start_frame", "int64", "Its first frame, counted from 0 in display order."),
            Column("end_frame", "int64", "The frame after its last."),
            Column("detector", "string", "What found the cuts, with its parameters."),
        ),
        _table(
            "shot_frames",
            "Sampled frames of each shot, evenly spaced, as JPEG.",
            (TITLE,),
            ("frame_index",),
            SHOT,
            Column("frame_index", "int64", "The frame's number in the title."),
            Column("time_s", "float64", "The frame's own time in seconds from the start of the media."),
            Column("jpeg", "binary", "The picture, upright with square pixels, short side at most 224."),
        ),
        _table(
            "video_embeddings",
            "A video embedding for each shot, from its sampled frames.",
            (TITLE,),
            ("shot_index",),
            *_modality("The shot's video vector, unit norm.", 768),
        ),
        _table(
            "audio_embeddings",
            "An audio embedding for each shot, from its samples.",
            (TITLE,),
            ("shot_index",),
            *_modality("The shot's audio vector.", 768),
        ),
        _table(
            "text_embeddings",
            "A text embedding for each shot, from the cues heard in it.",
            (TITLE,),
            ("shot_index",),
            *_modality("The shot's text vector, unit norm.", 768),
            Column("text", "string", "The words of the shot's cues; empty when nothing is said."),
            Column("track", "string", "The timed-text file used; null when the title has none.", nullable=True),
        ),
        _table(
            "fused_embeddings",
            "The three embeddings of each shot in one vector: the encoder's input.",
            (TITLE,),
            ("shot_index",),
            SHOT,
            START,
            END,
            Column(
                "embedding", "list<float32>", "Video, audio and text blocks of 768, together of unit norm.", length=2304
            ),
            Column("has_audio", "bool", "False: the audio block is all zeros."),
            Column("has_text", "bool", "False: the text block is all zeros."),
            Column("space", "string", "The embedding spaces of the three blocks and the fusion. Never mix two."),
        ),
        _table(
            "global_embeddings",
            "An embedding of each title's metadata: what the [GLOBAL] token tells every shot.",
            (TITLE,),
            (),
            Column("embedding", "list<float32>", "The title's vector, unit norm: 768 or 3072 numbers by encoder."),
            Column("text", "string", "What was embedded."),
            ENCODED_BY,
        ),
        _table(
            "encoder",
            "Trained encoders, a row for each parameter tensor.",
            (ENCODER_VERSION,),
            ("name",),
            Column("name", "string", "The parameter's name."),
            Column("dtype", "string", "Its number type, in safetensors' terms."),
            Column("shape", "list<int64>", "Its shape."),
            Column("data", "binary", "Its numbers: little-endian, row-major."),
            Column("sha256", "string", "SHA-256 of data."),
            Column("space", "string", "The embedding spaces that it was trained on and reads. The same in all rows."),
            Column("config", "string", "JSON: the configuration, and what it was trained on. The same in all rows."),
            Column("metrics", "string", "JSON: validation figures. The same in all rows."),
            Column("created_at", "timestamp", "When it was written."),
        ),
        _table(
            "encoder_training",
            "How each encoder's training went, a row for each report.",
            (ENCODER_VERSION,),
            ("step", "split"),
            Column("step", "int64", "Optimiser steps taken."),
            Column("split", "string", "train or validation."),
            Column("loss", "float64", "Mean loss over masked shots: 1 - cosine."),
            Column("cosine", "float64", "Mean cosine at masked shots.", nullable=True),
            Column("lr_muon", "float64", "Muon's learning rate at the step.", nullable=True),
            Column("lr_adamw", "float64", "AdamW's learning rate at the step.", nullable=True),
            Column("shots_per_s", "float64", "Shots trained per second since the last report.", nullable=True),
        ),
        _table(
            "contextual_embeddings",
            "Each shot in the context of its title: the encoder's output.",
            (ENCODER_VERSION, TITLE),
            ("shot_index",),
            SHOT,
            START,
            END,
            Column("embedding", "list<float32>", "The contextual vector; its length is the encoder's width."),
        ),
        _table(
            "failures",
            "Titles that could not be finished the last time: where and why. A title's row goes when it is finished.",
            (TITLE,),
            (),
            Column("stage", "string", "The table that could not be made."),
            Column("reason", "string", "What failed, why, what to do, in one sentence."),
            Column("attempt", "string", "Hash of what was read; while it is the same, nothing tries again by itself."),
            Column("run_id", "string", "The Dagster run."),
            Column("failed_at", "timestamp", "When."),
        ),
        _table(
            "clip_labels",
            "Labelled clips, as dropped into the landing zone.",
            (TASK,),
            ("clip_id",),
            Column("clip_id", "string", "The clip."),
            TITLE,
            START,
            END,
            Column("labels", "list<string>", "Labels, for the multi-label tasks.", nullable=True),
            Column("score", "float64", "Click-through rate, for clip_popularity.", nullable=True),
            Column("label", "int32", "1 for clip-worthy, else 0, for clip_retrieval.", nullable=True),
        ),
        _table(
            "probe_metrics",
            "What linear probes on each representation score on each task, for each encoder.",
            (ENCODER_VERSION,),
            ("task", "representation"),
            TASK,
            Column("representation", "string", "What was probed."),
            Column("metric", "string", "The task's published metric."),
            Column("value", "float64", "The score; null when there are too few labels (see note).", nullable=True),
            Column("ci_low", "float64", "Lower end of its 95 % interval, bootstrapped over titles.", nullable=True),
            Column("ci_high", "float64", "Upper end.", nullable=True),
            Column("n_clips", "int32", "Labelled clips used."),
            Column("n_titles", "int32", "Titles they come from."),
            Column("note", "string", "Why there is no number.", nullable=True),
        ),
        Table(
            "text_cache",
            "Text embeddings that a service was paid for, by content, so that none is paid for twice.",
            (),
            ("key",),
            (
                Column("key", "string", "SHA-256, in hex, over model, dimensions and text."),
                Column("model", "string", "The service's model."),
                Column("dimensions", "int32", "Numbers of the vector."),
                Column("embedding", "list<float32>", "The text's vector, unit norm."),
            ),
        ),
    )
}


@cache
def polars_schema(table: str) -> "Mapping[str, pl.DataType]":
    """The columns of the table in order, as polars types."""
    import polars as pl

    types: dict[str, Any] = {
        "string": pl.String(),
        "int32": pl.Int32(),
        "int64": pl.Int64(),
        "float64": pl.Float64(),
        "bool": pl.Boolean(),
        "binary": pl.Binary(),
        "timestamp": pl.Datetime("us", "UTC"),
        "list<string>": pl.List(pl.String()),
        "list<int64>": pl.List(pl.Int64()),
        "list<float32>": pl.List(pl.Float32()),
        TRACKS: pl.List(pl.Struct({name: pl.String() for name in TRACK_FIELDS})),
    }
    return {column.name: types[column.type] for column in TABLES[table].columns}


@cache
def arrow_schema(table: str) -> Any:
    """The columns of the table as a pyarrow schema, with nullability and descriptions: what Delta is created with."""
    import pyarrow as pa

    types = {
        "string": pa.string(),
        "int32": pa.int32(),
        "int64": pa.int64(),
        "float64": pa.float64(),
        "bool": pa.bool_(),
        "binary": pa.binary(),
        "timestamp": pa.timestamp("us", "UTC"),
        "list<string>": pa.list_(pa.string()),
        "list<int64>": pa.list_(pa.int64()),
        "list<float32>": pa.list_(pa.float32()),
        TRACKS: pa.list_(pa.struct([pa.field(name, pa.string()) for name in TRACK_FIELDS])),
    }
    return pa.schema(
        pa.field(
            column.name,
            types[column.type],
            column.nullable or column.default is not None,
            {"comment": column.description},
        )
        for column in TABLES[table].columns
    )


def defaults(table: str) -> "list[pl.Expr]":
    """The columns that have a default, with it for null."""
    import polars as pl

    columns = TABLES[table].columns
    return [pl.col(column.name).fill_null(column.default) for column in columns if column.default is not None]


def column_schema(table: str) -> "dg.TableSchema":
    """The columns of the table as the Dagster UI shows them."""
    import dagster as dg

    def constraints(column: Column) -> list[str]:
        lengths = [f"{column.length} numbers"] if column.length else []
        return lengths + (["part of the key"] if column.name in TABLES[table].key else [])

    return dg.TableSchema(
        columns=[
            dg.TableColumn(
                column.name,
                column.type,
                column.description,
                constraints=dg.TableColumnConstraints(nullable=column.nullable, other=constraints(column)),
            )
            for column in TABLES[table].columns
        ]
    )


Check = Callable[["pl.DataFrame"], list[str]]


WHOLE_PARTITION = ("one_data_version", "keys_unique", "shots_tile_the_title")
"""Checks that a part of a partition cannot answer; they look at no vector and no blob."""


def checks(table: str) -> dict[str, Check]:
    """The contracts that the table's schema implies, by name. Each takes a partition's rows (with all declared columns)
    and returns a sentence for each violation; its docstring says what it holds. All but `schema_matches` may take for
    granted that the schema matches."""
    declared = TABLES[table]
    names = {column.name for column in declared.columns}
    found: dict[str, Check] = {"schema_matches": _schema_check(table)}
    if "data_version" in names:
        found["one_data_version"] = _one_data_version
    if declared.key:
        found["keys_unique"] = _key_check(declared)
    if any(column.type == "float64" for column in declared.columns):
        found["numbers_finite"] = _finite_check(declared)
    if any(column.type == "list<float32>" for column in declared.columns):
        found["vectors_valid"] = _vector_check(declared)
    if {"present", "embedding"} <= names:
        found["absent_is_zero"] = _zero_check({"present": slice(None)})
    if table == "fused_embeddings":
        found["absent_is_zero"] = _zero_check({"has_audio": slice(768, 1536), "has_text": slice(1536, 2304)})
        found["norms_unit"] = _norms_unit
    if {"start_s", "end_s"} <= names:
        found["spans_not_empty"] = _spans_not_empty
    if table == "shots":
        found["shots_tile_the_title"] = _shots_tile
    return found


def violations(table: str, rows: "pl.DataFrame") -> list[str]:
    """A sentence for each contract of the table that the rows of one partition break; none when they may be stored."""
    schema = checks(table)["schema_matches"](rows)
    return schema or [violation for check in checks(table).values() for violation in check(rows)]


def _schema_check(table: str) -> Check:
    def check(rows: "pl.DataFrame") -> list[str]:
        """Exactly the declared columns in their order and types, and nulls only where they are declared."""
        expected = polars_schema(table)
        found = []
        if missing := [name for name in expected if name not in rows.columns]:
            found.append(f"missing: {', '.join(missing)}")
        if unknown := [name for name in rows.columns if name not in expected]:
            found.append(f"not declared: {', '.join(unknown)}")
        found += [
            f"{name} is {rows.schema[name]}, not {kind}"
            for name, kind in expected.items()
            if name in rows.columns and rows.schema[name] != kind
        ]
        if found:
            return found
        if rows.columns != list(expected):
            return ["the columns are not in the declared order"]
        required = [column.name for column in TABLES[table].columns if not column.nullable]
        nulls = rows.select(required).null_count().row(0)
        return [f"{name} is null in {count} rows" for name, count in zip(required, nulls, strict=True) if count]

    return check


def _one_data_version(rows: "pl.DataFrame") -> list[str]:
    """All rows of a partition were made from the same inputs: they carry one data version."""
    versions = rows["data_version"].n_unique()
    return [f"{versions} data versions in one partition"] if versions > 1 else []


def _key_check(table: Table) -> Check:
    def check(rows: "pl.DataFrame") -> list[str]:
        """The key names one row."""
        repeated = rows.filter(rows.select(*table.partition_by, *table.key).is_duplicated()).select(table.key).unique()
        if repeated.is_empty():
            return []
        first = ", ".join(str(value) for value in min(repeated.rows()))
        return [f"{len(repeated)} keys ({', '.join(table.key)}) occur more than once, the first: {first}"]

    return check


def _finite_check(table: Table) -> Check:
    numbers = [column.name for column in table.columns if column.type == "float64"]

    def check(rows: "pl.DataFrame") -> list[str]:
        """Numbers are neither NaN nor infinite; what is not known is null."""
        broken = {name: int((~rows[name].drop_nulls().is_finite()).sum()) for name in numbers}
        return [f"{name} is NaN or infinite in {count} rows" for name, count in broken.items() if count]

    return check


def _vector_check(table: Table) -> Check:
    vectors = [column for column in table.columns if column.type == "list<float32>"]

    def check(rows: "pl.DataFrame") -> list[str]:
        """Vectors have their length and hold neither null, NaN nor infinity."""
        import numpy as np

        if rows.is_empty():
            return []
        found = []
        for column in vectors:
            lengths = rows[column.name].list.len()
            expected = column.length or max(lengths[0], 1)  # where none is declared: all as long as the first
            if wrong := int((lengths != expected).sum()):
                found.append(f"{wrong} vectors of {column.name} do not have {expected} numbers")
            # A null becomes NaN here, an empty list a null.
            if broken := int((~np.isfinite(rows[column.name].explode().to_numpy())).sum()):
                found.append(f"{column.name} holds {broken} numbers that are null, NaN or infinite")
        return found

    return check


def _zero_check(blocks: Mapping[str, slice]) -> Check:
    def check(rows: "pl.DataFrame") -> list[str]:
        """A modality's numbers are all zero exactly where its flag says that the shot has none of it."""
        matrix = _matrix(rows)
        if matrix is None:
            return []
        found = []
        for flag, block in blocks.items():
            flags = rows[flag].to_numpy()
            filled = (matrix[:, block] != 0).any(axis=1)
            if zero := int((~filled & flags).sum()):
                found.append(f"{zero} vectors are zero although {flag} is true")
            if not_zero := int((filled & ~flags).sum()):
                found.append(f"{not_zero} vectors are not zero although {flag} is false")
        return found

    return check


def _norms_unit(rows: "pl.DataFrame") -> list[str]:
    """Fused vectors have norm 1 within 1e-5."""
    import numpy as np

    matrix = _matrix(rows)
    if matrix is None:
        return []
    norms = np.sqrt(np.einsum("ij,ij->i", matrix, matrix, dtype=np.float64))
    wrong = int((~(np.abs(norms - 1) <= UNIT_NORM_TOLERANCE)).sum())
    return [f"{wrong} fused vectors are not of unit norm"] if wrong else []


def _spans_not_empty(rows: "pl.DataFrame") -> list[str]:
    """A span of time ends after it starts."""
    wrong = int((rows["end_s"] <= rows["start_s"]).sum())
    return [f"{wrong} spans do not end after they start"] if wrong else []


def _shots_tile(rows: "pl.DataFrame") -> list[str]:
    """The shots tile their title: from frame 0, each begins in frames and seconds where the one before it ended."""
    ordered = rows.sort("shot_index")
    found = []
    if ordered["shot_index"].to_list() != list(range(len(ordered))):
        found.append("shots are not numbered 0, 1, 2, …")
    if len(ordered) and ordered["start_frame"][0] != 0:
        found.append("the first shot does not begin at frame 0")
    for start, end in (("start_frame", "end_frame"), ("start_s", "end_s")):
        if (ordered[end] <= ordered[start]).any():
            found.append(f"a shot's {end} does not lie after its {start}")
        if (ordered[start][1:] != ordered[end][:-1]).any():
            found.append(f"a shot's {start} is not the {end} of the one before it")
    return found


def vectors(rows: "pl.DataFrame") -> "np.ndarray":
    """The embeddings of n rows as (n, d) float32. Raises ValueError where their lengths differ."""
    return rows["embedding"].explode().to_numpy().reshape(len(rows), -1)


def _matrix(rows: "pl.DataFrame") -> "np.ndarray | None":
    """The rows' vectors, (n, d); None where lengths differ, which `vectors_valid` reports."""
    lengths = rows["embedding"].list.len().unique()
    return vectors(rows) if len(lengths) == 1 and lengths[0] else None


def as_markdown() -> str:
    """docs/tables.md."""
    lines = [
        "# Tables",
        "",
        "Delta tables in the lake, one folder each. Generated by `python -m resources.tables > docs/tables.md`.",
        "",
        "Vectors are lists of float32; those with different `encoder` or `space` values must not be compared.",
        "Times are seconds from the start of the media. `data_version` is the same in all rows of a partition.",
    ]
    for table in TABLES.values():
        key = ", ".join(f"`{name}`" for name in (*table.partition_by, *table.key))
        partitions = ", ".join(f"`{name}`" for name in table.partition_by)
        divided = f"Partitioned by {partitions}." if partitions else "Not partitioned; rows are only added."
        lines += [
            "",
            f"## {table.name}",
            "",
            table.description,
            "",
            f"{divided} A row is named by {key}.",
        ]
        lines += ["", "| column | type | |", "|---|---|---|"]
        for column in table.columns:
            kind = f"{column.type}, {column.length} numbers" if column.length else column.type
            nullable = ", nullable" if column.nullable else ""
            default = "" if column.default is None else f", {column.default} where null"
            lines.append(f"| `{column.name}` | {kind}{nullable}{default} | {column.description} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(as_markdown(), end="")
