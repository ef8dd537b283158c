"""What rows of a table must keep to be stored: the checks that its schema implies."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from model.modalities import WIDTHS, blocks_of
from resources.lake.schemas import polars_schema, vectors
from resources.lake.tables import TABLES, Table

if TYPE_CHECKING:
    import numpy as np
    import polars as pl

UNIT_NORM_TOLERANCE = 1e-5
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
        found["absent_is_zero"] = _zero_check({f"has_{name}": block for name, block in blocks_of(WIDTHS).items()})
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
            shown = rows[column.name].drop_nulls() if column.nullable else rows[column.name]
            if shown.is_empty():
                continue
            lengths = shown.list.len()
            expected = column.length or max(lengths[0], 1)  # where none is declared: all as long as the first
            if wrong := int((lengths != expected).sum()):
                found.append(f"{wrong} vectors of {column.name} do not have {expected} numbers")
            # A null becomes NaN here, an empty list a null.
            if broken := int((~np.isfinite(shown.explode().to_numpy())).sum()):
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
    """Fused vectors have norm 1 within 1e-5, or are zeros where the shot has no modality at all."""
    import numpy as np
    import polars as pl

    matrix = _matrix(rows)
    if matrix is None:
        return []
    norms = np.sqrt(np.einsum("ij,ij->i", matrix, matrix, dtype=np.float64))
    has_any = rows.select(pl.any_horizontal(*(f"has_{name}" for name, _ in WIDTHS))).to_series().to_numpy()
    wrong = int((~(np.abs(norms - has_any) <= UNIT_NORM_TOLERANCE)).sum())
    return [f"{wrong} fused vectors are not of unit norm"] if wrong else []


def _spans_not_empty(rows: "pl.DataFrame") -> list[str]:
    """A span of time ends after it starts."""
    wrong = int((rows["end_s"] <= rows["start_s"]).sum())
    return [f"{wrong} spans do not end after they start"] if wrong else []


def _shots_tile(rows: "pl.DataFrame") -> list[str]:
    """The shots tile their title: from frame 0, each begins in frames and seconds where the one before it ended. What
    is only heard has no frames."""
    ordered = rows.sort("shot_index")
    found = []
    if ordered["shot_index"].to_list() != list(range(len(ordered))):
        found.append("shots are not numbered 0, 1, 2, …")
    of_frames = ordered.select("start_frame", "end_frame")
    without = sum(of_frames.null_count().row(0))
    if without not in (0, of_frames.height * of_frames.width):
        found.append("some shots have frames and some have none")
    if not without and len(ordered) and ordered["start_frame"][0] != 0:
        found.append("the first shot does not begin at frame 0")
    spans = [("start_s", "end_s")] if without else [("start_frame", "end_frame"), ("start_s", "end_s")]
    for start, end in spans:
        if (ordered[end] <= ordered[start]).any():
            found.append(f"a shot's {end} does not lie after its {start}")
        if (ordered[start][1:] != ordered[end][:-1]).any():
            found.append(f"a shot's {start} is not the {end} of the one before it")
    return found


def _matrix(rows: "pl.DataFrame") -> "np.ndarray | None":
    """The rows' vectors, (n, d); None where lengths differ, which `vectors_valid` reports."""
    lengths = rows["embedding"].list.len().unique()
    return vectors(rows) if len(lengths) == 1 and lengths[0] else None
