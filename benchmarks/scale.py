"""What a lake of many titles costs: the same calls at 10, 1,000, 10,000 and 100,000 one-file partitions, side by side.

    python benchmarks/scale.py [--titles 10 1000 10000 100000] [--scans 10 1000 10000]

Each size is a process of its own. The log is simulated, a thousand files a commit; data files are links to one small
file, which is enough, as each is opened by its own name. `cold` is the first call in a process, which reads the log.
"""

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import psutil

from resources.lake import DeltaLake
from tests.resources.lake_rows import rows

TABLE = "fused_embeddings"
ROWS = 300
REPEATS = 20


def simulate(uri: str, table: str, titles: int, frame: pl.DataFrame) -> None:
    """A table of that many partitions: one is written, the others' files are links to its file."""
    from deltalake import DeltaTable
    from deltalake.transaction import AddAction

    lake = DeltaLake(uri=uri)
    lake.write(table, {"title_id": "template"}, frame, "0" * 32)
    (uri,) = lake.partition_files(table, {"title_id": "template"})
    root, template = Path(lake.table_uri(table)), Path(uri)
    commit = (root / "_delta_log" / f"{1:020}.json").read_text().splitlines()[-1]
    statistics = json.loads(commit)["add"]["stats"]
    for first in range(0, titles - 1, 1000):
        actions = []
        for i in range(first, min(first + 1000, titles - 1)):
            folder = root / f"title_id=t{i:06d}"
            folder.mkdir()
            if i % 30_000:  # of a file, a file system allows so many links
                os.link(template, folder / template.name)
            else:
                (folder / template.name).write_bytes(template.read_bytes())
                template = folder / template.name
            path = f"title_id=t{i:06d}/{template.name}"
            version = statistics.replace("0" * 32, f"{i:032x}")
            actions.append(AddAction(path, template.stat().st_size, {"title_id": f"t{i:06d}"}, 0, True, version))
        found = DeltaTable(lake.table_uri(table))
        found.create_write_transaction(actions, mode="append", schema=found.schema(), partition_by=["title_id"])
    DeltaTable(lake.table_uri(table)).create_checkpoint()


def simulated(*given: Any) -> None:
    """In a process of its own, so that this one has read no log."""
    made = multiprocessing.get_context("spawn").Process(target=simulate, args=given)
    made.start()
    made.join()
    assert made.exitcode == 0


def median_ms(call: Callable[[], object], repeats: int = REPEATS) -> float:
    taken = []
    for _ in range(repeats):
        started = time.perf_counter()
        call()
        taken.append(time.perf_counter() - started)
    return sorted(taken)[len(taken) // 2] * 1000


def resident_mib() -> float:
    return psutil.Process().memory_info().rss / 1024**2


def calls(titles: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        lake = DeltaLake(uri=folder)
        frame = rows(TABLE, ROWS)
        simulated(folder, TABLE, titles, frame)
        warm = DeltaLake(uri=f"{folder}/warm")
        warm.write(TABLE, {"title_id": "a"}, frame, "v")
        warm.data_versions(TABLE)
        key = {"title_id": "one more"}

        def one_more() -> None:
            lake.write(TABLE, key, frame, "v")
            lake.data_versions(TABLE)
            lake.write_metadata(TABLE, key)

        from deltalake import DeltaTable

        said = {"opened by delta-rs": median_ms(lambda: DeltaTable(lake.table_uri(TABLE)), 3)}
        before = resident_mib()
        said["data_versions, cold"] = median_ms(lambda: lake.data_versions(TABLE), 1)
        said["MiB that the log takes"] = resident_mib() - before
        said["data_versions"] = median_ms(lambda: lake.data_versions(TABLE))
        said["write + data_versions + write_metadata"] = median_ms(one_more, 3 * REPEATS)
        said["read one title"] = median_ms(lambda: lake.read(TABLE, **key))
        said["damaged (sizes of all files)"] = median_ms(lambda: lake.damaged(TABLE), 3)
        said["maintain"] = median_ms(lambda: lake.maintain(TABLE), 1)
        return said


def scans(titles: int) -> dict[str, float]:
    """Small tables: `titles` whole, and the spaces of `fused_embeddings` (3 rows a title)."""
    with tempfile.TemporaryDirectory() as folder:
        lake = DeltaLake(uri=folder)
        simulated(folder, "titles", titles, rows("titles", 1))
        simulated(folder, TABLE, titles, rows(TABLE, 3))
        first = median_ms(lambda: lake.read_whole("titles"), 1)
        return {
            "titles, every file opened": median_ms(lambda: lake.scan("titles").collect(), 3),
            "titles, the first read_whole": first,
            "titles, read_whole": median_ms(lambda: lake.read_whole("titles"), 3),
            f"space of {TABLE}": median_ms(lambda: lake.scan(TABLE).select("title_id", "space").unique().collect(), 3),
        }


def measured(kind: str, titles: int) -> dict[str, float]:
    command = [sys.executable, __file__, "--measure", kind, str(titles)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    said: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return said


def table(title: str, sizes: list[int], found: list[dict[str, float]]) -> None:
    print(f"\n{title:<42}" + "".join(f"{size:>12,}" for size in sizes) + f"{sizes[-1]:>14,} : {sizes[0]:,}")
    for name in found[0]:
        figures = [one[name] for one in found]
        ratio = f"{figures[-1] / figures[0]:.2f}" if figures[0] else "–"
        print(f"{name:<42}" + "".join(f"{figure:>12.1f}" for figure in figures) + f"{ratio:>18}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--titles", type=int, nargs="+", default=[10, 1000, 10_000, 100_000])
    parser.add_argument("--scans", type=int, nargs="+", default=[10, 1000, 10_000])
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    given: Any = parser.parse_args()
    if given.measure:
        kind, titles = given.measure
        print(json.dumps({"calls": calls, "scans": scans}[kind](int(titles))))
        return
    table("ms, by titles", given.titles, [measured("calls", n) for n in given.titles])
    table("ms, scans of tables of small files", given.scans, [measured("scans", n) for n in given.scans])


if __name__ == "__main__":
    main()
