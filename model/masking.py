"""Masking: which shots the encoder must predict.

Every random choice of a training run is a pure function of (seed, step, row), drawn from Philox, a counter-based
generator (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011): row r of step s has the same mask
whatever was drawn before it, on whichever rank, in whichever process. So there is no generator state to save, and a
resumed run is the uninterrupted one.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.config import Config

# One independent stream of random numbers per purpose.
MASKS, HIDDEN_MODALITIES, SWAPS, GLOBAL_DROPOUT, ORDER, INITIAL_WEIGHTS = range(6)
WHOLE = -1


def random_words(count: int, seed: int, purpose: int, step: int, row: int) -> NDArray[np.uint64]:
    """count raw 64-bit words of the stream (seed, purpose), at counter (step, row)."""
    # Philox-4x64 counts in its lowest word, which leaves the upper ones as coordinates.
    return np.random.Philox(key=[seed, purpose], counter=[0, row, step, 0]).random_raw(count)


def permutation(n: int, seed: int, purpose: int, step: int, row: int) -> NDArray[np.int64]:
    """A uniform permutation of range(n): (n,)."""
    return np.argsort(random_words(n, seed, purpose, step, row), kind="stable")


def uniforms(count: int, seed: int, purpose: int, step: int, row: int) -> NDArray[np.float64]:
    """count numbers in [0, 1)."""
    return (random_words(count, seed, purpose, step, row) >> np.uint64(11)).astype(np.float64) * 2.0**-53


@dataclass(frozen=True)
class Mask:
    """What is hidden in a sequence of n shots. [CLS] and [GLOBAL] are not shots and never masked."""

    positions: NDArray[np.int64]  # (m,) of the masked shots, ascending, in [0, n)
    modality: NDArray[np.int64]  # (m,) the hidden one, by its place in the configuration; WHOLE: [MASK] is the shot
    swapped: NDArray[np.int64]  # (s,) of the shots that others stand in for
    source: NDArray[np.int64]  # (s,) of those others
    kept: NDArray[np.int64]  # (k,) of the shots that are left as they are and predicted all the same
    keep_global: bool = True


def masked_count(n: int, ratio: float) -> int:
    """How many of n shots are masked: round(ratio * n), at least one of any."""
    return max(min(1, n), round(ratio * n))


def mask_ratio(config: Config, step: int) -> float:
    if config.mask_ratio_end is None:
        return config.mask_ratio
    return config.mask_ratio + (config.mask_ratio_end - config.mask_ratio) * min(1.0, step / config.max_steps)


def training_mask(config: Config, empty: NDArray[np.bool_], step: int, row: int) -> Mask:
    """The mask of row `row` of training step `step`.

    empty: (n,) of the sequence's shots, those of which nothing is asked (`model.batches.left_out`). They are seen.
    """
    seed = config.seed
    order = permutation(len(empty), seed, MASKS, step, row)
    order = order[~empty[order]]
    n = len(order)
    m = masked_count(n, mask_ratio(config, step))
    positions = np.sort(order[:m] if config.mask_span == 1 else spans(order, m, config.mask_span))
    modality = np.full(m, WHOLE)
    if config.modality_masking > 0:
        draws = uniforms(2 * m, seed, HIDDEN_MODALITIES, step, row).reshape(2, m)
        drawn = (draws[1] * len(config.modalities)).astype(np.int64)
        modality = np.where(draws[0] < config.modality_masking, drawn, WHOLE)
    visible = order[~np.isin(order, positions)]
    s, k = round(config.swap_ratio * n), round(config.keep_ratio * n)
    swapped, kept = visible[:s], visible[s : s + k]
    source = np.flatnonzero(~empty)[(uniforms(len(swapped), seed, SWAPS, step, row) * n).astype(np.int64)]
    dropped = config.global_dropout > 0 and uniforms(1, seed, GLOBAL_DROPOUT, step, row)[0] < config.global_dropout
    return Mask(positions, modality, swapped, source, kept, keep_global=not dropped)


def validation_mask(config: Config, empty: NDArray[np.bool_], row: int) -> Mask:
    """The mask of validation window `row`: the published one, whole shots on their own, the same every time.

    empty: as in `training_mask`.
    """
    # Steps count from 0, so this counter is never one of training's.
    order = permutation(len(empty), config.seed, MASKS, 2**63, row)
    order = order[~empty[order]]
    positions, none = np.sort(order[: masked_count(len(order), config.mask_ratio)]), order[:0]
    return Mask(positions, np.full(len(positions), WHOLE), none, none, none)


def spans(order: NDArray[np.int64], m: int, span: int) -> NDArray[np.int64]:
    """Exactly m distinct positions of `order`, in runs of `span` that start at its positions, in that order."""
    allowed = set(order.tolist())
    chosen: dict[int, None] = {}
    for start in order.tolist():
        for position in range(start, start + span):
            if len(chosen) == m:
                return np.array(list(chosen), dtype=np.int64)
            if position in allowed:
                chosen[position] = None
    return np.array(list(chosen), dtype=np.int64)
