"""What the encoder gives away: linear probes on the five tasks by read-out, beside what needs no encoder.

    python benchmarks/readouts.py LAKE STORE [--seeds 2] [--first 0] [--tasks clip_tone ...]

LAKE and STORE are what `make demo` leaves: data/lake and .dagster/training/vectors. For every seed the embedded preset
is trained on the store; a clip is read in the context of its whole title. Probes are those of the asset `probe_metrics`
(model/probes.py): folds by title; intervals over titles. Without an encoder, beside single modalities and the fused
vector: the moving average of the fused vectors and the title's mean.
"""

import argparse
import dataclasses
import tempfile
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from model.checkpoint import read_export
from model.config import Config
from model.encoder import Encoder
from model.inference import read_out_many
from model.probes import pool, probe
from model.smoothing import moving_average
from model.store import Store
from model.tasks import TASKS
from model.train import Run

Vectors = NDArray[np.floating]
READOUTS = ("last", "middle", "last+fused", "middle+fused", "last+average", "last+fused+average")


def without_encoder(fused: Vectors, blocks: dict[str, slice]) -> dict[str, Vectors]:
    """By name, the vectors of a title's shots, (n, width) each."""
    made = {name: fused[:, block] for name, block in blocks.items()}
    average, title = moving_average(fused), np.broadcast_to(fused.mean(axis=0), fused.shape)
    return made | {"fused": fused, "moving average": average, "title mean": title}


def with_encoder(encoder: Encoder, fused: Vectors, about: Vectors) -> dict[str, Vectors]:
    return {parts: next(read_out_many(encoder, [(fused, about)], parts)) for parts in READOUTS}


def trained(store: Store, seed: int) -> Encoder:
    with tempfile.TemporaryDirectory() as folder:
        run = Run(dataclasses.replace(Config.embedded(), seed=seed), store, Path(folder), say=lambda _: None)
        run.fit()
        metrics = run.finish()
        print(f"seed {seed}: skill {metrics['validation']['skill']:+.3f}, step {metrics['step']} of {metrics['steps']}")
        return read_export(run.folder.export)


def clips_of(lake: Path, task: str) -> pl.DataFrame:
    """A task's labelled clips, with the column `target`; genres are their title's where a clip has none."""
    clips = pl.read_delta(str(lake / "clip_labels")).filter(pl.col("task") == task)
    genres = pl.read_delta(str(lake / "titles")).select("title_id", "genres")
    own = {"clip_popularity": "score", "clip_retrieval": "label"}.get(task, "labels")
    clips = clips.join(genres, on="title_id").with_columns(pl.col(own).alias("target"))
    return clips.with_columns(pl.col("target").fill_null(pl.col("genres"))) if task == "clip_genre" else clips


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("lake", type=Path)
    parser.add_argument("store", type=Path)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--first", type=int, default=0, help="first seed: choose on some, report on others")
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS))
    given = parser.parse_args()
    store = Store.open(given.store)
    shots = pl.read_delta(str(given.lake / "fused_embeddings")).sort("title_id", "shot_index")
    spans = {title: rows for (title,), rows in shots.group_by("title_id")}
    clips = {task: clips_of(given.lake, task) for task in given.tasks}

    def report(vectors: dict[str, dict[str, Vectors]]) -> None:
        """vectors: of each title, by name"""
        for name in next(iter(vectors.values())):
            line = f"  {name:<24}"
            for task, rows in clips.items():
                features = [
                    pool(spans[t]["start_s"].to_numpy(), spans[t]["end_s"].to_numpy(), vectors[t][name], start, end)
                    for t, start, end in rows.select("title_id", "start_s", "end_s").rows()
                ]
                made = probe(task, features, rows["target"].to_list(), rows["title_id"].to_list())
                line += f"{made.value:>8.3f} [{made.ci_low:.3f}, {made.ci_high:.3f}]"
            print(line, flush=True)

    print(f"  {'':<24}" + "".join(f"{task:>23}" for task in clips))
    fused = {entry.title_id: store.read(entry, 0, entry.shots).astype(np.float32) for entry in store.entries}
    report({title: without_encoder(rows, Config.embedded().blocks) for title, rows in fused.items()})
    for seed in range(given.first, given.first + given.seeds):
        encoder = trained(store, seed)
        report({e.title_id: with_encoder(encoder, fused[e.title_id], store.global_embedding(e)) for e in store.entries})


if __name__ == "__main__":
    main()
