"""Scenes found by `model/scenes.py` beside the demo's true ones, beside baselines and beside single modalities.

    python benchmarks/scenes.py [--landing data/landing] [--lake data/lake] [--synthetic 8]

Reads what `mediafm demo` leaves. Whatever had to be chosen (to add evidence up, to count absence as evidence, to cut at
the likeliest cutting) was chosen on every other title of the demo and of the synthetic catalogue, the even ones; only
the odd ones are reported. Intervals are 95 % percentiles of 1,000 bootstrap samples of titles. Scene starts at which
the shot detector found no cut are counted as missed. Synthetic titles (synthetic_catalogue.py) have scenes of 12 to 32
shots, and words in every second shot or so.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray
from synthetic_catalogue import World, catalogue

from model.modalities import WIDTHS, blocks_of
from model.scene_metrics import Judged, boundary_ap, scene_scores
from model.scenes import scenes

NEAR_S = 0.35  # a shot that begins so near a true scene start is its first: half a dissolve of the demo's

Method = Callable[["Title"], tuple[NDArray[np.float64], NDArray[np.bool_]]]


class Title(NamedTuple):
    title_id: str
    vectors: dict[str, NDArray[np.float32]]  # by representation
    true: NDArray[np.bool_]
    missed: int
    start_s: NDArray[np.float64]
    end_s: NDArray[np.float64]


def blocks(fused: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
    return {**{name: fused[:, block] for name, block in blocks_of(WIDTHS).items()}, "fused": fused}


def demo(landing: Path, lake: str) -> list[Title]:
    fused = pl.read_delta(f"{lake}/fused_embeddings")
    contextual = pl.read_delta(f"{lake}/contextual_embeddings")
    promotions = pl.read_delta(f"{lake}/encoder_promotions").filter("promoted").sort("decided_at")
    contextual = contextual.filter(pl.col("encoder_version") == promotions["encoder_version"][-1])
    titles = []
    for file in sorted((landing / "truth").glob("*.json")):
        truth = json.loads(file.read_text())
        rows = fused.filter(pl.col("title_id") == file.stem).sort("shot_index")
        shown = contextual.filter(pl.col("title_id") == file.stem).sort("shot_index")
        start_s = rows["start_s"].to_numpy()
        starts = [truth["shots"][scene["first_shot"]]["start_frame"] / truth["fps"] for scene in truth["scenes"][1:]]
        nearest = np.array([np.abs(start_s - start).argmin() for start in starts])
        hit = np.abs(start_s[nearest] - starts) < NEAR_S
        true = np.zeros(len(rows), dtype=bool)
        true[nearest[hit]] = True
        vectors = blocks(np.vstack(rows["embedding"].to_list()))
        vectors |= {
            "contextual": np.vstack(shown["last"].to_list()),
            "published": np.vstack(shown["embedding"].to_list()),
        }
        titles.append(Title(file.stem, vectors, true, int((~hit).sum()), start_s, rows["end_s"].to_numpy()))
    return titles


def synthetic(count: int) -> list[Title]:
    titles = []
    for made in catalogue(count, 150, 400, seed=5, world=World(0)):
        n = len(made.vectors)
        true = np.append(False, np.diff(made.script.scene) > 0)
        titles.append(
            Title(made.title_id, blocks(made.vectors), true, 0, np.arange(n) * 1.0, np.arange(1, n + 1) * 1.0)
        )
    return titles


def grouped(*names: str) -> Method:
    def method(title: Title) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        found = scenes([title.vectors[name] for name in names])
        begins = np.zeros(len(title.true), dtype=bool)
        begins[found.first] = True
        return found.begins, begins

    return method


def highest(score: Callable[[Title], NDArray[np.float64]], share: float) -> Method:
    """Scenes begin at so large a share of the shots, those of the highest score."""

    def method(title: Title) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        scores = score(title)
        scores[0] = -np.inf
        found = np.zeros(len(scores), dtype=bool)
        found[np.argsort(-scores)[: round(share * len(scores))]] = True
        return np.nan_to_num(scores, neginf=0), found

    return method


def unlike_the_one_before(name: str) -> Callable[[Title], NDArray[np.float64]]:
    def score(title: Title) -> NDArray[np.float64]:
        vectors = title.vectors[name].astype(np.float64)
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        unit = np.divide(vectors, norms, out=np.zeros_like(vectors), where=norms > 0)
        return np.append(0, 1 - (unit[1:] * unit[:-1]).sum(axis=1))

    return score


def methods(names: Sequence[str], share: float) -> dict[str, Method]:
    """share: of the shots that begin a scene, which the baselines are told."""
    every = round(1 / share)
    contextual = ["contextual"] if "contextual" in names else []
    made: dict[str, Method] = {
        "equal distance": highest(lambda t: (np.arange(len(t.true)) % every == 0) * 1.0, share),
        "longest shots": highest(lambda t: t.end_s - t.start_s, share),
    }
    for name in ["fused", *contextual]:
        made[f"{name}, neighbours' cosine"] = highest(unlike_the_one_before(name), share)
    for name in [*dict(WIDTHS), "fused", *contextual, *(["published"] if "published" in names else [])]:
        made[f"{name} alone"] = grouped(name)
    made["video + audio + text"] = grouped(*dict(WIDTHS))
    if contextual:
        made["contextual + fused"] = grouped("contextual", "fused")
        made["contextual + video + audio + text"] = grouped("contextual", *dict(WIDTHS))
    return made


def report(titles: list[Title]) -> None:
    chosen_on, shown = titles[::2], titles[1::2]
    share = sum(t.true.sum() + t.missed for t in chosen_on) / sum(len(t.true) for t in chosen_on)
    shots, starts = sum(len(t.true) for t in shown), sum(int(t.true.sum()) + t.missed for t in shown)
    print(f"{len(shown)} titles, {shots} shots, {starts} scene starts after the first, "
          f"{sum(t.missed for t in shown)} of them where no shot begins; chance {starts / shots:.3f}")  # fmt: skip
    print(f"{'':<36}{'AP':>24}{'AP by title':>13}{'F1':>8}{'mIoU':>8}{'scenes':>8}")
    draws = np.random.default_rng(0).integers(len(shown), size=(1000, len(shown)))
    sampled: dict[str, NDArray[np.float64]] = {}
    for name, method in methods(list(shown[0].vectors), share).items():
        judged = [Judged(t.true, *method(t), t.start_s, t.end_s, t.missed) for t in shown]
        scores = scene_scores(judged)
        sampled[name] = np.array([boundary_ap([judged[i] for i in draw]) for draw in draws])
        low, high = np.percentile(sampled[name], [2.5, 97.5])
        found = sum(int(each.found[1:].sum()) + 1 for each in judged)
        print(f"{name:<36}{scores.ap:>8.3f} [{low:.3f}, {high:.3f}]{scores.title_ap:>13.3f}{scores.f1:>8.3f}"
              f"{scores.miou:>8.3f}{found:>8}")  # fmt: skip
    ours = [name for name in sampled if name.startswith("contextual") and "neighbours" not in name]
    for name in ours:
        for other in ("video alone", "fused alone", "video + audio + text"):
            low, high = np.percentile(sampled[name] - sampled[other], [2.5, 97.5])
            print(f"  {name} - {other}: [{low:+.3f}, {high:+.3f}]")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--landing", type=Path, default=Path("data/landing"))
    parser.add_argument("--lake", default="data/lake")
    parser.add_argument("--synthetic", type=int, default=8, help="titles; 0 for none")
    given = parser.parse_args()
    print("The demo, odd titles:", end=" ")
    report(demo(given.landing, given.lake))
    if given.synthetic:
        print("\nThe synthetic catalogue, odd titles:", end=" ")
        report(synthetic(given.synthetic))


if __name__ == "__main__":
    main()
