"""Probes that are fitted for use: probabilities that can be believed, and nothing where nothing was learnt."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold
from sklearn.preprocessing import StandardScaler

from model.probes import LOGISTIC_C, MINIMUM_CLIPS, MINIMUM_TITLES, Labelled
from model.tagging import (
    ARGUING_SHOTS,
    FittedProbe,
    arguing_shots,
    calibration_error,
    fit_probes,
    platt,
    probability,
    sigmoid,
    windows_of,
)
from model.tasks import TASKS, Task

TONE = TASKS["clip_tone"]
CLIPS_EACH = 10
TRUTH = np.array([3.0, -2.0, 0.0, 0.0, 0.0, 0.0])


def drawn(seed: int, n_titles: int = 24) -> tuple[NDArray[np.float64], NDArray[np.bool_], list[str]]:
    """Clips whose label has the probability sigmoid(TRUTH @ x - 1), whatever their title."""
    random = np.random.default_rng(seed)
    features = random.normal(1.5, 1.0, size=(n_titles * CLIPS_EACH, len(TRUTH)))
    truth = random.random(len(features)) < sigmoid(features @ TRUTH - 1)
    return features, truth, [f"title-{i // CLIPS_EACH:02}" for i in range(len(features))]


def labels(truth: NDArray[np.bool_], name: str = "calm") -> list[list[str]]:
    return [[name] if positive else [] for positive in truth]


def fitted(task: Task, *clips: Any, seed: int = 0) -> list[FittedProbe]:
    """Of features, targets and titles."""
    (probes,) = fit_probes([Labelled(task.name, *clips)], seed)
    return probes


def test_weights_and_bias_are_the_standardised_and_calibrated_model() -> None:
    features, truth, titles = drawn(1)
    (probe,) = fitted(TONE, list(features), labels(truth), titles)
    scaler = StandardScaler().fit(features)
    logits = np.zeros(len(truth))
    for training, held_out in GroupKFold(TONE.folds).split(features, groups=titles):
        own = StandardScaler().fit(features[training])
        model = LogisticRegression(C=LOGISTIC_C).fit(own.transform(features[training]), truth[training])
        logits[held_out] = model.decision_function(own.transform(features[held_out]))
    slope, intercept = platt(logits, truth)
    model = LogisticRegression(C=LOGISTIC_C).fit(scaler.transform(features), truth)
    expected = sigmoid(slope * model.decision_function(scaler.transform(features)) + intercept)
    assert sigmoid(features @ probe.weights + probe.bias) == pytest.approx(expected, abs=2e-3)
    assert probe.weights.dtype == np.float32
    assert (probe.label, probe.n_clips, probe.n_titles) == ("calm", len(truth), 24)
    assert probe.chance == truth.mean()


def test_probabilities_are_calibrated_on_titles_that_were_never_seen() -> None:
    features, truth, titles = drawn(2)
    (probe,) = fitted(TONE, list(features), labels(truth), titles)
    unseen, happened, _titles = drawn(3, n_titles=100)
    believed = sigmoid(unseen @ probe.weights + probe.bias)
    scaler = StandardScaler().fit(features)
    model = LogisticRegression(C=LOGISTIC_C).fit(scaler.transform(features), truth)
    timid = model.predict_proba(scaler.transform(unseen))[:, 1]  # what strong regularisation makes of it
    assert calibration_error(happened, believed) < 0.06 < calibration_error(happened, timid)
    assert probe.calibration_error < 0.1
    assert probe.usable
    assert probe.chance < probe.ci_low <= probe.average_precision <= probe.ci_high


def test_a_calibration_error_is_the_distance_of_what_is_said_and_what_happens() -> None:
    truth = np.array([True] * 30 + [False] * 70)
    assert calibration_error(truth[np.random.default_rng(0).permutation(100)], np.full(100, 0.3)) < 0.2
    assert calibration_error(truth, truth.astype(float)) == 0
    assert calibration_error(truth, 1 - truth.astype(float)) == 1
    assert calibration_error(np.ones(40, dtype=bool), np.full(40, 0.75)) == pytest.approx(0.25)


@pytest.mark.parametrize("seed", range(3))
def test_a_label_that_is_noise_is_not_usable_and_is_said_at_its_share(seed: int) -> None:
    features, _truth, titles = drawn(seed)
    noise = np.random.default_rng(100 + seed).random(len(titles)) < 0.3
    (probe,) = fitted(TONE, list(features), labels(noise), titles)
    assert not probe.usable
    assert np.ptp(sigmoid(features @ probe.weights + probe.bias)) < 0.3
    assert sigmoid(features @ probe.weights + probe.bias).mean() == pytest.approx(noise.mean(), abs=0.05)


def test_a_label_that_only_names_its_title_is_not_usable() -> None:
    _features, _truth, titles = drawn(4, n_titles=12)
    one_hot = (np.array(titles)[:, None] == np.unique(titles)[None]).astype(float)
    of_title = np.array([int(title[-2:]) % 3 == 0 for title in titles])
    (probe,) = fitted(TONE, list(one_hot), labels(of_title), titles)
    assert not probe.usable


def test_a_model_that_predicts_the_reverse_says_the_share() -> None:
    logits = np.linspace(-3, 3, 50)
    slope, intercept = platt(logits, logits < -0.7)
    assert slope == 0
    assert sigmoid(np.array([intercept]))[0] == pytest.approx((logits < -0.7).mean())


@pytest.mark.parametrize(("clips", "titles"), [(MINIMUM_CLIPS - 1, 6), (MINIMUM_CLIPS * 3, MINIMUM_TITLES - 1)])
def test_too_few_clips_or_titles_make_no_probe(clips: int, titles: int) -> None:
    random = np.random.default_rng(5)
    features, named = random.normal(size=(clips, 4)), [f"t{i % titles}" for i in range(clips)]
    truth = features[:, 0] > 0
    assert fitted(TONE, list(features), labels(truth), named) == []
    enough = [f"t{i % 6}" for i in range(MINIMUM_CLIPS)]
    more = random.normal(size=(MINIMUM_CLIPS, 4))
    assert len(fitted(TONE, list(more), labels(more[:, 0] > 0), enough)) == 1


def test_a_rare_label_gets_no_probe_and_zeros_and_ones_have_one_of_the_tasks_name() -> None:
    features, truth, titles = drawn(6)
    both = [[*own, "rare"] if i < 3 else own for i, own in enumerate(labels(truth))]
    assert [probe.label for probe in fitted(TONE, list(features), both, titles)] == ["calm"]
    retrieval = fitted(TASKS["clip_retrieval"], list(features), list(truth.astype(int)), titles)
    assert [probe.label for probe in retrieval] == ["clip_retrieval"]


def test_equal_arguments_give_equal_probes() -> None:
    features, truth, titles = drawn(7, n_titles=6)
    ((one,), (other,)) = (fitted(TONE, list(features), labels(truth), titles, seed=3) for _ in range(2))
    assert np.array_equal(one.weights, other.weights)
    assert one[2:] == other[2:]


def test_a_probability_is_of_the_mean_of_the_shots_and_stays_between_0_and_1() -> None:
    vectors = np.array([[1.0, 0.0], [3.0, 2.0]], dtype=np.float32)
    assert probability(vectors, np.array([0.5, -1.0]), 0.25) == pytest.approx(1 / (1 + np.exp(-(1.0 - 1.0 + 0.25))))
    assert 0 <= probability(vectors, np.array([-1e9, 0.0]), 0) < 1e-9
    assert 1 - 1e-9 < probability(vectors, np.array([1e9, 0.0]), 0) <= 1


@given(st.lists(st.integers(-50, 50), min_size=1, max_size=30))
def test_the_shots_that_argue_for_a_tag_are_those_of_the_greatest_dot_product(products: list[int]) -> None:
    vectors = np.array([[product, 1.0] for product in products])
    found = arguing_shots(vectors, np.array([2.0, 5.0]))
    assert len(found) == len(set(found)) == min(ARGUING_SHOTS, len(products))
    assert [products[i] for i in found] == sorted(products, reverse=True)[:ARGUING_SHOTS]


@given(
    st.lists(st.floats(0.04, 200), min_size=1, max_size=60),
    st.floats(0.5, 120),
)
def test_windows_hold_every_shot_once_in_order(lengths: list[float], length_s: float) -> None:
    ends = np.cumsum(lengths)
    windows = windows_of(ends - lengths, ends, length_s)
    assert windows[0][0] == 0
    assert windows[-1][1] == len(lengths) - 1
    assert all(first <= last for first, last in windows)
    assert all(after[0] == before[1] + 1 for before, after in pairwise(windows))


def test_windows_are_as_near_to_the_length_as_whole_shots_allow_and_a_short_rest_joins_the_last() -> None:
    ends = np.arange(1, 11) * 4.0
    assert windows_of(ends - 4, ends, 12) == [(0, 2), (3, 5), (6, 9)]
    assert windows_of(ends - 4, ends, 20) == [(0, 4), (5, 9)]
    assert windows_of(ends - 4, ends, 1) == [(i, i) for i in range(10)]
    assert windows_of(ends - 4, ends, 1000) == [(0, 9)]
