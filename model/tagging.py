"""Tags: probes fitted for use, with probabilities that can be believed and the shots that argue for them.

`model.probes` measures what vectors are worth; here the same linear models are fitted to be applied to other titles.
Everything that a reader needs of a model is one vector and one number: standardisation and calibration (Platt 1999:
"Probabilistic outputs for support vector machines") are folded into them, so the probability of a tag is
`sigmoid(weights @ x + bias)`, where x is the mean of the shots' vectors. As x is a mean, each shot's part in it is its
own `weights @ vector`.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold
from sklearn.preprocessing import StandardScaler

from model.probes import (
    BOOTSTRAP,
    MINIMUM_CLIPS,
    MINIMUM_TITLES,
    Labelled,
    Ranking,
    fit_logistic,
    label_columns,
    logistic_out_of_fold,
    on_all_cores,
    resampled,
)
from model.tasks import TASKS

CALIBRATION_BINS = 10
ARGUING_SHOTS = 3
WITHOUT_EXAMPLES = 1e-3


class FittedProbe(NamedTuple):
    """One label's model, and what it is worth on titles that it has not seen.

    weights, bias:     probability = sigmoid(weights @ x + bias); weights is (d,) float32.
    average_precision: of out-of-fold predictions, with its 95 % interval over titles; chance is the label's share.
    calibration_error: mean distance of probability and frequency over ten bins of equal count (expected calibration
                       error, Naeini et al. 2015), of probabilities whose calibration has not seen the title either.
    usable:            whether the interval of the precision lies above chance.
    """

    label: str
    weights: NDArray[np.float32]
    bias: float
    average_precision: float
    ci_low: float
    ci_high: float
    chance: float
    calibration_error: float
    n_clips: int
    n_titles: int
    usable: bool


def fit_probes(clips: Sequence[Labelled], seed: int = 0) -> list[list[FittedProbe]]:
    """Of each task's clips, a model for each label that is frequent enough to be learnt; none with too few clips or
    titles. On all cores, in their order.

    Features must be finite. Targets are lists of labels, or 0/1 (clip_retrieval). Equal arguments give equal models.
    """
    return on_all_cores(lambda of: _fit(of, seed), clips)


def _fit(clips: Labelled, seed: int) -> list[FittedProbe]:
    task, groups = TASKS[clips.task], np.asarray(clips.titles)
    n_titles = len(set(clips.titles))
    if len(groups) < MINIMUM_CLIPS or n_titles < MINIMUM_TITLES:
        return []
    names, truth = label_columns(task, clips.targets, groups)
    if not names:
        return []
    matrix = np.vstack(clips.features).astype(np.float64)
    folds = min(task.folds, n_titles)
    unseen = logit(logistic_out_of_fold(matrix, truth, groups, folds))
    weights, biases = fit_unscaled(matrix, truth)
    return [
        _calibrated(name, weights[:, i], float(biases[i]), truth[:, i], unseen[:, i], groups, folds, seed)
        for i, name in enumerate(names)
    ]


def _calibrated(
    label: str,
    weights: NDArray[np.float64],
    bias: float,
    truth: NDArray[np.bool_],
    logits: NDArray[np.float64],
    groups: NDArray[np.str_],
    folds: int,
    seed: int,
) -> FittedProbe:
    """The label's model with its probabilities calibrated by what models that have not seen a clip's title say of it
    (logits, (n,)), and what those are worth."""
    believed = believed_out_of_fold(logits, truth, groups, folds)
    slope, intercept = platt(logits, truth)
    value, low, high, above = precision_and_interval(truth, logits, groups, seed)
    return FittedProbe(
        label=label,
        weights=(slope * weights).astype(np.float32),
        bias=slope * bias + intercept,
        average_precision=value,
        ci_low=low,
        ci_high=high,
        chance=float(truth.mean()),
        calibration_error=calibration_error(truth, believed),
        n_clips=len(truth),
        n_titles=len(set(groups)),
        usable=above,
    )


def fit_unscaled(
    features: NDArray[np.floating], truth: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """`model.probes.fit_logistic` on standardised features, as weights (d, labels) and biases (labels,) of the features
    as they are, (m, d)."""
    scaler = StandardScaler().fit(features)
    weights, biases = fit_logistic(scaler.transform(features), truth)
    weights /= scaler.scale_[:, None]
    return weights, biases - scaler.mean_ @ weights


def believed_out_of_fold(
    logits: NDArray[np.floating], truth: NDArray[np.bool_], groups: NDArray[Any], folds: int
) -> NDArray[np.float64]:
    """Probabilities, (n,), whose calibration has not seen their title. logits: (n,), out of fold. groups: (n,)."""
    believed = np.zeros(len(truth))
    for training, held_out in GroupKFold(folds).split(logits, groups=groups):
        slope, intercept = platt(logits[training], truth[training])
        believed[held_out] = sigmoid(slope * logits[held_out] + intercept)
    return believed


def sigmoid(logits: NDArray[np.floating]) -> NDArray[np.float64]:
    clipped = np.clip(logits, -60, 60).astype(np.float64)
    probabilities: NDArray[np.float64] = 1 / (1 + np.exp(-clipped))
    return probabilities


def logit(probabilities: NDArray[np.floating]) -> NDArray[np.float64]:
    clipped = np.clip(probabilities, 1e-9, 1 - 1e-9).astype(np.float64)
    logits: NDArray[np.float64] = np.log(clipped / (1 - clipped))
    return logits


def platt(logits: NDArray[np.floating], truth: NDArray[np.bool_]) -> tuple[float, float]:
    """Slope and intercept of Platt's scaling. The slope is never negative: a model that predicts the reverse of the
    truth on unseen titles has learnt nothing, and says the label's share of every clip."""
    share = float(np.clip(truth.mean(), WITHOUT_EXAMPLES, 1 - WITHOUT_EXAMPLES))
    nothing = 0.0, float(logit(np.array([share]))[0])
    if truth.all() or not truth.any():
        return nothing
    model = LogisticRegression(C=1.0, max_iter=1000).fit(logits[:, None], truth)
    slope = float(model.coef_[0, 0])
    return (slope, float(model.intercept_[0])) if slope > 0 else nothing


