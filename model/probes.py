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

import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

# Imported here, and not where they are used: `probe` limits the threads of the libraries that are loaded by then.
import numpy as np
from numpy.typing import NDArray
from scipy.stats import kendalltau
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import average_precision_score
from sklearn.model_selection import GroupKFold
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from model.tasks import TASKS, Task

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
    # The matrices are small: on busy cores, several BLAS threads spend 30 times the work waiting for each other.
    with threadpool_limits(limits=1):
        return _probe(task, features, targets, titles, seed)


def _probe(
    task: str, features: Sequence[NDArray[np.floating]], targets: Sequence[Any], titles: Sequence[str], seed: int
) -> ProbeResult:
    groups = np.asarray(titles)
    about = (len(titles), len(set(titles)))
    try:
        score = _held_out_score(task, features, targets, groups)
    except TooFewLabels as error:
        return ProbeResult(TASKS[task].metric, None, None, None, *about, str(error))
    scores = [score(clips) for clips in resampled(groups, seed, BOOTSTRAP)]
    low, high = np.nanpercentile(scores, [2.5, 97.5])
    return ProbeResult(TASKS[task].metric, score(np.arange(len(groups))), float(low), float(high), *about, None)


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
        predicted = _out_of_fold(matrix, rates[:, None], groups, folds, _fit_ridge)[:, 0]
        score: Score = _tau_within_titles(rates, predicted, groups)
    else:
        truth = label_columns(TASKS[task], targets, groups)[1]
        if not truth.shape[1]:
            raise TooFewLabels(
                f"too few labels: no label has {MINIMUM_POSITIVES} clips in two titles, and as many without"
            )
        score = _average_precision(task, truth, _out_of_fold(matrix, truth, groups, folds, fit_logistic))
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


def _out_of_fold(
    features: NDArray[np.floating],
    truth: NDArray[Any],
    groups: NDArray[np.str_],
    folds: int,
    fit: Callable[[NDArray[np.floating], NDArray[Any]], Callable[[NDArray[np.floating]], NDArray[np.float64]]],
) -> NDArray[np.float64]:
    """Predictions, of the shape of truth (n, targets), for every clip by models that have not seen its title."""
    predicted = np.zeros(truth.shape)
    for training, held_out in GroupKFold(folds).split(features, groups=groups):
        scaler = StandardScaler().fit(features[training])
        seen, unseen = rotated(scaler.transform(features[training]), scaler.transform(features[held_out]))
        for target in range(truth.shape[1]):
            predicted[held_out, target] = fit(seen, truth[training, target])(unseen)
    return predicted


def rotated(
    seen: NDArray[np.floating], unseen: NDArray[np.floating]
) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Both sets of features in the basis of the space that the seen ones span: (m, r) and (k, r), r <= m.

    An L2-regularised linear model lies in that space, so it predicts the same from fewer numbers.
    """
    if not seen.any():  # a modality that no title has: nothing but the intercept is left to learn
        return seen[:, :1], np.zeros_like(unseen[:, :1])
    values, vectors = np.linalg.eigh(seen @ seen.T)
    kept = values > values[-1] * 1e-10
    scale = np.sqrt(values[kept])
    return vectors[:, kept] * scale, unseen @ (seen.T @ (vectors[:, kept] / scale))


def fit_logistic(
    features: NDArray[np.floating], truth: NDArray[np.bool_]
) -> Callable[[NDArray[np.floating]], NDArray[np.float64]]:
    """Probabilities, which is what predictions of several folds and labels are compared by."""
    if truth.all() or not truth.any():
        share = float(truth.mean())
        return lambda held_out: np.full(len(held_out), share)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the last decimals do not change a ranking
        model = LogisticRegression(C=LOGISTIC_C, max_iter=100).fit(features, truth)
    return lambda held_out: model.predict_proba(held_out)[:, 1]


def _fit_ridge(
    features: NDArray[np.floating], truth: NDArray[np.float64]
) -> Callable[[NDArray[np.floating]], NDArray[np.float64]]:
    model = Ridge(alpha=RIDGE_ALPHA).fit(features, truth)
    return lambda held_out: model.predict(held_out)


def _average_precision(task: str, truth: NDArray[np.bool_], predicted: NDArray[np.float64]) -> Score:
    """The task's average precision over a choice of clips; labels that the choice lacks are left out."""
    average = "macro" if TASKS[task].metric == "macro AP" else "micro"

    def score(clips: NDArray[np.int64]) -> float:
        shown = truth[clips].any(axis=0)
        if not shown.any():
            return float("nan")
        return float(average_precision_score(truth[clips][:, shown], predicted[clips][:, shown], average=average))

    return score


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
