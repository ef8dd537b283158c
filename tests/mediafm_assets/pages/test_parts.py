"""Parts of the pages by themselves."""

import html
import re
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mediafm_assets.pages import catalogue
from mediafm_assets.pages import vectors as in_memory
from mediafm_assets.pages.app import marked, scenes_of
from mediafm_assets.pages.catalogue import Catalogue
from mediafm_assets.pages.recent import Recent
from mediafm_assets.pages.search import LONGEST_QUERY, checked_query
from mediafm_assets.pages.timeline import clock, timeline
from mediafm_assets.pages.vectors import WHOLE, Refused, Vectors
from resources.lake import DeltaLake, vectors
from tests.resources.lake_rows import rows


@given(st.text(max_size=LONGEST_QUERY + 50))
def test_a_query_is_one_line_without_control_characters_or_refused(said: str) -> None:
    try:
        query = checked_query(said)
    except Refused:
        assert len(said) > LONGEST_QUERY or any(unicodedata.category(character) in ("Cc", "Cs") for character in said)
    else:
        assert query == query.strip()
        assert not any(unicodedata.category(character) in ("Cc", "Cs") for character in query)
        assert query.split() == said.split()


@given(st.text(), st.text())
def test_marking_words_changes_nothing_else(text: str, query: str) -> None:
    shown = str(marked(text, query))
    plain = shown.replace("<mark>", "").replace("</mark>", "")
    assert html.unescape(plain) == text
    assert "<" not in plain


def test_marked_words_are_those_of_the_query() -> None:
    assert str(marked("The <b>Sea</b> & the seal", "sea, the")) == (
        "<mark>The</mark> &lt;b&gt;<mark>Sea</mark>&lt;/b&gt; &amp; <mark>the</mark> seal"
    )


@pytest.mark.parametrize(
    ("seconds", "plain", "tenths"),
    [(0, "0:00", "0:00.0"), (59.96, "0:59", "1:00.0"), (754.25, "12:34", "12:34.2"), (3723, "1:02:03", "1:02:03.0")],
)
def test_times_are_written_as_people_write_them(seconds: float, plain: str, tenths: str) -> None:
    assert clock(seconds) == plain
    assert clock(seconds, tenths=True) == tenths


@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=40))
def test_shots_fill_the_timeline_and_curves_stay_inside_it(lengths: list[float]) -> None:
    ends = [sum(lengths[: i + 1]) for i in range(len(lengths))]
    shots = [
        {"shot_index": i, "start_s": end - length, "end_s": end}
        for i, (length, end) in enumerate(zip(lengths, ends, strict=True))
    ]
    cosines = {"fused": [(-1) ** i * 0.99 for i in range(len(shots) - 1)]} if len(shots) > 1 else {}
    drawn = timeline({"shots": shots, "scenes": [], "highlights": [], "ad_breaks": [], "cosines": cosines})
    assert drawn is not None
    assert sum(shot["width"] for shot in drawn["shots"]) == pytest.approx(100, abs=0.01 * len(shots))
    for points in drawn["curves"].values():
        for x, y in re.findall(r"([-\d.]+),([-\d.]+)", points):
            assert 0 <= float(x) <= 1000
            assert 0 <= float(y) <= 100


def test_shots_that_no_scene_has_are_shown_last() -> None:
    shots = [{"shot_index": i} for i in range(5)]
    scenes = [{"scene_index": 0, "first_shot": 1, "last_shot": 2}, {"scene_index": 1, "first_shot": 7, "last_shot": 9}]
    groups = scenes_of({"shots": shots, "scenes": scenes})
    assert [[shot["shot_index"] for shot in group["shots"]] for group in groups] == [[1, 2], [0, 3, 4]]
    assert groups[-1]["scene"] is None


def test_a_bounded_cache_keeps_what_was_used_last() -> None:
    made: list[str] = []

    def make(key: str) -> str:
        made.append(key)
        return key

    recent: Recent[str] = Recent(2)
    for key in ("a", "b", "a", "c", "a", "b"):
        assert recent.get(key, lambda key=key: make(key)) == key  # type: ignore[misc]
    assert made == ["a", "b", "c", "b"]


def test_vectors_of_a_generation_follow_titles_that_come_change_and_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalogue, "FRESH_S", 0.0)
    monkeypatch.setattr(in_memory, "SEGMENTS", 4)
    lake = DeltaLake(uri=str(tmp_path / "lake"))
    read = Catalogue(lake)
    vectors_of = Vectors(read, "contextual_embeddings", WHOLE, generation="new")
    random = np.random.default_rng(5)
    stored: dict[str, np.ndarray] = {}
    for step in range(24):
        title = f"t{random.integers(5)}"
        where = {"encoder_version": "new", "title_id": title}
        if title in stored and random.random() < 0.3:
            lake.delete("contextual_embeddings", where)
            del stored[title]
        else:
            own = rows("contextual_embeddings", int(random.integers(3, 7)), step)
            stored[title] = vectors(own)
            lake.write("contextual_embeddings", where, own, f"{step:032}")
            lake.write("contextual_embeddings", {**where, "encoder_version": "old"}, own, f"{step:032}")
            lake.write("titles", {"title_id": title}, rows("titles", 1), "1" * 32)
        query = random.normal(size=32).astype(np.float32)
        found = [(hit[0], hit[1]) for hit in vectors_of.nearest(query, "whole", 100, None, None)]
        cosines = {(t, i): float(row @ query) for t, m in stored.items() for i, row in enumerate(m)}
        assert set(found) == {place for place, cosine in cosines.items() if cosine > 0}
