import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from model.titles import joined, nearest_titles, pooled

vectors = st.tuples(st.integers(2, 8), st.integers(1, 4)).flatmap(
    lambda shape: hnp.arrays(np.float64, shape, elements=st.floats(-2, 2, width=32))
)


def test_a_title_is_the_direction_of_its_shots_by_their_time_on_screen() -> None:
    shots = np.array([[5.0, 0], [0, 1], [0, 0]])
    np.testing.assert_allclose(pooled(shots, np.array([3.0, 4, 9])), [0.6, 0.8], atol=1e-6)


@given(vectors)
def test_a_titles_vector_has_norm_1_or_is_all_zeros(shots: np.ndarray) -> None:
    norm = np.linalg.norm(pooled(shots, np.ones(len(shots))))
    assert norm == pytest.approx(1, abs=1e-5) or norm == 0


def test_the_cosine_of_joined_vectors_is_the_mean_of_their_parts() -> None:
    a = {"video": np.array([1.0, 0]), "metadata": np.array([0, 2.0, 0])}
    b = {"video": np.array([3.0, 4]), "metadata": np.array([0, 0, 1.0])}
    assert joined(a) @ joined(b) == pytest.approx((0.6 + 0) / 2)
    assert not joined({"video": np.zeros(3)}).any()


def test_the_nearest_title_is_of_the_same_kind_and_the_part_that_carries_it_is_named() -> None:
    rng = np.random.default_rng(0)
    looks = rng.standard_normal((2, 32))
    video = np.repeat(looks, 3, axis=0) + 0.2 * rng.standard_normal((6, 32)) + 5
    found = nearest_titles({"video": video, "metadata": rng.standard_normal((6, 32))}, k=2)
    assert {each.title for each in found[0]} == {1, 2}
    assert {each.title for each in found[4]} == {3, 5}
    assert found[0][0].carried["video"] > 0.3 > found[0][0].carried["metadata"]


@settings(deadline=None)
@given(vectors, st.integers(1, 10))
def test_neighbours_are_others_ranked_and_their_parts_add_up(video: np.ndarray, k: int) -> None:
    audio = video[::-1] * 2
    for title, found in enumerate(nearest_titles({"video": video, "audio": audio}, k)):
        assert len(found) == min(k, len(video) - 1)
        others = [each.title for each in found]
        assert title not in others
        assert len(set(others)) == len(others)
        scores = [each.score for each in found]
        assert scores == sorted(scores, reverse=True)
        for each in found:
            assert -1.000001 <= each.score <= 1.000001
            assert sum(each.carried.values()) == pytest.approx(each.score, abs=1e-9)


def test_a_part_that_one_title_lacks_does_not_count_between_them() -> None:
    metadata = np.array([[1.0, 0], [1, 0], [-1, 0]])
    audio = np.array([[0.0, 0], [0, 1], [0, -1]])
    best = nearest_titles({"metadata": metadata, "audio": audio}, k=1)[0][0]
    assert best.title == 1
    assert best.carried["audio"] == 0
    assert best.score == best.carried["metadata"] == pytest.approx(1)


def test_a_catalogue_of_one_title_has_no_neighbours() -> None:
    assert nearest_titles({"video": np.ones((1, 3))}, k=5) == [[]]


def test_parts_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="different numbers"):
        nearest_titles({"video": np.ones((2, 3)), "audio": np.ones((3, 3))}, k=1)
    with pytest.raises(ValueError, match="NaN"):
        nearest_titles({"video": np.full((2, 3), np.nan)}, k=1)
    with pytest.raises(ValueError, match="k must"):
        nearest_titles({"video": np.ones((2, 3))}, k=0)
    with pytest.raises(ValueError, match="do not fit"):
        pooled(np.ones((2, 3)), np.ones(3))
    with pytest.raises(ValueError, match="NaN"):
        pooled(np.full((2, 3), np.inf), np.ones(2))
