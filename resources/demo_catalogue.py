"""The demo catalogue: small films with a story, rendered with NumPy and PyAV, whose every cut and label is known.

Each title is a run of scenes in recurring settings, told in four acts (calm, conflict, climax, resolution). The act and
the genre colour everything that a model can see, hear and read: palette, exposure, pace, music, and the words of the
subtitles. Labels depend on that story around a clip as well as on the clip. The scores that come of it show that the
machinery works, and nothing more.

    <folder>/titles/<id>/    film.mp4, subtitles, title.json (written last, as a good uploader does)
    <folder>/labels/         <task>.jsonl for the five tasks
    <folder>/truth/          <id>.json: true cuts, shots, scenes and labels; no part of any drop

A title's content is a pure function of (seed, its place in the catalogue, shots per title, `RENDER_VERSION`).
"""

import json
import math
import multiprocessing
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import numpy as np

# Raise it with every change that changes a frame, a sample, a word or a label: finished titles are then rendered again.
RENDER_VERSION = 1

FPS = 12
WIDTH, HEIGHT = 256, 144
SAMPLE_RATE = 24_000
DISSOLVE_FRAMES = 8
TASKS = ("ad_relevancy", "clip_popularity", "clip_tone", "clip_genre", "clip_retrieval")
GENRES = (
    *("Action", "Anime", "Comedy", "Documentary", "Drama", "Fantasy"),
    *("Horror", "Kids", "Romance", "Sci-fi", "Thriller"),
)
# Settings are painted larger than the frame, so that the camera has room to move.
_STAGE_W, _STAGE_H = 480, 270

_Colour = tuple[int, int, int]


class Setting(NamedTuple):
    layout: str  # indoor, urban, nature, water or technical
    back: _Colour
    ground: _Colour
    things: _Colour
    advert: str  # what is advertised well next to it
    hiss: float  # 0: rumbling ambience, 1: hissing ambience
    words: str


SETTINGS = {
    "kitchen": Setting("indoor", (226, 206, 168), (150, 104, 66), (196, 84, 58), "food", 0.3, "soup bread table cup"),
    "street": Setting("urban", (150, 172, 196), (84, 84, 90), (120, 98, 92), "cars", 0.5, "corner car bus light"),
    "forest": Setting("nature", (176, 208, 190), (58, 92, 48), (30, 66, 38), "outdoor", 0.8, "tree path moss owl"),
    "office": Setting(
        "indoor", (198, 206, 214), (116, 120, 126), (64, 90, 130), "finance", 0.6, "desk report phone boss"
    ),
    "harbour": Setting("water", (188, 196, 200), (62, 104, 128), (146, 64, 50), "travel", 0.7, "ship crane rope tide"),
    "desert": Setting("nature", (238, 196, 132), (206, 152, 88), (150, 94, 56), "travel", 0.9, "sand heat well dune"),
    "classroom": Setting(
        "indoor", (206, 222, 178), (164, 132, 92), (60, 110, 84), "education", 0.4, "chalk book lesson test"
    ),
    "station": Setting(
        "technical", (28, 34, 54), (50, 56, 70), (70, 190, 220), "electronics", 0.2, "signal engine orbit door"
    ),
    "castle": Setting("urban", (120, 128, 160), (92, 104, 74), (134, 128, 122), "games", 0.35, "king tower gate sword"),
    "hospital": Setting(
        "indoor", (222, 234, 236), (170, 190, 192), (90, 150, 160), "health", 0.55, "doctor bed pulse night"
    ),
    "market": Setting(
        "urban", (232, 200, 150), (158, 128, 98), (208, 92, 42), "shopping", 0.65, "fruit price crowd coin"
    ),
    "beach": Setting("water", (150, 210, 236), (64, 160, 186), (240, 214, 150), "travel", 0.95, "wave shell sun swim"),
}


class Act(NamedTuple):
    share: float  # of the title's shots
    shot_s: tuple[float, float]  # shortest and longest shot
    exposure: float
    saturation: float
    warmth: float  # > 0: towards red, < 0: towards blue
    chords: tuple[tuple[int, ...], ...]  # semitones above the title's root
    words: str


ACTS = {
    "calm": Act(
        0.3, (1.5, 2.8), 1.05, 1.0, 0.06, ((0, 4, 7), (5, 9, 12), (7, 11, 14)), "morning quiet home slow smile"
    ),
    "conflict": Act(
        0.3, (1.2, 2.2), 0.82, 0.75, -0.1, ((0, 3, 7), (8, 12, 15), (5, 8, 12)), "lie wrong leave never why"
    ),
    "climax": Act(0.2, (1.0, 1.6), 0.72, 1.25, 0.18, ((0, 3, 6), (1, 4, 7), (6, 9, 12)), "run now danger help hurry"),
    "resolution": Act(
        0.2, (1.6, 2.8), 1.18, 1.05, 0.1, ((0, 4, 7), (9, 12, 16), (0, 4, 12)), "thanks together again forgive peace"
    ),
}


