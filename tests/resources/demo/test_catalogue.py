"""The demo catalogue is a good drop, tells its story to eye, ear and reader, and is the same every time."""

import json
import os
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from model.tasks import LABELLED, SCENES, TASKS
from resources.demo import render_catalogue
from resources.demo.film import render_film
from resources.demo.story import FPS, GENRES, SETTINGS, tell_story
from resources.landing import LandingZone
from resources.shots import ShotDetector, detect_shots
from resources.timed_text import align, choose_track, read_cues


def truths(folder: Path) -> dict[str, Any]:
    return {path.stem: json.loads(path.read_text()) for path in sorted((folder / "truth").glob("*.json"))}


def rows(folder: Path, task: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "labels" / f"{task}.jsonl").read_text().splitlines()]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def pictures(film: Path) -> np.ndarray:
    with av.open(str(film)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def test_every_rendered_title_is_a_complete_drop_and_every_label_file_is_readable(small_catalogue: Path) -> None:
    landing = LandingZone(uri=str(small_catalogue))
    look = landing.look()
    assert [drop.title_id for drop in look.drops] == sorted(truths(small_catalogue))
    assert not look.problems
    assert not look.waiting
    assert [[track.format for track in drop.text_tracks] for drop in look.drops] == [
        *(["srt"], ["srt"], [], ["vtt"], ["ass"], ["ttml"])
    ]
    assert look.drops[4].series_id == look.drops[5].series_id is not None
    for task in LABELLED:
        labels = landing.labels(task)
        assert labels is not None
        assert not labels.refused
        assert set(labels.rows["title_id"]) == set(truths(small_catalogue))


def test_the_films_have_the_frames_and_sound_that_the_truth_says(small_catalogue: Path) -> None:
    for number, (title_id, truth) in enumerate(truths(small_catalogue).items()):
        with av.open(str(small_catalogue / "titles" / title_id / "film.mp4")) as container:
            times = [frame.time for frame in container.decode(video=0)]
            assert times == pytest.approx([n / FPS for n in range(truth["frames"])], abs=1e-3)
            assert len(container.streams.audio) == (0 if number == 1 else 1)
            if container.streams.audio:
                assert float(container.duration or 0) / 1e6 == pytest.approx(truth["frames"] / FPS, abs=0.1)


def test_shots_tile_the_film_and_scenes_tile_the_shots(small_catalogue: Path) -> None:
    for truth in truths(small_catalogue).values():
        shots, scenes = truth["shots"], truth["scenes"]
        assert [s["start_frame"] for s in shots] == [0] + [s["end_frame"] for s in shots[:-1]]
        assert shots[-1]["end_frame"] == truth["frames"]
        assert [s["first_shot"] for s in scenes] == [0] + [s["end_shot"] for s in scenes[:-1]]
        assert scenes[-1]["end_shot"] == len(shots)
        assert [cut["frame"] for cut in truth["cuts"]] == [s["start_frame"] for s in shots[1:]]
        for scene in scenes:
            views = [s["viewpoint"] for s in shots[scene["first_shot"] : scene["end_shot"]]]
            assert views == ["AB"[n % 2] for n in range(len(views))]


def test_transnet_finds_the_true_cuts(small_catalogue: Path) -> None:
    right = found = true = 0
    for title_id, truth in truths(small_catalogue).items():
        film = small_catalogue / "titles" / title_id / "film.mp4"
        starts = [shot.start_frame for shot, _ in detect_shots(film, ShotDetector(), frames_per_shot=1)][1:]
        spans = [
            (cut["frame"] - 1, cut["frame"] + 1) if cut["kind"] == "hard" else (cut["first"], cut["end"])
            for cut in truth["cuts"]
        ]
        # Spans of different cuts never overlap (shots are 12 frames and more), so that each counts once.
        right += sum(any(low <= start <= high for start in starts) for low, high in spans)
        found, true = found + len(starts), true + len(spans)
    assert 2 * right / (found + true) >= 0.95


def test_dialogue_is_heard_and_subtitled_in_its_own_shots(small_catalogue: Path) -> None:
    landing = LandingZone(uri=str(small_catalogue))
    for drop in landing.look().drops:
        track = choose_track(drop.text_tracks, drop.language)
        if track is None:
            continue
        truth = truths(small_catalogue)[drop.title_id]
        shots = [(s["start_frame"] / FPS, s["end_frame"] / FPS) for s in truth["shots"]]
        texts = align(read_cues(small_catalogue / "titles" / drop.title_id / track.name), shots)
        for shot, text in zip(truth["shots"], texts, strict=True):
            scene = truth["scenes"][shot["scene"]]
            assert bool(text) == (scene["sound"] == "dialogue")
            assert text.count("\n") == 0


def test_every_genre_setting_act_and_sound_occurs_in_the_catalogue_of_24() -> None:
    stories = [tell_story(index, seed=7, shots_per_title=32) for index in range(24)]
    scenes = [scene for story in stories for scene in story.scenes]
    assert {genre for story in stories for genre in story.genres} == set(GENRES)
    assert {scene.setting for scene in scenes} == set(SETTINGS)
    assert {scene.sound for scene in scenes} == {"dialogue", "music", "ambience", "silence"}
    assert len({story.title_id for story in stories}) == len({story.title for story in stories}) == 24
    assert sum(story.series_id is not None for story in stories) == 8
    assert sum(not story.has_audio for story in stories) == sum(story.text_format is None for story in stories) == 1
    assert any(shot.dissolve for story in stories for shot in story.shots)
    for story in stories:
        assert len(story.shots) == 32
        settings = [scene.setting for scene in story.scenes]
        assert all(a != b for a, b in pairwise(settings))
        assert list(dict.fromkeys(scene.act for scene in story.scenes)) == ["calm", "conflict", "climax", "resolution"]
        assert any(scene.sound == "dialogue" for scene in story.scenes)


def test_a_catalogue_of_any_size_has_titles_of_its_own() -> None:
    stories = [tell_story(index, seed=7, shots_per_title=8) for index in range(400)]
    assert len({story.title_id for story in stories}) == 400
    assert len({story.title for story in stories}) == 400


def test_the_labelled_scenes_are_those_of_the_truth(small_catalogue: Path) -> None:
    labelled = rows(small_catalogue, SCENES)
    for title_id, truth in truths(small_catalogue).items():
        of_title = [row for row in labelled if row["title_id"] == title_id]
        firsts = [truth["shots"][scene["first_shot"]]["start_frame"] for scene in truth["scenes"]]
        assert [row["start_s"] for row in of_title] == pytest.approx([frame / FPS for frame in firsts], abs=1e-6)
        assert [row["end_s"] for row in of_title[:-1]] == [row["start_s"] for row in of_title[1:]]
        assert of_title[-1]["end_s"] == pytest.approx(truth["frames"] / FPS, abs=1e-6)


def test_labels_fit_their_clips_and_depend_on_the_scenes_around_them(small_catalogue: Path) -> None:
    truth = truths(small_catalogue)
    for task in TASKS:
        labelled = rows(small_catalogue, task)
        assert len({row["clip_id"] for row in labelled}) == len(labelled)
        for row in labelled:
            bounds = {
                round(f / FPS, 6) for s in truth[row["title_id"]]["shots"] for f in (s["start_frame"], s["end_frame"])
            }
            assert {row["start_s"], row["end_s"]} <= bounds
            assert row["start_s"] < row["end_s"]

    # The same setting, act and genres: what differs is what comes next.
    adverts: dict[tuple[str, str], set[tuple[str, ...]]] = {}
    for row in rows(small_catalogue, "ad_relevancy"):
        scene = scene_at(truth[row["title_id"]], row["start_s"])
        assert SETTINGS[scene["setting"]].advert in row["labels"]
        adverts.setdefault((row["title_id"], scene["setting"]), set()).add(tuple(row["labels"]))
    assert any(len(different) > 1 for different in adverts.values())

    retrieval = rows(small_catalogue, "clip_retrieval")
    positives = [row for row in retrieval if row["label"]]
    assert 3 * len(positives) == len(retrieval) - len(positives)
    for row in rows(small_catalogue, "clip_genre"):
        title = json.loads((small_catalogue / "titles" / row["title_id"] / "title.json").read_text())
        assert row["labels"] == title["genres"]

    near: list[float] = []
    far: list[float] = []
    for row in rows(small_catalogue, "clip_popularity"):
        distance = abs((row["start_s"] + row["end_s"]) / 2 - truth[row["title_id"]]["climax_s"])
        (near if distance < 0.15 * truth[row["title_id"]]["frames"] / FPS else far).append(row["score"])
    assert np.mean(near) > np.mean(far)


def scene_at(truth: dict[str, Any], start_s: float) -> dict[str, Any]:
    for shot in truth["shots"]:
        if shot["start_frame"] / FPS <= start_s + 1e-5 < shot["end_frame"] / FPS:
            scene: dict[str, Any] = truth["scenes"][shot["scene"]]
            return scene
    raise AssertionError(f"no shot at {start_s}")


def test_two_renders_are_the_same_to_the_byte_also_in_another_process_and_a_longer_catalogue(tmp_path: Path) -> None:
    first = render_catalogue(tmp_path / "one", titles=1, shots_per_title=6)
    code = (
        "import sys; from pathlib import Path; from resources.demo import render_catalogue\n"
        "render_catalogue(Path(sys.argv[1]), titles=2, shots_per_title=6)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "two")], check=True, cwd=Path(__file__).parents[3])
    again = contents(tmp_path / "two")
    title_id = first.title_ids[0]
    for name, content in contents(tmp_path / "one").items():
        if title_id in name:
            assert again[name] == content, name
    assert len([name for name in again if name.endswith("title.json")]) == 2


def test_other_seeds_make_other_films(tmp_path: Path) -> None:
    one = render_catalogue(tmp_path / "one", titles=1, shots_per_title=4, seed=1)
    two = render_catalogue(tmp_path / "two", titles=1, shots_per_title=4, seed=2)
    films = [pictures(c.folder / "titles" / c.title_ids[0] / "film.mp4") for c in (one, two)]
    assert films[0].shape != films[1].shape or (films[0] != films[1]).any()


def test_a_second_render_touches_nothing_and_a_damaged_or_changed_title_is_made_again(
    small_catalogue: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(small_catalogue, folder)
    other = folder / "titles" / "somebody-elses"
    other.mkdir()
    (other / "title.json").write_text('{"title": "Mine"}')

    def state() -> dict[str, int]:
        return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}

    before, steps = state(), []
    again = render_catalogue(
        folder, titles=6, shots_per_title=8, progress=lambda done, total: steps.append((done, total))
    )
    assert again.rendered == []
    assert steps == [(6, 6)]
    assert state() == before

    damaged, lost, unfinished = again.title_ids[0], again.title_ids[1], again.title_ids[2]
    os.truncate(folder / "titles" / damaged / "film.mp4", 1000)
    shutil.rmtree(folder / "titles" / lost)
    (folder / "titles" / unfinished / "title.json").unlink()
    repaired = render_catalogue(folder, titles=6, shots_per_title=8)
    assert repaired.rendered == [damaged, lost, unfinished]
    assert {name: content for name, content in contents(folder).items() if "somebody" not in name} == contents(
        small_catalogue
    )
    changed = {path for path, time in state().items() if before.get(path) != time}
    assert not any(part in path for path in changed for part in ("labels", *again.title_ids[3:], "somebody"))

    shorter = render_catalogue(folder, titles=1, shots_per_title=6)
    assert shorter.rendered == [damaged]
    assert len(truths(folder)[damaged]["shots"]) == 6


def test_title_json_is_written_after_everything_else(tmp_path: Path) -> None:
    made = render_catalogue(tmp_path, titles=1, shots_per_title=4)
    drop = tmp_path / "titles" / made.title_ids[0]
    newest = max(drop.iterdir(), key=lambda path: path.stat().st_mtime_ns)
    assert newest.name == "title.json"
    assert not [path for path in tmp_path.rglob("*") if path.name.startswith(".")]


def test_a_film_of_one_frame_without_audio_can_be_rendered(tmp_path: Path) -> None:
    red = np.zeros((32, 64, 3), np.uint8)
    red[..., 0] = 200
    render_film(tmp_path / "one.mp4", [red], fps=24)
    shown = pictures(tmp_path / "one.mp4")
    assert shown.shape == (1, 32, 64, 3)
    assert np.abs(shown[0].astype(int) - red).max() < 12


def test_the_rendered_sound_is_the_sound_that_was_given(tmp_path: Path) -> None:
    seconds = np.arange(24_000) / 24_000
    tone = (0.4 * np.sin(2 * np.pi * 440 * seconds)).astype(np.float32)
    render_film(tmp_path / "tone.mp4", [np.zeros((32, 32, 3), np.uint8)] * 12, 12, tone)
    with av.open(str(tmp_path / "tone.mp4")) as container:
        heard = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])
    spectrum = np.abs(np.fft.rfft(heard[2000:22_000]))
    assert np.argmax(spectrum) == pytest.approx(440 * 20_000 / 24_000, abs=1)
    assert np.sqrt(np.mean(heard[2000:22_000] ** 2)) == pytest.approx(0.4 / np.sqrt(2), rel=0.1)


def test_a_film_without_frames_is_an_error_of_the_caller(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one frame"):
        render_film(tmp_path / "none.mp4", [], fps=24)
