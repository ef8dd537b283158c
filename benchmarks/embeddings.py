"""How much each modality's embedding knows about its place in a film: the lift of a shot's nearest shot being near.

    python benchmarks/embeddings.py FILM [SUBTITLES]

A shot's nearest other shot, by cosine, lies within ten shots of it with some frequency; the lift is that frequency over
chance. Embeddings of the `embedded` profile, on the shots that the project's own detector finds. Text is measured among
the shots that have some, at their places in the film.
"""

import argparse
import time
from pathlib import Path

import numpy as np

REACH = 10  # shots


def near_share(vectors: np.ndarray, reach: int = REACH, places: np.ndarray | None = None) -> tuple[float, float]:
    """How often a shot's nearest other shot by cosine lies within `reach` shots; how often chance would have it so.

    `vectors` (n, d), unit-norm; `places` (n,) their shots' indices where they are not 0 to n - 1.
    """
    n = len(vectors)
    places = np.arange(n) if places is None else places
    cosine = vectors @ vectors.T
    np.fill_diagonal(cosine, -2)
    near = np.abs(places[:, None] - places) <= reach
    chance = (near.sum() - n) / (n * (n - 1))
    return float(near[np.arange(n), cosine.argmax(1)].mean()), float(chance)


def report(modality: str, vectors: np.ndarray, places: np.ndarray, seconds: float) -> None:
    share, chance = near_share(vectors, places=places)
    error = (share * (1 - share) / len(vectors)) ** 0.5 / chance
    spread = np.median((vectors @ vectors.T)[np.triu_indices(len(vectors), 1)])
    print(
        f"{modality:6} {len(vectors):5} shots   near {share:.3f}   chance {chance:.3f}   lift {share / chance:.2f} "
        f"± {error:.2f}   median cosine {spread:+.2f}   {1000 * seconds / len(vectors):.1f} ms per shot"
    )


def main() -> None:
    from resources.encoders import AudioEncoder, TextEncoder, VideoEncoder
    from resources.media import shot_audio
    from resources.shots import ShotDetector, detect_shots
    from resources.timed_text import align, read_cues

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("film", type=Path)
    parser.add_argument("subtitles", type=Path, nargs="?")
    arguments = parser.parse_args()

    found = list(detect_shots(arguments.film, ShotDetector()))
    spans = [(shot.start_s, shot.end_s) for shot, _ in found]
    every = np.arange(len(spans))

    start = time.perf_counter()
    video = np.stack(list(VideoEncoder().embed([frame.jpeg for frame in frames] for _, frames in found)))
    report("video", video, every, time.perf_counter() - start)

    sound = list(shot_audio(arguments.film, spans))
    start = time.perf_counter()
    audio = list(AudioEncoder().embed(sound))
    seconds = time.perf_counter() - start
    heard = np.array([place for place in every if audio[place] is not None])
    if len(heard):
        report("audio", np.stack([audio[place] for place in heard]), heard, seconds)

    if arguments.subtitles:
        texts = align(read_cues(arguments.subtitles), spans)
        spoken = np.array([place for place in every if texts[place].strip()])
        start = time.perf_counter()
        text = TextEncoder().embed([texts[place] for place in spoken])
        report("text", text, spoken, time.perf_counter() - start)


if __name__ == "__main__":
    main()
