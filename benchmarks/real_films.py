"""What the embeddings of real films are good for: the packaged encoders beside the weightless, in one run.

    python benchmarks/real_films.py FOLDER [--detector adaptive]
    python benchmarks/real_films.py --subtitles FILE...

FOLDER is a landing zone, or its folder `titles`. For each modality:

    lift      how often a shot's nearest other shot, by cosine, lies within ten shots of it, over chance. Shots that are
              equally near (the same cue again) count by their share. A title in which chance is above a half says
              nothing and is left out. Intervals: 95 % over resampled stretches of 20 shots, all titles' together.
    recall    text to shot: a ridge regression from text vectors to joined video and audio vectors is fitted on other
              titles, or, below five titles with words, on other fifths of the title, and a held-out text looks for its
              own shot by cosine among all shots of all titles. The share that finds it
              among the first ten, over chance. Where FOLDER/truth has the demo's descriptions, they are the texts.
    cost      the encoder's seconds of wall and processor for an hour of film.

Of subtitle files without films, the lift of each cue among the cues.

No part is fitted to what it is reported on, and nothing is chosen by these figures here.
"""

import argparse
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

REACH = 10  # shots
STRETCH = 20  # shots resampled together, since neighbours are alike
FIRST = 10
RIDGE = 1.0
WEIGHTLESS = {"video": "descriptors", "audio": "logmel", "text": "hashed"}
PACKAGED = {"video": "efficientnet", "audio": "aisfx", "text": "minilm"}


@dataclass
class Film:
    """A title's shots; frames as JPEG, sound at 16 kHz, words "" where nobody speaks."""

    name: str
    spans: list[tuple[float, float]]
    sound: list[np.ndarray]
    frames: list[list[bytes]] = field(default_factory=list)
    words: list[str] = field(default_factory=list)
    described: list[tuple[int, str]] = field(default_factory=list)  # (shot, what is to be seen)

    @property
    def hours(self) -> float:
        return (self.spans[-1][1] - self.spans[0][0]) / 3600


def near_share(vectors: np.ndarray, reach: int = REACH, places: np.ndarray | None = None) -> tuple[float, float]:
    """How often a shot's nearest other shot by cosine lies within `reach` shots; how often chance would have it so.

    `vectors` (n, d), unit-norm; `places` (n,) their shots' indices where they are not 0 to n - 1.
    """
    shares, chance = near_shares(vectors, reach, places)
    return float(shares.mean()), chance


def near_shares(vectors: np.ndarray, reach: int, places: np.ndarray | None = None) -> tuple[np.ndarray, float]:
    """(n,): the share of each shot's nearest that lies within `reach`; several are nearest within 1e-5 of the best."""
    n = len(vectors)
    places = np.arange(n) if places is None else places
    cosine = vectors @ vectors.T
    np.fill_diagonal(cosine, -2)
    near = np.abs(places[:, None] - places) <= reach
    chance = (near.sum() - n) / (n * (n - 1))
    nearest = cosine >= cosine.max(1, keepdims=True) - 1e-5
    return (near & nearest).sum(1) / nearest.sum(1), float(chance)


def read(folder: Path, detector: str) -> Iterator[Film]:
    """The films of a landing zone, cut by one of the project's detectors; truth/<id>.json brings descriptions."""
    from benchmarks.seqclip import descriptions
    from resources.landing import LandingZone
    from resources.media import shot_audio
    from resources.shots import ShotDetector, detect_shots
    from resources.timed_text import align, choose_track, read_cues

    landing = LandingZone(uri=str(folder if (folder / "titles").is_dir() else folder.resolve().parent), settle_s=0)
    for drop in sorted(landing.look().drops, key=lambda drop: drop.title_id):
        with landing.local(drop, drop.media) as path:
            found = list(detect_shots(path, ShotDetector(detector=detector)))
            spans = [(shot.start_s, shot.end_s) for shot, _ in found]
            film = Film(drop.title_id, spans, list(shot_audio(path, spans, language=drop.language)))
        film.frames = [[frame.jpeg for frame in frames] for _, frames in found]
        film.words = [""] * len(spans)
        if track := choose_track(drop.text_tracks, drop.language):
            with landing.local(drop, track.name) as path:
                film.words = [text.strip() for text in align(read_cues(path), spans)]
        truth = folder / "truth" / f"{drop.title_id}.json"
        for shot in descriptions(truth) if truth.is_file() else ():
            middle = (shot["start_s"] + shot["end_s"]) / 2
            film.described += [(at, shot["caption"]) for at, (start, end) in enumerate(spans) if start <= middle < end]
        yield film


