"""The gate: whether a newly trained encoder may take the place of the one in use.

Both are scored on the same clips or titles, and the difference gets an interval over titles: Student's t times the
standard error of a paired bootstrap of titles, widened by sqrt(n / (n - 1)) since a bootstrap's spread is too narrow by
as much (Hesterberg, "What Teachers Should Know About the Bootstrap", The American Statistician 69, 2015). Plain
percentiles hold up equal encoders too often where titles are few. A task has regressed when the whole interval lies
below zero by more than a tolerance. The intervals hold for all tasks together: their level is shared out among them
(Bonferroni), since six tasks at 97.5 % each would hold up one equal encoder in seven.

What is compared: the linear probes of `model.probes`, and, where labels are few or none, how well masked shots are
foretold, with the same masks for both.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import t

from model.encoder import Encoder
from model.masking import MASKS, permutation
from model.packing import Packing
from model.probes import Score, resampled

SAMPLES = 1000
MINIMUM_TITLES = 4
"""With fewer, titles cannot be resampled, and nothing is held against an encoder."""
FOLDS = 5
"""A title's shots are masked in so many turns, each once: the published share, a fifth, at a time."""
MOST_TITLES, MOST_SHOTS = 64, 256
"""Whose masked shots are compared: so many titles, of each so many shots from its middle."""


class Pair(NamedTuple):
    """A task that both encoders were scored on: what each scores on a choice of rows, and the title of each row."""

    task: str
    metric: str
    candidate: Score
    in_use: Score
    titles: Sequence[str]


class Comparison(NamedTuple):
    """One task's outcome: both scores, their difference (candidate less the one in use) with its interval."""

    task: str
    metric: str
    candidate: float
    in_use: float
    difference: float
    low: float
    high: float
    titles: int
    regressed: bool


def compare(pairs: Sequence[Pair], level: float, tolerance: float, seed: int = 0) -> list[Comparison]:
    """The outcome of each task. Equal arguments give equal results.

    level: above 0.5 and below 1, of the one-sided bounds of all tasks together. tolerance: a loss that does not count,
    in the task's metric, at least 0.
    """
    alpha = (1 - level) / max(1, len(pairs))
    return [_compared(pair, alpha, tolerance, seed) for pair in pairs]


def _compared(pair: Pair, alpha: float, tolerance: float, seed: int) -> Comparison:
    groups = np.asarray(pair.titles)
    n = len(set(pair.titles))
    everything = np.arange(len(groups))
    candidate, in_use = pair.candidate(everything), pair.in_use(everything)
    drawn = [pair.candidate(rows) - pair.in_use(rows) for rows in resampled(groups, seed, SAMPLES)]
    reach = float(t.ppf(1 - alpha, n - 1) * np.sqrt(n / (n - 1)) * np.nanstd(drawn))
    low, high = candidate - in_use - reach, candidate - in_use + reach
    return Comparison(
        pair.task,
        pair.metric,
        candidate,
        in_use,
        candidate - in_use,
        low,
        high,
        n,
        high < -tolerance,
    )


def by_title(task: str, metric: str, candidate: Sequence[float], in_use: Sequence[float]) -> Pair | None:
    """A pair of encoders that were scored title by title; None of too few titles. NaN: a title without a score."""
    scores = np.array([candidate, in_use], dtype=np.float64).reshape(2, -1)
    scores = scores[:, np.isfinite(scores).all(axis=0)]
    if scores.shape[1] < MINIMUM_TITLES:
        return None
    of_candidate, of_other = (lambda rows, of=of: float(of[rows].mean()) for of in scores)
    return Pair(task, metric, of_candidate, of_other, [f"{number:06}" for number in range(scores.shape[1])])


@torch.inference_mode()
def masked_cosine(
    encoder: Encoder, shots: NDArray[np.floating], global_embedding: NDArray[np.floating], most: int = MOST_SHOTS
) -> float:
    """The mean cosine between a title's shots and what the encoder foretells of each while a fifth of them is masked.

    shots: (n, D), zeros for one without any modality, which is not asked for. global_embedding: (g,). Only the `most`
    shots in the middle are read. The masks depend on the number of shots alone. NaN of a title without any vector.
    """
    first = max(0, (len(shots) - most) // 2)
    excerpt = shots[first : first + most].astype(np.float32)
    order = permutation(len(excerpt), 0, MASKS, 2**63, 1)
    there: NDArray[np.bool_] = (excerpt != 0).any(axis=1)
    order = order[there[order]]
    if not len(order):
        return float("nan")
    device = encoder.cls.device
    true = torch.from_numpy(excerpt).to(device)
    title = torch.from_numpy(global_embedding.astype(np.float32)[None]).to(device)
    packing = Packing.of([len(excerpt)], device)
    cosines = []
    for fold in np.array_split(order, min(FOLDS, len(order))):
        masked = torch.from_numpy(np.sort(fold)).to(device)
        foretold = encoder.predict(encoder(true, title, packing, masked, query_indices=masked))
        cosines.append(torch.cosine_similarity(foretold, true[masked], dim=1))
    return float(torch.cat(cosines).mean())
