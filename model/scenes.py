"""Scenes: a title's shots grouped into runs that belong together, without labels and without a threshold.

A product partition model (Barry & Hartigan 1993, "A Bayesian analysis for change point problems"): a title is cut into
runs of shots; in each run the vectors scatter around a centre of their own. Every way to cut it is weighed at once by
the forward and backward recursions of Fearnhead (2006, "Exact and efficient Bayesian inference for multiple
changepoint problems", section 2), which give the probability that a scene begins at a shot; the likeliest cutting as a
whole, found by the same dynamic programme, is the scenes. What the model needs to know (how much shots of one scene
scatter, how often scenes begin) is what makes the title itself most probable: nothing is tuned by hand.

Several representations of the same shots, contextual vectors and each modality's, say. Their evidence adds up, as if
they were independent. A row of zeros says that the shot has nothing of that kind (no words, no sound): it tells nothing
of the scatter, and where such rows stand is evidence of its own.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

LONGEST_SCENE = 256  # shots; bounds time and memory, which grow with shots times this
SCATTERS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0)
"""Tried as the share of the shots' variance that lies within scenes."""
RATES = (0.01, 0.02, 0.04, 0.08, 0.15, 0.25, 0.4)
"""Tried as the probability that a shot begins a scene."""
USUAL_RATE = 0.1
"""While the scatter is chosen, which hardly depends on it."""
FEWEST_SHOTS = 3
"""That have something of a kind, for their scatter to be told from their differences."""
_ROWS_AT_ONCE = 256
_NUMBERS_AT_ONCE = 1 << 20


class Scenes(NamedTuple):
    """A title's scenes, m of them over n shots.

    begins: (n,) float64 in [0, 1], the probability that a scene begins at the shot; 0 at the first shot, where nothing
        is cut. first, last: (m,) int64, each scene's first and last shot; together they hold every shot once.
    """

    begins: NDArray[np.float64]
    first: NDArray[np.int64]
    last: NDArray[np.int64]


def scenes(representations: Sequence[NDArray[np.floating]]) -> Scenes:
    """Scenes of one title.

    representations: one or more arrays (n, d) of the same n >= 1 shots in story order, d as they like. Only directions
    count. One whose present rows are all alike, or fewer than three, is not used; with none left, the title is a single
    scene. Deterministic. Raises ValueError for no representation, other shapes, NaN or infinity.
    """
    shots = _checked(representations)
    parts = [part for vectors in representations for part in _evidence(np.asarray(vectors, dtype=np.float64))]
    if not parts:
        return Scenes(np.zeros(shots), np.array([0]), np.array([shots - 1]))
    evidence = np.sum(parts, axis=0)
    rate = _most_probable(RATES, lambda rate: _with_rate(evidence, rate), evidence.size)
    weighed = _with_rate(evidence, rate)
    first = _likeliest(weighed)
    return Scenes(_begins(weighed), first, np.append(first[1:], shots) - 1)


def scene_embeddings(
    vectors: NDArray[np.floating], first: NDArray[np.integer], last: NDArray[np.integer]
) -> NDArray[np.float32]:
    """A unit vector for each scene: the mean of its shots' unit vectors.

    vectors: (n, d). first, last: (m,) as in `Scenes`. Returns (m, d); zeros where a scene's shots are all zeros or
    cancel each other out.
    """
    directions = _unit(np.asarray(vectors, dtype=np.float64))
    sums = np.array([directions[a : b + 1].sum(axis=0) for a, b in zip(first, last, strict=True)])
    return _unit(sums.reshape(len(first), directions.shape[1])).astype(np.float32)


def _checked(representations: Sequence[NDArray[np.floating]]) -> int:
    """The number of shots."""
    if not representations:
        raise ValueError("Scenes need at least one representation of the shots.")
    shots = len(representations[0])
    for vectors in representations:
        if vectors.ndim != 2 or len(vectors) != shots or not shots:
            shapes = [np.shape(each) for each in representations]
            raise ValueError(f"Representations of the same shots, (n, d) with n >= 1, are needed; these are {shapes}.")
        if not np.isfinite(vectors).all():
            raise ValueError("A representation of the shots holds NaN or infinity.")
    return shots


