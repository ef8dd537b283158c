"""Linear probes: what they find, what they must not find, and by whose arithmetic."""

from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import average_precision_score
from sklearn.model_selection import GroupKFold
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_info, threadpool_limits

from model import probes
from model.probes import Labelled, Ranking, fit_logistic, pool, probe, probe_each, shots_of
from model.tasks import GENRES, TASKS

RNG = np.random.default_rng
WIDTH = 24


def titles_of(n_titles: int, clips_each: int) -> list[str]:
    return [f"title-{title:02}" for title in range(n_titles) for _ in range(clips_each)]


def one_hot(titles: Sequence[str]) -> NDArray[np.float64]:
    """Features that name the title of a clip and tell nothing else."""
    return (np.asarray(titles)[:, None] == np.unique(titles)[None, :]).astype(np.float64)


def precision_at_each_positive(truth: NDArray[np.bool_], predicted: NDArray[np.float64]) -> float:
    """Average precision for predictions without ties, counted out by hand."""
    ranked = truth[np.argsort(-predicted)]
    return float(np.mean([ranked[: place + 1].mean() for place in np.flatnonzero(ranked)]))


def tau_of(truth: NDArray[np.float64], predicted: NDArray[np.float64]) -> float:
    """Kendall's tau without ties: pairs in order less pairs out of order, over all pairs."""
    order = np.sign(truth[:, None] - truth[None]) * np.sign(predicted[:, None] - predicted[None])
    n = len(truth)
    return float(order.sum() / (n * (n - 1)))


def out_of_fold(
    task: str, features: NDArray[np.float64], targets: NDArray[np.float64], titles: list[str]
) -> NDArray[np.float64]:
    """The predictions of scikit-learn on the standardised features themselves."""
    predicted = np.zeros(len(targets))
    for training, held_out in GroupKFold(TASKS[task].folds).split(features, groups=titles):
        scaler = StandardScaler().fit(features[training])
        seen, unseen = scaler.transform(features[training]), scaler.transform(features[held_out])
        if task == "clip_popularity":
            predicted[held_out] = Ridge(alpha=probes.RIDGE_ALPHA).fit(seen, targets[training]).predict(unseen)
        else:
            model = LogisticRegression(C=probes.LOGISTIC_C, tol=1e-8, max_iter=1000).fit(seen, targets[training] > 0)
            predicted[held_out] = model.predict_proba(unseen)[:, 1]
    return predicted


@pytest.mark.parametrize("task", TASKS)
def test_a_signal_that_tells_everything_scores_near_one(task: str) -> None:
    rng = RNG(1)
    titles = titles_of(12, 8)
    signal = rng.normal(size=(len(titles), 2))
    features = signal @ rng.normal(size=(2, 128)) + 0.1 * rng.normal(size=(len(titles), 128))
    if task == "clip_popularity":
        targets: list = list(signal[:, 0])
    elif task == "clip_retrieval":
        targets = [int(value > 0.3) for value in signal[:, 0]]
    else:
        names = ("Drama", "Comedy") if task == "clip_genre" else ("calm", "loud")
        targets = [[name for name, value in zip(names, row, strict=True) if value > 0] for row in signal]
    found = probe(task, list(features), targets, titles)
    assert found.value is not None
    assert found.value > 0.95
    assert found.ci_low is not None
    assert found.ci_high is not None
    assert found.ci_low <= found.value <= found.ci_high <= 1
    assert (found.metric, found.n_clips, found.n_titles, found.note) == (TASKS[task].metric, 96, 12, None)


@pytest.mark.parametrize("task", ["clip_popularity", "clip_retrieval", "clip_tone"])
def test_random_features_score_as_chance_does(task: str) -> None:
    rng = RNG(2)
    titles = titles_of(20, 15)
    features = list(rng.normal(size=(len(titles), WIDTH)))
    truth = rng.random(len(titles)) < 0.4
    targets: list = list(truth.astype(int))
    chance = float(truth.mean())
    if task == "clip_popularity":
        targets, chance = list(rng.random(len(titles))), 0.0
    elif task == "clip_tone":
        targets = [["loud"] if loud else [] for loud in truth]
    found = probe(task, features, targets, titles)
    assert found.value is not None
    assert abs(found.value - chance) < 0.12
    assert found.ci_low is not None
    assert found.ci_high is not None
    assert found.ci_low < found.value < found.ci_high


def test_no_title_stands_in_both_training_and_test() -> None:
    """Labels are a property of the title, and the features name the title: with a clip of each title in training, the
    score would be 1. Without, the title says nothing, and every held-out clip of a fold gets the same prediction."""
    titles = [str(title) for title in RNG(3).permutation(titles_of(20, 10))]
    loud = RNG(3).permutation(np.repeat([0, 1], 10))
    targets = [int(loud[int(title.removeprefix("title-"))]) for title in titles]
    found = probe("clip_retrieval", list(one_hot(titles)), targets, titles)
    assert found.value is not None
    assert found.value < 0.6

    known = [np.array([target, 0.0]) for target in targets]
    told = probe("clip_retrieval", known, targets, titles)
    assert told.value == pytest.approx(1)


