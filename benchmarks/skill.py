"""Skill over the best predictor without a model, on titles that decided nothing: neither weights, rates nor the step.

    python benchmarks/skill.py STORE [--seeds 5] [--first 0] [--change '{"blend": false}'] [--titles 0.25]

STORE is what a training by the graph leaves behind, such as .dagster/training/vectors after `make demo`, or what
synthetic_catalogue.py writes. A seed sets a share of the titles aside; the embedded preset trains on the others,
holding some of them out itself to find the step to keep; and the encoder that it exports is judged on those set aside.
Intervals are 95 % percentiles of bootstrap samples of titles; that of the mean, of seeds.
"""

import argparse
import dataclasses
import json
import tempfile
from pathlib import Path

import numpy as np

from model.ablations import predictor, titles_of, unseen
from model.batches import split
from model.config import Config
from model.inference import load
from model.reports import skill_and_interval
from model.store import Store
from model.train import Run


def judged(store: Store, config: Config, aside: float, folder: Path) -> dict:
    """The report on the titles set aside, with the steps of the run."""
    known, unknown = split(store.entries, dataclasses.replace(config, validation_share=aside, seed=config.seed + 1000))
    run = Run(config, Store.update(folder / "store", titles_of(store, known)), folder / "run", say=lambda _: None)
    run.fit()
    metrics = run.finish()
    encoder = load(run.folder.export)
    trained = {window.title.title_id for window in run.train}
    validation = unseen(store, (t for t in known if t.title_id in trained), unknown, config)
    report = validation.report(predictor(encoder), encoder.blend.item() if config.blend else None)
    return report | {"steps": f"step {metrics['step']} of {metrics['steps']}", "seconds": metrics["seconds"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("store", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first", type=int, default=0, help="first seed: choose on some, report on others")
    parser.add_argument("--change", type=json.loads, default={}, help="fields of the preset that differ, as JSON")
    parser.add_argument("--titles", type=float, default=0.25, help="share of the titles to set aside")
    given = parser.parse_args()
    store = Store.open(given.store)
    found = []
    for seed in range(given.first, given.first + given.seeds):
        config = dataclasses.replace(Config.embedded(), seed=seed, **given.change)
        with tempfile.TemporaryDirectory() as folder:
            report = judged(store, config, given.titles, Path(folder))
        found.append(report["skill"])
        cosines = "  ".join(f"{name} {scores['all']:.4f}" for name, scores in report["cosines"].items())
        print(
            f"seed {seed}: {report['titles']} titles, {report['steps']} in {report['seconds']:.0f} s; cosine {cosines}"
        )
        if config.blend:
            print(f"  the encoder alone {report['alone']['all']:.4f}; its share {report['blend']:.2f}")
        for part, of in report["skills"].items():
            print(f"  {part:<14}{skill_and_interval(of):<28} over {of['best_trivial']}", flush=True)
    drawn = np.random.default_rng(0).choice(found, size=(1000, len(found))).mean(axis=1)
    low, high = np.percentile(drawn, [2.5, 97.5])
    print(
        f"skill, mean of {len(found)} seeds: {np.mean(found):+.4f} [{low:+.4f}, {high:+.4f}]", json.dumps(given.change)
    )


if __name__ == "__main__":
    main()
