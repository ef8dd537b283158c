"""Wider vectors brought to a table's width by a fixed orthonormal projection.

Cosines are kept up to about 1 / sqrt(width) (Johnson and Lindenstrauss 1984), nothing is fitted, and the matrix is the
same everywhere up to rounding: the Q of a seeded Gaussian matrix whose R has a positive diagonal.
"""

import functools

import numpy as np

SEED = 0


def projected(vectors: np.ndarray, width: int) -> np.ndarray:
    """(..., d) to (..., width), d at least `width`; the vectors themselves where d is `width`."""
    return vectors if vectors.shape[-1] == width else vectors @ projection(vectors.shape[-1], width)


@functools.cache
def projection(dimensions: int, width: int) -> np.ndarray:
    """(dimensions, width) float32, orthonormal columns."""
    q, r = np.linalg.qr(np.random.default_rng(SEED).standard_normal((dimensions, width)))
    return (q * np.sign(np.diag(r))).astype(np.float32)