def test_popularity_is_ranked_within_titles() -> None:
    """The scores differ by title far more than within it, and the features tell the title's part alone."""
    rng = RNG(4)
    titles = titles_of(20, 10)
    of_title = np.repeat(10 * np.arange(20), 10).astype(np.float64)
    within = rng.normal(size=len(titles))
    rates = list(of_title + within)
    title_alone = np.stack([of_title, rng.normal(size=len(titles))], axis=1)
    offset_only = probe("clip_popularity", list(title_alone), rates, titles)
    assert offset_only.value is not None
    assert abs(offset_only.value) < 0.15
    both = probe("clip_popularity", list(np.stack([of_title, within], axis=1)), rates, titles)
    assert both.value is not None
    assert both.value > 0.95


@pytest.mark.parametrize("width", [6, 400])
def test_the_score_is_scikit_learns_on_the_features_as_they_are(width: int) -> None:
    """With fewer features than clips and with more: the probe computes in another basis, which must not show. The
    average precision and tau are counted out by hand."""
    rng = RNG(5)
    titles = titles_of(12, 6)
    features = rng.normal(size=(len(titles), width)) * rng.uniform(0.1, 10, size=width) + rng.normal(size=width)
    signal = features[:, :3].sum(axis=1) + rng.normal(size=len(titles))

    worthy = (signal > np.median(signal)).astype(np.float64)
    predicted = out_of_fold("clip_retrieval", features, worthy, titles)
    found = probe("clip_retrieval", list(features), list(worthy.astype(int)), titles)
    assert found.value == pytest.approx(precision_at_each_positive(worthy > 0, predicted), abs=2e-3)

    predicted = out_of_fold("clip_popularity", features, signal, titles)
    by_title = [tau_of(signal[[t == name for t in titles]], predicted[[t == name for t in titles]])
                for name in sorted(set(titles))]  # fmt: skip
    found = probe("clip_popularity", list(features), list(signal), titles)
    assert found.value == pytest.approx(np.mean(by_title), abs=1e-9)


def test_micro_and_macro_average_precision_are_the_published_ones() -> None:
    """Micro: all labels' predictions in one ranking. Macro: the mean over genres, whatever their number of clips."""
    rng = RNG(6)
    titles = titles_of(10, 8)
    features = rng.normal(size=(len(titles), 12))
    often = features[:, 0] + rng.normal(size=len(titles)) > 0
    seldom = features[:, 1] + rng.normal(size=len(titles)) > 1
    targets = [["Drama"] * bool(a) + ["Horror"] * bool(b) for a, b in zip(often, seldom, strict=True)]
    columns = [out_of_fold("clip_genre", features, label.astype(np.float64), titles) for label in (often, seldom)]

    macro = probe("clip_genre", list(features), targets, titles)
    assert macro.value == pytest.approx(
        np.mean([precision_at_each_positive(t, p) for t, p in zip((often, seldom), columns, strict=True)]), abs=2e-3
    )
    micro = probe("clip_tone", list(features), targets, titles)
    both = precision_at_each_positive(np.concatenate([often, seldom]), np.concatenate(columns))
    assert micro.value == pytest.approx(both, abs=2e-3)
    assert macro.value != micro.value


@given(
    st.lists(st.tuples(st.booleans(), st.integers(0, 4), st.integers(0, 3)), min_size=1, max_size=30).filter(
        lambda rows: any(positive and times for positive, _, times in rows)
    )
)
def test_average_precision_is_scikit_learns_however_often_a_clip_counts(rows: list[tuple[bool, int, int]]) -> None:
    """Predictions may be alike, as those of clips without a modality are."""
    truth, predicted, times = (np.array(column) for column in zip(*rows, strict=True))
    found = Ranking(truth, predicted, np.arange(len(rows))).average_precision(times)
    chosen = np.repeat(np.arange(len(rows)), times)
    assert found == pytest.approx(average_precision_score(truth[chosen], predicted[chosen]), abs=1e-12)


