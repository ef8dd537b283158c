import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.ad_breaks import ad_breaks, pause_at

START = np.arange(10) * 10.0
END = START + 10


def boundaries(**at: float) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities by shot, s3=0.9, and the scenes that begin there."""
    begins = np.zeros(10)
    for name, value in at.items():
        begins[int(name[1:])] = value
    return begins, np.append(0, np.flatnonzero(begins))


def test_the_clearer_boundary_comes_first_where_nothing_else_differs() -> None:
    ranked = ad_breaks(*boundaries(s3=0.5, s6=0.9), START, END, None, apart_s=1)
    assert [each.shot for each in ranked] == [6, 3]
    assert ranked[0] == (6, 60.0, 0.9, 0.9, None, 40.0)


def test_a_break_in_the_middle_of_a_line_comes_last() -> None:
    cues = np.array([[55.0, 62], [10, 12]])
    ranked = ad_breaks(*boundaries(s3=0.5, s6=0.9), START, END, cues, apart_s=1)
    assert [each.shot for each in ranked] == [3, 6]
    assert (ranked[0].pause_s, ranked[1].pause_s) == (43, 0)
    assert ranked[1].score == 0


def test_a_break_just_after_a_better_one_counts_less_than_a_weaker_one_far_from_it() -> None:
    ranked = ad_breaks(*boundaries(s5=0.9, s6=0.8, s8=0.6), START, END, None, apart_s=30)
    assert [each.shot for each in ranked] == [5, 8, 6]
    assert ranked[2].gap_s == 10
    assert ranked[2].score == pytest.approx(0.8 / 3)


def test_the_pause_reaches_from_cue_to_cue_or_to_the_titles_ends() -> None:
    cues = np.array([[5.0, 8], [20, 25]])
    assert pause_at(10, cues, 0, 100) == 12
    assert pause_at(2, cues, 0, 100) == 5
    assert pause_at(30, cues, 0, 100) == 75
    assert pause_at(22, cues, 0, 100) == 0
    assert pause_at(8, cues, 0, 100) == 12
    assert pause_at(8, np.zeros((0, 2)), 0, 100) == 100


times = st.lists(st.tuples(st.floats(0, 100), st.floats(0, 20)), max_size=8)


@given(st.lists(st.floats(0, 1), min_size=10, max_size=10), times, st.floats(0.1, 1000))
def test_every_scenes_beginning_is_ranked_once_with_a_score_from_0_to_1(
    probabilities: list[float], spans: list[tuple[float, float]], apart_s: float
) -> None:
    first = np.append(0, np.flatnonzero(np.array(probabilities[1:]) > 0.5) + 1)
    cues = np.array([(start, start + length) for start, length in spans]).reshape(-1, 2)
    ranked = ad_breaks(np.array(probabilities), first, START, END, cues, apart_s)
    assert sorted(each.shot for each in ranked) == first[1:].tolist()
    assert all(0 <= each.score <= each.boundary for each in ranked)
    scores = [each.score for each in ranked]
    assert scores == sorted(scores, reverse=True)


def test_a_title_of_one_scene_has_no_break_and_what_does_not_fit_is_refused() -> None:
    assert ad_breaks(*boundaries(), START, END, None, apart_s=1) == []
    with pytest.raises(ValueError, match="apart_s"):
        ad_breaks(*boundaries(s3=1), START, END, None, apart_s=0)
    with pytest.raises(ValueError, match="do not fit"):
        ad_breaks(*boundaries(s3=1), START[:4], END, None, apart_s=1)
