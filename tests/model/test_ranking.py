import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.ranking import reciprocal_rank_fusion

rankings = st.dictionaries(st.sampled_from("abc"), st.lists(st.integers(0, 8), unique=True), max_size=3)


def test_what_two_lists_agree_on_comes_before_what_one_list_puts_first() -> None:
    fused = reciprocal_rank_fusion({"video": ["a", "b"], "text": ["c", "b"]})
    assert [each.key for each in fused] == ["b", "a", "c"]
    assert fused[0].places == {"video": 2, "text": 2}
    assert fused[0].score == pytest.approx(2 / 62)


@given(rankings)
def test_one_ranking_stays_as_it_is_and_several_hold_every_key_once(lists: dict[str, list[int]]) -> None:
    fused = reciprocal_rank_fusion(lists)
    keys = [each.key for each in fused]
    assert sorted(keys) == sorted(set().union(*lists.values()))
    assert [each.score for each in fused] == sorted((each.score for each in fused), reverse=True)
    for name, ranking in lists.items():
        assert [each.key for each in reciprocal_rank_fusion({name: ranking})] == ranking


@given(rankings, st.integers(0, 5))
def test_the_k_best_are_the_first_of_all(lists: dict[str, list[int]], k: int) -> None:
    assert reciprocal_rank_fusion(lists, k) == reciprocal_rank_fusion(lists)[:k]


@given(rankings, st.data())
def test_a_better_place_never_makes_a_key_come_later(lists: dict[str, list[int]], data: st.DataObject) -> None:
    names = [name for name, keys in lists.items() if len(keys) > 1]
    if not names:
        return
    name = data.draw(st.sampled_from(names))
    place = data.draw(st.integers(1, len(lists[name]) - 1))
    before = [each.key for each in reciprocal_rank_fusion(lists)]
    key = lists[name][place]
    raised = list(lists[name])
    raised[place - 1], raised[place] = raised[place], raised[place - 1]
    after = [each.key for each in reciprocal_rank_fusion({**lists, name: raised})]
    assert after.index(key) <= before.index(key)


def test_a_key_that_is_twice_in_one_list_is_refused() -> None:
    with pytest.raises(ValueError, match="twice in the ranking by text"):
        reciprocal_rank_fusion({"text": [1, 2, 1]})