@pytest.mark.parametrize("width", [6, 200])
def test_labels_that_are_learnt_together_are_each_scikit_learns(width: int) -> None:
    rng = RNG(15)
    features = rng.normal(size=(60, width)) * rng.uniform(0.1, 30, size=width)
    features -= features.mean(axis=0)
    often, seldom = features[:, 0] > 0, features[:, 1] > np.sort(features[:, 1])[-4]
    weights, bias = fit_logistic(features, np.stack([often, seldom, np.ones(60, bool), np.zeros(60, bool)], axis=1))
    for label, truth in enumerate((often, seldom)):
        model = LogisticRegression(C=probes.LOGISTIC_C, tol=1e-10, max_iter=10_000).fit(features, truth)
        expected = model.decision_function(features)
        assert features @ weights[:, label] + bias[label] == pytest.approx(expected, abs=1e-4)
    assert not weights[:, 2:].any()
    assert bias[2:].tolist() == [np.inf, -np.inf]


def test_only_the_eleven_genres_are_probed() -> None:
    rng = RNG(7)
    titles = titles_of(8, 6)
    features = rng.normal(size=(len(titles), 3))
    plain = [["Drama"] if value > 0 else [] for value in features[:, 0]]
    with_others = [[*labels, "Western"] if other > 0 else labels
                   for labels, other in zip(plain, features[:, 1], strict=True)]  # fmt: skip
    assert len(GENRES) == 11
    assert "Western" not in GENRES
    assert probe("clip_genre", list(features), with_others, titles) == probe(
        "clip_genre", list(features), plain, titles
    )


def test_a_label_that_is_too_rare_to_learn_is_left_out() -> None:
    rng = RNG(8)
    titles = titles_of(8, 6)
    features = rng.normal(size=(len(titles), 3))
    plain = [["calm"] if value > 0 else [] for value in features[:, 0]]
    in_one_title = [[*labels, "eerie"] if title == "title-03" else labels
                    for labels, title in zip(plain, titles, strict=True)]  # fmt: skip
    expected = probe("clip_tone", list(features), plain, titles)
    assert probe("clip_tone", list(features), in_one_title, titles) == expected
    assert probe("clip_tone", list(features), [*plain[:-1], [*plain[-1], "odd"]], titles) == expected


def test_too_few_labels_give_a_note_and_no_number() -> None:
    rng = RNG(9)

    def found(task: str, n_titles: int, clips_each: int, targets: list) -> probes.ProbeResult:
        return probe(task, list(rng.normal(size=(len(targets), 5))), targets, titles_of(n_titles, clips_each))

    cases = {
        "19 clips of 19 titles": found("clip_popularity", 19, 1, list(rng.random(19))),
        "30 clips of 3 titles": found("clip_retrieval", 3, 10, [0, 1] * 15),
        "no label has 4 clips": found(
            "clip_tone", 5, 5, [["a", "b", "c"][: n % 4] if n < 4 else [] for n in range(25)]
        ),
        "as many without": found("clip_retrieval", 5, 5, [1] * 25),
        "no label has 4": found("clip_genre", 5, 5, [["Western"]] * 25),
        "no title has two clips of different score": found("clip_popularity", 5, 5, [0.5] * 25),
    }
    for reason, result in cases.items():
        assert (result.value, result.ci_low, result.ci_high) == (None, None, None)
        assert result.note is not None
        assert result.note.startswith("too few labels: ")
        assert reason in result.note
    assert cases["30 clips of 3 titles"][-3:-1] == (30, 3)


def test_labels_of_no_clip_at_all_give_a_note() -> None:
    titles = titles_of(5, 5)
    result = probe("ad_relevancy", list(RNG(0).normal(size=(25, 4))), [[] for _ in titles], titles)
    assert result.value is None
    assert result.note


@pytest.mark.parametrize("task", ["clip_retrieval", "clip_popularity"])
def test_a_modality_that_no_title_has_scores_as_chance(task: str) -> None:
    """Its vectors are all zeros; in some titles only, they are zeros in the others."""
    rng = RNG(10)
    titles = titles_of(8, 6)
    targets = [0, 1] * 24 if task == "clip_retrieval" else list(rng.random(48))
    nowhere = probe(task, [np.zeros(7)] * 48, targets, titles)
    assert nowhere.value == pytest.approx(0.5 if task == "clip_retrieval" else 0)
    somewhere = probe(task, [np.full(7, float(title == "title-01")) for title in titles], targets, titles)
    assert somewhere.value == pytest.approx(nowhere.value, abs=0.06)


def test_titles_whose_clips_are_predicted_alike_count_as_unranked() -> None:
    """Half of the titles have this modality and are ranked perfectly; the others have none of it. They are not left
    out: a representation is not the better for having nothing to say about them."""
    rng = RNG(11)
    titles = titles_of(12, 5)
    rates = rng.normal(size=len(titles))
    silent = np.repeat(np.arange(12) % 2 == 0, 5)
    found = probe("clip_popularity", list(np.where(silent, 0, rates)[:, None]), list(rates), titles)
    assert found.value == pytest.approx(0.5)


