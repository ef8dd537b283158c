"""A synthetic catalogue whose context carries what no single shot has.

    python benchmarks/synthetic_catalogue.py --out STORE [--titles 300] [--seed 0]

Titles are made of scenes. A scene plays in a setting, seen from two viewpoints, under a mood; settings recur
through a title; moods follow the title's plot from its first shot to its last. A shot's video shows setting and
viewpoint, its audio mood and setting, its text (where there is any) the scene's topic and mood, each with noise.
Three labels are then made so that they are there, and where they are:

    mood    of the scene: faint in one shot, clear over the scene rhythm  in which the two viewpoints alternate:
    every rhythm shows both equally often, so neither one shot nor all shots of
            the scene without their order tell it
    plot    of the title: the plots run through the same moods in different orders, so again only the order tells it

The vectors live in a few latent dimensions per modality, as embeddings of real films do.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from model.fusion import MODALITY_DIM, fuse
from model.store import Store, StoredTitle

SETTING, VIEW, MOOD, TOPIC = 32, 16, 8, 16  # latent dimensions
MOODS = 4
RHYTHMS = ("AB", "AABB", "ABBA", "AAABBB")
PLOTS = ((0, 1, 2, 3), (3, 2, 1, 0), (1, 3, 0, 2), (2, 0, 3, 1))  # moods, act by act
SPACE = "synthetic-v1"


@dataclass(frozen=True)
class SyntheticTitle:
    title_id: str
    vectors: NDArray[np.float32]  # (n, 2304) fused
    global_embedding: NDArray[np.float32]  # (768,)
    labels: dict[str, NDArray[np.int64]]  # (n,) each: mood, rhythm, plot
    scene: NDArray[np.int64]  # (n,) number of the shot's scene


class World:
    """What all titles share: how settings, viewpoints, moods and topics look, sound and read."""

    def __init__(self, seed: int = 0, noise: float = 0.5) -> None:
        rng = np.random.default_rng([seed, 0])
        self.noise = noise
        self.video = rng.standard_normal((SETTING + VIEW, MODALITY_DIM)) / np.sqrt(MODALITY_DIM)
        self.audio = rng.standard_normal((SETTING + MOOD, MODALITY_DIM)) / np.sqrt(MODALITY_DIM)
        self.text = rng.standard_normal((TOPIC + MOOD, MODALITY_DIM)) / np.sqrt(MODALITY_DIM)
        self.common = rng.standard_normal((3, MODALITY_DIM)) / np.sqrt(MODALITY_DIM)  # what every shot has
        self.moods = unit(rng.standard_normal((MOODS, MOOD)))

    def title(self, title_id: str, n: int, rng: np.random.Generator) -> SyntheticTitle:
        """One title of n shots."""
        plot = int(rng.integers(len(PLOTS)))
        settings = unit(rng.standard_normal((int(rng.integers(4, 9)), SETTING)))
        views = unit(rng.standard_normal((len(settings), 2, VIEW)))
        setting, view, mood, rhythm, scene = (np.zeros(n, dtype=np.int64) for _ in range(5))
        topic = np.zeros((n, TOPIC))
        has_text = np.zeros(n, dtype=bool)
        start = number = 0
        previous = -1
        while start < n:
            stop = min(n, start + int(rng.integers(8, 25)))
            here = int(rng.choice([s for s in range(len(settings)) if s != previous]))
            kind = int(rng.integers(len(RHYTHMS)))
            beat = np.array([letter == "B" for letter in RHYTHMS[kind]]) ^ bool(rng.integers(2))
            shots = np.arange(stop - start) + rng.integers(len(beat))
            setting[start:stop], scene[start:stop], rhythm[start:stop] = here, number, kind
            view[start:stop] = beat[shots % len(beat)]
            mood[start:stop] = PLOTS[plot][start * MOODS // n]
            topic[start:stop] = unit(rng.standard_normal(TOPIC))
            has_text[start:stop] = rng.random(stop - start) < (0.9 if rng.random() < 0.6 else 0.1)  # dialogue or not
            previous, start, number = here, stop, number + 1

        def seen(common: NDArray, map_: NDArray, *latents: NDArray) -> NDArray:
            shown = np.concatenate(latents, axis=1) @ map_
            return 0.5 * common + shown + self.noise * unit(rng.standard_normal((n, MODALITY_DIM)))

        feeling = 0.4 * self.moods[mood] + 0.5 * rng.standard_normal((n, MOOD)) / np.sqrt(MOOD)
        vectors = fuse(
            seen(self.common[0], self.video, settings[setting], 1.2 * views[setting, view]),
            seen(self.common[1], self.audio, 0.7 * settings[setting], feeling),
            seen(self.common[2], self.text, topic, feeling),
            has_audio=np.ones(n, dtype=bool),
            has_text=has_text,
        )
        labels = {"mood": mood, "rhythm": rhythm, "plot": np.full(n, plot)}
        # The title's metadata tells its settings, faintly, and nothing of the labels.
        about = settings.mean(axis=0) @ self.video[:SETTING] + 0.5 * unit(rng.standard_normal((1, MODALITY_DIM)))[0]
        return SyntheticTitle(title_id, vectors, unit(about).astype(np.float32), labels, scene)


def unit(vectors: NDArray) -> NDArray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def catalogue(
    titles: int, shortest: int = 200, longest: int = 1200, seed: int = 0, world: World | None = None
) -> Iterator[SyntheticTitle]:
    """Titles of uniformly distributed lengths; title i depends on the seed and i only."""
    world = world or World(seed)
    for i in range(titles):
        rng = np.random.default_rng([seed, 1, i])
        yield world.title(f"synthetic-{i:05d}", int(rng.integers(shortest, longest + 1)), rng)


def stored(title: SyntheticTitle) -> StoredTitle:
    return StoredTitle(title.title_id, None, "1", SPACE, title.vectors, title.global_embedding)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--titles", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    store = Store.update(given.out, map(stored, catalogue(given.titles, seed=given.seed)))
    print(f"{len(store)} titles, {store.shots:,} shots in {given.out}")


if __name__ == "__main__":
    main()
