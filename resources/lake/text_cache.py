"""Vectors that were paid for, by content: the lake's table `text_cache`, of which nothing is paid for twice.

Rows are only appended, a commit for each response of the service, and a commit is whole or absent; two processes that
pay for one text at the same moment leave two equal rows.
"""

import functools
import hashlib
import threading
from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl

from resources.lake.delta import DeltaLake
from resources.lake.schemas import polars_schema

TABLE = "text_cache"


def key(model: str, dimensions: int, text: str) -> str:
    """The name of a text's vector: SHA-256, in hex, over model, dimensions and text."""
    return hashlib.sha256(f"{model}\n{dimensions}\n{text}".encode()).hexdigest()


class EmbeddingCache:
    """The cache of one lake. Use `cache_in`: which file holds which key is read once per process."""

    def __init__(self, lake: DeltaLake) -> None:
        self.lake = lake
        self.index = pl.DataFrame(schema={"key": pl.Binary, "file": pl.String})
        self.turn = threading.Lock()

    def get(self, keys: Sequence[str]) -> dict[str, np.ndarray]:
        """The vectors (float32) of those keys that the cache has, whichever process put them there."""
        hits = self._hits(keys)
        vectors: dict[str, np.ndarray] = {}
        for file in hits["file"].unique():
            rows = self._rows(file, "key", "embedding").filter(pl.col("key").is_in(list(keys)))
            vectors |= zip(rows["key"], (row.to_numpy() for row in rows["embedding"]), strict=True)
        return vectors

    def has(self, keys: Sequence[str]) -> set[str]:
        """Those of the keys that the cache has; opens no vector."""
        return {key.hex() for key in self._hits(keys)["key"]}

    def put(self, model: str, dimensions: int, vectors: Mapping[str, np.ndarray]) -> None:
        """Append vectors under their keys: all of them or, on an error, none."""
        columns = {
            "key": list(vectors),
            "model": [model] * len(vectors),
            "dimensions": [dimensions] * len(vectors),
            "embedding": list(vectors.values()),
        }
        self.lake.append(TABLE, pl.DataFrame(columns, schema=dict(polars_schema(TABLE))))

    def _hits(self, keys: Sequence[str]) -> pl.DataFrame:
        with self.turn:
            self._refresh()
            wanted = pl.Series("key", [bytes.fromhex(name) for name in set(keys)], dtype=pl.Binary)
            return self.index.filter(pl.col("key").is_in(wanted.implode()))

    def _rows(self, file: str, *columns: str) -> pl.DataFrame:
        return pl.read_parquet(file, columns=list(columns), storage_options=self.lake.storage_options or None)

    def _refresh(self) -> None:
        """Bring the index up to the table's newest version: read the keys of files that it does not know."""
        files = set(self.lake.partition_files(TABLE, {}))
        known = set(self.index["file"].unique())
        index = self.index if known <= files else self.index.filter(pl.col("file").is_in(list(files)))
        fresh = [
            self._rows(file, "key").select(pl.col("key").str.decode("hex"), file=pl.lit(file))
            for file in sorted(files - known)
        ]
        self.index = pl.concat([index, *fresh])


@functools.cache
def cache_in(lake: str) -> EmbeddingCache:
    """The process's one cache in the lake at a URI."""
    return EmbeddingCache(DeltaLake(uri=lake))
