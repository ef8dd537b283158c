"""Linear probes: what frozen embeddings are worth on the five published tasks.

Every task (`model.tasks`) predicts a property of a clip from the mean of its shots' vectors, with a linear model of
scikit-learn, on folds that never divide a title. Scores are of the out-of-fold predictions. Intervals are percentiles
of 200 bootstrap samples of titles, since clips of one title are not independent.

| task | model | published metric |
|---|---|---|
| ad_relevancy, clip_tone | logistic regression per label | micro average precision |
| clip_genre | logistic regression per genre | macro average precision over the eleven genres |
| clip_retrieval | logistic regression | average precision |
| clip_popularity | ridge regression, ten folds | Kendall's tau within each title, averaged over titles |
"""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

# Imported here, and not where they are used: `on_all_cores` limits the threads of libraries that are loaded by then.
import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit
from scipy.stats import kendalltau
from sklearn.linear_model import Ridge
from sklearn.model_selection import GroupKFold
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from model.tasks import TASKS, Task

Result = TypeVar("Result")

MINIMUM_TITLES = 4
MINIMUM_CLIPS = 20
MINIMUM_POSITIVES = 4
"""Of one label, in at least two titles: with fewer, some fold has nothing to learn it from."""
BOOTSTRAP = 200
# Standardised features of 768 to 2304 dimensions against hundreds of clips: strong regularisation, fixed for all
# representations so that none is tuned at the others' expense.
LOGISTIC_C = 0.01
RIDGE_ALPHA = 1000.0


class ProbeResult(NamedTuple):
    """A cell of the table `probe_metrics`: the score with its 95 % interval, or a note that says why there is none."""

    metric: str
    value: float | None
    ci_low: float | None
    ci_high: float | None
    n_clips: int
    n_titles: int
    note: str | None


class Labelled(NamedTuple):
    """The clips of a task with one representation: the arguments of `probe`."""

    task: str
    features: Sequence[NDArray[np.floating]]
    targets: Sequence[Any]
    titles: Sequence[str]


class TooFewLabels(ValueError):
    """There is nothing to score. The message says, in a sentence, what is missing."""


def shots_of(
    start_s: NDArray[np.floating], end_s: NDArray[np.floating], clip_start_s: float, clip_end_s: float
) -> NDArray[np.bool_]:
    """Which shots a clip consists of: (n,) bool.

    start_s, end_s: (n,) seconds. A shot counts if at least half of it lies in the clip; if none does, the one that
    overlaps the clip most. Raises ValueError when the clip lies outside of all shots.
    """
    overlap = np.minimum(end_s, clip_end_s) - np.maximum(start_s, clip_start_s)
    if not len(overlap) or overlap.max() <= 0:
        raise ValueError(f"no shot lies between {clip_start_s:g} s and {clip_end_s:g} s")
    inside = overlap >= (end_s - start_s) / 2
    return inside if inside.any() else np.arange(len(overlap)) == overlap.argmax()


def pool(
    start_s: NDArray[np.floating],
    end_s: NDArray[np.floating],
    vectors: NDArray[np.floating],
    clip_start_s: float,
    clip_end_s: float,
) -> NDArray[np.float64]:
    """The mean vector, (d,), of a clip's shots; vectors: (n, d). Raises ValueError as `shots_of`."""
    of_clip = shots_of(start_s, end_s, clip_start_s, clip_end_s)
    mean: NDArray[np.float64] = vectors[of_clip].mean(axis=0, dtype=np.float64)
    return mean


def probe(
    task: str, features: Sequence[NDArray[np.floating]], targets: Sequence[Any], titles: Sequence[str], seed: int = 0
) -> ProbeResult:
    """Score one representation on one task.

    features: n vectors of (d,). targets: n times a list of labels (ad_relevancy, clip_tone, clip_genre), a float
    (clip_popularity) or 0/1 (clip_retrieval). titles: n title ids, which folds keep together. Equal arguments give
    equal results. Raises KeyError for another task, ValueError for features that are not finite.
    """
    return probe_each([Labelled(task, features, targets, titles)], seed)[0]


def probe_each(clips: Sequence[Labelled], seed: int = 0) -> list[ProbeResult]:
    """`probe` of each on all cores, in their order. Errors as of `probe`."""
    return on_all_cores(lambda of: _probe(of, seed), clips)


