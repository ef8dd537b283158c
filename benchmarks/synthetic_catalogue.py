"""A synthetic catalogue whose context carries what no single shot has.

    python benchmarks/synthetic_catalogue.py --out STORE [--titles 300] [--seed 0]

Titles are made of scenes. A scene plays in a setting, seen from two viewpoints in turn, under a mood; settings
recur through a title; its tension follows a plot from the first shot to the last. A shot's video shows setting,
viewpoint and tension, its audio setting and mood, its text (where there is any) the scene's topic and mood, each
with noise. Three labels are then made so that they are there, and where they are:

    tension    of the act: faint in one shot, clear over the act; an arc over the whole title
    mood       of the scene: faint in one shot, clear over the scene
    pace       at which the two viewpoints alternate: both are seen equally often at every pace, so neither one shot nor
               all shots of the scene without their order tell it

The vectors live in a few latent dimensions per modality, as embeddings of real films do.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from model.fusion import fuse
from model.store import Store, StoredTitle

SETTING, VIEW, TENSION, MOOD, TOPIC = 32, 16, 8, 8, 16  # latent dimensions
PACES = (1, 2, 3, 4)  # shots before the viewpoint changes
PLOTS = ((0, 1, 2, 3), (3, 2, 1, 0), (1, 3, 0, 2), (2, 0, 3, 1))  # tension, act by act
VIEWS_DIFFER = 1.6  # as the settings by 1
SPACE = "synthetic-v3"
WIDTH = 768  # of each modality


@dataclass(frozen=True)
class SyntheticTitle:
    title_id: str
    vectors: NDArray[np.float32]  # (n, 2304) fused
    global_embedding: NDArray[np.float32]  # (768,)
    labels: dict[str, NDArray[np.int64]]  # (n,) each, 0 to 3: tension, mood, pace
    script: "Script"


class World:
    """What all titles share: how settings, viewpoints, tension, moods and topics look, sound and read."""

    def __init__(self, seed: int = 0, noise: float = 0.35) -> None:
        rng = np.random.default_rng([seed, 0])
        self.noise = noise
        self.video = rng.standard_normal((SETTING + VIEW + TENSION, WIDTH)) / np.sqrt(WIDTH)
        self.audio = rng.standard_normal((SETTING + MOOD, WIDTH)) / np.sqrt(WIDTH)
        self.text = rng.standard_normal((TOPIC + MOOD, WIDTH)) / np.sqrt(WIDTH)
        self.common = rng.standard_normal((3, WIDTH)) / np.sqrt(WIDTH)  # what every shot has
        self.tensions = unit(rng.standard_normal((4, TENSION)))
        self.moods = unit(rng.standard_normal((4, MOOD)))

    def title(self, title_id: str, n: int, rng: np.random.Generator) -> SyntheticTitle:
        """One title of n shots."""
        script = Script.written(n, rng)
        vectors = self.shown(script, rng)
        labels = {"tension": script.tension, "mood": script.mood, "pace": script.pace}
        # The title's metadata tells its settings, faintly, and nothing of the labels.
        about = script.settings.mean(axis=0) @ self.video[:SETTING]
        about += 0.5 * unit(rng.standard_normal((1, WIDTH)))[0]
        return SyntheticTitle(title_id, vectors, unit(about).astype(np.float32), labels, script)

    def shown(self, script: "Script", rng: np.random.Generator) -> NDArray[np.float32]:
        """A script's shots as fused vectors: (n, 2304). Only noise is drawn."""
        n = len(script.setting)

        def seen(common: NDArray, map_: NDArray, *latents: NDArray) -> NDArray:
            noise = self.noise * unit(rng.standard_normal((n, WIDTH)))
            return 0.5 * common + np.concatenate(latents, axis=1) @ map_ + noise

        def faint(latent: NDArray) -> NDArray:
            return 0.3 * latent + 0.6 * rng.standard_normal(latent.shape) / np.sqrt(latent.shape[1])

        setting, view = script.settings[script.setting], script.views[script.setting, script.view]
        feeling = faint(self.moods[script.mood])
        strain = faint(self.tensions[script.tension])
        every = np.ones(n, dtype=bool)
        return fuse(
            {
                "video": (seen(self.common[0], self.video, setting, VIEWS_DIFFER * view, strain), every),
                "audio": (seen(self.common[1], self.audio, 0.7 * setting, feeling), every),
                "text": (seen(self.common[2], self.text, script.topic, feeling), script.has_text),
            }
        )


@dataclass(frozen=True)
class Script:
    """Everything about a title but the noise."""

    settings: NDArray[np.float64]  # (places, SETTING)
    views: NDArray[np.float64]  # (places, 2, VIEW)
    setting: NDArray[np.int64]  # (n,) of each shot, as are the others
    view: NDArray[np.int64]
    tension: NDArray[np.int64]
    mood: NDArray[np.int64]
    pace: NDArray[np.int64]
    scene: NDArray[np.int64]
    topic: NDArray[np.float64]  # (n, TOPIC)
    has_text: NDArray[np.bool_]

    @classmethod
    def written(cls, n: int, rng: np.random.Generator) -> "Script":
        """A script of n shots."""
        plot = int(rng.integers(len(PLOTS)))
        settings = unit(rng.standard_normal((int(rng.integers(4, 9)), SETTING)))
        views = unit(rng.standard_normal((len(settings), 2, VIEW)))
        setting, view, tension, mood, pace, scene = (np.zeros(n, dtype=np.int64) for _ in range(6))
        topic = np.zeros((n, TOPIC))
        has_text = np.zeros(n, dtype=bool)
        start = number = 0
        previous = -1
        while start < n:
            stop = min(n, start + int(rng.integers(12, 33)))
            here = int(rng.choice([s for s in range(len(settings)) if s != previous]))
            each = int(rng.integers(len(PACES)))
            setting[start:stop], scene[start:stop], pace[start:stop] = here, number, each
            view[start:stop] = (np.arange(stop - start) + rng.integers(8)) // PACES[each] % 2
            tension[start:stop] = PLOTS[plot][start * 4 // n]
            mood[start:stop] = rng.integers(4)
            topic[start:stop] = unit(rng.standard_normal(TOPIC))
            has_text[start:stop] = rng.random(stop - start) < (0.9 if rng.random() < 0.6 else 0.1)  # dialogue or not
            previous, start, number = here, stop, number + 1
        return cls(settings, views, setting, view, tension, mood, pace, scene, topic, has_text)


def knowable(world: World, titles: int = 8, draws: int = 16) -> float:
    """The mean cosine of a predictor that knows every script and not the noise: what no model can surpass."""
    cosines = []
    for title in catalogue(titles, seed=2, world=world):
        rng = np.random.default_rng(0)
        expected = unit(sum(world.shown(title.script, rng) for _ in range(draws)))
        cosines.append((expected * title.vectors).sum(axis=1).mean())
    return float(np.mean(cosines))


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
