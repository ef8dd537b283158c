"""Vectors that were paid for, by content: a Delta table beside the catalogue's own, so that none is paid for twice.

One row per text and embedding model: `key` (see `key`), `model`, `dimensions`, `embedding`. Rows are only appended, one
commit per response of the service, and a commit is whole or absent; two processes that pay for one text at the same
moment leave two equal rows.
"""

import functools
import hashlib
import random
import threading
import time
from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl
import pyarrow as pa
from deltalake import DeltaTable, write_deltalake
from deltalake.exceptions import CommitFailedError, DeltaError

SCHEMA = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("model", pa.string(), nullable=False),
        pa.field("dimensions", pa.int32(), nullable=False),
        pa.field("embedding", pa.list_(pa.float32()), nullable=False),
    ]
)
ATTEMPTS = 8


def key(model: str, dimensions: int, text: str) -> str:
    """The name of a text's vector: SHA-256, in hex, over model, dimensions and text."""
    return hashlib.sha256(f"{model}\n{dimensions}\n{text}".encode()).hexdigest()


class EmbeddingCache:
    """The cache at one URI. Use `cache_at`: which file holds which key is read once per process."""

    def __init__(self, uri: str) -> None:
        self.uri = uri.rstrip("/")
        self.index = pl.DataFrame(schema={"key": pl.Binary, "file": pl.String})
        self.turn = threading.Lock()

    def get(self, keys: Sequence[str]) -> dict[str, np.ndarray]:
        """The vectors (float32) of those keys that the cache has, whichever process put them there."""
        with self.turn:
            self._refresh()
            wanted = pl.Series("key", [bytes.fromhex(name) for name in set(keys)], dtype=pl.Binary)
            hits = self.index.filter(pl.col("key").is_in(wanted.implode()))
        vectors: dict[str, np.ndarray] = {}
        for file in hits["file"].unique():
            rows = pl.read_parquet(file, columns=["key", "embedding"]).filter(pl.col("key").is_in(list(keys)))
            vectors |= zip(rows["key"], (row.to_numpy() for row in rows["embedding"]), strict=True)
        return vectors

    def put(self, model: str, dimensions: int, vectors: Mapping[str, np.ndarray]) -> None:
        """Append vectors under their keys: all of them or, on an error, none."""
        rows = pa.table(
            {
                "key": list(vectors),
                "model": [model] * len(vectors),
                "dimensions": [dimensions] * len(vectors),
                "embedding": list(vectors.values()),
            },
            schema=SCHEMA,
        )
        for attempt in range(ATTEMPTS):
            try:
                if not DeltaTable.is_deltatable(self.uri):
                    DeltaTable.create(self.uri, SCHEMA, mode="ignore", description="Text embeddings by content.")
                write_deltalake(self.uri, rows, mode="append")
                return
            except (CommitFailedError, DeltaError):  # another process created the table, or committed, just now
                if attempt == ATTEMPTS - 1:
                    raise
                time.sleep(random.uniform(0, 0.05 * 2**attempt))

    def _refresh(self) -> None:
        """Bring the index up to the table's newest version: read the keys of files that it does not know."""
        if not DeltaTable.is_deltatable(self.uri):
            self.index = self.index.clear()
            return
        actions = pa.table(DeltaTable(self.uri).get_add_actions(flatten=True))
        files = {f"{self.uri}/{path}" for path in actions["path"].to_pylist()}
        known = set(self.index["file"].unique())
        index = self.index if known <= files else self.index.filter(pl.col("file").is_in(list(files)))
        fresh = [
            pl.read_parquet(file, columns=["key"]).select(pl.col("key").str.decode("hex"), file=pl.lit(file))
            for file in sorted(files - known)
        ]
        self.index = pl.concat([index, *fresh])


@functools.cache
def cache_at(uri: str) -> EmbeddingCache:
    """The process's one cache at a URI (a folder, or s3://bucket/prefix with the usual AWS environment)."""
    return EmbeddingCache(uri)