def on_all_cores(function: Callable[[Labelled], Result], clips: Sequence[Labelled]) -> list[Result]:
    """The function of each, in their order, each on one thread. The first error that one raises is raised."""
    # The matrices are small: on busy cores, several BLAS threads spend 30 times the work waiting for each other.
    with threadpool_limits(limits=1), ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as threads:
        return list(threads.map(function, clips))


def _probe(clips: Labelled, seed: int) -> ProbeResult:
    groups, metric = np.asarray(clips.titles), TASKS[clips.task].metric
    about = (len(groups), len(set(clips.titles)))
    try:
        score = _held_out_score(clips.task, clips.features, clips.targets, groups)
    except TooFewLabels as error:
        return ProbeResult(metric, None, None, None, *about, str(error))
    scores = [score(chosen) for chosen in resampled(groups, seed, BOOTSTRAP)]
    low, high = np.nanpercentile(scores, [2.5, 97.5])
    return ProbeResult(metric, score(np.arange(len(groups))), float(low), float(high), *about, None)


Score = Callable[[NDArray[np.int64]], float]
"""What a choice of the clips scores, given by their numbers."""


def held_out_score(
    task: str, features: Sequence[NDArray[np.floating]], targets: Sequence[Any], titles: Sequence[str]
) -> Score:
    """What any choice of the clips scores, predicted by models that have not seen their titles; of two representations
    the same choices can be compared. Arguments and errors as of `probe`; raises TooFewLabels too."""
    with threadpool_limits(limits=1):
        return _held_out_score(task, features, targets, np.asarray(titles))


def _held_out_score(
    task: str, features: Sequence[NDArray[np.floating]], targets: Sequence[Any], groups: NDArray[np.str_]
) -> Score:
    n_titles = len(set(groups))
    if len(groups) < MINIMUM_CLIPS or n_titles < MINIMUM_TITLES:
        raise TooFewLabels(
            f"too few labels: {len(groups)} clips of {n_titles} titles; "
            f"{MINIMUM_CLIPS} clips of {MINIMUM_TITLES} titles are needed"
        )
    matrix = np.vstack(features).astype(np.float64)
    if not np.isfinite(matrix).all():
        raise ValueError(f"{int((~np.isfinite(matrix)).sum())} numbers of the features are NaN or infinite")
    folds = min(TASKS[task].folds, n_titles)
    if TASKS[task].label == "score":
        rates = np.asarray(targets, dtype=np.float64)
        predicted = _ridge_out_of_fold(matrix, rates, groups, folds)
        score: Score = _tau_within_titles(rates, predicted, groups)
    else:
        truth = label_columns(TASKS[task], targets, groups)[1]
        if not truth.shape[1]:
            raise TooFewLabels(
                f"too few labels: no label has {MINIMUM_POSITIVES} clips in two titles, and as many without"
            )
        score = _average_precision(task, truth, logistic_out_of_fold(matrix, truth, groups, folds))
    if not np.isfinite(score(np.arange(len(groups)))):
        raise TooFewLabels("too few labels: no title has two clips of different score")
    return score


def label_columns(task: Task, targets: Sequence[Any], groups: NDArray[np.str_]) -> tuple[list[str], NDArray[np.bool_]]:
    """The labels that are frequent enough to be learnt, and (n, labels) bool, which clips have them. A task of zeros
    and ones has one label, its own name."""
    if task.label == "label":
        names: Sequence[str] = [task.name]
        truth = np.asarray(targets, dtype=bool)[:, None]
    else:
        names = task.labels or sorted({label for labels in targets for label in labels})
        truth = np.array([[label in labels for label in names] for labels in targets], dtype=bool)
    enough = [
        MINIMUM_POSITIVES <= column.sum() <= len(column) - MINIMUM_POSITIVES and len(set(groups[column])) > 1
        for column in truth.T
    ]
    return [name for name, kept in zip(names, enough, strict=True) if kept], truth[:, np.asarray(enough, dtype=bool)]


