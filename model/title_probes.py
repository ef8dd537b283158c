"""What a title's vectors tell of it: its genres, by linear probes, and which titles are of its series, by likeness."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from model.probes import (
    BOOTSTRAP,
    MINIMUM_CLIPS,
    MINIMUM_TITLES,
    Ranking,
    label_columns,
    probe,
    resampled,
)
from model.splits import group_of
from model.tasks import TASKS

GENRES = TASKS["clip_genre"]
"""Titles' genres are predicted and scored as clips' are."""
CHANCE = "chance"


class TitleResult(NamedTuple):
    """A score with its 95 % interval over works, or a note that says why there is none. n_works: series, and titles
    without one, which folds and samples keep together."""

    task: str
    representation: str
    metric: str
    value: float | None
    ci_low: float | None
    ci_high: float | None
    n_titles: int
    n_works: int
    note: str | None


class Titles(NamedTuple):
    """Of n titles: vectors, (n, d) by representation, genres, and the id of the series, if any."""

    ids: Sequence[str]
    vectors: Mapping[str, NDArray[np.floating]]
    genres: Sequence[Sequence[str]]
    series: Sequence[str | None]


def title_genres(titles: Titles, seed: int = 0) -> Iterator[TitleResult]:
    """Macro average precision over the genres that are frequent enough, of each representation and of chance, of titles
    with a genre. No series is divided between what is learnt from and what is predicted."""
    shown = [title for title, genres in enumerate(titles.genres) if genres]
    genres = [titles.genres[title] for title in shown]
    works = [" ".join(group_of(titles.ids[title], titles.series[title])) for title in shown]
    about = len(shown), len(set(works))
    if len(shown) < MINIMUM_CLIPS or len(set(works)) < MINIMUM_TITLES:
        note = (
            f"too few titles: {len(shown)} of {len(set(works))} works have genres; {MINIMUM_CLIPS} titles of "
            f"{MINIMUM_TITLES} works are needed (the episodes of a series are one)"
        )
        for name in (*titles.vectors, CHANCE):
            yield TitleResult("title_genre", name, GENRES.metric, None, None, None, *about, note)
        return
    for name, vectors in titles.vectors.items():
        found = probe(GENRES.name, list(vectors[shown]), genres, works, seed)
        yield TitleResult(
            "title_genre", name, found.metric, found.value, found.ci_low, found.ci_high, *about, found.note
        )
    groups = np.asarray(works)
    truth = label_columns(GENRES, genres, groups)[1]
    if truth.shape[1]:
        nothing = [Ranking(of_genre, np.zeros(len(shown)), np.arange(len(shown))) for of_genre in truth.T]

        def share(chosen: NDArray[np.int64]) -> float:
            times = np.bincount(chosen, minlength=len(shown))
            return float(np.nanmean([genre.average_precision(times) for genre in nothing]))

        yield _with_interval("title_genre", CHANCE, GENRES.metric, share, groups, about, seed)


def title_series(titles: Titles, seed: int = 0) -> Iterator[TitleResult]:
    """Mean average precision with which a title's likeness to all others ranks those of its series first, by each
    representation and by chance. Nothing is learnt."""
    series = np.array([each or "" for each in titles.series])
    same = (series[:, None] == series) & (series[:, None] != "")
    np.fill_diagonal(same, False)
    asked = np.flatnonzero(same.any(axis=1))
    groups = series[asked]
    about = len(series), len({group_of(*each) for each in zip(titles.ids, titles.series, strict=True)})
    if len(set(groups)) < MINIMUM_TITLES:
        note = f"too few series: {len(set(groups))} have two titles or more; {MINIMUM_TITLES} are needed"
        for name in (*titles.vectors, CHANCE):
            yield TitleResult("title_series", name, "MAP", None, None, None, *about, note)
        return
    others = len(series) - 1
    for name, vectors in titles.vectors.items():
        found = _precisions(vectors, same, asked)
        yield _with_interval("title_series", name, "MAP", _mean_of(found), groups, about, seed)
    expected = np.array([expected_precision(int(same[title].sum()), others) for title in asked])
    yield _with_interval("title_series", CHANCE, "MAP", _mean_of(expected), groups, about, seed)


def expected_precision(relevant: int, ranked: int) -> float:
    """Average precision of random orders, in the mean: a hit at rank r counts itself and its share of those before."""
    first = float((1 / np.arange(1, ranked + 1)).mean())
    return first + (1 - first) * (relevant - 1) / max(1, ranked - 1)


def _precisions(
    vectors: NDArray[np.floating], same: NDArray[np.bool_], asked: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Of each title that is asked for, (m,): average precision of the others' order by cosine."""
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
    likeness = unit @ unit.T
    found = []
    for title in asked:
        others = np.arange(len(vectors)) != title
        ranking = Ranking(same[title][others], likeness[title][others], np.arange(len(vectors) - 1))
        found.append(ranking.average_precision(np.ones(len(vectors) - 1, dtype=np.int64)))
    return np.array(found)


def _mean_of(values: NDArray[np.float64]) -> Callable[[NDArray[np.int64]], float]:
    return lambda chosen: float(values[chosen].mean())


def _with_interval(
    task: str,
    representation: str,
    metric: str,
    score: Callable[[NDArray[np.int64]], float],
    groups: NDArray[np.str_],
    about: tuple[int, int],
    seed: int,
) -> TitleResult:
    low, high = np.nanpercentile([score(chosen) for chosen in resampled(groups, seed, BOOTSTRAP)], [2.5, 97.5])
    value = score(np.arange(len(groups)))
    return TitleResult(task, representation, metric, value, float(low), float(high), *about, None)
