from hypothesis import given
from hypothesis import strategies as st

from model.splits import group_of, held_out

names = st.sets(st.text("abcdefgh", min_size=1, max_size=6), min_size=2, max_size=40)


@given(names, st.floats(0.01, 0.99), st.integers(0, 99))
def test_some_are_held_out_and_some_are_not_whatever_the_share(titles: set[str], share: float, seed: int) -> None:
    groups = [group_of(title, None) for title in titles]
    held = held_out(groups, share, seed)
    assert 0 < len(held) < len(groups)
    assert held == held_out(reversed(groups), share, seed)


def test_episodes_of_a_series_are_one_group_and_a_series_is_no_title_of_its_name() -> None:
    assert group_of("a", "s") == group_of("b", "s") != group_of("s", None)


def test_the_share_held_out_is_that_asked_for_and_a_function_of_seed_and_name_alone() -> None:
    # Frozen: an encoder's weights are started from and resumed only under the split that they were trained with.
    groups = [group_of(f"title-{n}", None) for n in range(10)]
    assert {name for _, name in held_out(groups, 0.3, 0)} == {"title-1", "title-4", "title-6"}
    assert 150 < len(held_out([group_of(str(n), None) for n in range(2000)], 0.1, 0)) < 250