def _unit(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rows of norm 1, and of zeros where they are (as good as) zeros."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: NDArray[np.float64] = np.divide(vectors, norms, out=np.zeros_like(vectors), where=norms > 1e-9)
    return unit


def _evidence(vectors: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    """Log likelihoods of every run of shots as one scene, by the vectors and by where there are none.

    Each (n, w): entry [i, k] is for the shots i ... i + k, -inf where they pass the end.
    """
    directions = _unit(vectors)
    present: NDArray[np.bool_] = np.asarray(directions.any(axis=1))
    if present.sum() < FEWEST_SHOTS:
        return []
    # What all shots of the title share says nothing of its scenes.
    directions[present] = _unit(directions[present] - directions[present].mean(axis=0))
    shown = _runs(present.astype(np.float64)[:, None])
    parts = []
    if directions.any():
        count, energy = shown.total, _runs(directions).energy
        squares = _runs((directions**2).sum(axis=1)[:, None]).total
        dimensions = _effective_dimensions(directions[present])
        parts.append(_scatter_evidence(count, energy, squares, dimensions, shown.inside))
    if not present.all():
        length = np.arange(1, shown.total.shape[1] + 1)
        parts.append(_presence_evidence(shown.total, length - shown.total))
    return [np.where(shown.inside, part, -np.inf) for part in parts]


class _Runs(NamedTuple):
    """Of every run of shots, (n, w): the sum over its rows of their only number, the squared norm of the rows' sum, and
    whether the run ends within the title."""

    total: NDArray[np.float64]
    energy: NDArray[np.float64]
    inside: NDArray[np.bool_]


def _runs(rows: NDArray[np.float64]) -> _Runs:
    """rows: (n, d)"""
    n = len(rows)
    longest = min(n, LONGEST_SCENE)
    sums = np.vstack([np.zeros(rows.shape[1]), rows.cumsum(axis=0)])
    squares = (sums**2).sum(axis=1)
    ends = np.arange(n)[:, None] + np.arange(1, longest + 1)
    inside = ends <= n
    ends = np.minimum(ends, n)
    energy = np.empty(ends.shape)
    for start in range(0, n, _ROWS_AT_ONCE):
        stop = min(n, start + _ROWS_AT_ONCE)
        products = sums[start:stop] @ sums[start : stop + longest].T
        crossed = np.take_along_axis(products, ends[start:stop] - start, axis=1)
        energy[start:stop] = squares[ends[start:stop]] + squares[start:stop, None] - 2 * crossed
    return _Runs(sums[ends, 0] - sums[:n, :1], np.maximum(energy, 0), inside)


def _effective_dimensions(directions: NDArray[np.float64]) -> float:
    """In how many independent directions the rows vary: the participation ratio of their Gram matrix's eigenvalues."""
    gram = directions @ directions.T if len(directions) < directions.shape[1] else directions.T @ directions
    return float(np.trace(gram) ** 2 / (gram**2).sum())


def _scatter_evidence(
    count: NDArray[np.float64],
    energy: NDArray[np.float64],
    squares: NDArray[np.float64],
    dimensions: float,
    inside: NDArray[np.bool_],
) -> NDArray[np.float64]:
    """Gaussian scatter around a Gaussian centre that is integrated out, with the share of the variance within scenes
    that makes the title most probable. All rows have norm 1, so within and between make 1 together."""

    def likelihood(within: float) -> NDArray[np.float64]:
        ratio = (1 - within) / within
        explained = ratio / (1 + count * ratio) * energy
        loss = count * np.log(within) + np.log1p(count * ratio) + (squares - explained) / within
        log: NDArray[np.float64] = -0.5 * dimensions * loss
        return log

    def weighed(within: float) -> NDArray[np.float64]:
        return _with_rate(np.where(inside, likelihood(within), -np.inf), USUAL_RATE)

    return likelihood(_most_probable(SCATTERS, weighed, inside.size))


def _presence_evidence(present: NDArray[np.float64], absent: NDArray[np.float64]) -> NDArray[np.float64]:
    """Each scene has a share of shots with something of this kind of its own, under Jeffreys' prior."""
    from scipy.special import betaln

    log: NDArray[np.float64] = betaln(0.5 + present, 0.5 + np.maximum(absent, 0)) - betaln(0.5, 0.5)
    return log


def _with_rate(evidence: NDArray[np.float64], rate: float) -> NDArray[np.float64]:
    """Log weight of each run as a scene: its evidence, a beginning, and no beginning at its other shots. The title's
    first shot, where a scene always begins, makes every way to cut it likelier by the same factor."""
    weighed: NDArray[np.float64] = evidence + np.log(rate) + np.log1p(-rate) * np.arange(evidence.shape[1])
    return weighed


def _most_probable(choices: Sequence[float], weighed: Callable[[float], NDArray[np.float64]], numbers: int) -> float:
    """The choice under which the title is most probable. weighed: of a choice, (n, w), of so many numbers. Several go
    at once, since a short title's steps take less time than it takes to call them."""
    at_once = max(1, _NUMBERS_AT_ONCE // numbers)
    log = np.concatenate(
        [
            _forward(np.stack([weighed(choice) for choice in choices[first : first + at_once]]))[:, -1]
            for first in range(0, len(choices), at_once)
        ]
    )
    return choices[int(log.argmax())]


def _forward(weighed: NDArray[np.float64]) -> NDArray[np.float64]:
    """(..., n + 1): log weight of all ways to cut the shots before each place. weighed: (..., n, w)"""
    *many, n, longest = weighed.shape
    before = np.full((*many, n + 1), -np.inf)
    before[..., 0] = 0
    for start in range(n):
        stop = min(n, start + longest)
        reached = before[..., start, None] + weighed[..., start, : stop - start]
        np.logaddexp(before[..., start + 1 : stop + 1], reached, out=before[..., start + 1 : stop + 1])
    return before


def _begins(weighed: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n,): the probability of a beginning at each shot but the first."""
    n, longest = weighed.shape
    before = _forward(weighed)
    after = np.full(n + 1, -np.inf)
    after[n] = 0
    for start in range(n - 1, -1, -1):
        stop = min(n, start + longest)
        after[start] = np.logaddexp.reduce(weighed[start, : stop - start] + after[start + 1 : stop + 1])
    begins = np.exp(np.minimum(before[:n] + after[:n] - before[n], 0))
    begins[0] = 0
    return begins


def _likeliest(weighed: NDArray[np.float64]) -> NDArray[np.int64]:
    """(m,): the beginnings of the likeliest cutting, 0 first."""
    n, longest = weighed.shape
    best = np.full(n + 1, -np.inf)
    best[0] = 0
    came_from = np.zeros(n + 1, dtype=np.int64)
    for start in range(n):
        stop = min(n, start + longest)
        reached = best[start] + weighed[start, : stop - start]
        better = reached > best[start + 1 : stop + 1]
        best[start + 1 : stop + 1][better] = reached[better]
        came_from[start + 1 : stop + 1][better] = start
    first = [int(came_from[n])]
    while first[-1] > 0:
        first.append(int(came_from[first[-1]]))
    return np.array(first[::-1])
