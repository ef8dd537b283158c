"""The boundary head: how likely a scene begins at a shot, learnt from labelled scenes.

A logistic regression on the encoder's vectors on both sides of a cut and on what is found there without labels
(`model.scenes`). As `model.tagging`'s models it is one vector and one number, standardisation and calibration folded
in: the probability that a scene begins at a shot is `sigmoid(weights @ x + bias)`, x by `features`.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import GroupKFold
from threadpoolctl import threadpool_limits

from model.probes import BOOTSTRAP, MINIMUM_POSITIVES, MINIMUM_TITLES, TooFewLabels, logistic_out_of_fold
from model.scene_metrics import LabelledScenes, SceneFigures, judge, samples_of_titles
from model.tagging import believed_out_of_fold, fit_unscaled, logit, platt, sigmoid

FOLDS = 5


class Example(NamedTuple):
    """A title with labelled scenes: its n shots' vectors in context, (n, d), the probability that a scene begins at
    each as it is found without labels, (n,), and when each begins and ends in seconds, (n,)."""

    contextual: NDArray[np.floating]
    unsupervised: NDArray[np.floating]
    labels: LabelledScenes
    start_s: NDArray[np.floating]
    end_s: NDArray[np.floating]


class Head(NamedTuple):
    """weights: (3 d + 1,) float32. cutoff: a scene begins where the probability is at least this."""

    weights: NDArray[np.float32]
    bias: float
    cutoff: float


class Worth(NamedTuple):
    """What heads that have not seen a title's labels are worth there: their average precision over all titles' shots,
    that of what is found without labels, and what the first is more, with 95 % intervals over titles."""

    average_precision: float
    ci_low: float
    ci_high: float
    unsupervised: float
    gain: float
    gain_low: float
    gain_high: float
    n_shots: int
    n_titles: int

    @property
    def usable(self) -> bool:
        """Whether the head is better with so much certainty."""
        return self.gain_low > 0


def features(contextual: NDArray[np.floating], unsupervised: NDArray[np.floating]) -> NDArray[np.float64]:
    """x of every shot but a title's first, (n - 1, 3 d + 1): the unit vector of the shot before, its own, how far they
    are apart in each number, and the logit of the probability without labels."""
    norms = np.linalg.norm(contextual, axis=1, keepdims=True)
    unit = contextual / np.maximum(norms, 1e-9)
    return np.hstack([unit[:-1], unit[1:], np.abs(unit[1:] - unit[:-1]), logit(unsupervised[1:])[:, None]])


def begins(
    head: Head, contextual: NDArray[np.floating], unsupervised: NDArray[np.floating]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Of a title, the probability that a scene begins at each shot, (n,), 0 at the first; and the first shots of its
    scenes, (m,)."""
    scores = np.append(0.0, sigmoid(features(contextual, unsupervised) @ head.weights.astype(np.float64) + head.bias))
    return scores, np.append(0, np.flatnonzero(scores[1:] >= head.cutoff) + 1)


def fit(examples: Sequence[Example]) -> Head:
    """A head that has learnt from all titles. Equal arguments give equal heads. Raises TooFewLabels."""
    with threadpool_limits(limits=1):  # the matrices are small: threads would wait for each other
        matrix, truth, groups = _learnt_from(examples)
        logits = logit(logistic_out_of_fold(matrix, truth[:, None], groups, _folds(examples)))[:, 0]
        slope, intercept = platt(logits, truth)
        weights, biases = fit_unscaled(matrix, truth[:, None])
    wide = 3 * examples[0].contextual.shape[1]
    alone = np.append(weights[:wide, 0], weights[wide:, 0].sum())
    cutoff = _best_cutoff(sigmoid(slope * logits + intercept), truth)
    return Head((slope * alone).astype(np.float32), float(slope * biases[0] + intercept), cutoff)


