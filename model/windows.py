"""Windows: a title of any length becomes sequences of at most 512 shots.

Titles over 512 shots are read in windows of 512 at stride 256, the last one moved back so that it ends with the
title. For inference each shot is taken from the window in which it is most central, where it sees the most on both
sides.
"""

import numpy as np
from numpy.typing import NDArray


def windows(n: int, size: int = 512, stride: int = 256) -> list[tuple[int, int]]:
    """Half-open windows [start, stop) over n >= 1 shots; together they cover every shot, none is longer than size."""
    if n <= size:
        return [(0, n)]
    starts = [*range(0, n - size, stride), n - size]
    return [(start, start + size) for start in starts]


def most_central(n: int, size: int = 512, stride: int = 256) -> NDArray[np.int64]:
    """For each of n shots, the index into windows(n, size, stride) whose middle is nearest (the earlier one on a
    tie): (n,).
    """
    middles = np.array([(start + stop - 1) / 2 for start, stop in windows(n, size, stride)])
    shots = np.arange(n)[:, None]
    held = np.array([[start, stop] for start, stop in windows(n, size, stride)])
    inside = (shots >= held[:, 0]) & (shots < held[:, 1])
    return np.where(inside, np.abs(shots - middles), np.inf).argmin(axis=1)