class Manner(NamedTuple):
    """How a genre colours a title. tones: act -> the tones it adds there."""

    tint: tuple[float, float, float]
    contrast: float
    tempo: float  # chords per second
    root_hz: float
    words: str
    tones: dict[str, str]


MANNERS = {
    "Action": Manner(
        (1.08, 1.0, 0.9), 1.25, 1.1, 110.0, "bomb chase team", {"climax": "exciting", "conflict": "exciting"}
    ),
    "Anime": Manner(
        (1.05, 0.95, 1.15), 1.15, 1.0, 196.0, "spirit rival promise", {"climax": "energetic", "calm": "energetic"}
    ),
    "Comedy": Manner(
        (1.12, 1.08, 0.92), 1.0, 0.9, 220.0, "joke hat cousin", {"conflict": "funny", "resolution": "funny"}
    ),
    "Documentary": Manner(
        (0.98, 1.02, 0.98), 0.9, 0.5, 147.0, "years study people", {"calm": "informative", "resolution": "informative"}
    ),
    "Drama": Manner((1.0, 0.96, 0.94), 0.95, 0.45, 131.0, "father letter truth", {"conflict": "sad"}),
    "Fantasy": Manner(
        (0.98, 1.06, 1.1), 1.1, 0.6, 165.0, "dragon spell crown", {"calm": "wondrous", "resolution": "wondrous"}
    ),
    "Horror": Manner(
        (0.72, 0.8, 0.82), 1.3, 0.4, 82.0, "scream cellar shadow", {"conflict": "scary", "climax": "scary"}
    ),
    "Kids": Manner(
        (1.1, 1.12, 1.05), 0.95, 1.2, 262.0, "puppy balloon song", {"calm": "playful", "resolution": "playful"}
    ),
    "Romance": Manner(
        (1.14, 0.98, 1.02), 0.9, 0.55, 175.0, "heart kiss dance", {"calm": "romantic", "resolution": "romantic"}
    ),
    "Sci-fi": Manner(
        (0.86, 1.0, 1.2), 1.15, 0.7, 98.0, "robot planet code", {"calm": "mysterious", "conflict": "mysterious"}
    ),
    "Thriller": Manner(
        (0.84, 0.94, 1.02), 1.2, 0.8, 104.0, "witness gun clue", {"conflict": "suspenseful", "climax": "suspenseful"}
    ),
}
_ACT_TONES = {"calm": "peaceful", "conflict": "tense", "climax": "intense", "resolution": "hopeful"}
_FIRST_WORDS = (
    *("Silent", "Crimson", "Hollow", "Distant", "Golden", "Broken"),
    *("Northern", "Paper", "Hidden", "Electric", "Winter", "Last"),
)
_SECOND_WORDS = (
    *("River", "Garden", "Signal", "Orchard", "Mirror"),
    *("Harbour", "Letter", "Meridian", "Lantern", "Winter", "Promise"),
)
_NAMES = (
    *("Ada", "Ben", "Cleo", "Dan", "Eva", "Finn"),
    *("Gia", "Hugo", "Ida", "Jon", "Kai", "Lea"),
)
_LINES = (
    "{name}, do you see the {thing}?",
    "One word by the {thing}: {act}.",
    "It was the {genre}, {name}. It was always the {genre}.",
    "The {genre} is near the {thing}. Listen, {act}.",
    "Tell {name} about the {thing} and the {genre}.",
    "{act}... {act}, {name}!",
)
# Where the series stand in each run of 24 titles: place -> number of episodes.
_SERIES = {4: 2, 12: 3, 18: 3}


@dataclass(frozen=True)
class Scene:
    """Shots [first_shot, end_shot) in one setting. sound: dialogue, music, ambience or silence."""

    setting: str
    act: str
    sound: str
    first_shot: int
    end_shot: int


@dataclass(frozen=True)
class Shot:
    """Frames [start_frame, end_frame). viewpoint: A or B; dissolve: whether it begins in one, else with a cut."""

    start_frame: int
    end_frame: int
    scene: int
    viewpoint: str
    camera: str
    dissolve: bool


@dataclass(frozen=True)
class Story:
    """Everything about a title that is decided before a pixel is drawn."""

    title_id: str
    title: str
    type: str
    series_id: str | None
    genres: tuple[str, ...]
    cast: tuple[str, ...]
    scenes: tuple[Scene, ...]
    shots: tuple[Shot, ...]
    cues: tuple[tuple[float, float, str], ...]  # start_s, end_s, text
    has_audio: bool
    text_format: str | None
    work: int  # titles of one series share it, and with it their settings' looks
    seed: int
    index: int

    @property
    def frames(self) -> int:
        return self.shots[-1].end_frame

    @property
    def climax_s(self) -> float:
        shots = [shot for shot in self.shots if self.scenes[shot.scene].act == "climax"] or [self.shots[-1]]
        return (shots[0].start_frame + shots[-1].end_frame) / 2 / FPS


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

    rows: dict[str, list[str]] = {task: [] for task in TASKS}
    for story in stories:
        truth = json.loads((folder / "truth" / f"{story.title_id}.json").read_text())
        for task in TASKS:
            rows[task] += [json.dumps(row) for row in truth["labels"][task]]
    for task in TASKS:
        _write_if_changed(folder / "labels" / f"{task}.jsonl", "\n".join(rows[task]) + "\n")
    return Catalogue(folder, folder / "truth", [s.title_id for s in stories], [s.title_id for s in missing])