def _standardised_folds(
    features: NDArray[np.floating], groups: NDArray[Any], folds: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.floating], NDArray[np.floating]]]:
    """Of each fold, in which no title is divided: the clips to learn from, those held out, and the features of both,
    by the former's means and spreads."""
    for training, held_out in GroupKFold(folds).split(features, groups=groups):
        scaler = StandardScaler().fit(features[training])
        yield training, held_out, scaler.transform(features[training]), scaler.transform(features[held_out])


def logistic_out_of_fold(
    features: NDArray[np.floating], truth: NDArray[np.bool_], groups: NDArray[Any], folds: int
) -> NDArray[np.float64]:
    """Probabilities, (n, labels), of every clip's labels by models that have not seen its title. Probabilities are what
    predictions of several folds and labels are compared by."""
    predicted = np.zeros(truth.shape)
    for training, held_out, seen, unseen in _standardised_folds(features, groups, folds):
        weights, bias = fit_logistic(seen, truth[training])
        predicted[held_out] = expit(unseen @ weights + bias)
    return predicted


def _ridge_out_of_fold(
    features: NDArray[np.floating], rates: NDArray[np.float64], groups: NDArray[np.str_], folds: int
) -> NDArray[np.float64]:
    predicted = np.zeros(len(rates))
    for training, held_out, seen, unseen in _standardised_folds(features, groups, folds):
        predicted[held_out] = Ridge(alpha=RIDGE_ALPHA).fit(seen, rates[training]).predict(unseen)
    return predicted


