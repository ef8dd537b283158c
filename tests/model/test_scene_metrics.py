import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.scene_metrics import METRICS, Judged, judge, mean_iou, on_shots, scene_results, scene_scores

TRUE = np.array([False, False, True, False, True, False])
START, END = np.arange(6.0), np.arange(1.0, 7.0)


def judged(scores: np.ndarray, found: np.ndarray, missed: int = 0) -> Judged:
    return Judged(TRUE, scores, found, START, END, missed)


def test_the_true_scenes_themselves_score_1_everywhere() -> None:
    assert scene_scores([judged(TRUE.astype(float), TRUE)]) == (1, 1, 1, 1)


def test_average_precision_is_that_of_the_ranking_by_hand() -> None:
    scores = np.array([9, 0.8, 0.9, 0.1, 0.7, 0.2])  # the first shot's does not count
    assert scene_scores([judged(scores, TRUE)]).ap == pytest.approx((1 / 1 + 2 / 3) / 2)


def test_a_beginning_at_which_no_shot_begins_counts_against_all_figures_of_beginnings() -> None:
    scores = scene_scores([judged(TRUE.astype(float), TRUE, missed=2)])
    assert scores.ap == pytest.approx((1 + 1 + 3 / 6 + 4 / 7) / 4, abs=0.02)
    assert scores.f1 == pytest.approx(2 * 2 / (2 + 4))


def test_one_cut_half_right_has_the_overlap_by_hand() -> None:
    found = np.array([False, False, False, True, False, False])
    # true [0,2) [2,4) [4,6), found [0,3) [3,6): best for the true ones 2/3, 1/4, 2/3; for the found ones 2/3, 2/3
    expected = ((2 / 3 + 1 / 4 + 2 / 3) / 3 + 2 / 3) / 2
    assert mean_iou(TRUE, found, START, END) == pytest.approx(expected)


def test_titles_are_averaged_in_title_ap_and_ranked_together_in_ap() -> None:
    right, wrong = judged(TRUE * 0.1, TRUE), judged(1.0 - TRUE, ~TRUE)
    scores = scene_scores([right, wrong])
    assert scores.title_ap == pytest.approx((1 + scene_scores([wrong]).ap) / 2)
    assert scores.ap < scores.title_ap


def test_without_a_true_beginning_there_is_no_average_precision() -> None:
    nothing = np.zeros(6, dtype=bool)
    scores = scene_scores([Judged(nothing, np.zeros(6), nothing, START, END)])
    assert np.isnan(scores.ap)
    assert scores.miou == 1


def test_labels_are_laid_on_the_shots_that_begin_near_them_as_far_as_they_reach() -> None:
    begin_s, end_s = np.array([3.0, 1.2, 4.5]), np.array([4.5, 3.0, 5.0])
    labels = on_shots(begin_s, end_s, START)
    assert labels.true.tolist() == [False, False, False, True, True, False]  # at 4.5 s the shot of 4 s is the nearest
    assert (labels.judged, labels.missed) == (slice(1, 5), 0)
    between = on_shots(np.array([0.0, 10.0]), np.array([10.0, 30.0]), np.array([0.0, 8.0, 12.0, 20.0]))
    assert (between.true.any(), between.judged, between.missed) == (False, slice(0, 4), 1)


def test_only_what_labels_reach_is_judged() -> None:
    labels = on_shots(np.array([2.0, 4.0]), np.array([4.0, 5.0]), START)
    found = np.array([False, True, False, False, True, True])  # outside of the labels it is wrong
    assert scene_scores([judge(labels, found * 1.0, found, START, END)]) == (1, 1, 1, 1)


def test_a_single_labelled_scene_says_nothing_of_beginnings() -> None:
    labels = on_shots(np.array([2.0]), np.array([3.0]), START)
    assert (labels.true.any(), labels.judged, labels.missed) == (False, slice(2, 3), 0)


def test_results_have_intervals_over_titles_that_hold_the_figures() -> None:
    rng = np.random.default_rng(0)
    titles = [judged(TRUE + rng.normal(size=6), TRUE ^ (rng.random(6) < 0.2)) for _ in range(8)]
    scores, results = scene_scores(titles), scene_results(titles)
    assert [result.metric for result in results] == list(METRICS)
    assert [result.value for result in results] == pytest.approx(list(scores))
    for result in results:
        assert result.value is not None
        assert result.ci_low is not None
        assert result.ci_high is not None
        assert result.ci_low < result.value < result.ci_high
        assert (result.n_clips, result.n_titles, result.note) == (40, 8, None)
    assert scene_results(titles) == results


def test_too_few_titles_have_no_figures_and_a_note() -> None:
    results = scene_results([judged(TRUE * 1.0, TRUE)] * 3)
    assert {result.value for result in results} == {None}
    assert {result.note for result in results} == {"too few labels: scenes begin within 3 titles; 4 are needed"}


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=20))
def test_overlap_is_symmetric_between_0_and_1_and_1_only_for_equal_scenes(begins: list[tuple[bool, bool]]) -> None:
    true, found = np.array(begins).T
    start = np.arange(len(begins), dtype=float)
    iou = mean_iou(true, found, start, start + 1)
    assert iou == pytest.approx(mean_iou(found, true, start, start + 1))
    assert 0 < iou <= 1
    assert (iou == 1) == (true[1:] == found[1:]).all()
