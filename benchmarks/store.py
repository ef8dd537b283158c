"""The store: adding titles beside building it anew, and the memory of training over more vectors than should be
resident.

    python benchmarks/store.py [--titles 1000] [--added 10] [--shots 1000000]

The second part trains the embedded encoder for a few steps over a store of a million shots, in a process of its
own, and reads the whole store once through the input pipeline; its peak resident memory is set against the vectors'
size in float32.
"""

import argparse
import itertools
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from model.store import Store, StoredTitle


def titles(first: int, count: int, shots: int) -> Iterator[StoredTitle]:
    """Titles that cost nothing to make: what is measured is the store."""
    vectors = np.random.default_rng(0).standard_normal((shots, 2304), dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    for i in range(first, first + count):
        yield StoredTitle(f"{i:06d}", None, "1", "random", vectors, np.zeros(768, dtype=np.float32))


def peak_of_training(path: str) -> None:
    """Prints the peak resident memory, in KiB, of training over the store at path and of reading all of it."""
    import dataclasses

    from model.batches import training_batches, windows_of
    from model.config import Config
    from model.train import Run

    store = Store.open(path)
    config = dataclasses.replace(Config.embedded(), max_steps=20, evaluate_every=20, validation_windows=64)
    with tempfile.TemporaryDirectory() as out:
        Run(config, store, Path(out), say=lambda line: print(line, file=sys.stderr)).fit()
    train = windows_of(store.entries, config)
    for _ in itertools.islice(training_batches(store, train, config, 0), -(-len(train) // config.batch_sequences)):
        pass
    print(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--titles", type=int, default=1000)
    parser.add_argument("--added", type=int, default=10)
    parser.add_argument("--title-shots", type=int, default=300)
    parser.add_argument(
        "--shots", type=int, default=1_000_000, help="of the store that is trained over; 0: leave it out"
    )
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.peak:
        return peak_of_training(given.peak)

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        started = time.perf_counter()
        Store.update(path / "grown", titles(0, given.titles, given.title_shots))
        first = time.perf_counter() - started
        started = time.perf_counter()
        keep = Store.versions(path / "grown")
        grown = Store.update(path / "grown", titles(given.titles, given.added, given.title_shots), keep=keep)
        added = time.perf_counter() - started
        started = time.perf_counter()
        anew = Store.update(path / "anew", titles(0, given.titles + given.added, given.title_shots))
        whole = time.perf_counter() - started
        assert grown.fingerprint == anew.fingerprint
        print(
            f"{given.titles:,} titles of {given.title_shots} shots built in {first:.1f} s; {given.added} more titles:"
        )
        print(f"  extended {added:.3f} s, built anew {whole:.2f} s: {added / whole:.3f}  (target <= 0.05)")
    if not given.shots:
        return None
    with tempfile.TemporaryDirectory() as folder:
        store = Store.update(Path(folder) / "store", titles(0, given.shots // 800, 800))
        command = [sys.executable, __file__, "--peak", str(store.path)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ)
        peak = int(done.stdout.split()[-1]) / 2**20
        size = store.shots * 2304 * 4 / 2**30
        print(f"{store.shots:,} shots, {size:.1f} GiB of float32 vectors, trained over and read once:")
        print(f"  peak resident {peak:.2f} GiB: {peak / size:.2f} of the vectors  (target < 2 GiB)")
    return None


if __name__ == "__main__":
    main()
