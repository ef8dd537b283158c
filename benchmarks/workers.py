"""Embedding of many films by two runs at once, each in its own process, against one run after the other.

    python benchmarks/workers.py [--titles 24] [--shots 32] [--workers 2]

The demo's films are cut into shots first. Then their video, audio and text embeddings are made in as many equal
batches as there are workers: the planner's own batches, each a run in a process with one thread, as Dagster's launcher
starts them. Both ways begin with a copy of the same lake and database. The clock's ratio means something on an idle
machine only; the processor's says how much more work two at once are, whatever else runs.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))

from resources.demo import render_catalogue

PROJECT = Path(__file__).resolve().parents[1]
EMBEDDINGS = ("video_embeddings", "audio_embeddings", "text_embeddings")
TARGET = 0.85
BATCH = """
import sys
from mediafm_assets.commands.headless import driver, registered_drops
from mediafm_assets.graph.plan import batches
tables, number, count = sys.argv[1].split(","), int(sys.argv[2]), int(sys.argv[3])
with driver() as work:
    keys = sorted(drop.title_id for drop in registered_drops(work, ()))
    batch = list(batches(keys, {key: tables for key in keys}, -(-len(keys) // count)))[number]
    assert work.run(batch.tables, batch.tags).success
"""


class Cost(NamedTuple):
    wall_s: float
    cpu_s: float


def make(root: Path, tables: Sequence[str], batch: int, of: int) -> "subprocess.Popen[bytes]":
    """Start a run that makes the tables of one of `of` equal batches of titles."""
    places = {"MEDIAFM_LANDING": "landing", "MEDIAFM_LAKE": "lake", "DAGSTER_HOME": "home"}
    set_here = {"MEDIAFM_DETECTOR": "adaptive", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(PROJECT)}
    environment = {**os.environ, **set_here, **{name: str(root / folder) for name, folder in places.items()}}
    command = [sys.executable, "-c", BATCH, ",".join(tables), str(batch), str(of)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def ended(process: "subprocess.Popen[bytes]") -> float:
    """Processor seconds of the run, with those of its children, when it has ended."""
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, "the run failed"
    return usage.ru_utime + usage.ru_stime


def embed(prepared: Path, root: Path, batches: int, at_once: int) -> Cost:
    """Make the embeddings in a copy of what is prepared, `at_once` batches at a time."""
    shutil.copytree(prepared, root, symlinks=True)
    began, cpu_s = time.perf_counter(), 0.0
    for first in range(0, batches, at_once):
        running = [make(root, EMBEDDINGS, batch, batches) for batch in range(first, first + at_once)]
        cpu_s += sum(ended(process) for process in running)
    cost = Cost(time.perf_counter() - began, cpu_s)
    shutil.rmtree(root)
    return cost


def say(who: str, cost: Cost) -> None:
    print(f"{who}: {cost.wall_s:.0f} s, processor {cost.cpu_s:.0f} s; load {os.getloadavg()[0]:.1f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--titles", type=int, default=24)
    parser.add_argument("--shots", type=int, default=32, help="of a title")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="mediafm-workers-") as folder:
        prepared = Path(folder) / "prepared"
        (prepared / "home").mkdir(parents=True)
        shutil.copy(PROJECT / "dagster.yaml", prepared / "home")
        render_catalogue(prepared / "landing", titles=options.titles, shots_per_title=options.shots)
        ended(make(prepared, ("titles", "shots", "shot_frames"), 0, 1))
        print(f"{options.titles} films of {options.shots} shots are cut; load {os.getloadavg()[0]:.1f}", flush=True)
        one = embed(prepared, Path(folder) / "one", options.workers, 1)
        say("one worker", one)
        many = embed(prepared, Path(folder) / "many", options.workers, options.workers)
        say(f"{options.workers} workers", many)
    linear = one.wall_s / many.wall_s / options.workers
    print(f"share of linear by the clock: {linear:.2f} (target {TARGET}: {'met' if linear >= TARGET else 'MISSED'})")
    print(f"share of linear by the processor: {one.cpu_s / many.cpu_s:.2f}")


if __name__ == "__main__":
    main()
