"""What a page of results costs the server in a large catalogue, and what fifty readers at once do to it.

    python benchmarks/pages.py [--titles 10000] [--shots 10] [--readers 50] [--seconds 60] [--keep FOLDER]

The lake holds synthetic rows, written into Delta in few commits, and its search index; `mediafm serve` runs on it as a
process of its own.
One reader asks alone first: the times of its answers are the server's, with the way through this machine. Prints also
the ratio of these times to those on a lake of ten titles.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import numpy as np
import polars as pl
import psutil

from mediafm_assets.graph import versions
from mediafm_assets.settings import resources
from mediafm_assets.stages import all_stages
from model.fusion import fuse
from resources.encoders.text.hashed_ngrams import hash_texts
from resources.lake import DeltaLake
from resources.search_index import IndexedTitle, SearchIndex, index_uri

WORDS = """river night train market chase letter harbour storm garden signal winter promise silent golden broken mirror
father captain doctor secret money fire water stone window door street castle desert forest music dance laugh""".split()  # noqa: SIM905
TITLES_IN_A_COMMIT = 500
SHOT_S = 4.0
JPEG_BYTES = 8000


def write(lake: DeltaLake, titles: int, shots: int) -> None:
    """Titles of `shots` shots each, with what a page of results and a title's page read of them, and their index."""
    random = np.random.default_rng(0)
    space = versions.Catalogue(lake, resources({}), all_stages()).fused_space()
    encoder = resources({})["text_encoder"].space()
    index = SearchIndex.open(index_uri(lake.uri), space)
    for first in range(0, titles, TITLES_IN_A_COMMIT):
        ids = [f"title-{i:05}" for i in range(first, min(first + TITLES_IN_A_COMMIT, titles))]
        n = len(ids) * shots
        texts = [" ".join(random.choice(WORDS, 8)) for _ in range(n)]
        text = hash_texts(texts, 768)
        video, audio = (random.standard_normal((n, 768)).astype(np.float32) for _ in range(2))
        present = np.ones(n, dtype=bool)
        start = [SHOT_S * i for i in range(shots)] * len(ids)
        shot = {"title_id": np.repeat(ids, shots), "shot_index": list(range(shots)) * len(ids)}
        spans = {**shot, "start_s": start, "end_s": [second + SHOT_S for second in start]}
        frames = {"start_frame": [int(25 * second) for second in start]}
        whole = pl.DataFrame(
            {
                "title_id": ids,
                "title": [" ".join(random.choice(WORDS, 3)).title() for _ in ids],
                "synopsis": [" ".join(random.choice(WORDS, 20)) for _ in ids],
                "width": pl.Series([640] * len(ids), dtype=pl.Int32),
                "landed_at": pl.Series([time.time_ns() // 1000] * len(ids)).cast(pl.Datetime("us", "UTC")),
                "tags": [["a"]] * len(ids),
                "genres": [["Drama"]] * len(ids),
                "text_tracks": pl.Series(
                    [[]] * len(ids),
                    dtype=pl.List(
                        pl.Struct(dict.fromkeys(("name", "language", "kind", "format", "sha256"), pl.String))
                    ),
                ),
            }
        ).with_columns(
            type=pl.lit("movie"),
            language=pl.lit("en"),
            series_id=pl.lit(None, pl.String),
            media_uri=pl.lit("film.mp4"),
            media_sha256=pl.lit("0" * 64),
            duration_s=pl.lit(SHOT_S * shots),
            fps=pl.lit(25.0),
            height=pl.col("width"),
            has_picture=pl.lit(True),
            has_audio=pl.lit(True),
            extra=pl.lit("{}"),
            drop_fingerprint=pl.lit("f"),
            live=pl.lit(False),
            media_parts=pl.lit(None),
        )
        vectors = fuse({"video": (video, present), "audio": (audio, present), "text": (text, present)})
        by_table = {
            "shots": pl.DataFrame({**spans, **frames}).with_columns(
                end_frame=pl.col("start_frame") + int(25 * SHOT_S), detector=pl.lit("hand"), mark=pl.lit(None)
            ),
            "shot_frames": pl.DataFrame({**shot, "frame_index": frames["start_frame"], "time_s": start}).with_columns(
                pl.Series("jpeg", [random.bytes(JPEG_BYTES) for _ in range(n)])
            ),
            "text_embeddings": pl.DataFrame({**shot, "embedding": list(text), "text": texts}).with_columns(
                present=pl.lit(True), encoder=pl.lit(encoder), track=pl.lit("film.en.srt"), input_hash=pl.lit(None)
            ),
            "fused_embeddings": pl.DataFrame({**spans, "embedding": list(vectors)}).with_columns(
                has_video=pl.lit(True),
                has_audio=pl.lit(True),
                has_text=pl.lit(True),
                input_hash=None,
                space=pl.lit(space),
            ),
            "global_embeddings": whole.select("title_id", text="synopsis").with_columns(
                pl.Series("embedding", list(hash_texts(whole["synopsis"].to_list(), 768))), encoder=pl.lit(encoder)
            ),
            "titles": whole,
        }
        for table, rows in by_table.items():
            lake.write_partitions(table, rows.with_columns(data_version=pl.lit("1" * 32)))
        times = np.asarray(start[:shots])
        index.upsert(
            IndexedTitle(title_id, "1" * 32, np.arange(shots), times, times + SHOT_S, own)
            for title_id, own in zip(ids, np.split(vectors, len(ids)), strict=True)
        )
        print(f"\r{first + len(ids):,} titles written", end="", flush=True)
    index.optimise()
    print()


@contextmanager
def served(root: Path) -> Iterator[tuple[str, psutil.Process]]:
    """`mediafm serve` on the lake in `root`; its address and process."""
    (root / "landing" / "titles").mkdir(parents=True, exist_ok=True)
    places = {"MEDIAFM_LANDING": root / "landing", "MEDIAFM_LAKE": root / "lake", "DAGSTER_HOME": root / "home"}
    process = subprocess.Popen(
        [sys.executable, "-m", "mediafm_assets.commands.cli", "serve", "--port", "0"],
        env={**os.environ, **{name: str(place) for name, place in places.items()}},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        found = re.search(r"http://\S+", process.stdout.readline())
        assert found is not None
        yield found[0], psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait()


def path(random: np.random.Generator, titles: int, shots: int) -> tuple[str, str]:
    """Something that a reader asks for, and what it is called."""
    title, shot = f"title-{random.integers(titles):05}", random.integers(shots)
    pages = {
        "results by words": f"/search?q={'+'.join(random.choice(WORDS, 4))}",
        "results by a shot": f"/search?like={title}:{shot}",
        "a title": f"/titles/{title}",
        "a still": f"/titles/{title}/shots/{shot}.jpg",
        "titles": "/",
    }
    name = str(random.choice(list(pages)))
    return name, pages[name]


def alone(
    url: str, process: psutil.Process, titles: int, shots: int, rounds: int = 30
) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Milliseconds of each answer to one reader, by what was asked; the first of each kind is left out. And the mean
    milliseconds of processor time that the server took."""
    random = np.random.default_rng(1)
    took: dict[str, list[float]] = {}
    worked: dict[str, float] = {}

    def processor() -> float:
        times = process.cpu_times()
        return 1000 * float(times.user + times.system)

    with httpx2.Client(timeout=600) as client:
        while min((len(times) for times in took.values()), default=0) <= rounds or len(took) < 5:
            name, asked = path(random, titles, shots)
            started, before = time.perf_counter(), processor()
            assert client.get(url + asked).status_code == 200, asked
            took.setdefault(name, []).append(1000 * (time.perf_counter() - started))
            worked[name] = worked.get(name, 0.0) + processor() - before
    means = {name: worked[name] / len(times) for name, times in took.items()}
    return {name: times[1:] for name, times in took.items()}, means


def together(url: str, titles: int, shots: int, readers: int, seconds: float) -> tuple[list[float], list[str]]:
    """Milliseconds of all answers to readers who ask without a pause, and what went wrong."""
    took: list[float] = []
    wrong: list[str] = []
    until = time.monotonic() + seconds

    def read(seed: int) -> None:
        random = np.random.default_rng([2, seed])
        with httpx2.Client(timeout=120) as client:
            while time.monotonic() < until:
                _, asked = path(random, titles, shots)
                started = time.perf_counter()
                try:
                    status = client.get(url + asked).status_code
                except httpx2.HTTPError as error:
                    wrong.append(repr(error))
                    continue
                took.append(1000 * (time.perf_counter() - started))
                if status != 200:
                    wrong.append(f"{status} {asked}")

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(readers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return took, wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--titles", type=int, default=10_000)
    parser.add_argument("--shots", type=int, default=10)
    parser.add_argument("--readers", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--keep", type=Path, help="a folder for the lakes, which another run then finds there")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        root = given.keep or Path(temporary)
        medians: dict[int, dict[str, float]] = {}
        for titles in (10, given.titles):
            place = root / str(titles)
            lake = DeltaLake(uri=str(place / "lake"))
            if not lake.data_versions("titles"):
                write(lake, titles, given.shots)
            with served(place) as (url, process):
                started = time.perf_counter()
                assert httpx2.get(f"{url}/search?q=river", timeout=600).status_code == 200
                print(f"{titles:,} titles, {titles * given.shots:,} shots: "
                      f"first page of results {time.perf_counter() - started:.1f} s after the start")  # fmt: skip
                took, worked = alone(url, process, titles, given.shots)
                medians[titles] = {name: float(np.median(times)) for name, times in took.items()}
                for name, times in sorted(took.items()):
                    ratio = medians[titles][name] / medians[10][name]
                    print(f"  {name}: median {np.median(times):.0f} ms, p95 {np.percentile(times, 95):.0f} ms, "
                          f"processor {worked[name]:.0f} ms, {ratio:.2f} x of ten titles")  # fmt: skip
                if titles == given.titles:
                    together(url, titles, given.shots, given.readers, given.seconds / 4)  # caches fill
                    before = process.memory_info().rss
                    answers, wrong = together(url, titles, given.shots, given.readers, given.seconds)
                    after = process.memory_info().rss
                    print(
                        f"  {given.readers} readers for {given.seconds:.0f} s: {len(answers):,} answers, "
                        f"{len(wrong)} wrong {wrong[:3]}, median {np.median(answers):.0f} ms, "
                        f"p95 {np.percentile(answers, 95):.0f} ms; memory {before >> 20} to {after >> 20} MiB, "
                        f"{after / before:.3f} x"
                    )


if __name__ == "__main__":
    main()
