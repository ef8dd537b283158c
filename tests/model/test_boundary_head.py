import numpy as np
import pytest

from model.boundary_head import Example, begins, features, fit, out_of_fold, worth
from model.probes import TooFewLabels
from model.scene_metrics import LabelledScenes
from model.tagging import logit, sigmoid

D = 8


def title(seed: int, n: int = 40, *, told: bool, found: bool = False) -> Example:
    """A fifth of the shots begin a scene. told: their vectors say so, by one direction; else nothing does. found: what
    is found without labels does."""
    rng = np.random.default_rng(seed)
    true = rng.random(n) < 0.2
    true[0] = False
    vectors = rng.normal(size=(n, D))
    vectors[:, 0] += 5.0 * true if told else 0.0
    unsupervised = np.where(true, 0.9, 0.1) if found else rng.random(n)
    start_s = np.arange(n) * 1.0
    return Example(vectors, unsupervised, LabelledScenes(true, slice(0, n), 0), start_s, start_s + 1)


@pytest.fixture(scope="module")
def told() -> list[Example]:
    return [title(seed, told=True) for seed in range(8)]


def test_a_head_is_usable_where_vectors_tell_what_is_not_found_without_labels(told: list[Example]) -> None:
    found = worth(told)
    assert found.usable
    assert found.average_precision > 0.8 > 0.4 > found.unsupervised
    assert found.gain == pytest.approx(found.average_precision - found.unsupervised)
    assert found.gain_low < found.gain < found.gain_high
    assert found.ci_low < found.average_precision <= found.ci_high
    assert (found.n_shots, found.n_titles) == (8 * 39, 8)


def test_a_head_is_not_usable_where_there_is_nothing_to_learn_or_nothing_to_win() -> None:
    assert not worth([title(seed, told=False) for seed in range(8)]).usable
    assert not worth([title(seed, told=True, found=True) for seed in range(8)]).usable


def test_a_fitted_head_is_one_product_that_finds_the_scenes_of_another_title(told: list[Example]) -> None:
    head = fit(told)
    other = title(99, n=400, told=True)
    scores, first = begins(head, other.contextual, other.unsupervised)
    x = features(other.contextual, other.unsupervised)
    assert head.weights.shape == (3 * D + 1,)
    np.testing.assert_allclose(scores[1:], sigmoid(x @ head.weights + head.bias))
    np.testing.assert_allclose(x[:, -1], logit(other.unsupervised[1:]))
    assert scores[0] == 0
    assert first.tolist() == [0, *(np.flatnonzero(scores[1:] >= head.cutoff) + 1)]
    assert np.mean(other.labels.true[first[1:]]) > 0.6
    assert np.isin(np.flatnonzero(other.labels.true), first).mean() > 0.6


def test_equal_titles_make_equal_heads(told: list[Example]) -> None:
    one, other = fit(told), fit(told)
    assert one.weights.tolist() == other.weights.tolist()
    assert (one.bias, one.cutoff) == (other.bias, other.cutoff)
    assert worth(told) == worth(told)


def test_out_of_fold_only_shots_that_labels_reach_have_a_probability(told: list[Example]) -> None:
    part = told[0]._replace(labels=told[0].labels._replace(judged=slice(5, 30)))
    (scores, found), *others = out_of_fold([part, *told[1:]])
    assert not scores[:6].any()
    assert not scores[30:].any()
    assert scores[6:30].all()
    assert not found[:6].any()
    assert all(of_title[1:].all() for of_title, _ in others)


def test_probabilities_of_held_out_titles_are_calibrated(told: list[Example]) -> None:
    scores = np.concatenate([of_title[1:] for of_title, _ in out_of_fold(told)])
    true = np.concatenate([example.labels.true[1:] for example in told])
    assert abs(scores.mean() - true.mean()) < 0.05


def test_too_few_labels_are_said(told: list[Example]) -> None:
    with pytest.raises(TooFewLabels, match=r"too few labels: \d+ scenes begin at 117 shots within 3 titles"):
        worth(told[:3])
    nothing = told[0]._replace(labels=told[0].labels._replace(true=np.zeros(40, dtype=bool)))
    with pytest.raises(TooFewLabels, match="0 scenes begin"):
        fit([nothing] * 8)
