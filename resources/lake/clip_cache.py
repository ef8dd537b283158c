"""Vectors of clips by content: the lake's table `clip_embeddings`, of which nothing is asked, or paid for, twice.

Rows are only added. Two processes that ask for one clip at the same moment leave two rows of it.
"""

import hashlib
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import polars as pl

from resources.lake.delta import DeltaLake

TABLE = "clip_embeddings"


class Known(NamedTuple):
    """What is known of a clip in one space: its vector, or why it has none."""

    vector: np.ndarray | None
    reason: str | None


def key(space: str, media_sha256: str, language: str | None, start_s: float, end_s: float) -> str:
    """The name of a clip's vector: SHA-256, in hex, over the embedding space, the film by content, the language that
    chooses its sound, and the span."""
    return hashlib.sha256(f"{space}\n{media_sha256}\n{language or ''}\n{start_s!r}\n{end_s!r}".encode()).hexdigest()


def known_keys(lake: DeltaLake, keys: Iterable[str]) -> set[str]:
    """Those of the keys that the table has, with a vector or a reason."""
    return set(_rows(lake, keys).select("key").collect()["key"])


def known(lake: DeltaLake, keys: Iterable[str]) -> dict[str, Known]:
    """What the table has of the keys; of a key that is there twice, rather a vector."""
    rows = _rows(lake, keys).select("key", "embedding", "reason").collect().sort(pl.col("embedding").is_not_null())
    return {
        name: Known(None if vector is None else vector.to_numpy(), reason)
        for name, vector, reason in zip(rows["key"], rows["embedding"], rows["reason"], strict=True)
    }


def has_vectors(lake: DeltaLake, space: str) -> bool:
    """Whether the table has any vector of the space."""
    rows = lake.scan(TABLE).filter(pl.col("space") == space, pl.col("embedding").is_not_null())
    return not rows.select("key").head(1).collect().is_empty()


def _rows(lake: DeltaLake, keys: Iterable[str]) -> pl.LazyFrame:
    return lake.scan(TABLE).filter(pl.col("key").is_in(list(keys)))
