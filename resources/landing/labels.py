"""A task's label file, of which each row that cannot be used is refused alone."""

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from model.tasks import TASKS
from resources.errors import BadInput, one_line, printable
from resources.landing.places import File, Place
from resources.landing.rows import number_of, rows_of, span_of
from resources.landing.untrusted import require_inside

if TYPE_CHECKING:
    import polars as pl

LABELS_LIMIT = 256 << 20
REFUSED_SHOWN = 50  # rows of a label file


@dataclass(frozen=True)
class Refused:
    """A row of a label file that cannot be used. line: counted from 1 (in Parquet: row)."""

    file: str
    line: int
    reason: str

    def __str__(self) -> str:
        return f"{self.file}, line {self.line}: {self.reason}"


@dataclass(frozen=True)
class Labels:
    """A task's label file: the rows that can be used; of the `refused_rows` that cannot, the first `REFUSED_SHOWN`."""

    rows: "pl.DataFrame"
    refused: list[Refused]
    refused_rows: int


def label_file_of(place: Place, task: str) -> File | None:
    files = [
        file
        for file in place.files("labels")
        if file.name.rpartition(".")[0] == task and file.name.lower().endswith((".csv", ".jsonl", ".parquet"))
    ]
    if len(files) > 1:
        raise BadInput(f"labels has both {files[0].name} and {files[1].name}; keep one file for a task")
    for file in files:
        require_inside(file.name, file, "the folder of labels")
    return files[0] if files else None


def labels_of(task: str, name: str, data: bytes) -> Labels:
    import polars as pl

    types: dict[str, Any] = {"labels": pl.List(pl.String), "score": pl.Float64, "label": pl.Int32}
    column = TASKS[task].label if task in TASKS else None  # a scene's label is its span
    schema: dict[str, Any] = {
        "clip_id": pl.String,
        "title_id": pl.String,
        "start_s": pl.Float64,
        "end_s": pl.Float64,
        **({column: types[column]} if column else {}),
    }
    rows: list[tuple[Any, ...]] = []
    seen: dict[str, int] = {}
    refused: list[Refused] = []
    refused_rows = 0
    for number, said in rows_of(name, data, schema.keys()):
        try:
            if isinstance(said, BadInput):
                raise said
            row = _label_row(said, column) if column else _scene_row(said)
            if row[0] in seen:
                what = "clip_id" if column else "the scene"
                raise ValueError(f'{what} "{printable(row[0])}" is already in line {seen[row[0]]}')
        except (BadInput, ValueError) as error:
            refused_rows += 1
            if len(refused) < REFUSED_SHOWN:
                refused.append(Refused(name, number, one_line(error)))
            continue
        seen[row[0]] = number
        rows.append(row)
    if not rows:
        why = f"none of its {refused_rows} rows can be used; the first, {refused[0]}" if refused else "it has no rows"
        raise BadInput(f"{name}: {why}; mend the file or remove it")
    return Labels(pl.DataFrame(rows, schema=schema, orient="row"), refused, refused_rows)


def _label_row(said: dict[str, Any], column: str) -> tuple[Any, ...]:
    """One checked row; ValueError says what is wrong with it."""
    clip_id = said.get("clip_id")
    if not isinstance(clip_id, str) or not 0 < len(clip_id) <= 256:
        raise ValueError("clip_id must be a text of 1 to 256 characters")
    clip_id.encode()
    title_id, start_s, end_s = span_of(said)
    value: Any
    if column == "labels":
        value = _label_list(said.get("labels"))
    else:
        value = number_of(said, column)
        if column == "label":
            if value not in (0, 1):
                raise ValueError(f"label is {value:g}; it must be 0 or 1")
            value = int(value)
    return clip_id, title_id, start_s, end_s, value


def _scene_row(said: dict[str, Any]) -> tuple[Any, ...]:
    """One checked row, named by what tells it from others; ValueError says what is wrong with it."""
    title_id, start_s, end_s = span_of(said)
    return f"{title_id} at {start_s:.3f} s", title_id, start_s, end_s


def _label_list(said: Any) -> list[str]:
    """A list of labels; in CSV a JSON list or labels between semicolons."""
    if isinstance(said, str):
        if said.lstrip().startswith("["):
            try:
                said = json.loads(said)
            except (ValueError, RecursionError):
                raise ValueError("labels begins with [ and is not a JSON list") from None
        else:
            said = [label for label in (part.strip() for part in said.split(";")) if label]
    if not isinstance(said, list) or not all(isinstance(label, str) and 0 < len(label) <= 256 for label in said):
        raise ValueError("labels must be a list of texts of 1 to 256 characters (in CSV: a JSON list, or a;b;c)")
    if len(said) > 1000:
        raise ValueError("labels has more than 1000 entries")
    "".join(said).encode()
    return list(dict.fromkeys(said))