def render_film(
    path: Path,
    frames: "Iterable[np.ndarray]",
    fps: int,
    samples: "np.ndarray | None" = None,
    sample_rate: int = SAMPLE_RATE,
) -> None:
    """Write an H.264 film, with an AAC track of `samples` (mono float32 in [-1, 1]) unless there are none.

    `frames` are uint8 (height, width, 3) RGB arrays of one even size, shown for 1 / `fps` s each. The container is the
    one that the path's extension says. The same input gives the same bytes.
    """
    import av
    import numpy as np

    container = av.open(str(path), "w", container_options={"fflags": "+bitexact"})
    video: av.VideoStream | None = None
    audio = container.add_stream("aac", rate=sample_rate, layout="mono") if samples is not None else None
    if audio is not None:
        audio.bit_rate = 64_000
        audio.codec_context.flags |= av.codec.context.Flags.bitexact
    sent = 0

    def send_audio(until: int) -> None:
        nonlocal sent
        if audio is None or samples is None:
            return
        while sent < min(until, len(samples)):
            piece = np.ascontiguousarray(samples[None, sent : sent + 1024], dtype=np.float32)
            frame = av.AudioFrame.from_ndarray(piece, format="fltp", layout="mono")
            frame.sample_rate, frame.pts = sample_rate, sent
            container.mux(audio.encode(frame))
            sent += piece.shape[1]

    with container:
        for number, pixels in enumerate(frames):
            if video is None:
                video = container.add_stream("libx264", rate=fps, options={"preset": "ultrafast", "crf": "27"})
                video.height, video.width = pixels.shape[:2]
                video.pix_fmt = "yuv420p"
                video.codec_context.thread_count = 1
                video.codec_context.flags |= av.codec.context.Flags.bitexact
            picture = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            picture.pts = number
            container.mux(video.encode(picture))
            send_audio(round((number + 1) * sample_rate / fps))
        if video is None:
            raise ValueError("a film needs at least one frame")
        container.mux(video.encode(None))
        if audio is not None and samples is not None:
            send_audio(len(samples))
            container.mux(audio.encode(None))


# --- the story ------------------------------------------------------------------------------------


def tell_story(index: int, seed: int, shots_per_title: int) -> Story:
    """The plan of the catalogue's title number `index` (from 0): scenes, shots, sound and words, nothing drawn yet."""
    import numpy as np

    work, episode, episodes = _work(index)
    of_work = np.random.default_rng([seed, work, 0])
    rng = np.random.default_rng([seed, work, 1, episode])
    genre = GENRES[work % len(GENRES)]
    second = GENRES[(work * 4 + 2) % len(GENRES)]
    genres = (genre,) if second == genre or work % 3 == 2 else (genre, second)
    pool = [str(name) for name in of_work.permutation(list(SETTINGS))[:5]]
    cast = tuple(str(name) for name in of_work.permutation(_NAMES)[:3])
    # Eleven and twelve words: every pair of them comes once before the first comes again.
    name = f"{_FIRST_WORDS[work % 12]} {_SECOND_WORDS[work % 11]}"
    if work >= 132:
        name += f" {work // 132 + 1}"
    title = f"{name}, Episode {episode + 1}" if episodes > 1 else name
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower())

    scenes: list[Scene] = []
    shots: list[Shot] = []
    frame = 0
    for act_name, first, end in _acts(shots_per_title):
        act = ACTS[act_name]
        shot = first
        while shot < end:
            scene_end = min(end, shot + int(rng.integers(3, 6)))
            if end - scene_end == 1:  # no scene of a single shot
                scene_end = end
            elsewhere = [s for s in pool if not scenes or s != scenes[-1].setting]
            quiet = {"calm": "silence", "climax": "music"}.get(act_name, "ambience")
            # Somebody speaks in every film.
            sound = str(rng.choice(["dialogue", "dialogue", "music", quiet])) if scenes else "dialogue"
            scene = Scene(str(rng.choice(elsewhere)), act_name, sound, shot, scene_end)
            for number in range(shot, scene_end):
                length = round(float(rng.uniform(*act.shot_s)) * FPS)
                dissolve = number == shot and number > 0 and rng.random() < 0.3
                cameras = ["still", "pan", "zoom"] if sound != "dialogue" else ["still", "still", "push", "pan"]
                shots.append(
                    Shot(
                        frame,
                        frame + max(length, DISSOLVE_FRAMES + 4),
                        len(scenes),
                        "AB"[(number - shot) % 2],
                        str(rng.choice(cameras)),
                        bool(dissolve),
                    )
                )
                frame = shots[-1].end_frame
            scenes.append(scene)
            shot = scene_end

    cues = []
    for scene in scenes:
        if scene.sound != "dialogue":
            continue
        for number in range(scene.first_shot, scene.end_shot):
            start_s, end_s = shots[number].start_frame / FPS, shots[number].end_frame / FPS
            line = str(rng.choice(_LINES)).format(
                name=cast[int(rng.integers(3))],
                thing=rng.choice(SETTINGS[scene.setting].words.split()),
                act=rng.choice(ACTS[scene.act].words.split()),
                genre=rng.choice(MANNERS[genre].words.split()),
            )
            cues.append((round(start_s + 0.1, 3), round(end_s - 0.1, 3), line[0].upper() + line[1:]))
    place = index % 24
    return Story(
        title_id=f"demo-{index + 1:02d}-{slug}" + (f"-e{episode + 1:02d}" if episodes > 1 else ""),
        title=title,
        type="episode" if episodes > 1 else "movie",
        series_id=f"demo-series-{slug}" if episodes > 1 else None,
        genres=genres,
        cast=cast,
        scenes=tuple(scenes),
        shots=tuple(shots),
        cues=tuple(cues),
        has_audio=place != 1,
        text_format={2: None, 3: "vtt", 4: "ass", 5: "ttml"}.get(place, "srt"),
        work=work,
        seed=seed,
        index=index,
    )


