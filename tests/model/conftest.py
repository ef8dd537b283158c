"""A small catalogue in the store's format, and configurations small enough for a unit test."""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from model.config import Config
from model.store import Store, StoredTitle


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Small tensors are slower on two threads, and sums are compared to the bit with subprocesses that use one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def title(
    number: int, shots: int, series_id: str | None = None, space: str = "test-space", version: str = "1"
) -> StoredTitle:
    """A title whose settings recur, so that a little of every shot can be told from its neighbours."""
    rng = np.random.default_rng([7, number])
    settings = rng.standard_normal((4, 2304))
    vectors = settings[np.arange(shots) // 3 % 4] + 0.5 * rng.standard_normal((shots, 2304))
    vectors[::4, 1536:] = 0  # every fourth shot has no text
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    about = rng.standard_normal(16)
    return StoredTitle(f"title-{number:02d}", series_id, version, space, vectors.astype(np.float32), about / 4)


@pytest.fixture
def make_title() -> Callable[..., StoredTitle]:
    return title


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Twelve titles of 1 to 40 shots; the first four are two series."""
    series = ["a", "a", "b", "b"] + [None] * 8
    lengths = [20, 5, 40, 9, 1, 12, 31, 7, 3, 28, 16, 11]
    titles = (title(i, n, s) for i, (n, s) in enumerate(zip(lengths, series, strict=True)))
    return Store.update(tmp_path / "store", titles, source="table@3")


@pytest.fixture
def small() -> Config:
    return dataclasses.replace(
        Config.embedded(), layers=2, hidden=32, heads=2, global_dim=16, max_shots=16, stride=8, batch_sequences=4,
        max_steps=12, evaluate_every=4, warmup_steps=2, log_every=2, patience=10, fixed_steps=6,
        precision="fp32", base_width=None, ema_decay=0.0, modality_masking=0.0, global_dropout=0.0,
    )  # fmt: skip


@pytest.fixture
def unit_vectors() -> Callable[[int, int], np.ndarray]:
    def made(n: int, seed: int) -> np.ndarray:
        vectors = np.random.default_rng(seed).standard_normal((n, 2304)).astype(np.float32)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    return made
