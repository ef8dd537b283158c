"""Rows of the tables that say what the vectors are for, as they are documented, for pages to show."""

from typing import Any

import polars as pl
from deltalake import write_deltalake

from resources.lake import DeltaLake
from resources.tables import TABLES, Column, Table

VERSION = "9" * 32
GENERATION = "20260201T120000-abc"
COLUMNS = {
    "scenes": "scene_index:int32 first_shot:int32 last_shot:int32 start_s:float64 end_s:float64 boundary_score:float64"
    " embedding:list<float32> encoder_version:string",
    "title_neighbours": "title_id:string rank:int32 neighbour_id:string score:float64 video:float64 audio:float64"
    " text:float64",
    "tags": "task:string scope:string first_shot:int32 last_shot:int32 start_s:float64 end_s:float64 label:string"
    " probability:float64 shots:list<int32> probe_version:string reason:string",
    "ad_breaks": "rank:int32 shot_index:int32 time_s:float64 score:float64 boundary_score:float64 pause_s:float64"
    " since_last_s:float64 before:list<string> after:list<string>",
    "highlights": "rank:int32 first_shot:int32 last_shot:int32 start_s:float64 end_s:float64 score:float64"
    " probe_version:string",
}
KEYS = {
    "scenes": ("scene_index",),
    "title_neighbours": ("title_id", "rank"),
    "tags": ("task", "scope", "first_shot", "label"),
    "ad_breaks": ("rank",),
    "highlights": ("rank",),
}
TYPES: dict[str, Any] = {
    "string": pl.String,
    "int32": pl.Int32,
    "float64": pl.Float64,
    "list<int32>": pl.List(pl.Int32),
    "list<string>": pl.List(pl.String),
    "list<float32>": pl.List(pl.Float32),
}


def declared(table: str) -> Table:
    partition = "encoder_version" if table == "title_neighbours" else "title_id"
    names = [f"{partition}:string", "data_version:string", *COLUMNS[table].split()]
    columns = tuple(Column(*name.split(":", 1), "As documented.") for name in names)
    return Table(table, f"Rows of {table}.", (partition,), KEYS[table], columns)


def write(lake: DeltaLake, table: str, partition: str, rows: list[dict[str, Any]]) -> None:
    names = dict(column.split(":", 1) for column in COLUMNS[table].split())
    by = TABLES[table].partition_by[0]
    frame = pl.DataFrame(rows, schema={name: TYPES[kind] for name, kind in names.items()}).with_columns(
        pl.lit(partition).alias(by), pl.lit(VERSION).alias("data_version")
    )
    write_deltalake(f"{lake.uri}/{table}", frame.to_arrow(), partition_by=[by], mode="append")


def write_all(lake: DeltaLake, title_id: str, neighbour_id: str) -> None:
    """Scenes of three shots, tags, ad breaks, highlights and one neighbour for a title."""
    shots = lake.read("shots", title_id=title_id).rows(named=True)
    scenes = [shots[i : i + 3] for i in range(0, len(shots), 3)]

    def span(group: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "first_shot": group[0]["shot_index"],
            "last_shot": group[-1]["shot_index"],
            "start_s": group[0]["start_s"],
            "end_s": group[-1]["end_s"],
        }

    made = [
        {**span(group), "scene_index": i, "boundary_score": 0.8 if i else 0.0, "embedding": [1.0, 0.0]}
        | {"encoder_version": GENERATION}
        for i, group in enumerate(scenes)
    ]
    write(lake, "scenes", title_id, made)
    whole = {**span(shots), "scope": "title", "probe_version": "p", "reason": None}
    write(
        lake,
        "tags",
        title_id,
        [
            {**whole, "task": "clip_tone", "label": "calm", "probability": 0.81, "shots": [0, 2]},
            {**whole, "task": "clip_tone", "label": "tense", "probability": 0.34, "shots": [1]},
            {**whole, "task": "clip_genre", "label": "Drama", "probability": 0.66, "shots": [3]},
            {**whole, "task": "ad_relevancy", "label": None, "probability": None, "shots": []}
            | {"reason": "The probe does not beat chance: 0.11 to 0.32 against 0.14."},
            *(
                {**whole, **span(group), "scope": "window", "task": "clip_tone", "label": "calm", "probability": 0.7}
                | {"shots": [group[0]["shot_index"]]}
                for group in scenes
            ),
        ],
    )
    breaks = [
        {"rank": rank, "shot_index": group[0]["shot_index"], "time_s": group[0]["start_s"], "score": 0.7}
        | {"boundary_score": 0.8, "pause_s": 1.4, "since_last_s": 5.0, "before": ["travel"], "after": ["food", "cars"]}
        for rank, group in enumerate(scenes[1:3], 1)
    ]
    write(lake, "ad_breaks", title_id, breaks)
    light = {**span(scenes[-1]), "rank": 1, "score": 0.9, "probe_version": "p"}
    write(lake, "highlights", title_id, [light])
    near = {"title_id": title_id, "rank": 1, "neighbour_id": neighbour_id, "score": 0.77}
    write(lake, "title_neighbours", GENERATION, [{**near, "video": 0.5, "audio": 0.2, "text": 0.07}])