def _work(index: int) -> tuple[int, int, int]:
    """(number of the film or series, episode from 0, episodes) of the catalogue's title number `index`."""
    place, work = 0, 0
    while True:
        episodes = _SERIES.get(place % 24, 1)
        if index < place + episodes:
            return work, index - place, episodes
        place, work = place + episodes, work + 1


def _acts(shots: int) -> list[tuple[str, int, int]]:
    """(act, first shot, end shot): each act has its share, and at least one shot."""
    bounds, share = [0], 0.0
    for act in ACTS.values():
        share += act.share
        bounds.append(max(bounds[-1] + 1, round(share * shots)))
    return [(name, first, end) for name, first, end in zip(ACTS, bounds[:-1], bounds[1:], strict=True)]


# --- labels ---------------------------------------------------------------------------------------


def clip_labels(story: Story, brightness: Sequence[float]) -> dict[str, list[dict[str, Any]]]:
    """task -> label rows of the landing zone's form. `brightness`: each shot's mean luma, 0 to 1.

    A clip is one or two shots of a scene (for clip_retrieval: one shot). Tone comes of the genre, the act and the look,
    and of what the scenes before and after are; adverts fit the setting of this scene and the next; popularity and
    retrieval grow towards the climax.
    """
    import numpy as np

    rng = np.random.default_rng([story.seed, story.index, 2])
    rows: dict[str, list[dict[str, Any]]] = {task: [] for task in TASKS}
    length_s = story.frames / FPS
    middle = float(np.median(brightness))

    def clip(task: str, first: int, end: int) -> dict[str, Any]:
        start_s, end_s = story.shots[first].start_frame / FPS, story.shots[end - 1].end_frame / FPS
        clip_id = f"{story.title_id}-{task}-{len(rows[task]):03d}"
        times = {"start_s": round(start_s, 6), "end_s": round(end_s, 6)}
        return {"clip_id": clip_id, "title_id": story.title_id, **times}

    def nearness(first: int, end: int) -> float:
        centre_s = (story.shots[first].start_frame + story.shots[end - 1].end_frame) / 2 / FPS
        return math.exp(-abs(centre_s - story.climax_s) / (0.2 * length_s))

    for number, scene in enumerate(story.scenes):
        before = story.scenes[number - 1] if number else scene
        after = story.scenes[number + 1] if number + 1 < len(story.scenes) else scene
        first = scene.first_shot
        while first < scene.end_shot:
            end = min(scene.end_shot, first + int(rng.integers(1, 3)))
            light = float(np.mean(brightness[first:end]))

            tones = {_ACT_TONES[scene.act]} | {
                MANNERS[g].tones[scene.act] for g in story.genres if scene.act in MANNERS[g].tones
            }
            tones |= {"gloomy"} if light < 0.8 * middle else {"cheerful"} if light > 1.2 * middle else set()
            if before.act == "climax" != scene.act:
                tones.add("relieved")
            if after.act == "climax" != scene.act:
                tones.add("foreboding")
            rows["clip_tone"].append(clip("clip_tone", first, end) | {"labels": sorted(tones)})

            adverts = {SETTINGS[scene.setting].advert, SETTINGS[after.setting].advert}
            if "climax" not in (before.act, scene.act, after.act):
                adverts.add("family")
            rows["ad_relevancy"].append(clip("ad_relevancy", first, end) | {"labels": sorted(adverts)})

            score = 0.02 + 0.06 * nearness(first, end) + 0.03 * light + 0.002 * float(rng.normal())
            rows["clip_popularity"].append(clip("clip_popularity", first, end) | {"score": round(max(score, 0.0), 6)})
            rows["clip_genre"].append(clip("clip_genre", first, end) | {"labels": list(story.genres)})
            first = end

    worth = [
        nearness(number, number + 1)
        + 0.25 * (story.scenes[shot.scene].sound == "dialogue")
        + 0.05 * float(rng.normal())
        for number, shot in enumerate(story.shots)
    ]
    positives = min(10, max(1, len(worth) // 4))
    order = sorted(range(len(worth)), key=lambda number: -worth[number])
    rest = [int(number) for number in rng.permutation(order[positives:])[: 3 * positives]]
    for number in sorted(order[:positives] + rest):
        label = int(number in order[:positives])
        rows["clip_retrieval"].append(clip("clip_retrieval", number, number + 1) | {"label": label})
    return rows


# --- files ----------------------------------------------------------------------------------------


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

    looks = [_Look(story, shot) for shot in story.shots]
    for before, look in pairwise(looks):
        look.part_from(before)
    partial = drop / ".partial.mp4"
    render_film(partial, _frames(story, looks), FPS, _soundtrack(story) if story.has_audio else None)
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


# --- pictures -------------------------------------------------------------------------------------


class _Look:
    """A shot as it is drawn: a graded stage, figures on it, and a camera that moves over it."""

    def __init__(self, story: Story, shot: Shot) -> None:
        import numpy as np

        scene = story.scenes[shot.scene]
        act = ACTS[scene.act]
        rng = np.random.default_rng([story.seed, story.index, 3, shot.start_frame])
        setting_number = list(SETTINGS).index(scene.setting)
        of_view = np.random.default_rng([story.seed, story.work, 4, setting_number, "AB".index(shot.viewpoint)])
        stage = _stage(SETTINGS[scene.setting], shot.viewpoint, of_view)
        self.shot = shot
        self.grade = _Grade(act, MANNERS[story.genres[0]])
        self.stage = self.grade(stage)
        self.figures = list(_figures(story, scene, shot, self.grade, rng))
        self.zoom = float(rng.uniform(0.72, 0.86))
        self.x, self.y = float(rng.uniform(0.3, 0.7)), float(rng.uniform(0.4, 0.6))
        speed = float(rng.uniform(0.6, 1.0)) * float(rng.choice([-1, 1])) * (1.4 if scene.act == "climax" else 1.0)
        self.pan = 0.16 * speed if shot.camera == "pan" else 0.0
        self.push = {"zoom": 0.07 * speed, "push": 0.04}.get(shot.camera, 0.0)

    def frame(self, number: int) -> "np.ndarray":
        """The picture at the film's frame `number` (a little before and after the shot too: dissolves need it)."""
        import numpy as np

        seconds = (number - self.shot.start_frame) / FPS
        zoom = min(max(self.zoom * (1 - self.push * seconds), 0.6), 0.95)
        half = zoom / 2
        x = min(max(self.x + self.pan * seconds, half), 1 - half)
        y = min(max(self.y, half), 1 - half)
        columns = ((x - half + zoom * (np.arange(WIDTH) + 0.5) / WIDTH) * _STAGE_W).astype(np.int64)
        rows = ((y - half + zoom * (np.arange(HEIGHT) + 0.5) / HEIGHT) * _STAGE_H).astype(np.int64)
        picture = self.stage[rows][:, columns]
        for figure in self.figures:
            figure.paste(picture, seconds)
        return picture

    @property
    def brightness(self) -> float:
        return float(self.frame((self.shot.start_frame + self.shot.end_frame) // 2).mean()) / 255

    def part_from(self, before: "_Look") -> None:
        """Mirror or relight the shot where it would look like the one before it: a cut is a cut if it can be seen."""
        import numpy as np

        last = _thumbnail(before.frame(before.shot.end_frame - 1))
        stage = self.stage

        def difference(candidate: np.ndarray) -> float:
            self.stage = candidate
            return float(np.abs(_thumbnail(self.frame(self.shot.start_frame)) - last).mean())

        if difference(stage) >= 30:
            return
        lighter = np.minimum(stage * 1.3 + 12, 255).astype(np.uint8)
        darker = (stage * 0.7).astype(np.uint8)
        candidates = [stage, stage[:, ::-1], lighter, lighter[:, ::-1], darker, darker[:, ::-1]]
        self.stage = max(candidates, key=difference)


def _frames(story: Story, looks: "Sequence[_Look]") -> "Iterator[np.ndarray]":
    import numpy as np

    half = DISSOLVE_FRAMES // 2
    for number, look in enumerate(looks):
        following = looks[number + 1] if number + 1 < len(looks) else None
        for frame in range(look.shot.start_frame, look.shot.end_frame):
            mixed, share = None, 0.0
            if look.shot.dissolve and frame < look.shot.start_frame + half:
                mixed = looks[number - 1]
                share = 1 - (frame - look.shot.start_frame + half + 0.5) / DISSOLVE_FRAMES
            elif following is not None and following.shot.dissolve and frame >= look.shot.end_frame - half:
                mixed = following
                share = (frame - look.shot.end_frame + half + 0.5) / DISSOLVE_FRAMES
            picture = look.frame(frame)
            if mixed is not None:
                other = mixed.frame(frame)
                picture = np.rint((1 - share) * picture + share * other.astype(np.float32)).astype(np.uint8)
            yield picture


class _Grade:
    """The look of an act and a genre, as a film lab would print it: exposure, contrast, saturation, tint."""

    def __init__(self, act: Act, manner: Manner) -> None:
        import numpy as np

        warm = np.array([1 + act.warmth, 1.0, 1 - act.warmth], np.float32)
        self.gain = warm * np.array(manner.tint, np.float32) * act.exposure
        self.contrast, self.saturation = manner.contrast, act.saturation

    def __call__(self, picture: "np.ndarray") -> "np.ndarray":
        import numpy as np

        grey = picture.mean(axis=-1, keepdims=True)
        picture = (grey + (picture - grey) * self.saturation) * self.gain
        return np.clip((picture - 110) * self.contrast + 110, 4, 251).astype(np.uint8)


def _thumbnail(picture: "np.ndarray") -> "np.ndarray":
    import numpy as np

    blocks = picture.reshape(HEIGHT // 8, 8, WIDTH // 8, 8, 3)
    return blocks.mean(axis=(1, 3), dtype=np.float32)


def _noise(rng: "np.random.Generator", height: int, width: int, cells: int) -> "np.ndarray":
    """Smooth value noise in [-1, 1], three octaves, about `cells` bumps across."""
    import numpy as np

    total = np.zeros((height, width), np.float32)
    for octave in range(3):
        n = cells * 2**octave
        grid = rng.uniform(-1, 1, (n + 2, n + 2)).astype(np.float32)
        y, x = np.linspace(0, n, height, endpoint=False), np.linspace(0, n, width, endpoint=False)
        j, i = y.astype(int), x.astype(int)
        v, u = (y - j).astype(np.float32)[:, None], (x - i).astype(np.float32)
        upper, lower = grid[j], grid[j + 1]
        top = upper[:, i] * (1 - u) + upper[:, i + 1] * u
        total += (top * (1 - v) + (lower[:, i] * (1 - u) + lower[:, i + 1] * u) * v) / 2**octave
    return total / 1.75


def _stage(setting: Setting, viewpoint: str, rng: "np.random.Generator") -> "np.ndarray":
    """A setting as one camera sees it: float32 (_STAGE_H, _STAGE_W, 3), before grading."""
    import numpy as np

    h, w = _STAGE_H, _STAGE_W
    back, ground, things = (np.array(c, np.float32) for c in (setting.back, setting.ground, setting.things))
    if viewpoint == "B":
        # The reverse angle looks away from the light, at another wall.
        back, things = 0.55 * back + 0.25 * things, 0.5 * things + 0.55 * back
    horizon = int(h * rng.uniform(0.52, 0.72))
    rows = np.linspace(0, 1, h, dtype=np.float32)[:, None, None]
    picture = np.empty((h, w, 3), np.float32)
    picture[:] = back * (0.75 + 0.45 * rows)
    picture[horizon:] = ground * (0.8 + 0.5 * (rows[horizon:] - horizon / h))

    def box(x: float, y: float, width: float, height: float, colour: "np.ndarray") -> None:
        top, left = max(int(y), 0), max(int(x), 0)
        picture[top : max(int(y + height), top), left : max(int(x + width), left)] = colour

    def shade(low: float = 0.6, high: float = 1.3) -> "np.ndarray":
        return things * rng.uniform(low, high) + rng.normal(0, 14, 3).astype(np.float32)

    columns = np.arange(w, dtype=np.float32)
    if setting.layout == "indoor":
        for _ in range(int(rng.integers(1, 4))):
            x, width = rng.uniform(0, w), rng.uniform(40, 90)
            box(x, 30, width, horizon * 0.5, back * 0.5)
            box(x + 4, 34, width - 8, horizon * 0.5 - 8, np.array([235, 240, 225], np.float32))
        for _ in range(int(rng.integers(3, 6))):
            height = rng.uniform(40, 110)
            box(rng.uniform(-20, w), horizon + 24 - height, rng.uniform(40, 120), height, shade())
        picture[horizon::14] *= 0.85
    elif setting.layout == "urban":
        x = -10.0
        while x < w:
            width, height = rng.uniform(40, 100), rng.uniform(0.4, 0.95) * horizon
            wall = shade(0.5, 1.3)
            box(x, horizon - height, width, height, wall)
            lit = wall * 0.45 if rng.random() < 0.5 else np.minimum(wall * 1.7, 250)
            for yy in np.arange(horizon - height + 8, horizon - 14, 20):
                for xx in np.arange(x + 6, x + width - 10, 16):
                    box(xx, yy, 8, 10, lit)
            x += width + rng.uniform(0, 14)
        for xx in range(0, w, 60):
            box(xx, horizon + (h - horizon) * 0.5, 30, 4, np.minimum(ground * 1.9, 250))
    elif setting.layout == "nature":
        for ridge in range(3):
            edge = horizon - 60 + 30 * ridge + 40 * _noise(rng, 1, w, 3 + ridge)[0]
            below = np.arange(h)[:, None] > edge
            picture[below] = (back * (0.55 - 0.1 * ridge) + ground * (0.45 + 0.1 * ridge)) * rng.uniform(0.8, 1.1)
        for _ in range(int(rng.integers(6, 14))):
            x, foot, height = rng.uniform(0, w), rng.uniform(horizon, h), rng.uniform(70, 170)
            colour = shade(0.6, 1.2)
            for y in range(max(int(foot - height), 0), int(foot)):
                spread = 0.28 * (y - foot + height)
                picture[y, max(int(x - spread), 0) : max(int(x + spread), 0)] = colour
    elif setting.layout == "water":
        ripple = _noise(rng, h - horizon, w // 6, 14).repeat(6, axis=1)[:, :w]
        picture[horizon:] += 26 * ripple[..., None]
        for _ in range(int(rng.integers(2, 5))):
            x, foot, size = rng.uniform(20, w - 20), horizon + rng.uniform(4, 40), rng.uniform(50, 130)
            colour = shade()
            for y in range(max(int(foot - size), 0), int(foot)):
                picture[y, int(x) : int(x + 0.5 * (y - foot + size))] = np.minimum(colour * 1.5, 250)
            box(x - size * 0.4, foot, size * 1.1, size * 0.22, colour)
        distance = np.hypot(columns - rng.uniform(0, w), np.arange(h)[:, None] - rng.uniform(20, 80))
        picture[distance < 26] = (250, 240, 200)
    else:
        for _ in range(120):
            box(rng.uniform(0, w), rng.uniform(0, horizon), 2, 2, np.array([220, 225, 240], np.float32))
        for _ in range(int(rng.integers(2, 4))):
            distance = np.hypot(columns - rng.uniform(0, w), np.arange(h)[:, None] - rng.uniform(30, horizon))
            radius = rng.uniform(25, 70)
            picture[distance < radius] = shade(0.5, 1.3)
            picture[(distance > radius) & (distance < radius + 6)] = np.minimum(things * 1.4, 250)
        for x in np.arange(rng.uniform(0, 50), w, 70):
            box(x, horizon - 10, 12, h - horizon + 10, shade(0.3, 0.6))

    picture *= 1 + 0.22 * _noise(rng, h, w, 7)[..., None]
    picture *= 1 + 0.03 * rng.standard_normal((h, w, 1), dtype=np.float32)
    light = np.linspace(0.72, 1.22, w, dtype=np.float32)
    picture *= (light if (viewpoint == "A") == (rng.random() < 0.8) else light[::-1])[:, None]
    return np.clip(picture, 0, 255)


class _Figure:
    """A person cut out of paper: head, hair, shoulders and coat, who sways, or walks through the frame."""

    def __init__(
        self, height: int, x: float, walk: float, coat: "np.ndarray", skin: "np.ndarray", grade: _Grade
    ) -> None:
        import numpy as np

        width = int(height * 0.5)
        y, x_grid = np.mgrid[0:height, 0:width].astype(np.float32) / height
        x_grid -= 0.25
        head = ((x_grid / 0.11) ** 2 + ((y - 0.17) / 0.15) ** 2) < 1
        hair = head & (y < 0.13 + 0.3 * np.abs(x_grid))
        body = (y > 0.31) & (np.abs(x_grid) < np.minimum(0.09 + 0.5 * (y - 0.31), 0.22))
        sprite = np.zeros((height, width, 3), np.float32)
        sprite[body] = coat
        sprite *= (1.15 - 0.9 * np.abs(x_grid))[..., None]
        sprite[head] = skin
        sprite[hair] = coat * 0.35
        self.mask = head | body
        self.pixels = grade(sprite)
        self.height, self.width, self.x, self.walk = height, width, x, walk

    def paste(self, picture: "np.ndarray", seconds: float) -> None:
        sway = 0.01 * math.sin(2.4 * seconds + 9 * self.x)
        left = round((self.x + sway + self.walk * seconds) * WIDTH - self.width / 2)
        top = HEIGHT - self.height + round(0.03 * self.height * (1 + math.sin(3.1 * seconds)) / 2)
        x0, x1, y0, y1 = max(left, 0), min(left + self.width, WIDTH), max(top, 0), min(top + self.height, HEIGHT)
        if x0 >= x1 or y0 >= y1:
            return
        inside = (slice(y0 - top, y1 - top), slice(x0 - left, x1 - left))
        picture[y0:y1, x0:x1][self.mask[inside]] = self.pixels[inside][self.mask[inside]]


def _figures(story: Story, scene: Scene, shot: Shot, grade: _Grade, rng: "np.random.Generator") -> Iterator[_Figure]:
    """Dialogue: one speaker, near, on the left in A and on the right in B. Else up to three people on their way."""
    import numpy as np

    of_cast = np.random.default_rng([story.seed, story.work, 5])
    coats, skins = of_cast.uniform(30, 235, (3, 3)), of_cast.uniform(0.45, 1.0, (3, 1)) * np.array([[236, 190, 160]])
    if scene.sound == "dialogue":
        who = "AB".index(shot.viewpoint)
        x = 0.36 if shot.viewpoint == "A" else 0.64
        yield _Figure(int(rng.integers(118, 142)), x, 0.0, coats[who], skins[who], grade)
        return
    haste = 0.09 if scene.act == "climax" else 0.04
    for who in range(int(rng.integers(0, 4))):
        walk = float(rng.choice([-1, 1])) * haste
        yield _Figure(int(rng.integers(46, 92)), float(rng.uniform(0.1, 0.9)), walk, coats[who], skins[who], grade)


# --- sound ----------------------------------------------------------------------------------------


def _soundtrack(story: Story) -> "np.ndarray":
    """The film's mono sound, float32 in [-1, 1], as long as its pictures."""
    import numpy as np

    rng = np.random.default_rng([story.seed, story.index, 6])
    sound = np.zeros(round(story.frames * SAMPLE_RATE / FPS), np.float32)
    manner = MANNERS[story.genres[0]]
    for scene in story.scenes:
        first = story.shots[scene.first_shot].start_frame * SAMPLE_RATE // FPS
        end = story.shots[scene.end_shot - 1].end_frame * SAMPLE_RATE // FPS
        part = sound[first:end]
        if scene.sound != "silence":
            part += (0.012 if scene.sound != "ambience" else 0.07) * _ambience(
                len(part), SETTINGS[scene.setting].hiss, rng
            )
        if scene.sound == "music" or scene.act == "climax":
            part += (0.3 if scene.sound == "music" else 0.1) * _music(len(part), ACTS[scene.act], manner, rng)
    for number, (start_s, end_s, text) in enumerate(story.cues):
        first, end = round(start_s * SAMPLE_RATE), round(end_s * SAMPLE_RATE)
        pitch = (105.0, 190.0, 150.0)[(number + story.work) % 3]
        sound[first:end] += 0.35 * _speech(end - first, pitch, len(text), rng)
    return np.clip(sound, -1, 1)


def _ambience(length: int, hiss: float, rng: "np.random.Generator") -> "np.ndarray":
    """White noise mixed with noise that keeps its low end only; it swells slowly."""
    import numpy as np

    white = rng.standard_normal(length, dtype=np.float32)
    sums = np.cumsum(np.concatenate([np.zeros(65, np.float32), white]), dtype=np.float64)
    rumble = ((sums[65:] - sums[:-65]) / 8).astype(np.float32)
    swell = 0.75 + 0.25 * np.sin(np.arange(length, dtype=np.float32) * (2 * math.pi * 0.3 / SAMPLE_RATE))
    return (hiss * white + (1 - hiss) * rumble) * swell


def _music(length: int, act: Act, manner: Manner, rng: "np.random.Generator") -> "np.ndarray":
    """The act's chords at the genre's pace: three partials a note, each chord struck and let ring."""
    import numpy as np

    music = np.zeros(length, np.float32)
    step = int(SAMPLE_RATE / (manner.tempo * (1.6 if act is ACTS["climax"] else 1.0)))
    seconds = np.arange(step, dtype=np.float32) / SAMPLE_RATE
    ring = np.exp(-1.5 * seconds) * np.minimum(seconds / 0.02, 1)
    for number, start in enumerate(range(0, length, step)):
        chord = act.chords[number % len(act.chords)]
        tone = np.zeros(step, np.float32)
        for semitone in chord:
            hz = manner.root_hz * 2 ** (semitone / 12)
            for partial, level in ((1, 1.0), (2, 0.4), (3, 0.2)):
                tone += level * np.sin(np.float32(2 * math.pi * hz * partial) * seconds)
        if act is ACTS["climax"]:
            tone += 2.5 * np.exp(-18 * seconds) * rng.standard_normal(step, dtype=np.float32)
        end = min(start + step, length)
        music[start:end] += (tone * ring / 4.8)[: end - start]
    return music


def _speech(length: int, pitch: float, letters: int, rng: "np.random.Generator") -> "np.ndarray":
    """Voice without words: a buzz through two wandering formants, in as many syllables as the line has."""
    import numpy as np

    seconds = np.arange(length, dtype=np.float32) / SAMPLE_RATE
    syllables = max(2, letters // 3)
    place = np.arange(length, dtype=np.float32) * (syllables / max(length, 1))
    number = np.minimum(place.astype(int), syllables - 1)
    vowels = rng.uniform([300, 900], [800, 2300], (syllables, 2)).astype(np.float32)
    melody = (pitch * (1 + 0.08 * rng.standard_normal(syllables))).astype(np.float32)[number]
    phase = np.cumsum(melody, dtype=np.float64) * (2 * math.pi / SAMPLE_RATE)
    voice = np.zeros(length, np.float32)
    for harmonic in range(1, 17):
        distance = (vowels - harmonic * pitch) / np.array([120, 220], np.float32)
        levels = (np.exp(-(distance**2)) @ np.array([1.0, 0.6]) + 0.05 / harmonic).astype(np.float32)
        voice += levels[number] * np.sin(harmonic * phase).astype(np.float32)
    voice += 0.05 * rng.standard_normal(length, dtype=np.float32)
    envelope = np.sin(math.pi * (place - number)) ** 0.7
    return voice * envelope.astype(np.float32) * np.minimum(1, np.minimum(seconds, seconds[::-1]) / 0.03) / 2
