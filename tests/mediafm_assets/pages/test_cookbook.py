"""docs/cookbook.md: every block is run on a small lake, and its answer compared with what was put there."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from resources.lake import DeltaLake, vectors
from tests.mediafm_assets.pages import uses
from tests.resources.lake_rows import rows

PAGE = (Path(__file__).parents[3] / "docs" / "cookbook.md").read_text()
PRELUDE, *BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
QUESTIONS = re.findall(r"^## (.*)$", PAGE, re.MULTILINE)
GENERATIONS = ("20260101T000000-old", "20260201T000000-new")
TEXTS = ["A dragon!", "", "The Dragon sleeps.", "Dragonfly.", "", "", "No.", "Yes."]


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> DeltaLake:
    """Two finished titles of eight shots, and a third that failed."""
    made = DeltaLake(uri=str(tmp_path_factory.mktemp("cookbook") / "lake"))
    random = np.random.default_rng(3)
    for title_id in ("night-train", "day-boat", "red-house"):
        where = {"title_id": title_id}
        made.write("titles", where, rows("titles", 1), "1" * 32)
        if title_id == "red-house":
            continue
        own = {table: rows(table, 8) for table in ("shots", "shot_frames", "text_embeddings", "contextual_embeddings")}
        own["text_embeddings"] = own["text_embeddings"].with_columns(pl.Series("text", TEXTS))
        jpegs = pl.Series("jpeg", [f"{title_id} {i}".encode() for i in range(8)])
        own["shot_frames"] = own["shot_frames"].with_columns(jpegs)
        for table, frame in own.items():
            if table == "contextual_embeddings":
                for generation in GENERATIONS:
                    drawn = pl.Series("embedding", list(random.normal(size=(8, 32)).astype(np.float32)))
                    made.write(table, {"encoder_version": generation, **where}, frame.with_columns(drawn), "1" * 32)
            else:
                made.write(table, where, frame, "1" * 32)
        uses.write_all(made, title_id, "red-house")
    made.write("failures", {"title_id": "red-house"}, rows("failures", 1), "1" * 32)
    return made


def answer_of(question: str, lake: DeltaLake) -> Any:
    """What the block under the question answers."""
    names: dict[str, Any] = {}
    exec(PRELUDE, names)
    names["lake"] = lake.uri
    exec(BLOCKS[QUESTIONS.index(question)], names)
    return names["answer"]


def test_there_are_ten_questions_with_a_block_of_at_most_ten_lines() -> None:
    assert len(QUESTIONS) == len(BLOCKS) == 10
    for block in BLOCKS:
        assert len(block.strip().splitlines()) <= 10
        assert "answer = " in block


def test_the_five_shots_most_like_this_one(lake: DeltaLake) -> None:
    answer = answer_of("The five shots most like this one", lake)
    table = lake.read("contextual_embeddings", encoder_version=GENERATIONS[1])
    matrix = vectors(table).astype(np.float64)
    matrix /= np.linalg.norm(matrix, axis=1, keepdims=True)
    at = table["title_id"].to_list().index("night-train") + 3
    order = [i for i in np.argsort(-(matrix @ matrix[at])) if i != at][:5]
    expected = [(table["title_id"][int(i)], table["shot_index"][int(i)]) for i in order]
    assert answer.select("title_id", "shot_index").rows() == expected


def test_where_the_scenes_begin(lake: DeltaLake) -> None:
    answer = answer_of("Where do the scenes begin?", lake)
    assert answer["first_shot"].to_list() == [0, 3, 6]
    assert answer["start_s"].to_list() == [0.0, 1.5, 3.0]


def test_films_like_this_one(lake: DeltaLake) -> None:
    answer = answer_of("Films like this one that nobody has watched yet", lake)
    assert answer.rows() == [("red-house", 0.77, 0.5, 0.2, 0.07)]


def test_when_a_word_is_said(lake: DeltaLake) -> None:
    answer = answer_of("When is a word said?", lake)
    assert answer.select("title_id", "shot_index").rows() == [
        (title, shot) for title in ("day-boat", "night-train") for shot in (0, 2)
    ]


def test_which_titles_are_tense(lake: DeltaLake) -> None:
    answer = answer_of("Which titles are tense, and which shots argue for it?", lake)
    assert sorted(answer.rows()) == [("day-boat", 0.34, [1]), ("night-train", 0.34, [1])]


def test_where_ad_breaks_would_go(lake: DeltaLake) -> None:
    answer = answer_of("Where would three ad breaks go, and what is around them?", lake)
    assert answer["time_s"].to_list() == [1.5, 3.0]
    assert answer["after"].to_list() == [["food", "cars"]] * 2


def test_which_highlights_make_a_trailer(lake: DeltaLake) -> None:
    answer = answer_of("Which highlights make a trailer of thirty seconds?", lake)
    assert answer.rows() == [(3.0, 4.0, 6, 7, 0.9)]


def test_a_picture_of_each_scene(lake: DeltaLake) -> None:
    answer = answer_of("A picture of each scene", lake)
    assert answer["jpeg"].to_list() == [b"night-train 0", b"night-train 3", b"night-train 6"]


def test_how_the_pace_of_a_film_changes(lake: DeltaLake) -> None:
    answer = answer_of("How does the pace of a film change?", lake)
    assert answer["shots_a_minute"].to_list() == [120.0] * 8
    assert answer["with_words"].to_list() == [0.5, 1.0, 1.0, 1.0] * 2


def test_which_titles_are_not_there_yet(lake: DeltaLake) -> None:
    (row,) = answer_of("Which titles are not there yet, and why?", lake).rows(named=True)
    assert (row["title_id"], row["stage"]) == ("red-house", "shots")
