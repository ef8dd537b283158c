"""The demo catalogue: small films with a story, whose every cut and label is known, as drops in a landing zone.

    <folder>/titles/<id>/    film.mp4, subtitles, title.json (written last, as a good uploader does)
    <folder>/labels/         <task>.jsonl for the five tasks of clips, and scenes.jsonl
    <folder>/truth/          <id>.json: true cuts, shots, scenes and labels; no part of any drop

A title's content is a pure function of (seed, its place in the catalogue, shots per title, `RENDER_VERSION`). The
scores that come of it show that the machinery works, and nothing more.
"""

import json
import multiprocessing
import os
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from model.tasks import SCENES
from resources.demo.film import HEIGHT, WIDTH, render_film
from resources.demo.pictures import Look, pictures
from resources.demo.sound import soundtrack
from resources.demo.story import DISSOLVE_FRAMES, FPS, MANNERS, Shot, Story, clip_labels, tell_story

# Raise it with every change that changes a frame, a sample, a word or a label: finished titles are then rendered again.
RENDER_VERSION = 1


class Catalogue(NamedTuple):
    """folder: the landing zone; truth: where the true cuts and labels are; rendered: the titles that were not there."""

    folder: Path
    truth: Path
    title_ids: list[str]
    rendered: list[str]


def render_catalogue(
    folder: Path,
    titles: int = 24,
    seed: int = 7,
    shots_per_title: int = 32,
    progress: Callable[[int, int], None] | None = None,
) -> Catalogue:
    """Render the first `titles` titles of the demo catalogue into the landing zone `folder`, on all cores.

    A title that is there already, whole and of the same seed, length and `RENDER_VERSION`, is left alone, so a second
    call writes nothing. Other titles in the folder are not touched; label files of the demo's tasks are replaced.
    `progress(done, titles)` is called at the start and after each title. Deterministic on one machine, bytes included.
    """
    if titles < 1 or shots_per_title < 4:
        raise ValueError("the demo catalogue needs at least one title and four shots per title")
    stories = [tell_story(index, seed, shots_per_title) for index in range(titles)]
    for name in ("titles", "labels", "truth"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    missing = [story for story in stories if not _is_complete(folder, story, shots_per_title)]
    done = titles - len(missing)
    if progress:
        progress(done, titles)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    # Starting a process costs about as much as a film.
    workers = min(cores, len(missing) // 3)
    for _ in _rendered(folder, missing, shots_per_title, workers):
        done += 1
        if progress:
            progress(done, titles)

    rows: dict[str, list[str]] = defaultdict(list)
    for story in stories:
        truth = json.loads((folder / "truth" / f"{story.title_id}.json").read_text())
        for task, labels in truth["labels"].items():
            rows[task] += [json.dumps(row) for row in labels]
        rows[SCENES] += [json.dumps(row) for row in _scenes(story)]
    for task in rows:
        _write_if_changed(folder / "labels" / f"{task}.jsonl", "\n".join(rows[task]) + "\n")
    return Catalogue(folder, folder / "truth", [s.title_id for s in stories], [s.title_id for s in missing])


def _rendered(folder: Path, stories: list[Story], shots_per_title: int, workers: int) -> Iterator[str]:
    if workers < 2:
        for story in stories:
            yield _render_title(folder, story, shots_per_title)
        return
    # Spawned, not forked: the caller may hold threads (torch's, Dagster's) that a fork would break.
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        for future in as_completed([pool.submit(_render_title, folder, story, shots_per_title) for story in stories]):
            yield future.result()


def _render_title(folder: Path, story: Story, shots_per_title: int) -> str:
    """Write one drop, title.json last, and its truth before that. Every file appears whole, by a rename."""
    drop = folder / "titles" / story.title_id
    drop.mkdir(exist_ok=True)
    (drop / "title.json").unlink(missing_ok=True)
    for old in drop.glob("film.*"):
        old.unlink()

    looks = [Look(story, shot) for shot in story.shots]
    for before, look in pairwise(looks):
        look.part_from(before)
    partial = drop / ".partial.mp4"
    render_film(partial, pictures(story, looks), FPS, soundtrack(story) if story.has_audio else None)
    partial.rename(drop / "film.mp4")
    if story.text_format is not None:
        _write(drop / f"film.en.{story.text_format}", _subtitles(story))

    settings = list(dict.fromkeys(scene.setting for scene in story.scenes))
    subject, other = story.cast[0], story.cast[1]
    metadata = {
        "title": story.title,
        "type": story.type,
        "synopsis": (
            f"{subject} leaves the {settings[0]} for the {settings[-1]}, where {other} keeps a secret about the "
            f"{MANNERS[story.genres[0]].words.split()[0]}. A {' and '.join(story.genres).lower()} story in four acts."
        ),
        "tags": [*settings, *MANNERS[story.genres[0]].words.split()],
        "genres": list(story.genres),
        "language": "en",
        "series_id": story.series_id,
        "media": "film.mp4",
    }
    truth = {
        **_marker(story, shots_per_title),
        "title_id": story.title_id,
        "fps": FPS,
        "frames": story.frames,
        "width": WIDTH,
        "height": HEIGHT,
        "climax_s": story.climax_s,
        "cuts": [_cut(shot) for shot in story.shots[1:]],
        "shots": [asdict(shot) for shot in story.shots],
        "scenes": [asdict(scene) for scene in story.scenes],
        "labels": clip_labels(story, [look.brightness for look in looks]),
        "files": {path.name: path.stat().st_size for path in sorted(drop.glob("film.*"))},
    }
    _write(folder / "truth" / f"{story.title_id}.json", json.dumps(truth, indent=1) + "\n")
    _write(drop / "title.json", json.dumps(metadata, indent=2) + "\n")
    return story.title_id


def _scenes(story: Story) -> Iterator[dict[str, Any]]:
    """The story's scenes as rows of a label file."""
    for scene in story.scenes:
        frames = story.shots[scene.first_shot].start_frame, story.shots[scene.end_shot - 1].end_frame
        start_s, end_s = (round(frame / FPS, 6) for frame in frames)
        yield {"title_id": story.title_id, "start_s": start_s, "end_s": end_s}


def _cut(shot: Shot) -> dict[str, Any]:
    """A cut's frame is the first of the new shot; a dissolve's is the middle of its frames [first, end)."""
    if not shot.dissolve:
        return {"frame": shot.start_frame, "kind": "hard"}
    half = DISSOLVE_FRAMES // 2
    ends = {"first": shot.start_frame - half, "end": shot.start_frame + half}
    return {"frame": shot.start_frame, "kind": "dissolve", **ends}


def _marker(story: Story, shots_per_title: int) -> dict[str, int]:
    return {
        "render_version": RENDER_VERSION,
        "seed": story.seed,
        "index": story.index,
        "shots_per_title": shots_per_title,
    }


def _is_complete(folder: Path, story: Story, shots_per_title: int) -> bool:
    drop = folder / "titles" / story.title_id
    try:
        truth = json.loads((folder / "truth" / f"{story.title_id}.json").read_text())
        present = {path.name: path.stat().st_size for path in drop.glob("film.*")}
    except (OSError, ValueError):
        return False
    same = _marker(story, shots_per_title).items() <= truth.items()
    return same and present == truth["files"] and (drop / "title.json").is_file()


def _write(path: Path, text: str) -> None:
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text)
    partial.rename(path)


def _write_if_changed(path: Path, text: str) -> None:
    # An unchanged file keeps its modification time, by which others tell that nothing happened.
    if not path.is_file() or path.read_text() != text:
        _write(path, text)


def _subtitles(story: Story) -> str:
    def clock(seconds: float, mark: str, digits: int = 3) -> str:
        units = round(seconds * 10**digits)
        whole, rest = divmod(units, 10**digits)
        return f"{whole // 3600:02d}:{whole // 60 % 60:02d}:{whole % 60:02d}{mark}{rest:0{digits}d}"

    if story.text_format == "ass":
        head = "[Script Info]\nScriptType: v4.00+\n\n[Events]\nFormat: Layer, Start, End, Style, Text\n"
        lines = (
            f"Dialogue: 0,{clock(start, '.', 2)[1:]},{clock(end, '.', 2)[1:]},Default,{{\\i1}}{text}"
            for start, end, text in story.cues
        )
        return head + "\n".join(lines) + "\n"
    if story.text_format == "ttml":
        paragraphs = (f'<p begin="{start:.3f}s" end="{end:.3f}s">{text}</p>' for start, end, text in story.cues)
        body = "\n".join(paragraphs)
        return f'<tt xml:lang="en" xmlns="http://www.w3.org/ns/ttml"><body><div>\n{body}\n</div></body></tt>\n'
    mark = "." if story.text_format == "vtt" else ","
    blocks = (
        f"{number}\n{clock(start, mark)} --> {clock(end, mark)}\n{text}\n"
        for number, (start, end, text) in enumerate(story.cues, start=1)
    )
    return ("WEBVTT\n\n" if story.text_format == "vtt" else "") + "\n".join(blocks)
