"""A podcast among films: landed, cut into segments, embedded, trained on, probed, searched and shown."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx2
import numpy as np
import polars as pl
import pytest

from mediafm_assets.commands.cli import main
from model.modalities import WIDTHS, blocks_of
from resources.lake import TABLES, vectors, violations
from resources.media import probe, shot_audio
from tests.mediafm_assets.conftest import Places
from tests.mediafm_assets.pages.conftest import serving
from tests.mediafm_assets.title_runs import titles_of
from tests.resources.films import numbered, spoken

TALK = "the-dragon-hour"
LINES = (
    "Welcome to the dragon hour.",
    "Today we talk about dragons and their caves.",
    "A dragon sleeps on gold.",
    "And now the weather.",
    "Rain falls on the coast, wind from the west.",
)


@dataclass
class Mixed:
    """Films and a podcast in one lake, before and after it came."""

    places: Places
    before: dict[str, dict[str, str]]
    talk_s: float


@pytest.fixture(scope="module")
def mixed(finished: Places, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mixed]:
    root = tmp_path_factory.mktemp("mixed")
    places = finished.copy(root / "places")
    films = titles_of(places)
    before = {title: places.versions(title) for title in films}
    folder = root / TALK
    folder.mkdir()
    film_sounds = [places.landing / "titles" / title / "film.mp4" for title in (films[0], films[2], films[3])]
    sound = np.concatenate([next(shot_audio(film, [(0, probe(film).duration_s)])) for film in film_sounds])
    talk = spoken(folder / "talk.mp3", sound, cover=numbered(1, 64, 64)[0])
    step = len(sound) / 16000 / len(LINES)
    cues = [f"{clock(i * step)} --> {clock((i + 1) * step - 1)}\n{line}\n" for i, line in enumerate(LINES)]
    (folder / "talk.en.vtt").write_text("\n".join(["WEBVTT\n", *cues]))
    (folder / "title.json").write_text(json.dumps({"title": "The Dragon Hour", "type": "podcast", "language": "en"}))
    labels = places.landing / "labels" / "clip_tone.jsonl"
    clip = {"clip_id": "talk-1", "title_id": TALK, "start_s": 0, "end_s": 8, "labels": ["calm"]}
    labels.write_text(labels.read_text() + json.dumps(clip) + "\n")
    with pytest.MonkeyPatch.context() as monkeypatch:
        places.use(monkeypatch)
        assert main(["land", str(folder)]) == 0
        assert main(["materialize", "--train"]) == 0
        yield Mixed(places, before, probe(talk).duration_s)


def clock(seconds: float) -> str:
    return f"00:{int(seconds) // 60:02}:{seconds % 60:06.3f}"


def test_its_segments_are_its_shots_and_its_picture_is_absent_everywhere(mixed: Mixed) -> None:
    lake = mixed.places.lake
    title = lake.read("titles", title_id=TALK).row(0, named=True)
    assert (title["has_picture"], title["has_audio"], title["width"], title["fps"]) == (False, True, None, None)
    shots = lake.read("shots", title_id=TALK)
    lengths = (shots["end_s"] - shots["start_s"]).to_numpy()
    assert len(shots) >= 3
    assert ((lengths >= 5) & (lengths <= 30)).all()
    assert shots["end_s"][-1] == pytest.approx(mixed.talk_s, abs=0.1)
    assert shots["start_frame"].null_count() == len(shots)
    assert lake.read("shot_frames", title_id=TALK)["jpeg"].to_list() == [None] * len(shots)
    assert not lake.read("video_embeddings", title_id=TALK)["present"].any()
    assert lake.read("audio_embeddings", title_id=TALK)["present"].all()
    fused = lake.read("fused_embeddings", title_id=TALK)
    assert not fused["has_video"].any()
    assert not vectors(fused)[:, blocks_of(WIDTHS)["video"]].any()
    assert np.linalg.norm(vectors(fused), axis=1) == pytest.approx(1, abs=1e-5)
    assert not np.any(lake.read("title_embeddings", title_id=TALK)["video"].to_list())


def test_it_has_rows_in_every_table_of_titles_and_all_keep_the_contract(mixed: Mixed) -> None:
    lake = mixed.places.lake
    for table, declared in TABLES.items():
        for key in lake.data_versions(table):
            rows = lake.read(table, **dict(zip(declared.partition_by, key, strict=True))) if key else None
            assert rows is None or violations(table, rows) == []
        if "title_id" in declared.partition_by and table != "failures":
            assert any(TALK in key for key in lake.data_versions(table)), table


def test_the_films_are_not_made_again_and_have_their_pictures(mixed: Mixed) -> None:
    behind = ("contextual_embeddings",)  # the encoder is a new one
    for title, versions in mixed.before.items():
        now = mixed.places.versions(title)
        assert {t: v for t, v in now.items() if t not in behind} == {
            t: v for t, v in versions.items() if t not in behind
        }
        assert mixed.places.lake.read("fused_embeddings", title_id=title)["has_video"].all()


def test_its_labelled_clips_are_probed_beside_those_of_films(mixed: Mixed) -> None:
    lake = mixed.places.lake
    clips = lake.scan("clip_labels").filter(pl.col("task") == "clip_tone").collect()
    newest = max(version for (version,) in lake.data_versions("probe_metrics"))
    probed = lake.read("probe_metrics", encoder_version=newest).filter(task="clip_tone")
    assert set(probed["n_clips"]) == {len(clips)}
    assert set(probed["n_titles"]) == {clips["title_id"].n_unique()}


def test_it_is_found_by_its_words_and_by_a_segment_like_another(
    mixed: Mixed, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["search", "dragons sleep in caves", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["shots"]
    assert found[0]["title_id"] == TALK
    assert main(["search", "--like", f"{TALK}:1", "--json"]) == 0
    alike = json.loads(capsys.readouterr().out)["shots"]
    assert alike
    assert all(not match["parts"].get("video") for hit in alike for match in hit["matches"])


def test_the_pages_show_a_drawing_in_the_place_of_frames(mixed: Mixed) -> None:
    with serving(mixed.places) as url:
        page = httpx2.get(f"{url}/titles/{TALK}", timeout=30)
        assert page.status_code == 200
        assert "The Dragon Hour" in page.text
        stills = set(re.findall(r'src="(/titles/[^"]+\.jpg)"', page.text))
        assert stills
        for path in (*(still for still in stills if TALK in still), f"/titles/{TALK}/poster.jpg"):
            still = httpx2.get(url + path, timeout=30)
            assert (still.status_code, still.headers["content-type"]) == (200, "image/svg+xml")
            assert "rect" in still.text
        media = httpx2.get(f"{url}/titles/{TALK}/film", timeout=30)
        assert media.headers["content-type"] == "audio/mpeg"
        assert httpx2.get(f"{url}/titles/{TALK}/shots/99.jpg", timeout=30).status_code == 404
        assert httpx2.get(f"{url}/api/titles/{TALK}", timeout=30).json()["title"]["has_picture"] is False


def test_commands_say_what_it_is(mixed: Mixed, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", TALK]) == 0
    assert "The Dragon Hour" in capsys.readouterr().out
    assert main(["explain", f"{TALK}:0", "video_embeddings"]) == 0
    assert "no frames: the title has no picture" in capsys.readouterr().out
    assert main(["status", "--title", TALK]) == 0


def test_new_words_cut_it_anew_and_nothing_else(mixed: Mixed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    places = mixed.places.copy(tmp_path / "copy")
    places.use(monkeypatch)
    before = {title: places.versions(title) for title in titles_of(places)}
    words = places.landing / "titles" / TALK / "talk.en.vtt"
    words.write_text(words.read_text().replace("the weather", "some music"))
    assert main(["materialize", "--title", TALK, "--no-train"]) == 0
    now = {title: places.versions(title) for title in titles_of(places)}
    assert {title for title in now if now[title] != before[title]} == {TALK}
    assert now[TALK]["shots"] != before[TALK]["shots"]
    assert now[TALK]["global_embeddings"] == before[TALK]["global_embeddings"]