def fit_logistic(
    features: NDArray[np.floating], truth: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Logistic regressions of all labels at once: weights (d, labels) and biases (labels,).

    features: (m, d) of mean zero. truth: (m, labels). Minimises, as scikit-learn does, half the squared weights plus
    LOGISTIC_C times the loss. Where there is nothing to learn, the probability is the label's share.

    The weights lie in the space that the features span, so they are looked for along its principal axes, of which there
    are at most m. There the objective's curvature at zero is diagonal. Divided by its root, L-BFGS takes a few steps
    instead of fifty, and a step is two matrix products for all labels instead of two for each.
    """
    share = truth.mean(axis=0)
    learnt = (share > 0) & (share < 1)
    weights = np.zeros((features.shape[1], len(share)))
    with np.errstate(divide="ignore"):
        bias = np.log(share) - np.log1p(-share)
    if learnt.any():
        coordinates, axes = _principal(features)
        along, shift = _fit_along(coordinates, truth[:, learnt].astype(np.float64), bias[learnt])
        weights[:, learnt], bias[learnt] = axes(along), bias[learnt] + shift
    return weights, bias


def _principal(
    features: NDArray[np.floating],
) -> tuple[NDArray[np.float64], Callable[[NDArray[np.float64]], NDArray[np.float64]]]:
    """The features' coordinates (m, r) along the principal axes of the space that they span, r <= min(m, d); and what
    turns weights of these, (r, labels), into weights of the features, (d, labels)."""
    wide = features.shape[1] > len(features)
    values, vectors = np.linalg.eigh(features @ features.T if wide else features.T @ features)
    kept = values > max(values[-1], 0.0) * 1e-10  # none of a modality that no title has
    values, vectors = values[kept], vectors[:, kept]
    if wide:
        return vectors * np.sqrt(values), lambda weights: features.T @ (vectors / np.sqrt(values) @ weights)
    return features @ vectors, lambda weights: vectors @ weights


def _fit_along(
    coordinates: NDArray[np.float64], truth: NDArray[np.float64], bias: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Weights (r, labels) and what the biases (labels,), which give each label its share, have to be shifted by."""
    flat = truth.mean(axis=0) * (1 - truth.mean(axis=0))  # the loss's curvature while all weights are zero
    scale = 1 / np.sqrt(1 + LOGISTIC_C * flat * (coordinates**2).sum(axis=0)[:, None])
    of_bias = 1 / np.sqrt(LOGISTIC_C * flat * len(truth))

    def at(point: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        return scale * point[: scale.size].reshape(scale.shape), of_bias * point[scale.size :]

    def objective(point: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        weights, shift = at(point)
        logits = coordinates @ weights + bias + shift
        loss = np.logaddexp(0, logits).sum() - (truth * logits).sum()
        errors = expit(logits) - truth
        of_weights = scale * (weights + LOGISTIC_C * (coordinates.T @ errors))
        gradient = np.concatenate([of_weights.ravel(), of_bias * LOGISTIC_C * errors.sum(axis=0)])
        return 0.5 * float((weights**2).sum()) + LOGISTIC_C * float(loss), gradient

    start = np.zeros(scale.size + len(of_bias))
    options = {"maxiter": 500, "gtol": 1e-8, "ftol": 0.0}
    return at(minimize(objective, start, jac=True, method="L-BFGS-B", options=options).x)


class Ranking:
    """Clips ranked by a model, once, so that any choice of them is scored quickly.

    truth: (n,) bool, whether a prediction is of a positive. predicted: (n,). clip_of: (n,) int, which clip each is of.
    """

    def __init__(self, truth: NDArray[np.bool_], predicted: NDArray[np.floating], clip_of: NDArray[np.integer]) -> None:
        order = np.argsort(-predicted, kind="stable")
        self._truth, self._clip_of = truth[order], clip_of[order]
        ranked = predicted[order]
        self._ends = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))  # of those that are predicted alike

    def average_precision(self, times: NDArray[np.integer]) -> float:
        """scikit-learn's average precision when each clip counts so many times; NaN without positives."""
        of_each = times[self._clip_of]
        hits = np.cumsum(of_each * self._truth)[self._ends]
        all_by_then = np.cumsum(of_each)[self._ends]
        if not len(hits) or not hits[-1]:
            return float("nan")
        return float((np.diff(hits, prepend=0) * hits / np.maximum(all_by_then, 1)).sum() / hits[-1])


def _average_precision(task: str, truth: NDArray[np.bool_], predicted: NDArray[np.float64]) -> Score:
    """The task's average precision over a choice of clips; labels that the choice lacks are left out."""
    clips = np.arange(len(truth))
    rankings = [Ranking(of_label, said, clips) for of_label, said in zip(truth.T, predicted.T, strict=True)]

    def macro(chosen: NDArray[np.int64]) -> float:
        times = np.bincount(chosen, minlength=len(truth))
        of_labels = np.array([ranking.average_precision(times) for ranking in rankings])
        return float(np.nanmean(of_labels)) if np.isfinite(of_labels).any() else float("nan")

    cells = np.arange(truth.size)
    together = Ranking(truth.ravel(), predicted.ravel(), cells)

    def micro(chosen: NDArray[np.int64]) -> float:
        times = np.bincount(chosen, minlength=len(truth))
        shown = (times @ truth) > 0
        return together.average_precision((times[:, None] * shown).ravel())

    return macro if TASKS[task].metric == "macro AP" else micro


def _tau_within_titles(truth: NDArray[np.float64], predicted: NDArray[np.float64], groups: NDArray[np.str_]) -> Score:
    """Kendall's tau (b) of each title's clips, averaged over a choice of clips' titles.

    A title whose clips all have one score is left out: there is no order to find. One whose clips are all predicted the
    same counts as 0: an order was there, and none of it was found.
    """
    names, title_of = np.unique(groups, return_inverse=True)
    sizes = np.bincount(title_of)
    tau = np.full(len(names), np.nan)
    for title in range(len(names)):
        true, guessed = truth[title_of == title], predicted[title_of == title]
        if np.ptp(true) > 0:
            told_apart = np.ptp(guessed) > 1e-9 * np.abs(guessed).max()  # equal features differ by rounding alone
            tau[title] = kendalltau(true, guessed).statistic if told_apart else 0.0

    def score(clips: NDArray[np.int64]) -> float:
        # A title that a bootstrap sample holds twice counts twice.
        times = np.bincount(title_of[clips], minlength=len(names)) / sizes
        usable = np.isfinite(tau) & (times > 0)
        return float(np.average(tau[usable], weights=times[usable])) if usable.any() else float("nan")

    return score


def resampled(groups: NDArray[np.str_], seed: int, samples: int) -> Iterator[NDArray[np.int64]]:
    """The clips of bootstrap samples of titles (a cluster bootstrap), a title's all together. groups: (n,) each clip's
    title."""
    rng = np.random.default_rng(seed)
    clips_of = [np.flatnonzero(groups == title) for title in sorted(set(groups))]
    for _ in range(samples):
        chosen = rng.integers(len(clips_of), size=len(clips_of))
        yield np.concatenate([clips_of[title] for title in chosen])