def timed(embed: Callable[[Any], Iterable[Any]], values: Sequence[Any]) -> tuple[list[Any], float, float]:
    """What `embed` makes of the values, and the seconds of wall and of processor that it takes."""
    wall, work = time.perf_counter(), time.process_time()
    made = list(embed(values))
    return made, time.perf_counter() - wall, time.process_time() - work


def embedded(films: list[Film], kinds: dict[str, str]) -> dict[str, list[np.ndarray]]:
    """Per modality a (shots, 768) array for each film, a row of zeros where a shot has none; prints what it cost."""
    from resources.encoders import AudioEncoder, TextEncoder, VideoEncoder

    encoders = {
        "video": VideoEncoder(kind=kinds["video"]),
        "audio": AudioEncoder(kind=kinds["audio"]),
        "text": TextEncoder(kind=kinds["text"]),
    }
    hours, vectors = sum(film.hours for film in films), {}
    for modality, encoder in encoders.items():
        if problems := encoder.preflight():
            raise SystemExit("\n".join(problems))
        made, wall, work = [], 0.0, 0.0
        for film in films:
            rows = np.zeros((len(film.spans), 768), np.float32)
            values = {"video": film.frames, "audio": film.sound, "text": film.words}[modality]
            there = [at for at, value in enumerate(values) if len(value)]
            if there:
                found, seconds, processor = timed(encoder.embed, [values[at] for at in there])
                wall, work = wall + seconds, work + processor
                rows[there] = found
            made.append(rows)
        vectors[modality] = made
        print(
            f"  {modality:6}{encoder.kind:14}{wall / hours:7.0f} s wall {work / hours:7.0f} s processor an hour of film"
        )
    return vectors


def lifts(films: list[np.ndarray], reach: int) -> np.ndarray:
    """(stretches, 2): sums of each stretch's near shares over chance, and its shots; films where chance is no yardstick
    are left out."""
    stretches = []
    for rows in films:
        places = np.flatnonzero(np.abs(rows).sum(1))
        if len(places) < 2 * STRETCH:
            continue
        shares, chance = near_shares(rows[places], reach, places)
        if chance <= 0.5:
            n = len(shares) // STRETCH
            stretches += [(part.sum() / chance, len(part)) for part in np.array_split(shares, n)]
    return np.array(stretches).reshape(-1, 2)


def interval(resampled: Callable[[np.ndarray], float], n: int, times: int = 2000) -> tuple[float, float]:
    rng = np.random.default_rng(0)
    low, high = np.quantile([resampled(rng.integers(0, n, n)) for _ in range(times)], [0.025, 0.975])
    return float(low), float(high)


def report_lift(before: list[np.ndarray], after: list[np.ndarray], modality: str) -> None:
    old, new = lifts(before, REACH), lifts(after, REACH)
    if not len(old) or len(old) != len(new):
        print(f"  {modality:6} no title is long enough")
        return

    def mean(parts: np.ndarray) -> float:
        return float(parts[:, 0].sum() / parts[:, 1].sum())

    low, high = interval(lambda at: mean(new[at]) / mean(old[at]), len(old))
    shots = int(new[:, 1].sum())
    print(
        f"  {modality:6}{shots:6} shots   weightless {mean(old):.2f}   packaged {mean(new):.2f}   "
        f"ratio {mean(new) / mean(old):.2f} [{low:.2f}, {high:.2f}]"
    )


def folds(films: list[Film], queries: list[list[int]]) -> list[list[tuple[int, int]]]:
    """Groups of (film, query) that are held out together: every fifth title, or fifths of each title when there are
    fewer than five with queries."""
    with_queries = [at for at, mine in enumerate(queries) if mine]
    if len(with_queries) >= 5:
        return [[(at, q) for at in with_queries[k::5] for q in range(len(queries[at]))] for k in range(5)]
    groups: list[list[tuple[int, int]]] = [[] for _ in range(5)]
    for at in with_queries:
        for k, part in enumerate(np.array_split(np.arange(len(queries[at])), 5)):
            groups[k] += [(at, int(q)) for q in part]
    return groups


