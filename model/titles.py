"""Titles: one vector for each, of what is seen, heard and said in it and of its metadata, and the titles most like it.

A title that nobody has watched has no clicks to be recommended by; its content is there on the first day (cold start).
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Neighbour(NamedTuple):
    """title: row of the neighbour. score: in [-1, 1], the mean over the parts that both titles have of their cosines.
    carried: by part, what it adds to the score; together they are the score."""

    title: int
    score: float
    carried: dict[str, float]


def pooled(vectors: NDArray[np.floating], seconds: NDArray[np.floating]) -> NDArray[np.float32]:
    """A title's vector of one kind: the mean direction of its shots, each counting by how long it is on screen.

    vectors: (n, d); rows of zeros, shots that have nothing of this kind, are left out. seconds: (n,), > 0.
    Returns (d,) of norm 1; zeros when nothing is left, or the shots cancel each other out. Raises ValueError for other
    shapes, NaN or infinity.
    """
    if vectors.ndim != 2 or seconds.shape != (len(vectors),):
        raise ValueError(f"Vectors of shape {vectors.shape} and {seconds.shape} seconds do not fit.")
    if not (np.isfinite(vectors).all() and np.isfinite(seconds).all()):
        raise ValueError("A title's vectors hold NaN or infinity.")
    return _unit(seconds @ _unit(vectors.astype(np.float64))).astype(np.float32)


def joined(parts: Mapping[str, NDArray[np.floating]]) -> NDArray[np.float32]:
    """A title's parts in one vector, in their order: each present one of norm 1, together of norm 1.

    parts: by name, (d_i,) each; zeros where the title has no such part. Returns (sum of d_i,), all zeros when there is
    nothing. The cosine of two titles' vectors is the mean of their parts' cosines where both have the same parts.
    """
    return _unit(np.concatenate([_unit(np.asarray(part, dtype=np.float64)) for part in parts.values()])).astype(
        np.float32
    )


def nearest_titles(parts: Mapping[str, NDArray[np.floating]], k: int) -> list[list[Neighbour]]:
    """The k titles most like each, best first, never itself; fewer in a smaller catalogue.

    parts: by name, (t, d_i) each: row i is title i's vector of that kind, zeros where it has none. What all titles
    share is taken off each part first: it tells no two of them apart. Two titles with no part in common score 0. Of
    equal scores the earlier row comes first. Raises ValueError for parts of different numbers of titles, NaN or
    infinity, or k < 1.
    """
    if k < 1:
        raise ValueError(f"k must be 1 or more, not {k}.")
    counts = {len(vectors) for vectors in parts.values()}
    if len(counts) != 1:
        raise ValueError(f"The parts are of different numbers of titles: {sorted(counts)}.")
    if not all(np.isfinite(vectors).all() for vectors in parts.values()):
        raise ValueError("A title's vector holds NaN or infinity.")
    titles = counts.pop()
    directions = {name: _own(np.asarray(vectors, dtype=np.float64)) for name, vectors in parts.items()}
    present = {name: np.asarray(np.any(vectors, axis=1)) for name, vectors in parts.items()}
    found = []
    for title in range(titles):
        both = np.sum([there * there[title] for there in present.values()], axis=0)
        cosines = {name: rows @ rows[title] / np.maximum(both, 1) for name, rows in directions.items()}
        scores = np.sum(list(cosines.values()), axis=0)
        scores[title] = -np.inf
        best = np.argsort(-scores, kind="stable")[: min(k, titles - 1)]
        found.append(
            [
                Neighbour(
                    int(other), float(scores[other]), {name: float(part[other]) for name, part in cosines.items()}
                )
                for other in best
            ]
        )
    return found


def _own(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Unit rows after the mean of the present ones is taken off; zeros stay zeros."""
    directions = _unit(vectors)
    present: NDArray[np.bool_] = np.asarray(directions.any(axis=1))
    if present.sum() > 1:
        directions[present] = _unit(directions[present] - directions[present].mean(axis=0))
    return directions


def _unit(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Norm 1 along the last axis, and zeros where it is (as good as) zero."""
    norms = np.linalg.norm(vectors, axis=-1, keepdims=True)
    unit: NDArray[np.float64] = np.divide(vectors, norms, out=np.zeros_like(vectors), where=norms > 1e-9)
    return unit
