import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.highlights import highlights

START = np.arange(8) * 2.0
END = START + 2


def test_the_best_stretch_comes_first_and_the_next_shares_no_shot_with_it() -> None:
    scores = np.array([0, 0, 0.9, 0.8, 0.7, 0, 0.5, 0])
    found = highlights(scores, START, END, shortest_s=4, longest_s=6, k=2)
    assert found[0] == (2, 3, 4.0, 8.0, pytest.approx(0.85))
    assert found[1] == (4, 6, 8.0, 14.0, pytest.approx(0.4))


def test_long_shots_count_by_their_length() -> None:
    found = highlights(np.array([1.0, 0]), np.array([0.0, 3]), np.array([3.0, 4]), 4, 4, 1)
    assert found[0].score == pytest.approx(0.75)


def test_a_title_without_a_stretch_of_the_length_has_no_highlight() -> None:
    assert highlights(np.ones(8), START, END, shortest_s=17, longest_s=30, k=3) == []
    assert highlights(np.ones(1), np.array([0.0]), np.array([60.0]), 5, 30, 3) == []


def test_of_equal_stretches_the_longer_then_the_earlier_is_taken() -> None:
    assert [clip[:2] for clip in highlights(np.ones(8), START, END, 4, 6, k=3)] == [(0, 2), (3, 5), (6, 7)]


shots = st.lists(st.tuples(st.floats(0, 1), st.floats(0.1, 5)), min_size=1, max_size=20)


@settings(deadline=None)
@given(shots, st.floats(0.5, 5), st.floats(0, 10), st.integers(0, 5))
def test_highlights_are_whole_shots_of_the_length_without_overlap_best_first(
    title: list[tuple[float, float]], shortest_s: float, more_s: float, k: int
) -> None:
    scores, lengths = np.array(title).T
    end_s = np.cumsum(lengths)
    start_s = np.append(0, end_s[:-1])
    found = highlights(scores, start_s, end_s, shortest_s, shortest_s + more_s, k)
    assert len(found) <= k
    held = [shot for clip in found for shot in range(clip.first_shot, clip.last_shot + 1)]
    assert len(set(held)) == len(held)
    for clip in found:
        assert clip.start_s == start_s[clip.first_shot]
        assert clip.end_s == end_s[clip.last_shot]
        assert shortest_s - 1e-5 <= clip.end_s - clip.start_s <= shortest_s + more_s + 1e-5
        assert -1e-9 <= clip.score <= scores.max() + 1e-9
    ranks = [clip.score for clip in found]
    assert ranks == sorted(ranks, reverse=True)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="no lengths"):
        highlights(np.ones(8), START, END, 5, 4, 1)
    with pytest.raises(ValueError, match="do not fit"):
        highlights(np.ones(7), START, END, 2, 4, 1)
    with pytest.raises(ValueError, match="NaN"):
        highlights(np.full(8, np.nan), START, END, 2, 4, 1)