def recall(films: list[Film], vectors: dict[str, list[np.ndarray]], kind: str) -> tuple[np.ndarray, float]:
    """(texts,) bool: whether a held-out text finds its own shot among the first ten; and chance."""
    from resources.encoders import TextEncoder

    shots = [np.concatenate([v, a], 1) for v, a in zip(vectors["video"], vectors["audio"], strict=True)]
    starts = np.cumsum([0, *map(len, shots)])
    if any(film.described for film in films):
        queries = [[at for at, _ in film.described] for film in films]
        words = [[caption for _, caption in film.described] for film in films]
    else:
        queries = [[at for at, text in enumerate(film.words) if text] for film in films]
        words = [[film.words[at] for at in mine] for film, mine in zip(films, queries, strict=True)]
    encoder = TextEncoder(kind=kind)
    texts = [encoder.embed(mine) if mine else np.zeros((0, 768), np.float32) for mine in words]
    hits = []
    for group in folds(films, queries):
        held = set(group)
        pairs = [(f, q) for f, mine in enumerate(queries) for q in range(len(mine)) if (f, q) not in held]
        x = np.stack([texts[f][q] for f, q in pairs])
        y = np.stack([shots[f][queries[f][q]] for f, q in pairs])
        centre, mean = x.mean(0), y.mean(0)
        gram = (x - centre) @ (x - centre).T + RIDGE * np.eye(len(x))
        weights = (x - centre).T @ np.linalg.solve(gram, y - mean)
        candidates = np.concatenate(shots) - mean
        candidates = candidates / np.maximum(np.linalg.norm(candidates, axis=1, keepdims=True), 1e-9)
        for f, q in group:
            scores = candidates @ ((texts[f][q] - centre) @ weights)
            hits.append((scores > scores[starts[f] + queries[f][q]]).sum() < FIRST)
    return np.array(hits), FIRST / starts[-1]


def report_subtitles(paths: Sequence[Path]) -> None:
    from resources.encoders import TextEncoder
    from resources.timed_text import read_cues

    for path in paths:
        texts = [cue.text for cue in read_cues(path) if cue.text.strip()]
        shares = [near_share(TextEncoder(kind=kind).embed(texts)) for kind in ("hashed", "minilm")]
        before, after = (share / chance for share, chance in shares)
        print(f"{path.name}: {len(texts)} cues   weightless {before:.2f}   packaged {after:.2f}   {after / before:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--subtitles", type=Path, nargs="+", default=[])
    parser.add_argument("--detector", choices=["transnetv2", "adaptive"], default="transnetv2")
    arguments = parser.parse_args()

    report_subtitles(arguments.subtitles)
    if not arguments.folder:
        return
    films = list(read(arguments.folder, arguments.detector))
    if not films:
        raise SystemExit(f"{arguments.folder} holds no complete title")
    for film in films:
        said = sum(map(bool, film.words))
        print(f"{film.name}: {len(film.spans)} shots, {said} with words, {len(film.described)} described")
    print("cost, weightless")
    before = embedded(films, WEIGHTLESS)
    print("cost, packaged")
    after = embedded(films, PACKAGED)
    print(f"lift of the nearest shot's lying within {REACH}")
    for modality in before:
        report_lift(before[modality], after[modality], modality)
    print(f"recall@{FIRST}, text to shot, held out")
    for name, vectors, kind in (("weightless", before, "hashed"), ("packaged", after, "minilm")):
        hits, chance = recall(films, vectors, kind)
        if len(hits):
            low, high = interval(lambda at, hits=hits: hits[at].mean(), len(hits))
            print(
                f"  {name:11}{len(hits):5} texts   {hits.mean():.3f}   chance {chance:.3f}   "
                f"{hits.mean() / chance:.2f} [{low / chance:.2f}, {high / chance:.2f}] × chance"
            )


if __name__ == "__main__":
    main()