def out_of_fold(examples: Sequence[Example]) -> list[tuple[NDArray[np.float64], NDArray[np.bool_]]]:
    """Of each title, what a head says that has not seen its labels: probabilities, (n,), 0 where labels do not reach,
    and whether a scene begins, (n,). Calibration and cut-off have not seen them either. Raises TooFewLabels."""
    with threadpool_limits(limits=1):
        matrix, truth, groups = _learnt_from(examples)
        folds = _folds(examples)
        logits = logit(logistic_out_of_fold(matrix, truth[:, None], groups, folds))[:, 0]
        believed = believed_out_of_fold(logits, truth, groups, folds)
    cut = np.zeros(len(truth), dtype=bool)
    for others, held_out in GroupKFold(folds).split(logits, groups=groups):
        cut[held_out] = believed[held_out] >= _best_cutoff(believed[others], truth[others])
    found = []
    for title, example in enumerate(examples):
        scores, begin = np.zeros(len(example.start_s)), np.zeros(len(example.start_s), dtype=bool)
        scores[_candidates(example)], begin[_candidates(example)] = believed[groups == title], cut[groups == title]
        found.append((scores, begin))
    return found


def worth(examples: Sequence[Example]) -> Worth:
    """What a head that is learnt from these titles is worth on others. Raises TooFewLabels."""
    learnt = SceneFigures(
        [judge(e.labels, *f, e.start_s, e.end_s) for e, f in zip(examples, out_of_fold(examples), strict=True)]
    )
    nothing = [np.zeros(len(example.start_s), dtype=bool) for example in examples]
    without = SceneFigures(
        [judge(e.labels, e.unsupervised, none, e.start_s, e.end_s) for e, none in zip(examples, nothing, strict=True)]
    )
    samples = samples_of_titles(len(examples), BOOTSTRAP)
    drawn = np.array([(learnt.of(times).ap, without.of(times).ap) for times in samples])
    low, high = np.nanpercentile(drawn[:, 0], [2.5, 97.5])
    gain_low, gain_high = np.nanpercentile(drawn[:, 0] - drawn[:, 1], [2.5, 97.5])
    once = np.ones(len(examples), dtype=np.int64)
    value, before = learnt.of(once).ap, without.of(once).ap
    shots = sum(len(_candidates(example)) for example in examples)
    return Worth(
        value, float(low), float(high), before, value - before, float(gain_low), float(gain_high), shots, len(examples)
    )


def _candidates(example: Example) -> range:
    """The shots that the labels say something of."""
    return range(example.labels.judged.start + 1, example.labels.judged.stop)


def _learnt_from(
    examples: Sequence[Example],
) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.int64]]:
    """Features, (m, 4 d), whether a scene begins, (m,), and each shot's title, (m,). What is found without labels
    counts as often as a vector has numbers: once, regularisation would have it drown in them."""
    there = sum(bool(example.labels.true.any()) for example in examples)
    positives = sum(int(example.labels.true.sum()) for example in examples)
    shots = sum(len(_candidates(example)) for example in examples)
    if there < MINIMUM_TITLES or not MINIMUM_POSITIVES <= positives <= shots - MINIMUM_POSITIVES:
        raise TooFewLabels(
            f"too few labels: {positives} scenes begin at {shots} shots within {there} titles; {MINIMUM_POSITIVES} of "
            f"{MINIMUM_TITLES} titles are needed, and as many shots where none does"
        )
    parts = []
    for title, example in enumerate(examples):
        shown = list(_candidates(example))
        x = features(example.contextual, example.unsupervised)[np.array(shown, dtype=np.int64) - 1]
        parts.append((x, example.labels.true[shown], np.full(len(shown), title)))
    matrix, truth, groups = (np.concatenate(of) for of in zip(*parts, strict=True))
    often = examples[0].contextual.shape[1]
    return np.hstack([matrix[:, :-1], np.repeat(matrix[:, -1:], often, axis=1)]), truth, groups


def _folds(examples: Sequence[Example]) -> int:
    return min(FOLDS, len(examples))


def _best_cutoff(believed: NDArray[np.float64], truth: NDArray[np.bool_]) -> float:
    """The probability from which on F1 is highest."""
    order = np.argsort(-believed, kind="stable")
    hits = np.cumsum(truth[order])
    f1 = 2 * hits / (np.arange(1, len(order) + 1) + max(1, truth.sum()))
    ends = np.append(np.diff(believed[order]) != 0, True)  # of those that are believed alike
    return float(believed[order][np.where(ends, f1, -1).argmax()])
