import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from model.scenes import LONGEST_SCENE, _begins, _likeliest, scene_embeddings, scenes

LENGTHS = [4, 5, 3, 6, 4, 7]


def story(seed: int = 0, noise: float = 0.3, width: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """Vectors of scenes of the LENGTHS, each in a place of its own, and where they begin."""
    rng = np.random.default_rng(seed)
    places = rng.standard_normal((len(LENGTHS), width))
    vectors = np.repeat(places, LENGTHS, axis=0) + noise * rng.standard_normal((sum(LENGTHS), width))
    return vectors, np.cumsum([0, *LENGTHS[:-1]])


any_vectors = st.tuples(st.integers(1, 12), st.integers(1, 5)).flatmap(
    lambda shape: hnp.arrays(np.float64, shape, elements=st.floats(-4, 4, width=32))
)


@settings(deadline=None)
@given(any_vectors)
def test_scenes_hold_every_shot_once_and_probabilities_lie_between_0_and_1(vectors: np.ndarray) -> None:
    found = scenes([vectors])
    held = np.concatenate([np.arange(a, b + 1) for a, b in zip(found.first, found.last, strict=True)])
    assert held.tolist() == list(range(len(vectors)))
    assert found.begins.shape == (len(vectors),)
    assert found.begins[0] == 0
    assert ((found.begins >= 0) & (found.begins <= 1)).all()


@settings(deadline=None)
@given(hnp.arrays(np.float64, (6, 6), elements=st.floats(-5, 5)))
def test_probabilities_and_the_likeliest_cutting_are_those_of_trying_every_cutting(weights: np.ndarray) -> None:
    n = len(weights)
    weighed = np.where(np.arange(n)[:, None] + np.arange(n) < n, weights, -np.inf)
    total, begins, best = 0.0, np.zeros(n), (-np.inf, np.zeros(0))
    for cuts in itertools.product([False, True], repeat=n - 1):
        first = np.flatnonzero([True, *cuts])
        log = sum(weighed[a, b - a - 1] for a, b in zip(first, [*first[1:], n], strict=True))
        total += np.exp(log)
        begins[first] += np.exp(log)
        best = max(best, (log, first), key=lambda each: each[0])
    begins[0] = 0
    np.testing.assert_allclose(_begins(weighed), begins / total, rtol=1e-9)
    first = _likeliest(weighed)
    chosen = sum(weighed[a, b - a - 1] for a, b in zip(first, [*first[1:], n], strict=True))
    assert chosen == pytest.approx(best[0])


@pytest.mark.parametrize("seed", range(5))
def test_scenes_in_places_of_their_own_are_found(seed: int) -> None:
    vectors, first = story(seed)
    found = scenes([vectors])
    assert found.first.tolist() == first.tolist()
    assert found.begins[first[1:]].min() > np.delete(found.begins, first).max()


def test_a_place_that_is_seen_again_later_is_another_scene() -> None:
    rng = np.random.default_rng(3)
    here, there = rng.standard_normal((2, 64))
    vectors = np.vstack([np.tile(each, (5, 1)) for each in (here, there, here)]) + 0.3 * rng.standard_normal((15, 64))
    assert scenes([vectors]).first.tolist() == [0, 5, 10]


def test_a_film_of_one_place_is_one_scene() -> None:
    rng = np.random.default_rng(0)
    found = scenes([rng.standard_normal(64) + 0.3 * rng.standard_normal((40, 64))])
    assert found.first.tolist() == [0]
    assert found.begins.max() < 0.5


def test_representations_that_each_see_one_cut_find_both() -> None:
    rng = np.random.default_rng(1)
    a, b, c, d = rng.standard_normal((4, 64))
    seen = np.vstack([np.tile(a, (6, 1)), np.tile(b, (12, 1))]) + 0.3 * rng.standard_normal((18, 64))
    heard = np.vstack([np.tile(c, (12, 1)), np.tile(d, (6, 1))]) + 0.3 * rng.standard_normal((18, 64))
    assert scenes([seen, heard]).first.tolist() == [0, 6, 12]


def test_the_length_of_vectors_and_what_all_shots_share_change_nothing() -> None:
    vectors, _ = story()
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    lengths = np.random.default_rng(1).uniform(0.5, 2, (len(vectors), 1))
    np.testing.assert_allclose(scenes([vectors * lengths]).begins, scenes([vectors]).begins, atol=1e-9)
    np.testing.assert_allclose(scenes([unit + 1e-4]).begins, scenes([unit]).begins, atol=0.05)


def test_where_dialogue_stops_a_scene_is_likelier_to_begin_even_if_all_words_are_alike() -> None:
    words = np.zeros((30, 8))
    words[:15] = np.random.default_rng(0).standard_normal((15, 8))
    found = scenes([words])
    assert found.begins.argmax() == 15
    assert found.first.tolist() == [0, 15]


@pytest.mark.parametrize("vectors", [np.zeros((7, 4)), np.ones((7, 4)), np.eye(7)[:2], np.ones((1, 4))])
def test_a_title_in_which_nothing_differs_or_too_short_to_tell_is_one_scene(vectors: np.ndarray) -> None:
    found = scenes([vectors])
    assert (found.first.tolist(), found.last.tolist()) == ([0], [len(vectors) - 1])
    assert not found.begins.any()


def test_a_scene_longer_than_the_longest_is_cut_and_the_title_still_done() -> None:
    rng = np.random.default_rng(0)
    found = scenes([rng.standard_normal(16) + 0.3 * rng.standard_normal((LONGEST_SCENE + 50, 16))])
    assert (found.last - found.first).max() < LONGEST_SCENE
    assert found.last[-1] == LONGEST_SCENE + 49


@pytest.mark.parametrize(
    "representations",
    [[], [np.zeros((0, 3))], [np.ones(3)], [np.ones((3, 2)), np.ones((4, 2))], [np.array([[1.0, np.nan]] * 4)]],
)
def test_what_is_no_representation_of_the_same_shots_is_refused(representations: list[np.ndarray]) -> None:
    with pytest.raises(ValueError, match="epresentation"):
        scenes(representations)


def test_a_scenes_embedding_is_the_direction_of_its_shots_whatever_their_lengths() -> None:
    vectors = np.array([[2.0, 0], [0, 1], [0, 5], [0, 0], [1, 0], [-1, 0]])
    made = scene_embeddings(vectors, np.array([0, 2, 3, 4]), np.array([1, 2, 3, 5]))
    half = np.sqrt(0.5)
    np.testing.assert_allclose(made, [[half, half], [0, 1], [0, 0], [0, 0]], atol=1e-6)
    assert made.dtype == np.float32
