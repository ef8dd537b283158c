import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.windows import most_central, windows

sizes = st.tuples(st.integers(1, 200), st.integers(1, 60), st.integers(1, 60)).filter(lambda x: x[2] <= x[1])


@settings(deadline=None)
@given(sizes)
def test_windows_cover_every_shot_and_none_is_too_long(case: tuple[int, int, int]) -> None:
    n, size, stride = case
    covered = np.zeros(n, dtype=bool)
    for start, stop in windows(n, size, stride):
        assert 0 <= start < stop <= n
        assert stop - start == min(n, size)
        covered[start:stop] = True
    assert covered.all()


@settings(deadline=None)
@given(sizes)
def test_each_shot_is_taken_from_a_window_that_holds_it_and_none_holds_it_nearer_its_middle(
    case: tuple[int, int, int],
) -> None:
    n, size, stride = case
    held = windows(n, size, stride)
    off_centre = np.array(
        [[abs(shot - (a + b - 1) / 2) if a <= shot < b else np.inf for a, b in held] for shot in range(n)]
    )
    chosen = off_centre[np.arange(n), most_central(n, size, stride)]
    assert np.isfinite(chosen).all()
    assert (chosen == off_centre.min(axis=1)).all()


def test_a_title_of_512_shots_is_one_window_and_one_of_513_two() -> None:
    assert windows(512) == [(0, 512)]
    assert windows(513) == [(0, 512), (1, 513)]
    assert windows(1000) == [(0, 512), (256, 768), (488, 1000)]


def test_far_from_the_ends_a_shot_sees_at_least_a_quarter_window_on_both_sides() -> None:
    held = windows(5000)
    chosen = most_central(5000)
    for shot in range(256, 5000 - 256):
        start, stop = held[chosen[shot]]
        assert min(shot - start, stop - 1 - shot) >= 127


@pytest.mark.parametrize("n", [1, 2])
def test_the_shortest_titles_are_one_window(n: int) -> None:
    assert windows(n) == [(0, n)]
    assert most_central(n).tolist() == [0] * n