def test_the_same_arguments_give_the_same_result_and_the_seed_moves_the_interval_alone() -> None:
    rng = RNG(12)
    titles = titles_of(8, 6)
    features = list(rng.normal(size=(len(titles), 30)).astype(np.float32))
    targets = list(rng.random(len(titles)))
    first = probe("clip_popularity", features, targets, titles)
    assert probe("clip_popularity", features, targets, titles) == first
    other = probe("clip_popularity", features, targets, titles, seed=1)
    assert other.value == first.value
    assert (other.ci_low, other.ci_high) != (first.ci_low, first.ci_high)


def test_what_is_probed_side_by_side_scores_as_it_does_alone() -> None:
    rng = RNG(14)
    titles = titles_of(8, 6)
    retrieval = [int(value > 0.4) for value in rng.random(len(titles))]
    asked = [
        Labelled(task, list(rng.normal(size=(len(titles), 200))), targets, titles)
        for task, targets in [("clip_popularity", list(rng.random(len(titles)))), ("clip_retrieval", retrieval)] * 8
    ]
    assert probe_each(asked) == [probe(*clips) for clips in asked]


def test_the_interval_is_one_over_titles() -> None:
    """Each clip five times over: the clips are five times as many, the titles are as many as before."""
    rng = RNG(13)
    titles = titles_of(10, 4)
    signal = rng.normal(size=len(titles))
    features = np.stack([signal + rng.normal(size=len(titles)), rng.normal(size=len(titles))], axis=1)
    targets = (signal > 0).astype(int)
    once = probe("clip_retrieval", list(features), list(targets), titles)
    often = probe(
        "clip_retrieval", list(np.repeat(features, 5, 0)), list(np.repeat(targets, 5)), list(np.repeat(titles, 5))
    )
    assert None not in (once.ci_low, once.ci_high, often.ci_low, often.ci_high)
    width, as_wide = once.ci_high - once.ci_low, often.ci_high - often.ci_low  # type: ignore[operator]
    assert width > 0.05
    assert as_wide == pytest.approx(width, rel=0.3)


def test_features_that_are_not_finite_are_refused() -> None:
    features = RNG(0).normal(size=(25, 3))
    features[24, 2] = np.inf
    with pytest.raises(ValueError, match="1 numbers of the features are NaN or infinite"):
        probe("clip_retrieval", list(features), [0, 1, 1, 0, 1] * 5, titles_of(5, 5))


def test_an_unknown_task_is_refused() -> None:
    with pytest.raises(KeyError):
        probe("clip_weather", [], [], [])


def test_a_probe_keeps_to_one_thread_and_gives_the_others_back() -> None:
    def threads() -> list[int]:
        return [library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"]

    seen: list[list[int]] = []

    class Watched(list):  # type: ignore[type-arg]
        def __iter__(self) -> Iterator[NDArray[np.float64]]:
            seen.append(threads())
            return super().__iter__()

    with threadpool_limits(limits=2, user_api="blas"):
        before = threads()
        probe("clip_retrieval", Watched(RNG(0).normal(size=(25, 3))), [0, 1, 1, 0, 1] * 5, titles_of(5, 5))
        assert threads() == before
    assert 2 in before
    assert seen
    assert {count for counts in seen for count in counts} == {1}


START = np.array([0.0, 10.0, 20.0, 30.0])
END = np.array([10.0, 20.0, 30.0, 31.0])


@pytest.mark.parametrize(
    ("clip", "shots"),
    [
        ((0, 31), [0, 1, 2, 3]),
        ((10, 20), [1]),
        ((5, 25), [0, 1, 2]),  # a half is enough
        ((5.1, 24.9), [1]),
        ((12, 14), [1]),  # within one shot
        ((18, 23), [2]),  # half of none: the one of which there is most
        ((30.9, 99), [3]),  # over the end
        ((-5, 1), [0]),
    ],
)
def test_a_clip_is_the_shots_that_lie_at_least_half_in_it(clip: tuple[float, float], shots: list[int]) -> None:
    assert np.flatnonzero(shots_of(START, END, *clip)).tolist() == shots


@pytest.mark.parametrize("clip", [(31, 40), (-3, 0), (12, 12), (20, 10)])
def test_a_clip_outside_of_all_shots_is_refused(clip: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="no shot lies between"):
        shots_of(START, END, *clip)
    with pytest.raises(ValueError, match="no shot lies between"):
        pool(START, END, np.ones((4, 2)), *clip)
    with pytest.raises(ValueError, match="no shot lies between"):
        shots_of(np.array([]), np.array([]), 0, 1)


def test_a_clips_vector_is_the_mean_of_its_shots() -> None:
    vectors = np.array([[1, 2], [3, 5], [5, 0], [9, 9]], dtype=np.float32)
    assert pool(START, END, vectors, 0, 20).tolist() == [2, 3.5]
    assert pool(START, END, vectors, 12, 13).tolist() == [3, 5]
