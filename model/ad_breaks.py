"""Ad breaks: the places between scenes where a film is least disturbed, ranked."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

USUAL_PAUSE_S = 2.0
"""A pause so long counts half; longer ones approach 1."""


class AdBreak(NamedTuple):
    """shot: the one that begins after the break. time_s: where it is. score: in [0, 1], by which it is ranked.
    boundary: the probability that a scene begins there. pause_s: how long nobody speaks around it; None where no cue is
    known. gap_s: to the nearest better break or end of the title."""

    shot: int
    time_s: float
    score: float
    boundary: float
    pause_s: float | None
    gap_s: float


def ad_breaks(
    begins: NDArray[np.floating],
    first: NDArray[np.integer],
    start_s: NDArray[np.floating],
    end_s: NDArray[np.floating],
    cues: NDArray[np.floating] | None,
    apart_s: float,
) -> list[AdBreak]:
    """Every beginning of a scene but the first, best break first.

    begins: (n,) in [0, 1] and first: (m,), as `model.scenes` gives them. start_s, end_s: (n,) seconds of the shots.
    cues: (c, 2) begin and end of what is said, in any order; None when the title has no timed text, and pauses then do
    not count. apart_s: breaks nearer to a better one, or to an end of the title, than this count less, in proportion.

    The score is boundary x pause / (pause + 2 s) x min(1, gap / apart_s). Breaks are taken one after the other, each
    the best beside those that were taken (non-maximum suppression with a weight for a cut-off, as in Bodla et al. 2017,
    "Soft-NMS"). Of equal scores the earlier comes first. Raises ValueError for shapes that do not fit or apart_s <= 0.
    """
    if not len(begins) == len(start_s) == len(end_s) or (cues is not None and (cues.ndim != 2 or cues.shape[1] != 2)):
        raise ValueError("Boundaries, times of shots and cues do not fit each other.")
    if apart_s <= 0:
        raise ValueError(f"apart_s must be more than 0 seconds, not {apart_s}.")
    shots = [int(shot) for shot in first if shot > 0]
    times = np.array([float(start_s[shot]) for shot in shots])
    pauses = [None if cues is None else pause_at(time, cues, float(start_s[0]), float(end_s[-1])) for time in times]
    worth = np.array(
        [
            float(begins[shot]) * (1.0 if pause is None else pause / (pause + USUAL_PAUSE_S))
            for shot, pause in zip(shots, pauses, strict=True)
        ]
    )
    gaps = np.minimum(times - float(start_s[0]), float(end_s[-1]) - times) if shots else times
    left = np.ones(len(shots), dtype=bool)
    ranked = []
    for _ in shots:
        scores = np.where(left, worth * np.minimum(1, gaps / apart_s), -1)
        best = int(scores.argmax())
        left[best] = False
        boundary, gap_s = float(begins[shots[best]]), float(gaps[best])
        ranked.append(AdBreak(shots[best], float(times[best]), float(scores[best]), boundary, pauses[best], gap_s))
        gaps = np.minimum(gaps, np.abs(times - times[best]))
    return ranked


def pause_at(time_s: float, cues: NDArray[np.floating], start_s: float, end_s: float) -> float:
    """Seconds around a time in which no cue is shown, between the title's start and end; 0 within a cue."""
    if ((cues[:, 0] < time_s) & (time_s < cues[:, 1])).any():
        return 0.0
    before, after = cues[cues[:, 1] <= time_s, 1], cues[cues[:, 0] >= time_s, 0]
    return float(min([*after, end_s]) - max([*before, start_s]))
