"""Engines for the search over shots, side by side on the same vectors and queries.

    python benchmarks/search_engines.py [--shots 10000 100000] [--width 256] [--engines numpy usearch …] [--folder F]

The vectors are made as shots are: titles of a thousand shots, each a run of scenes in settings that recur, shots that
drift within a scene, a spectrum that falls off. Queries are shots that lie in the catalogue's scenes but not in the
index. Each engine has a process of its own, with two threads. Printed for each: recall@10 against exact search in
float32, seconds to build, seconds for one title more (its old rows out, its new ones in, on disk), seconds to open,
p50 and p95 of a query in milliseconds, anonymous memory of the process that answers (its own, without the page cache),
and megabytes on disk; with "cpu" the processor time of the same, by all threads, which a busy machine hardly changes.
Engines that are not installed are left out and named.
"""

import argparse
import importlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

TITLE = 1000  # shots of a title
THREADS = 2
K = 10
QUERIES = 200
PRECISE = ("recall", "title_s", "title_cpu")
LATENT = 96  # dimensions that settings and scenes vary in; the rest is a shot's own

Vectors = NDArray[np.float16]
Search = Callable[[NDArray[np.float32]], NDArray[np.int64]]


def title_vectors(number: int, width: int, count: int = TITLE, draw: int = 0) -> Vectors:
    """(count, width) unit vectors of a title's shots. Another draw gives other shots of the same scenes."""
    world = np.random.default_rng([0, width])
    scale = np.arange(1, width + 1) ** -0.5
    common = world.standard_normal((64, width)) * scale  # looks that titles share
    title = np.random.default_rng([1, number, width])
    about = common[title.integers(64)] + 0.7 * title.standard_normal(width) * scale
    settings = about + title.standard_normal((12, LATENT)) @ (world.standard_normal((LATENT, width)) * scale) / 8
    ends = np.cumsum(title.integers(4, 24, size=count))
    scene = np.searchsorted(ends, np.arange(count), side="right")
    setting = title.integers(12, size=scene[-1] + 1)[scene]
    mood = title.standard_normal((scene[-1] + 1, width))[scene] * scale
    shots = np.random.default_rng([2, number, width, draw]).standard_normal((count, width)) * scale
    vectors = settings[setting] + 0.5 * mood + 0.6 * shots
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)


def prepared(folder: Path, shots: int, width: int) -> None:
    """vectors.npy (shots, width) float16, queries.npy and truth.npy, the exact answers."""
    vectors = np.lib.format.open_memmap(folder / "vectors.npy", "w+", np.float16, (shots, width))
    titles = shots // TITLE
    for number in range(titles):
        vectors[number * TITLE : (number + 1) * TITLE] = title_vectors(number, width)
    rng = np.random.default_rng(3)
    queries = np.stack(
        [title_vectors(int(rng.integers(titles)), width, draw=1)[rng.integers(TITLE)] for _ in range(QUERIES)]
    )
    queries = queries.astype(np.float32)
    best = [exact(vectors[start : start + 50_000], queries, start) for start in range(0, shots, 50_000)]
    scores, rows = (np.concatenate([part[i] for part in best], axis=1) for i in (0, 1))
    truth = np.take_along_axis(rows, np.argsort(-scores, axis=1)[:, :K], axis=1)
    np.save(folder / "queries.npy", queries)
    np.save(folder / "truth.npy", truth)


