"""The encoder gate: what it holds back, what it lets through, and what readers see meanwhile.

    python benchmarks/gate.py [--pairs 40] [--worse 20] [--readers 8] [--seconds 60]

On a rendered catalogue of 24 titles, embedded once with the encoders that need no weights. Worse candidates are
shuffled (every tensor's numbers in another order) or trained for one step; equal ones differ from the encoder in use by
their seed alone. Each is judged as the graph judges it, without anything being written. Then processes read the
generation that is in use while it is promoted to and fro by the command.
"""

import argparse
import contextlib
import dataclasses
import io
import multiprocessing
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from model.checkpoint import tensors, with_weights
from model.config import Config
from model.encoder import Encoder
from model.gate import compare
from model.inference import load
from model.store import Store
from model.train import Run

LEVEL, TOLERANCE = 0.975, 0.01  # the defaults of MEDIAFM_GATE_LEVEL and MEDIAFM_GATE_TOLERANCE


def trained(store: Store, seed: int, folder: Path, steps: int | None = None) -> Encoder:
    """An encoder of the embedded preset; the seed decides weights, masks, order and which titles are held out."""
    config = dataclasses.replace(Config.embedded(), seed=seed, **({"max_steps": steps} if steps else {}))
    run = Run(config, store, folder, say=lambda _: None)
    run.fit()
    run.finish()
    return load(run.folder.export)


def shuffled(encoder: Encoder, seed: int) -> Encoder:
    rng = np.random.default_rng(seed)
    weights = {
        name: value.flatten()[torch.from_numpy(rng.permutation(value.numel()))].reshape(value.shape)
        for name, value in encoder.state_dict().items()
    }
    return with_weights(encoder.config, weights)


def judged(catalogue: Any, candidate: Encoder, in_use: Encoder) -> list[Any]:
    from mediafm_assets.defs.promotion import foretold, probed

    encoders = [candidate, in_use]
    return compare([*probed(catalogue, encoders), *foretold(catalogue, encoders)], LEVEL, TOLERANCE)


def said(of: Sequence[Any]) -> str:
    worst = min(of, key=lambda task: task.high)
    return f"{worst.task} {worst.difference:+.3f} ({worst.low:+.3f} to {worst.high:+.3f})"


def read(lake: str, seconds: float, ready: Any, answers: Any) -> None:
    """Answer the same question again and again: how many shots there are, of which generation."""
    ready.wait()
    end, seen, count = time.monotonic() + seconds, set(), 0
    while time.monotonic() < end:
        decisions = pl.read_delta(f"{lake}/encoder_promotions").filter("promoted").sort("decided_at")
        rows = pl.scan_delta(f"{lake}/contextual_embeddings").filter(
            pl.col("encoder_version") == decisions["encoder_version"][-1]
        )
        found = rows.select("encoder_version", "title_id", "shot_index").collect()
        seen.add((tuple(found["encoder_version"].unique()), len(found)))
        count += 1
    answers.put((count, seen))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--worse", type=int, default=20, help="candidates made worse on purpose")
    parser.add_argument("--pairs", type=int, default=40, help="equal candidates")
    parser.add_argument("--readers", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=60, help="for which the readers read")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        for name, value in (
            ("MEDIAFM_LANDING", root / "landing"),
            ("MEDIAFM_LAKE", root / "lake"),
            ("DAGSTER_HOME", root / "home"),
            ("MEDIAFM_VIDEO_ENCODER", "descriptors"),
            ("MEDIAFM_AUDIO_ENCODER", "logmel"),
            ("MEDIAFM_TEXT_ENCODER", "hashed"),
        ):
            os.environ[name] = str(value)
        from mediafm_assets.commands.cli import main as mediafm
        from mediafm_assets.defs.encoder import read_encoder
        from mediafm_assets.graph.versions import Catalogue
        from mediafm_assets.settings import resources
        from mediafm_assets.stages import all_stages
        from resources.demo import render_catalogue

        render_catalogue(root / "landing")
        with contextlib.redirect_stderr(io.StringIO()):
            assert mediafm(["materialize"]) == 0
        configured = resources()
        catalogue = Catalogue(configured["lake"], configured, all_stages())
        first = catalogue.encoder_version or ""
        in_use, store = read_encoder(catalogue.lake, first), Store.open(configured["training"].store)

        held = 0
        for number in range(given.worse):
            kind = ("shuffled", "one step")[number % 2]
            candidate = (
                shuffled(in_use, number) if number % 2 == 0 else trained(store, number, root / f"worse-{number}", 1)
            )
            found = judged(catalogue, candidate, in_use)
            held += any(task.regressed for task in found)
            print(f"worse {number + 1}: {kind}: {said(found)}", flush=True)
        print(f"worse candidates held back: {held} of {given.worse}", flush=True)

        blocked = 0
        for number in range(given.pairs):
            candidate = trained(store, 1000 + number, root / f"equal-{number}")
            found = judged(catalogue, candidate, in_use)
            blocked += any(task.regressed for task in found)
            print(f"equal {number + 1}: {said(found)}", flush=True)
        print(f"equal candidates held back: {blocked} of {given.pairs}", flush=True)

        other = "99990101T000000Z-aaaaaaaa"
        rows = catalogue.lake.read("encoder", encoder_version=first).drop("encoder_version", "data_version")
        if given.pairs:
            columns = ("name", "dtype", "shape", "data", "sha256")
            anew = pl.DataFrame(list(tensors(candidate)), schema=columns, orient="row")
            rows = anew.with_columns(pl.lit(rows[name][0]).alias(name) for name in rows.columns if name not in columns)
        catalogue.lake.write("encoder", {"encoder_version": other}, rows, "9" * 32)
        quiet = contextlib.redirect_stdout(io.StringIO())
        with quiet:
            assert mediafm(["encoders", "embed", other]) == 0
        spawned = multiprocessing.get_context("spawn")
        ready, answers = spawned.Barrier(given.readers + 1), spawned.Queue()
        readers = [
            spawned.Process(target=read, args=(catalogue.lake.uri, given.seconds, ready, answers))
            for _ in range(given.readers)
        ]
        for reader in readers:
            reader.start()
        ready.wait()
        end, turns = time.monotonic() + given.seconds, 0
        while time.monotonic() < end:
            with contextlib.redirect_stdout(io.StringIO()):
                version = (other, first)[turns % 2]
                assert mediafm(["encoders", "promote", version, "--by", "benchmark", "--why", "a turn"]) == 0
            turns += 1
        results = [answers.get() for _ in readers]
        shots = len(catalogue.lake.read_whole("fused_embeddings"))
        seen = {answer for _, each in results for answer in each}
        wrong = {answer for answer in seen if len(answer[0]) != 1 or answer[1] != shots}
        print(
            f"{sum(count for count, _ in results)} answers of {given.readers} readers in {given.seconds:g} s, {turns} "
            f"promotions: {len(seen)} different answers, {len(wrong)} of two generations, of none or in part"
        )


if __name__ == "__main__":
    main()
