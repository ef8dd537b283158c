"""docs/cookbook.md: every block is run on a finished lake, and its answer compared with what its tables hold."""

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from mediafm_assets.defs.scenes import ad_breaks
from mediafm_assets.defs.tags import highlights, tags
from resources.lake import DeltaLake, vectors
from tests.mediafm_assets.conftest import Places
from tests.mediafm_assets.title_runs import made, titles_of, write_usable_probes
from tests.resources.lake_rows import rows

PAGE = (Path(__file__).parents[3] / "docs" / "cookbook.md").read_text()
PRELUDE, *BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
QUESTIONS = re.findall(r"^## (.*)$", PAGE, re.MULTILINE)


@dataclass
class Kitchen:
    """A finished lake. title, watched: the titles that stand where the page has night-train and day-boat. word: one
    that is said, where it has dragon."""

    lake: DeltaLake
    titles: list[str]
    word: str

    @property
    def title(self) -> str:
        return self.titles[0]

    @property
    def watched(self) -> str:
        return self.titles[1]

    def answer(self, question: str) -> Any:
        """What the block under the question answers."""
        block = BLOCKS[QUESTIONS.index(question)]
        for said, here in (("night-train", self.title), ("day-boat", self.watched), ("dragon", self.word)):
            block = block.replace(said, here)
        names: dict[str, Any] = {}
        exec(PRELUDE.replace('"data/lake"', repr(self.lake.uri)), names)
        exec(block, names)
        return names["answer"]


@pytest.fixture(scope="module")
def kitchen(finished: Places, tmp_path_factory: pytest.TempPathFactory) -> Kitchen:
    """The small catalogue with probes that can be used, what follows from them, and one title more that failed."""
    places = finished.copy(tmp_path_factory.mktemp("cookbook") / "places")
    titles = titles_of(places)
    write_usable_probes(places, ("clip_tone", "tense"), ("ad_relevancy", "food"), ("clip_retrieval", "clip_retrieval"))
    for title_id in titles:
        for table, compute in (("tags", tags), ("ad_breaks", ad_breaks), ("highlights", highlights)):
            places.lake.write(table, {"title_id": title_id}, made(compute, places, title_id), "b" * 32)
    for table in ("titles", "failures"):
        places.lake.write(table, {"title_id": "red-house"}, rows(table, 1), "1" * 32)
    for title_id in titles:  # a generation that is not in use
        rows_of = places.lake.read_whole("contextual_embeddings").filter(title_id=title_id).drop("encoder_version")
        turned = rows_of.with_columns(pl.col("embedding").list.reverse())
        held = {"encoder_version": "99990101T000000Z-aaaaaaaa", "title_id": title_id}
        places.lake.write("contextual_embeddings", held, turned.filter(pl.col("shot_index") % 2 == 0), "a" * 32)
    said = Counter(word for text in places.lake.read_whole("text_embeddings")["text"] for word in words(text))
    return Kitchen(places.lake, titles, max(said, key=lambda word: (len(word) > 3, said[word])))


def words(text: str) -> set[str]:
    return set(re.findall(r"[a-z]+", text.lower()))


def test_there_are_ten_questions_with_a_block_of_at_most_ten_lines() -> None:
    assert len(QUESTIONS) == len(BLOCKS) == 10
    for block in BLOCKS:
        assert len(block.strip().splitlines()) <= 10
        assert "answer = " in block


def test_the_five_shots_most_like_this_one(kitchen: Kitchen) -> None:
    answer = kitchen.answer("The five shots most like this one")
    in_use = min(version for version, _ in kitchen.lake.data_versions("contextual_embeddings"))
    table = kitchen.lake.read("contextual_embeddings", encoder_version=in_use).sort("title_id", "shot_index")
    matrix = vectors(table).astype(np.float64)
    matrix /= np.linalg.norm(matrix, axis=1, keepdims=True)
    places = table.select("title_id", "shot_index").rows()
    at = places.index((kitchen.title, 3))
    order = [i for i in np.argsort(-(matrix @ matrix[at])) if i != at][:5]
    assert answer.select("title_id", "shot_index").rows() == [places[i] for i in order]