def exact(vectors: Vectors, queries: NDArray[np.float32], first: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    scores = queries @ np.asarray(vectors, dtype=np.float32).T
    top = np.argpartition(-scores, K, axis=1)[:, :K]
    return np.take_along_axis(scores, top, axis=1), top + first


# ---- engines: each builds in a folder, opens it and answers, and replaces a title on disk


class NumPy:
    """Exact: every vector in memory as float32."""

    module, licence, object_store = "numpy", "BSD-3", "no"
    most = 300_000_000

    def __init__(self, folder: Path) -> None:
        self.file = folder / "index.npy"

    def build(self, vectors: Vectors) -> None:
        np.save(self.file, vectors)

    def open(self) -> Search:
        held = np.load(self.file).astype(np.float32)

        def search(query: NDArray[np.float32]) -> NDArray[np.int64]:
            scores = held @ query
            top = np.argpartition(-scores, K)[:K]
            return top[np.argsort(-scores[top])]

        return search

    def replace(self, number: int, rows: Vectors) -> None:
        held = np.load(self.file, mmap_mode="r+")
        held[number * TITLE : (number + 1) * TITLE] = rows
        held.flush()


class USearch:
    """An HNSW graph, M 16, in one file that is held in memory and written whole."""

    module, licence, object_store = "usearch", "Apache-2.0", "no"
    kind, expansion = "f16", 128
    most = 600_000_000

    def __init__(self, folder: Path) -> None:
        self.file = folder / "index.usearch"

    def _empty(self, width: int):  # type: ignore[no-untyped-def]
        from usearch.index import Index

        return Index(
            ndim=width,
            metric="ip",
            dtype=self.kind,
            connectivity=16,
            expansion_add=128,
            expansion_search=self.expansion,
        )

    def build(self, vectors: Vectors) -> None:
        index = self._empty(vectors.shape[1])
        index.add(np.arange(len(vectors)), np.asarray(vectors), threads=THREADS)
        index.save(str(self.file))

    def open(self) -> Search:
        from usearch.index import Index

        index = Index.restore(str(self.file))
        index.expansion_search = self.expansion
        return lambda query: index.search(query, K, threads=1).keys.astype(np.int64)

    def replace(self, number: int, rows: Vectors) -> None:
        from usearch.index import Index

        index = Index.restore(str(self.file))
        keys = np.arange(number * TITLE, (number + 1) * TITLE)
        index.remove(keys, threads=THREADS)
        index.add(keys, np.asarray(rows), threads=THREADS)
        index.save(str(self.file) + ".new")
        os.replace(str(self.file) + ".new", self.file)


class USearchInt8(USearch):
    """The same with a byte for each number."""

    kind = "i8"


class Faiss:
    """faiss's factory string, in one file that is held in memory and written whole."""

    module, licence, object_store = "faiss", "MIT", "no"
    factory, probes = "Flat", 1
    most = 300_000_000

    def __init__(self, folder: Path) -> None:
        self.file = folder / "index.faiss"

    def build(self, vectors: Vectors) -> None:
        import faiss

        faiss.omp_set_num_threads(THREADS)
        index = faiss.index_factory(vectors.shape[1], self.name(len(vectors)), faiss.METRIC_INNER_PRODUCT)
        sample = np.sort(np.random.default_rng(0).permutation(len(vectors))[:100_000])
        index.train(np.asarray(vectors[sample], dtype=np.float32))
        for start in range(0, len(vectors), 50_000):
            index.add(np.asarray(vectors[start : start + 50_000], dtype=np.float32))
        faiss.write_index(index, str(self.file))

    def name(self, shots: int) -> str:
        return self.factory.format(lists=int(shots**0.5))

    def open(self) -> Search:
        import faiss

        faiss.omp_set_num_threads(THREADS)
        index = faiss.read_index(str(self.file))
        if self.probes > 1:
            faiss.ParameterSpace().set_index_parameter(index, "nprobe", self.probes)
        return lambda query: index.search(query[None], K)[1][0]

    def replace(self, number: int, rows: Vectors) -> None:
        import faiss

        index = faiss.read_index(str(self.file))
        keys = np.arange(number * TITLE, (number + 1) * TITLE)
        index.remove_ids(keys)
        index.add(np.asarray(rows, dtype=np.float32))
        faiss.write_index(index, str(self.file) + ".new")
        os.replace(str(self.file) + ".new", self.file)


class FaissInt8(Faiss):
    """Inverted lists of bytes, 32 probed."""

    factory, probes = "IVF{lists},SQ8", 32
    most = 3_000_000_000


class LanceFlat:
    """LanceDB without an index: every vector is read from the table's files."""

    module, licence, object_store = "lancedb", "Apache-2.0", "yes"
    most = 600_000_000

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "lance"

    def _rows(self, numbers: range, vectors: Vectors):  # type: ignore[no-untyped-def]
        import pyarrow as pa

        width = vectors.shape[1]
        # In float16 its k-means took five times as long, and exact search hardly less.
        flat = pa.array(np.ascontiguousarray(vectors, dtype=np.float32).reshape(-1))
        return pa.table(
            {
                "title": pa.array(np.asarray(numbers) // TITLE, pa.int32()),
                "row": pa.array(np.asarray(numbers), pa.int64()),
                "vector": pa.FixedSizeListArray.from_arrays(flat, width),
            }
        )

    def build(self, vectors: Vectors) -> None:
        import lancedb

        base = lancedb.connect(str(self.folder))
        batches = (
            self._rows(range(start, min(start + 50_000, len(vectors))), vectors[start : start + 50_000])
            for start in range(0, len(vectors), 50_000)
        )
        table = base.create_table("shots", next(batches))
        for batch in batches:
            table.add(batch)
        self.index(table, len(vectors), vectors.shape[1])

    def index(self, table, shots: int, width: int) -> None:  # type: ignore[no-untyped-def]
        pass

    def tuned(self, query):  # type: ignore[no-untyped-def]
        return query

    def open(self) -> Search:
        import lancedb

        table = lancedb.connect(str(self.folder)).open_table("shots")

        def search(query: NDArray[np.float32]) -> NDArray[np.int64]:
            asked = self.tuned(table.search(query).distance_type("dot").select(["row", "_distance"]).limit(K))
            return asked.to_arrow()["row"].to_numpy()

        return search

    def replace(self, number: int, rows: Vectors) -> None:
        import lancedb

        table = lancedb.connect(str(self.folder)).open_table("shots")
        merge = table.merge_insert(["title", "row"]).when_matched_update_all().when_not_matched_insert_all()
        merge = merge.when_not_matched_by_source_delete(f"title = {int(number)}")
        merge.execute(self._rows(range(number * TITLE, (number + 1) * TITLE), rows))


class LanceIvfPq(LanceFlat):
    """IVF_PQ, a byte for four numbers; of 24 lists the best 100 are scored again exactly."""

    most = 30_000_000
    probes, refine = 24, 10

    def index(self, table, shots: int, width: int) -> None:  # type: ignore[no-untyped-def]
        table.create_index("vector", config=self.made(int(shots**0.5), width))
        table.create_index("title", config=self.by_title())

    def made(self, lists: int, width: int):  # type: ignore[no-untyped-def]
        from lancedb.index import IvfPq

        shape = {"num_sub_vectors": width // 4, "max_iterations": 15, "sample_rate": 64}
        return IvfPq(distance_type="dot", num_partitions=lists, **shape)

    def by_title(self):  # type: ignore[no-untyped-def]
        from lancedb.index import BTree

        return BTree()

    def tuned(self, query):  # type: ignore[no-untyped-def]
        return query.nprobes(self.probes).refine_factor(self.refine)


class LanceIvfRq(LanceIvfPq):
    """IVF_RQ (RaBitQ), a bit for each number; of 24 lists the best 100 are scored again exactly."""

    most = 3_000_000_000

    def made(self, lists: int, width: int):  # type: ignore[no-untyped-def]
        from lancedb.index import IvfRq

        return IvfRq(distance_type="dot", num_partitions=lists, max_iterations=15, sample_rate=64)


class DuckDbVss:
    """DuckDB's vss extension: HNSW, held in memory."""

    module, licence, object_store = "duckdb", "MIT", "no"
    most = 300_000_000

    def __init__(self, folder: Path) -> None:
        self.file = folder / "vss.duckdb"

    def _base(self):  # type: ignore[no-untyped-def]
        import duckdb

        base = duckdb.connect(str(self.file), config={"threads": THREADS})
        base.execute("INSTALL vss; LOAD vss; SET hnsw_enable_experimental_persistence = true")
        return base

    def build(self, vectors: Vectors) -> None:
        base = self._base()
        width = vectors.shape[1]
        base.execute(f"CREATE TABLE shots (row BIGINT, vector FLOAT[{width}])")
        for start in range(0, len(vectors), 10_000):
            part = {
                "row": np.arange(start, start + 10_000),
                "vector": np.asarray(vectors[start : start + 10_000], np.float32),
            }
            base.execute("INSERT INTO shots SELECT * FROM part")
            del part
        base.execute("CREATE INDEX hnsw ON shots USING HNSW (vector) WITH (metric = 'ip')")

    def open(self) -> Search:
        base = self._base()

        def search(query: NDArray[np.float32]) -> NDArray[np.int64]:
            nearest = f"array_negative_inner_product(vector, ?::FLOAT[{len(query)}])"
            found = base.execute(f"SELECT row FROM shots ORDER BY {nearest} LIMIT {K}", [query.tolist()])  # noqa: S608
            return found.fetchnumpy()["row"]

        return search

    def replace(self, number: int, rows: Vectors) -> None:
        base = self._base()
        base.execute("DELETE FROM shots WHERE row // ? = ?", [TITLE, number])
        part = {"row": np.arange(number * TITLE, (number + 1) * TITLE), "vector": np.asarray(rows, np.float32)}
        base.execute("INSERT INTO shots SELECT * FROM part")
        base.execute("CHECKPOINT")
        del part


ENGINES = {
    "numpy": NumPy,
    "faiss flat": Faiss,
    "faiss ivf sq8": FaissInt8,
    "usearch f16": USearch,
    "usearch i8": USearchInt8,
    "lancedb flat": LanceFlat,
    "lancedb ivf_pq": LanceIvfPq,
    "lancedb ivf_rq": LanceIvfRq,
    "duckdb vss": DuckDbVss,
}


def resident_mb() -> float:
    """Memory of this process that no file stands behind: (MB)."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) / 1024


def step(engine: str, action: str, folder: Path) -> dict[str, float]:
    """One action of one engine, in this process."""
    made = ENGINES[engine](folder)
    importlib.import_module(made.module)  # not what is timed
    if action == "build":
        vectors = np.load(folder / "vectors.npy", mmap_mode="r")
        taken = timed(lambda: made.build(vectors))
        files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
        return {"build_s": taken[0], "build_cpu": taken[1], "disk_mb": sum(path.stat().st_size for path in files) / 1e6}
    if action == "replace":
        rows = title_vectors(3, np.load(folder / "vectors.npy", mmap_mode="r").shape[1])
        return dict(zip(("title_s", "title_cpu"), timed(lambda: made.replace(3, rows)), strict=True))
    queries, truth = np.load(folder / "queries.npy"), np.load(folder / "truth.npy")
    begun = time.perf_counter()
    search = made.open()
    search(queries[0])
    opened = time.perf_counter() - begun
    taken, found, cpu = [], 0, time.process_time()
    for query, right in zip(queries, truth, strict=True):
        begun = time.perf_counter()
        rows = search(query)
        taken.append(time.perf_counter() - begun)
        found += len(set(rows.tolist()) & set(right.tolist()))
    cpu_ms = (time.process_time() - cpu) / len(queries) * 1000
    p50, p95 = np.percentile(taken, [50, 95]) * 1000
    times = {"open_s": opened, "p50_ms": p50, "p95_ms": p95, "cpu_ms": cpu_ms}
    return {"recall": found / truth.size, **times, "memory_mb": resident_mb()}


def timed(work: Callable[[], None]) -> tuple[float, float]:
    """Seconds on the clock and of the processor."""
    begun, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - begun, time.process_time() - cpu


def run(engine: str, folder: Path, limit_s: float) -> dict[str, float] | str:
    """All actions of one engine, each in a process of its own: its figures, or why there are none."""
    threads = {name: str(THREADS) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "LANCE_CPU_THREADS")}
    figures: dict[str, float] = {}
    for action in ("build", "query", "replace"):
        command = [sys.executable, __file__, "--step", engine, action, "--folder", str(folder)]
        try:
            done = subprocess.run(command, env=os.environ | threads, capture_output=True, text=True, timeout=limit_s)
        except subprocess.TimeoutExpired:
            return f"{action}: more than {limit_s:.0f} s"
        if done.returncode:
            return f"{action}: {done.stderr.strip().splitlines()[-1][:150]}"
        figures |= json.loads(done.stdout.splitlines()[-1])
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shots", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--engines", nargs="+", default=list(ENGINES), choices=list(ENGINES))
    parser.add_argument("--limit", type=float, default=900, help="seconds for one action of one engine")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--step", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.step:
        print(json.dumps(step(*given.step, given.folder)))
        return
    columns = ("recall", "build_s", "build_cpu", "title_s", "title_cpu", "open_s", "p50_ms", "p95_ms", "cpu_ms")
    columns += ("memory_mb", "disk_mb")
    for shots in given.shots:
        print(f"\n{shots:,} shots of {given.width} numbers, {THREADS} threads, {QUERIES} queries, k = {K}", flush=True)
        print(f"{'':<16}" + "".join(f"{column:>11}" for column in columns) + "  object store, licence")
        with tempfile.TemporaryDirectory(dir=given.folder) as kept:
            source = Path(kept)
            prepared(source, shots, given.width)
            for engine in given.engines:
                kind = ENGINES[engine]
                if importlib.util.find_spec(kind.module) is None:
                    print(f"{engine:<16} not installed", flush=True)
                    continue
                if shots * given.width > kind.most:
                    print(
                        f"{engine:<16} left out: too many numbers for it to be measured in reasonable time", flush=True
                    )
                    continue
                with tempfile.TemporaryDirectory(dir=given.folder) as own:
                    for name in ("vectors.npy", "queries.npy", "truth.npy"):
                        os.symlink(source / name, Path(own) / name)
                    figures = run(engine, Path(own), given.limit)
                if isinstance(figures, str):
                    print(f"{engine:<16} {figures}", flush=True)
                    continue
                cells = "".join(f"{figures[name]:>11.{3 if name in PRECISE else 1}f}" for name in columns)
                print(f"{engine:<16}{cells}  {kind.object_store}, {kind.licence}", flush=True)
            shutil.rmtree(source, ignore_errors=True)
            source.mkdir()


if __name__ == "__main__":
    main()
