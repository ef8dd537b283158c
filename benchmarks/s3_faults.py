"""Many writers on an S3 server that fails: nothing is lost, nothing doubled, nothing half visible.

    python benchmarks/s3_faults.py [--writers 64] [--share 0.05] [--seconds 600]

A local S3 server (moto) stands behind a proxy that answers with 503, 500, lost connections and late 500s, each at the
given share of the requests. Writers, several to a process, write a title's shots again and again, each time more rows
of one version, and append to a table without partitions; one reader looks all the time. At the end every title must
have its last version with all its rows, and every appended row must be there once.
"""

import argparse
import multiprocessing
import os
import socket
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import polars as pl

sys.path.insert(0, str(Path(__file__).parents[1]))  # the proxy and the rows are the tests'

PROCESSES = 4
URI = "s3://films/lake"


def started(command: list[str], port: int) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while socket.socket().connect_ex(("127.0.0.1", port)):
        time.sleep(0.1)
    return process


def write(first: int, count: int, seconds: float, results: Any) -> None:
    """Writers `first` to `first + count`, a thread each: what each wrote last, and what raised."""
    from resources.lake import DeltaLake
    from tests.resources.lake_rows import rows

    lake = DeltaLake(uri=URI)
    end = time.monotonic() + seconds

    def writer(number: int) -> tuple[int, int, int, list[str]]:
        turn, appended, errors = 0, 0, []
        while time.monotonic() < end:
            turn += 1
            try:
                lake.write("shots", {"title_id": f"t{number:03}"}, rows("shots", 1 + turn % 7), f"{turn:032}")
                lake.append("text_cache", rows("text_cache", 1, 1_000_000 * (number + 1) + turn))
                appended += 1
            except OSError as error:  # a store that failed ten times in a row: whoever wrote knows that it failed
                errors.append(str(error)[:200])
                turn -= 1
        return number, turn, appended, errors

    with ThreadPoolExecutor(count) as threads:
        results.put(list(threads.map(writer, range(first, first + count))))


def look(seconds: float, results: Any) -> None:
    """Whether any look sees a title in two versions, or in part: a version's rows are as many as its number says."""
    end, looks, wrong, failed = time.monotonic() + seconds, 0, Counter[str](), 0
    while time.monotonic() < end:
        try:
            seen = pl.read_delta(f"{URI}/shots").group_by("title_id").agg(pl.len(), pl.col("data_version").unique())
        except (OSError, pl.exceptions.PolarsError):  # this reader's own requests fail, too
            failed += 1
            continue
        looks += 1
        for _, count, versions in seen.iter_rows():
            wrong["two versions" if len(versions) > 1 else "in part"] += (
                len(versions) > 1 or count != 1 + int(versions[0]) % 7
            )
    results.put((looks, failed, +wrong))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--writers", type=int, default=64)
    parser.add_argument("--share", type=float, default=0.05, help="of the requests that fail, for each kind of fault")
    parser.add_argument("--seconds", type=float, default=600)
    given = parser.parse_args()
    import boto3

    from resources.lake import DeltaLake
    from tests.conftest import free_port, s3_environment
    from tests.resources.lake.test_bad_store import BadDay

    port, upstream = free_port(), free_port()
    os.environ.update(s3_environment(port), RUST_LOG="off")
    server = started([sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(upstream)], upstream)
    proxy = started([sys.executable, "-m", "tests.faulty_s3", str(port), str(upstream)], port)
    try:
        boto3.client("s3").create_bucket(Bucket="films")
        lake, day = DeltaLake(uri=URI), BadDay(port)
        for table in ("shots", "text_cache"):
            lake.table_version(table)
        kinds = ("slow_down", "error", "lost_answer", "late_error")
        day(**dict.fromkeys(kinds, given.share))
        spawned = multiprocessing.get_context("spawn")
        written, looked = spawned.Queue(), spawned.Queue()
        each = -(-given.writers // PROCESSES)
        writers = [
            spawned.Process(target=write, args=(first, min(each, given.writers - first), given.seconds, written))
            for first in range(0, given.writers, each)
        ]
        reader = spawned.Process(target=look, args=(given.seconds, looked))
        for process in (*writers, reader):
            process.start()
        results = [of for _ in writers for of in written.get()]
        looks, failed, wrong = looked.get()
        counts = day.counts()
        day()
        versions = DeltaLake(uri=URI).data_versions("shots")
        table = pl.read_delta(f"{URI}/shots").group_by("title_id").len()
        rows_of = dict(table.iter_rows())
        raised = [error for *_, errors in results for error in errors]
        sure = [(number, turn) for number, turn, _, errors in results if turn and not errors]
        lost = sum(versions.get((f"t{number:03}",)) != f"{turn:032}" for number, turn in sure)
        half = sum(rows_of.get(f"t{number:03}") != 1 + turn % 7 for number, turn in sure)
        keys = pl.read_delta(f"{URI}/text_cache")["key"]
        appended = sum(of for _, _, of, _ in results)
        print(
            f"{given.writers} writers, {given.seconds:g} s, {sum(counts.values())} requests, of which "
            + ", ".join(f"{counts.get(kind, 0)} {kind}" for kind in kinds)
        )
        print(f"{sum(turn for _, turn, *_ in results)} writes and {appended} appends done, {len(raised)} raised")
        print(f"titles whose last write is lost: {lost} of {len(sure)}; not whole: {half}")
        print(f"appended rows lost: {max(0, appended - keys.n_unique())}; doubled: {len(keys) - keys.n_unique()}")
        print(
            f"{looks} looks of a reader ({failed} of its own failed): {sum(wrong.values())} saw a title in part {wrong}"
        )
    finally:
        proxy.kill()
        server.kill()


if __name__ == "__main__":
    main()