def precision_and_interval(
    truth: NDArray[np.bool_], scores: NDArray[np.floating], groups: NDArray[np.str_], seed: int
) -> tuple[float, float, float, bool]:
    """Average precision, its 95 % interval over bootstrap samples of titles, and whether the precision beats the
    label's share of the sample, which is what chance gives, in 97.5 % of them."""
    ranking = Ranking(truth, scores, np.arange(len(truth)))
    found, gains = [], []
    for clips in resampled(groups, seed, BOOTSTRAP):
        if truth[clips].any():
            found.append(ranking.average_precision(np.bincount(clips, minlength=len(truth))))
            gains.append(found[-1] - truth[clips].mean())
    low, high = np.percentile(found, [2.5, 97.5])
    everything = ranking.average_precision(np.ones(len(truth), dtype=np.int64))
    return everything, float(low), float(high), bool(np.percentile(gains, 2.5) > 0)


def calibration_error(truth: NDArray[np.bool_], probabilities: NDArray[np.floating]) -> float:
    """Expected calibration error over bins of equal count, from 0 (perfect) to 1."""
    order = np.argsort(probabilities, kind="stable")
    bins = np.array_split(order, min(CALIBRATION_BINS, len(order)))
    return float(
        sum(len(clips) * abs(truth[clips].mean() - probabilities[clips].mean()) for clips in bins) / len(order)
    )


def probability(vectors: NDArray[np.floating], weights: NDArray[np.floating], bias: float) -> float:
    """Of a tag, for the shots with the given vectors, (n, d)."""
    return float(sigmoid(np.array([vectors.mean(axis=0, dtype=np.float64) @ weights + bias]))[0])


def arguing_shots(vectors: NDArray[np.floating], weights: NDArray[np.floating]) -> list[int]:
    """The positions of the shots that argue most for a tag, the strongest first; vectors: (n, d)."""
    found: list[int] = np.argsort(-(vectors @ weights), kind="stable")[:ARGUING_SHOTS].tolist()
    return found


def windows_of(start_s: NDArray[np.floating], end_s: NDArray[np.floating], length_s: float) -> list[tuple[int, int]]:
    """A title in consecutive windows of about a length, each (first shot, last shot), together all shots once.

    A window takes shots until the next one would bring it further from the length; a short rest joins the window
    before it.
    """
    windows: list[tuple[int, int]] = []
    first = 0
    for shot in range(len(start_s)):
        if shot + 1 == len(start_s):
            windows.append((first, shot))
        elif abs(end_s[shot + 1] - start_s[first] - length_s) >= abs(end_s[shot] - start_s[first] - length_s):
            windows.append((first, shot))
            first = shot + 1
    if len(windows) > 1 and end_s[windows[-1][1]] - start_s[windows[-1][0]] < length_s / 2:
        rest = windows.pop()
        windows[-1] = windows[-1][0], rest[1]
    return windows
