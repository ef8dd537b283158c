"""Scenes found by `model/scenes.py` beside the demo's true ones, beside baselines and beside single modalities.

    python benchmarks/scenes.py [--landing data/landing] [--lake data/lake] [--synthetic 8]

Reads what `mediafm demo` leaves. Whatever had to be chosen (to add evidence up, to count absence as evidence, to cut at
the likeliest cutting) was chosen on every other title of the demo and of the synthetic catalogue, the even ones; only
the odd ones are reported. Intervals are 95 % percentiles of 1,000 bootstrap samples of titles. Scene starts at which
the shot detector found no cut are counted as missed. Heads are learnt and judged on all titles, in five folds.
Synthetic titles (synthetic_catalogue.py) have scenes of 12 to 32 shots, and words in every second shot or so.
"""

import argparse
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray
from synthetic_catalogue import World, catalogue

from model.boundary_head import Example, worth
from model.modalities import WIDTHS, blocks_of
from model.scene_finders import UNSUPERVISED, Shots, finders, grouped
from model.scene_metrics import (
    LabelledScenes,
    SceneFigures,
    judge,
    on_shots,
    samples_of_titles,
    scene_scores,
)


class Title(NamedTuple):
    shots: Shots
    labels: LabelledScenes


def blocks(fused: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
    return {**{name: fused[:, block] for name, block in blocks_of(WIDTHS).items()}, "fused": fused}


def demo(landing: Path, lake: str) -> list[Title]:
    fused = pl.read_delta(f"{lake}/fused_embeddings")
    contextual = pl.read_delta(f"{lake}/contextual_embeddings")
    promotions = pl.read_delta(f"{lake}/encoder_promotions").filter("promoted").sort("decided_at")
    contextual = contextual.filter(pl.col("encoder_version") == promotions["encoder_version"][-1])
    titles = []
    labels = pl.read_ndjson(landing / "labels" / "scenes.jsonl")
    for (title_id,), scenes in sorted(labels.partition_by("title_id", as_dict=True).items()):
        rows = fused.filter(pl.col("title_id") == title_id).sort("shot_index")
        shown = contextual.filter(pl.col("title_id") == title_id).sort("shot_index")
        vectors = blocks(np.vstack(rows["embedding"].to_list()))
        vectors |= {
            "contextual": np.vstack(shown["last"].to_list()),
            "contextual_in_context": np.vstack(shown["embedding"].to_list()),
        }
        shots = Shots(vectors, rows["start_s"].to_numpy(), rows["end_s"].to_numpy())
        titles.append(Title(shots, on_shots(scenes["start_s"].to_numpy(), scenes["end_s"].to_numpy(), shots.start_s)))
    return titles


def synthetic(count: int) -> list[Title]:
    titles = []
    for made in catalogue(count, 150, 400, seed=5, world=World(0)):
        n = len(made.vectors)
        true = np.append(False, np.diff(made.script.scene) > 0)
        shots = Shots(blocks(made.vectors), np.arange(n) * 1.0, np.arange(1, n + 1) * 1.0)
        titles.append(Title(shots, LabelledScenes(true, slice(0, n), 0)))
    return titles


def report(titles: list[Title]) -> None:
    chosen_on, shown = titles[::2], titles[1::2]
    share = sum(starts_of(t) for t in chosen_on) / sum(len(t.labels.true) for t in chosen_on)
    shots, starts = sum(len(t.labels.true) for t in shown), sum(starts_of(t) for t in shown)
    missed = sum(t.labels.missed for t in shown)
    print(f"{len(shown)} titles, {shots} shots, {starts} scene starts after the first, {missed} of them where no shot "
          f"begins; chance {starts / shots:.3f}")  # fmt: skip
    print(f"{'':<36}{'AP':>24}{'AP by title':>13}{'F1':>8}{'mIoU':>8}{'scenes':>8}")
    samples = samples_of_titles(len(shown), 1000)
    sampled: dict[str, NDArray[np.float64]] = {}
    for name, finder in finders(shown[0].shots.vectors.keys(), share).items():
        judged = [judge(t.labels, *finder(t.shots), t.shots.start_s, t.shots.end_s) for t in shown]
        figures, scores = SceneFigures(judged), scene_scores(judged)
        sampled[name] = np.array([figures.of(times).ap for times in samples])
        low, high = np.percentile(sampled[name], [2.5, 97.5])
        found = sum(int(each.found[1:].sum()) + 1 for each in judged)
        print(f"{name:<36}{scores.ap:>8.3f} [{low:.3f}, {high:.3f}]{scores.title_ap:>13.3f}{scores.f1:>8.3f}"
              f"{scores.miou:>8.3f}{found:>8}")  # fmt: skip
    ours = [name for name in sampled if name.startswith("contextual") and "neighbours" not in name]
    for name in ours:
        for other in ("video", "fused", "video+audio+text"):
            low, high = np.percentile(sampled[name] - sampled[other], [2.5, 97.5])
            print(f"  {name} - {other}: [{low:+.3f}, {high:+.3f}]")


def starts_of(title: Title) -> int:
    return int(title.labels.true.sum()) + title.labels.missed


def report_heads(titles: list[Title]) -> None:
    """What a head that is learnt from other titles' labels adds, to as much as is known without."""
    for names in (UNSUPERVISED, ("audio",), ("text",)):
        find = grouped(*names)
        found = worth(
            [
                Example(t.shots.vectors["contextual"], find(t.shots)[0], t.labels, t.shots.start_s, t.shots.end_s)
                for t in titles
            ]
        )
        print(f"{'+'.join(names):<36}{found.unsupervised:>8.3f}, with a head {found.average_precision:.3f} "
              f"[{found.ci_low:.3f}, {found.ci_high:.3f}], difference {found.gain:+.3f} "
              f"[{found.gain_low:+.3f}, {found.gain_high:+.3f}]")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--landing", type=Path, default=Path("data/landing"))
    parser.add_argument("--lake", default="data/lake")
    parser.add_argument("--synthetic", type=int, default=8, help="titles; 0 for none")
    given = parser.parse_args()
    print("The demo, odd titles:", end=" ")
    titles = demo(given.landing, given.lake)
    report(titles)
    print("\nThe demo, all titles, out of fold:")
    report_heads(titles)
    if given.synthetic:
        print("\nThe synthetic catalogue, odd titles:", end=" ")
        report(synthetic(given.synthetic))


if __name__ == "__main__":
    main()
