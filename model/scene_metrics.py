"""How well scenes were found: the figures that scene segmentation is reported by."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from model.probes import BOOTSTRAP, MINIMUM_TITLES, ProbeResult, Ranking

NEAR_S = 0.5
"""A shot that begins so near a labelled beginning is the scene's first: labels are rounded, and dissolves take time."""
METRICS = ("AP", "AP by title", "F1", "mIoU")
"""The names of `SceneScores`' figures in `probe_metrics`."""


class LabelledScenes(NamedTuple):
    """A title's labelled scenes over its n shots.

    true: (n,) bool, whether a scene begins at the shot. judged: the shots that the labels reach, of which the first
    is not looked at. missed: labelled beginnings at which no shot begins.
    """

    true: NDArray[np.bool_]
    judged: slice
    missed: int


class Judged(NamedTuple):
    """One title's true scenes beside those that were found, over its n shots.

    true, found: (n,) bool, whether a scene begins at the shot; the first shot is not looked at. scores: (n,), higher
    where a beginning is likelier. start_s, end_s: (n,) seconds. missed: true beginnings at which no shot begins, so
    that no grouping of these shots finds them.
    """

    true: NDArray[np.bool_]
    scores: NDArray[np.floating]
    found: NDArray[np.bool_]
    start_s: NDArray[np.floating]
    end_s: NDArray[np.floating]
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
    return SceneFigures(titles).of(np.ones(len(titles), dtype=np.int64))


def on_shots(
    begin_s: NDArray[np.floating], end_s: NDArray[np.floating], start_s: NDArray[np.floating]
) -> LabelledScenes:
    """What labels say of a title's shots. begin_s, end_s: (m,) of the labelled scenes, m >= 1, in any order. start_s:
    (n,) of the shots, n >= 1, ascending. What lies between two scenes counts to the one before."""
    first, *others = (int(np.abs(start_s - each).argmin()) for each in np.sort(begin_s))
    near = np.abs(start_s[others] - np.sort(begin_s)[1:]) <= NEAR_S
    true = np.zeros(len(start_s), dtype=bool)
    true[np.array(others, dtype=np.int64)[near]] = True
    true[: first + 1] = False
    reached = int(np.searchsorted(start_s, end_s.max() - NEAR_S))
    stop = max(first + 1, reached, *(np.flatnonzero(true)[-1:] + 1))
    return LabelledScenes(true, slice(first, stop), int((~near).sum()))


def judge(
    labels: LabelledScenes,
    scores: NDArray[np.floating],
    found: NDArray[np.bool_],
    start_s: NDArray[np.floating],
    end_s: NDArray[np.floating],
) -> Judged:
    """What was found in a title, (n,) each, where its labels reach."""
    of = labels.judged
    return Judged(labels.true[of], scores[of], found[of], start_s[of], end_s[of], labels.missed)


class SceneFigures:
    """What any choice of some titles scores, as bootstrap samples ask for it."""

    def __init__(self, titles: Sequence[Judged]) -> None:
        pairs = [_true_and_scores(title) for title in titles]
        title_of = np.repeat(np.arange(len(titles)), [len(true) for true, _ in pairs])
        true, scores = (np.concatenate(parts) for parts in zip(*pairs, strict=True))
        self._ranking = Ranking(true, scores, title_of)
        self._hits = np.array([(title.true & title.found)[1:].sum() for title in titles])
        self._made_and_there = np.array(
            [title.found[1:].sum() + title.true[1:].sum() + title.missed for title in titles]
        )
        self._ap = np.array([_average_precision(*pair) for pair in pairs])  # NaN without a beginning
        self._with_ap = np.isfinite(self._ap)
        self._iou = np.array([mean_iou(t.true, t.found, t.start_s, t.end_s) for t in titles])

    def of(self, times: NDArray[np.integer]) -> SceneScores:
        """The figures when each title counts so many times, (titles,)."""
        with_ap, beginnings = times[self._with_ap], int(times @ self._made_and_there)
        return SceneScores(
            self._ranking.average_precision(times),
            float(with_ap @ self._ap[self._with_ap] / with_ap.sum()) if with_ap.any() else float("nan"),
            2 * int(times @ self._hits) / beginnings if beginnings else float("nan"),
            float(times @ self._iou / times.sum()),
        )


def samples_of_titles(titles: int, samples: int, seed: int = 0) -> NDArray[np.int64]:
    """(samples, titles): how often each bootstrap sample has each title. The same for whatever is to be compared."""
    drawn = np.random.default_rng(seed).integers(titles, size=(samples, titles))
    return np.array([np.bincount(sample, minlength=titles) for sample in drawn])


def without_results(shots: int, titles: int, note: str) -> list[ProbeResult]:
    """No figures, and a sentence that says why."""
    return [ProbeResult(name, None, None, None, shots, titles, note) for name in METRICS]


def scene_results(titles: Sequence[Judged], seed: int = 0) -> list[ProbeResult]:
    """The figures with their 95 % intervals over titles; of titles that are too few, a note that says so."""
    shots, there = sum(len(title.true) - 1 for title in titles), sum(bool(title.true[1:].any()) for title in titles)
    if there < MINIMUM_TITLES:
        note = f"too few labels: scenes begin within {there} titles; {MINIMUM_TITLES} are needed"
        return without_results(shots, len(titles), note)
    figures = SceneFigures(titles)
    sampled = np.array([figures.of(times) for times in samples_of_titles(len(titles), BOOTSTRAP, seed)])
    low, high = np.nanpercentile(sampled, [2.5, 97.5], axis=0)
    values = figures.of(np.ones(len(titles), dtype=np.int64))
    return [
        ProbeResult(name, value, float(low[column]), float(high[column]), shots, len(titles), None)
        for column, (name, value) in enumerate(zip(METRICS, values, strict=True))
    ]


def mean_iou(
    true: NDArray[np.bool_], found: NDArray[np.bool_], start_s: NDArray[np.floating], end_s: NDArray[np.floating]
) -> float:
    """Each true scene's best intersection over union in time with a found one, averaged; the same the other way round;
    the mean of both (Baraldi et al. 2015, "A deep siamese network for scene detection", section 4)."""
    ones, others = (_spans(begins, start_s, end_s) for begins in (true, found))
    overlap = np.minimum(ones[:, None, 1], others[None, :, 1]) - np.maximum(ones[:, None, 0], others[None, :, 0])
    overlap = np.maximum(overlap, 0)
    union = np.ptp(ones, axis=1)[:, None] + np.ptp(others, axis=1)[None, :] - overlap
    iou = overlap / union
    return float((iou.max(axis=1).mean() + iou.max(axis=0).mean()) / 2)


def _spans(
    begins: NDArray[np.bool_], start_s: NDArray[np.floating], end_s: NDArray[np.floating]
) -> NDArray[np.floating]:
    """(scenes, 2): where each begins and ends."""
    first = np.flatnonzero(begins[1:]) + 1
    return np.column_stack([start_s[np.append(0, first)], end_s[np.append(first - 1, len(end_s) - 1)]])


def _true_and_scores(title: Judged) -> tuple[NDArray[np.bool_], NDArray[np.floating]]:
    true = np.append(title.true[1:], np.ones(title.missed, dtype=bool))
    return true, np.append(title.scores[1:], np.full(title.missed, -1e9))


def _average_precision(true: NDArray[np.bool_], scores: NDArray[np.floating]) -> float:
    each = np.arange(len(true))
    return Ranking(true, scores, each).average_precision(np.ones(len(true), dtype=np.int64))
