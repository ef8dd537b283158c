"""Highlights: the stretches of a title that are worth a clip, ranked, from a score for each shot."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Highlight(NamedTuple):
    """Shots first_shot ... last_shot. score: the mean of theirs, each counting by its length."""

    first_shot: int
    last_shot: int
    start_s: float
    end_s: float
    score: float


def highlights(
    scores: NDArray[np.floating],
    start_s: NDArray[np.floating],
    end_s: NDArray[np.floating],
    shortest_s: float,
    longest_s: float,
    k: int,
) -> list[Highlight]:
    """Up to k clips of whole shots, best first, none of which share a shot.

    scores: (n,), finite, higher for shots that are worth showing. start_s, end_s: (n,) seconds, shots in story order
    without gap. A clip's length lies in [shortest_s, longest_s]; a title with no such stretch has none. Clips are taken
    one after the other, each the best of those left (greedy non-maximum suppression); of equal
    scores the longer, then the earlier. Raises ValueError for shapes that do not fit, NaN or infinity, or lengths that
    are not 0 < shortest_s <= longest_s.
    """
    if not (len(scores) == len(start_s) == len(end_s)) or not np.isfinite(scores).all():
        raise ValueError("Scores and times of shots do not fit each other, or hold NaN or infinity.")
    if not 0 < shortest_s <= longest_s:
        raise ValueError(f"Lengths from {shortest_s} to {longest_s} s are no lengths of clips.")
    within_rounding = 1e-6
    sums = np.append(0, np.cumsum(scores * (end_s - start_s)))
    clips = []
    for first in range(len(scores)):
        lengths = end_s[first:] - start_s[first]
        fitting = np.flatnonzero((lengths >= shortest_s - within_rounding) & (lengths <= longest_s + within_rounding))
        for last in first + fitting:
            begin, end = float(start_s[first]), float(end_s[last])
            score = float(sums[last + 1] - sums[first]) / (end - begin)
            clips.append(Highlight(first, int(last), begin, end, score))
    clips.sort(key=lambda clip: (-clip.score, clip.start_s - clip.end_s, clip.start_s))
    used = np.zeros(len(scores), dtype=bool)
    chosen: list[Highlight] = []
    for clip in clips:
        if len(chosen) == k:
            break
        if not used[clip.first_shot : clip.last_shot + 1].any():
            used[clip.first_shot : clip.last_shot + 1] = True
            chosen.append(clip)
    return chosen
