"""Whether contextual embeddings carry context: linear probes on the synthetic catalogue.

    python benchmarks/context.py [--steps 500] [--export EXPORT]

Trains the encoder on synthetic titles (or takes an exported one), embeds other titles of the same world, and probes
single shots for what lies in their surroundings (synthetic_catalogue.py says where each label is). Logistic
regression, five folds by title, accuracy; intervals are 95 % percentiles of 1,000 bootstrap samples of titles.
Every layer is tried, the last one joined with the fused vector, and, as the control, the last one after the title's
shots were shuffled.
"""

import argparse
import dataclasses
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from synthetic_catalogue import SyntheticTitle, World, catalogue, knowable, stored

from model.config import Config
from model.encoder import Encoder
from model.inference import contextualise, load
from model.metrics import skill
from model.store import Store
from model.train import Run

LABELS = ("tension", "mood", "pace")
SHOTS = 30  # probed per title


def trained(config: Config, titles: int, world: World) -> Encoder:
    with tempfile.TemporaryDirectory() as folder:
        store = Store.update(Path(folder) / "store", map(stored, catalogue(titles, world=world)))
        run = Run(config, store, Path(folder) / "run", say=lambda line: print(" ", line, flush=True))
        run.fit()
        validation = run.finish()["validation"]
        print(
            f"trained on {store.shots:,} shots; cosine at masked shots {validation['cosine']:.3f}, and without a model:"
        )
        for name, scores in validation["cosines"].items():
            print(f"  {name:<14}" + "".join(f"{part:>14} {value:.3f}" for part, value in scores.items()))
        ceiling = knowable(world)
        best = validation["cosines"][validation["best_trivial"]]["all"]
        print(
            f"skill over {validation['best_trivial']}: {validation['skill']:.3f} (target >= 0.36); of a predictor that "
            f"knows everything but the noise, cosine {ceiling:.3f}: {skill(ceiling, best):.3f}"
        )
        return load(run.folder.export)


def representations(
    encoder: Encoder, title: SyntheticTitle, rng: np.random.Generator
) -> dict[str, NDArray[np.float32]]:
    """By name, the vectors of a title's shots: (n, width) each."""
    about = title.global_embedding
    made = {"fused": title.vectors}
    for layer in range(encoder.config.layers + 1):
        made[f"layer {layer}"] = contextualise(encoder, title.vectors, about, layer)
    made["last + fused"] = np.concatenate([made[f"layer {encoder.config.layers}"], made["fused"]], axis=1)
    order = rng.permutation(len(title.vectors))
    made["last, shuffled"] = np.empty_like(made["layer 0"])
    made["last, shuffled"][order] = contextualise(encoder, title.vectors[order], about)
    return made


def hits(vectors: NDArray[np.float32], labels: NDArray[np.int64], groups: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether the out-of-fold prediction of each shot is right: (n,)"""
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=300))
    return cross_val_predict(model, vectors, labels, groups=groups, cv=GroupKFold(5)) == labels


def interval(values: NDArray[np.float64], groups: NDArray[np.int64]) -> tuple[float, float]:
    """95 % of the mean over bootstrap samples of groups."""
    by_group = np.array([values[groups == group].mean() for group in np.unique(groups)])
    draws = np.random.default_rng(0).integers(len(by_group), size=(1000, len(by_group)))
    low, high = np.percentile(by_group[draws].mean(axis=1), [2.5, 97.5])
    return float(low), float(high)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--titles", type=int, default=300, help="to train on")
    parser.add_argument("--probed", type=int, default=80, help="titles to probe on")
    parser.add_argument("--export", type=Path, help="an exported encoder to probe instead of training one")
    given = parser.parse_args()
    world = World()
    every = max(1, given.steps // 10)
    config = dataclasses.replace(
        Config.embedded(), max_steps=given.steps, evaluate_every=every, log_every=every, warmup_steps=given.steps // 20,
        patience=1000, validation_windows=48, validation_share=0.1, adamw_lr=3e-3, weight_decay=0.1,
        modality_masking=0.0, global_dropout=0.0,
    )  # fmt: skip
    encoder = load(given.export) if given.export else trained(config, given.titles, world)

    rng = np.random.default_rng(1)
    rows: dict[str, list[NDArray[np.float32]]] = {}
    labels: dict[str, list[NDArray[np.int64]]] = {name: [] for name in LABELS}
    groups = []
    for number, title in enumerate(catalogue(given.probed, 200, 800, seed=1, world=world)):
        chosen = np.sort(rng.choice(len(title.vectors), SHOTS, replace=False))
        for name, vectors in representations(encoder, title, rng).items():
            rows.setdefault(name, []).append(vectors[chosen])
        for name in LABELS:
            labels[name].append(title.labels[name][chosen])
        groups.append(np.full(SHOTS, number))
    group = np.concatenate(groups)
    print(f"probed on {len(group):,} shots of {given.probed} titles; accuracy, chance 0.25:")
    print(f"  {'':<16}" + "".join(f"{name:>26}" for name in LABELS))
    right = {
        name: {label: hits(np.concatenate(vectors), np.concatenate(labels[label]), group) for label in LABELS}
        for name, vectors in rows.items()
    }
    for name, by_label in right.items():
        cells = []
        for label in LABELS:
            values = by_label[label].astype(float)
            cells.append("{:.3f} [{:.3f}, {:.3f}]".format(values.mean(), *interval(values, group)))
        print(f"  {name:<16}" + "".join(f"{cell:>26}" for cell in cells))
    last = f"layer {encoder.config.layers}"
    for label in LABELS:
        gain = right[last][label].astype(float) - right["fused"][label]
        left = right["last, shuffled"][label].astype(float) - right["fused"][label]
        low, high = interval(gain, group)
        orders = f", so the order makes {gain.mean() - left.mean():.3f} of it" if low > 0 else ": no margin"
        print(
            f"  {label}: contextual - fused {gain.mean():+.3f} [{low:+.3f}, {high:+.3f}]; shuffled {left.mean():+.3f}"
            + orders
        )


if __name__ == "__main__":
    main()
