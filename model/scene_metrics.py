"""How well scenes were found: the figures that scene segmentation is reported by."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Judged(NamedTuple):
    """One title's true scenes beside those that were found, over its n shots.

    true, found: (n,) bool, whether a scene begins at the shot; the first shot is not looked at. scores: (n,), higher
    where a beginning is likelier. start_s, end_s: (n,) seconds. missed: true beginnings at which no shot begins, so
    that no grouping of these shots finds them.
    """

    true: NDArray[np.bool_]
    scores: NDArray[np.float64]
    found: NDArray[np.bool_]
    start_s: NDArray[np.float64]
    end_s: NDArray[np.float64]
    missed: int = 0


class SceneScores(NamedTuple):
    """ap: average precision over all titles' shots at once; title_ap: its mean over titles (mAP); f1: of the found
    beginnings; miou: mean intersection over union of scenes. Each in [0, 1]; NaN where no title has a beginning."""

    ap: float
    title_ap: float
    f1: float
    miou: float


def scene_scores(titles: Sequence[Judged]) -> SceneScores:
    """Figures over one or more titles. A missed beginning counts as a positive that is scored below all others."""
    pairs = [_true_and_scores(title) for title in titles]
    hits = sum(int((title.true & title.found)[1:].sum()) for title in titles)
    made = sum(int(title.found[1:].sum()) for title in titles)
    there = sum(int(title.true[1:].sum()) + title.missed for title in titles)
    by_title = [_average_precision(*pair) for pair in pairs if pair[0].any()]
    return SceneScores(
        boundary_ap(titles),
        float(np.mean(by_title)) if by_title else float("nan"),
        2 * hits / (made + there) if made + there else float("nan"),
        float(np.mean([mean_iou(t.true, t.found, t.start_s, t.end_s) for t in titles])),
    )


def boundary_ap(titles: Sequence[Judged]) -> float:
    """Average precision over all titles' shots at once."""
    true, scores = zip(*map(_true_and_scores, titles), strict=True)
    return _average_precision(np.concatenate(true), np.concatenate(scores))


def mean_iou(
    true: NDArray[np.bool_], found: NDArray[np.bool_], start_s: NDArray[np.float64], end_s: NDArray[np.float64]
) -> float:
    """Each true scene's best intersection over union in time with a found one, averaged; the same the other way round;
    the mean of both (Baraldi et al. 2015, "A deep siamese network for scene detection", section 4)."""
    ones, others = (_spans(begins, start_s, end_s) for begins in (true, found))
    overlap = np.minimum(ones[:, None, 1], others[None, :, 1]) - np.maximum(ones[:, None, 0], others[None, :, 0])
    overlap = np.maximum(overlap, 0)
    union = np.ptp(ones, axis=1)[:, None] + np.ptp(others, axis=1)[None, :] - overlap
    iou = overlap / union
    return float((iou.max(axis=1).mean() + iou.max(axis=0).mean()) / 2)


def _spans(begins: NDArray[np.bool_], start_s: NDArray[np.float64], end_s: NDArray[np.float64]) -> NDArray[np.float64]:
    """(scenes, 2): where each begins and ends."""
    first = np.flatnonzero(begins[1:]) + 1
    return np.column_stack([start_s[np.append(0, first)], end_s[np.append(first - 1, len(end_s) - 1)]])


def _true_and_scores(title: Judged) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    true = np.append(title.true[1:], np.ones(title.missed, dtype=bool))
    return true, np.append(title.scores[1:], np.full(title.missed, -1e9))


def _average_precision(true: NDArray[np.bool_], scores: NDArray[np.float64]) -> float:
    from sklearn.metrics import average_precision_score

    return float(average_precision_score(true, scores)) if true.any() else float("nan")