def test_where_the_scenes_begin(kitchen: Kitchen) -> None:
    answer = kitchen.answer("Where do the scenes begin?")
    scenes, shots = (kitchen.lake.read(table, title_id=kitchen.title) for table in ("scenes", "shots"))
    assert answer["first_shot"].to_list() == scenes["first_shot"].to_list()
    assert answer["start_s"].to_list() == [shots["start_s"][shot] for shot in answer["first_shot"]]


def test_films_like_this_one(kitchen: Kitchen) -> None:
    answer = kitchen.answer("Films like this one that nobody has watched yet")
    assert set(answer["neighbour_id"]) == set(kitchen.titles) - {kitchen.title, kitchen.watched}
    assert answer["score"].is_sorted(descending=True)


def test_when_a_word_is_said(kitchen: Kitchen) -> None:
    answer = kitchen.answer("When is a word said?")
    spoken = kitchen.lake.read_whole("text_embeddings").sort("title_id", "shot_index").rows(named=True)
    expected = [(row["title_id"], row["shot_index"]) for row in spoken if kitchen.word in words(row["text"])]
    assert answer.select("title_id", "shot_index").rows() == expected != []


def test_which_titles_are_tense(kitchen: Kitchen) -> None:
    answer = kitchen.answer("Which titles are tense, and which shots argue for it?")
    assert sorted(answer["title_id"]) == kitchen.titles
    assert answer["probability"].is_sorted(descending=True)
    assert (answer["shots"].list.len() > 0).all()


def test_where_ad_breaks_would_go(kitchen: Kitchen) -> None:
    answer = kitchen.answer("Where would three ad breaks go, and what is around them?")
    breaks = kitchen.lake.read("ad_breaks", title_id=kitchen.title).sort("rank").rows(named=True)[:3]
    assert answer["time_s"].to_list() == sorted(row["time_s"] for row in breaks)
    assert set(answer["after"].explode().drop_nulls()) <= {"food"}


def test_which_highlights_make_a_trailer(kitchen: Kitchen) -> None:
    answer = kitchen.answer("Which highlights make a trailer of thirty seconds?")
    lights = kitchen.lake.read("highlights", title_id=kitchen.title).sort("rank").rows(named=True)
    chosen, seconds = [], 0.0
    for row in lights:
        seconds += row["end_s"] - row["start_s"]
        if seconds <= 30:
            chosen.append((row["first_shot"], row["last_shot"]))
    assert answer.select("first_shot", "last_shot").rows() == sorted(chosen) != []


def test_a_picture_of_each_scene(kitchen: Kitchen) -> None:
    answer = kitchen.answer("A picture of each scene")
    scenes, frames = (kitchen.lake.read(table, title_id=kitchen.title) for table in ("scenes", "shot_frames"))
    for jpeg, shot in zip(answer["jpeg"], scenes["first_shot"], strict=True):
        of_shot = frames.filter(shot_index=shot).sort("frame_index")["jpeg"]
        assert jpeg == of_shot[len(of_shot) // 2]


def test_how_the_pace_of_a_film_changes(kitchen: Kitchen) -> None:
    answer = kitchen.answer("How does the pace of a film change?")
    assert answer.select("title_id", "quarter").rows() == [(title, q) for title in kitchen.titles for q in (1, 2, 3, 4)]
    shots, spoken = (kitchen.lake.read(table, title_id=kitchen.title) for table in ("shots", "text_embeddings"))
    first = np.array_split(np.arange(len(shots)), 4)[0]
    seconds = (shots["end_s"] - shots["start_s"]).to_numpy()[first].sum()
    assert answer["shots_a_minute"][0] == pytest.approx(60 * len(first) / seconds)
    assert answer["with_words"][0] == pytest.approx(spoken["present"].to_numpy()[first].mean())


def test_which_titles_are_not_there_yet(kitchen: Kitchen) -> None:
    (row,) = kitchen.answer("Which titles are not there yet, and why?").rows(named=True)
    assert (row["title_id"], row["stage"]) == ("red-house", "shots")
