"""Rows of the tables that say what the vectors are for, as they are documented, for pages to show."""

from typing import Any

from resources.lake import TABLES, DeltaLake, typed_rows

VERSION = "9" * 32
GENERATION = "99990201T120000-abc"
"""Later than any that is trained."""


def write(lake: DeltaLake, table: str, partition: str, rows: list[dict[str, Any]]) -> None:
    lake.write(table, {TABLES[table].partition_by[0]: partition}, typed_rows(table, rows), VERSION)


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
        | {"boundary_score": 0.8, "pause_s": 1.4, "gap_s": 5.0, "before": ["travel"], "after": ["food", "cars"]}
        for rank, group in enumerate(scenes[1:3], 1)
    ]
    write(lake, "ad_breaks", title_id, breaks)
    light = {**span(scenes[-1]), "rank": 1, "score": 0.9, "probe_version": "p"}
    write(lake, "highlights", title_id, [light])
    near = {"title_id": title_id, "rank": 1, "neighbour_id": neighbour_id, "score": 0.77}
    carried = {"contextual": 0.0, "video": 0.5, "audio": 0.2, "text": 0.07, "metadata": 0.0}
    in_use = lake.read_whole("encoder_promotions").filter("promoted").sort("decided_at")["encoder_version"][-1]
    write(lake, "title_neighbours", in_use, [{**near, **carried}])
