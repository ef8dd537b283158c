"""The stories of the demo catalogue: scenes, shots, sound, words and labels, decided before a pixel is drawn.

Each title is a run of scenes in recurring settings, told in four acts (calm, conflict, climax, resolution). The act and
the genre colour everything that a model can see, hear and read: palette, exposure, pace, music, and the words of the
subtitles. Labels depend on that story around a clip as well as on the clip.
"""

import math
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

FPS = 12
DISSOLVE_FRAMES = 8
GENRES = (
    *("Action", "Anime", "Comedy", "Documentary", "Drama", "Fantasy"),
    *("Horror", "Kids", "Romance", "Sci-fi", "Thriller"),
)
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


def clip_labels(story: Story, brightness: Sequence[float]) -> dict[str, list[dict[str, Any]]]:
    """task -> label rows of the landing zone's form. `brightness`: each shot's mean luma, 0 to 1.

    A clip is one or two shots of a scene (for clip_retrieval: one shot). Tone comes of the genre, the act and the look,
    and of what the scenes before and after are; adverts fit the setting of this scene and the next; popularity and
    retrieval grow towards the climax.
    """
    import numpy as np

    rng = np.random.default_rng([story.seed, story.index, 2])
    rows: dict[str, list[dict[str, Any]]] = defaultdict(list)
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
