"""Muon and AdamW, learning rates and momenta tuned alike: the steps that Muon needs to AdamW's best validation loss.

    python benchmarks/optimisers.py sweep   [--steps 300]            both optimisers over their grids, one seed
    python benchmarks/optimisers.py compare [--steps 300] [--seeds 3]  the best of each, on several seeds
    python benchmarks/optimisers.py positions [--steps 300]          learned, sinusoidal and rotary positions
    python benchmarks/optimisers.py projections [--steps 300]        random and principal projections
    python benchmarks/optimisers.py widths --steps 80 --layers 2 --titles 150 --shots 40 160   one grid at two widths
    python benchmarks/optimisers.py small --store STORE [--seeds 3]  what the embedded preset withholds, or nothing

On the synthetic catalogue, with titles of 200 to 1,200 shots; `small` on what a training by the graph left behind, such
as .dagster/training/vectors after `make demo`. A run that differs in one field is a run of its own;
the runs of one call are interleaved on nothing but the seed, so they see the same batches and masks.
"""

import argparse
import dataclasses
import json
import tempfile
from pathlib import Path

from synthetic_catalogue import catalogue, stored

from model.config import Config
from model.store import Store
from model.train import Run

GRID = {
    "adamw": [
        {"adamw_lr": lr, "adamw_betas": (momentum, 0.95)}
        for momentum in (0.7, 0.8, 0.9)
        for lr in (3e-4, 1e-3, 3e-3, 1e-2)
    ],
    "muon": [
        {"muon_lr": lr, "muon_momentum": momentum, "adamw_lr": 3e-3}
        for momentum in (0.7, 0.8, 0.9, 0.95)
        for lr in (1e-2, 2e-2, 4e-2)
    ],
}
SHARES = (0.4, 0.5, 0.6, 0.7, 0.8, 1.0)


def losses(config: Config, store: Store) -> dict[int, float]:
    """Validation loss by step."""
    with tempfile.TemporaryDirectory() as out:
        run = Run(config, store, Path(out), say=lambda _: None)
        run.fit()
        lines = [json.loads(line) for line in (Path(out) / "training.jsonl").read_text().splitlines()]
    return {line["step"]: line["loss"] for line in lines if line["split"] == "validation"}


def best(curve: dict[int, float]) -> float:
    return min(curve.values())


def report(config: Config, store: Store, **change: object) -> dict[int, float]:
    curve = losses(dataclasses.replace(config, **change), store)
    print(
        f"  {json.dumps(change):<75} best {best(curve):.4f}  " + " ".join(f"{v:.3f}" for v in curve.values()),
        flush=True,
    )
    return curve


def share_needed(config: Config, store: Store, slow: dict[int, float], seed: int, muon: dict[str, object]) -> float:
    """The least of SHARES of AdamW's steps in which Muon comes to AdamW's best loss; inf when none is enough.

    Each share is a run with a schedule of its own: half way through a schedule, nobody has reached anything yet.
    """
    for share in SHARES:
        steps = round(share * config.max_steps)
        shorter = {"max_steps": steps, "warmup_steps": steps // 20, "evaluate_every": max(1, steps // 20)}
        if best(report(config, store, seed=seed, **muon, **shorter)) <= best(slow):
            return share
    return float("inf")


def withholding(store: Store, seeds: int) -> None:
    """Skill on held-out titles and length of runs of the embedded preset, and of it without its hidden modalities and
    titles.
    """
    for change in ({"modality_masking": 0.0, "global_dropout": 0.0}, {}):
        runs = []
        for seed in range(seeds):
            with tempfile.TemporaryDirectory() as out:
                config = dataclasses.replace(Config.embedded(), seed=seed, **change)
                run = Run(config, store, Path(out), say=lambda _: None)
                run.fit()
                runs.append(run.finish())
        skills = ", ".join(f"{made['validation']['skill']:+.3f}" for made in runs)
        lengths = ", ".join(f"{made['steps']} steps in {made['seconds']:.0f} s" for made in runs)
        print(f"  {json.dumps(change) if change else 'the preset':<50} skill {skills}; {lengths}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["sweep", "compare", "positions", "projections", "widths", "small"])
    parser.add_argument("--store", type=Path)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--titles", type=int, default=200)
    parser.add_argument("--shots", type=int, nargs=2, default=(200, 1200), help="of the shortest and longest title")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--sequences", type=int, default=8)
    parser.add_argument(
        "--muon",
        type=float,
        nargs=4,
        default=(0.02, 0.8, 3e-3, 0.8),
        metavar=("LR", "MOMENTUM", "ADAMW_LR", "ADAMW_BETA1"),
    )
    parser.add_argument("--adamw", type=float, nargs=2, default=(3e-3, 0.8), metavar=("LR", "BETA1"))
    given = parser.parse_args()
    if given.what == "small":
        withholding(Store.open(given.store), given.seeds)
        return
    with tempfile.TemporaryDirectory() as folder:
        store = Store.update(Path(folder), map(stored, catalogue(given.titles, *given.shots)))
        every = max(1, given.steps // 20)
        config = dataclasses.replace(
            Config.embedded(), layers=given.layers, batch_sequences=given.sequences, max_steps=given.steps,
            evaluate_every=every, warmup_steps=given.steps // 20, patience=1000, validation_windows=24, log_every=every,
            validation_share=0.1, ema_decay=0.0,
        )  # fmt: skip
        lr, momentum, rest, beta = given.muon
        muon = {
            "optimizer": "muon", "muon_lr": lr, "muon_momentum": momentum, "adamw_lr": rest, "adamw_betas": (beta, 0.95)
        }  # fmt: skip
        adamw = {"optimizer": "adamw", "adamw_lr": given.adamw[0], "adamw_betas": (given.adamw[1], 0.95)}
        print(f"{len(store)} titles, {store.shots:,} shots")
        print(f"{config.layers} x {config.hidden}, {given.sequences} sequences a step, {given.steps} steps")
        if given.what == "sweep":
            for optimizer, grid in GRID.items():
                for change in grid:
                    report(config, store, optimizer=optimizer, **change)
        if given.what == "compare":
            ratios = []
            for seed in range(given.seeds):
                slow = report(config, store, seed=seed, **adamw)
                ratios.append(share_needed(config, store, slow, seed, muon))
                print(f"    Muon needs {ratios[-1]:.2f} of AdamW's steps to AdamW's best loss", flush=True)
            print(f"  over {given.seeds} seeds: {', '.join(f'{r:.2f}' for r in ratios)}  (target <= 0.6)")
        if given.what == "positions":
            for positions in ("learned", "sinusoidal", "rotary"):
                report(config, store, positions=positions, **muon)
        if given.what == "widths":
            config = dataclasses.replace(config, modality_masking=0.0, global_dropout=0.0)
            for hidden, heads in ((64, 2), (192, 6)):
                for rate in (0.01, 0.02, 0.04):
                    report(config, store, hidden=hidden, heads=heads, **muon | {"muon_lr": rate})
        if given.what == "projections":
            for projections in ("random", "principal"):
                report(config, store, projections=projections, **muon)


if __name__ == "__main__":
    main()
