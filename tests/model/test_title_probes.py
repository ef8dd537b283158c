import numpy as np
import pytest

from model.title_probes import CHANCE, TitleResult, Titles, expected_precision, title_genres, title_series

N = 48


@pytest.fixture
def titles() -> Titles:
    """Films of two genres, by turns; the first 24 are 8 series of three. "told" has genre and series in it, "blind"
    neither."""
    rng = np.random.default_rng(0)
    series = [f"s{title // 3}" if title < 24 else None for title in range(N)]
    genres = [[("Drama", "Comedy")[title // 3 % 2]] for title in range(N)]
    told = rng.normal(size=(N, 12)) * 0.3
    told[:, 0] += [3.0 if each == ["Drama"] else -3.0 for each in genres]
    told[np.arange(24), 2 + np.arange(24) // 3] += 3
    vectors = {"told": told, "blind": rng.normal(size=(N, 12))}
    return Titles([f"t{title:02d}" for title in range(N)], vectors, genres, series)


def by_name(results: list[TitleResult]) -> dict[str, TitleResult]:
    return {result.representation: result for result in results}


def test_genres_are_foretold_by_what_tells_them_and_not_by_what_does_not(titles: Titles) -> None:
    found = by_name(list(title_genres(titles)))
    assert found.keys() == {"told", "blind", CHANCE}
    assert (found["told"].ci_low or 0) > 0.6 > (found["blind"].ci_low or 1)
    assert found[CHANCE].value == pytest.approx(0.5)
    assert {(result.n_titles, result.n_works, result.note) for result in found.values()} == {(N, 8 + 24, None)}
    assert list(title_genres(titles)) == list(title_genres(titles))


def test_a_series_tells_nothing_of_its_own_episodes_genre(titles: Titles) -> None:
    # Every series has a direction of its own, and a genre by lot: who had seen an episode would know the others'.
    rng = np.random.default_rng(1)
    series = [f"s{title // 3}" for title in range(N)]
    lots = rng.permutation([["Drama"], ["Comedy"]] * 8).tolist()
    genres = [lots[title // 3] for title in range(N)]
    vectors = np.eye(16)[np.arange(N) // 3] + 0.1 * rng.normal(size=(N, 16))
    found = by_name(list(title_genres(Titles(titles.ids, {"of_series": vectors}, genres, series))))
    assert (found["of_series"].value or 1) < 0.7


def test_titles_without_a_genre_are_left_out(titles: Titles) -> None:
    some = titles._replace(genres=[genres if title % 4 else [] for title, genres in enumerate(titles.genres)])
    assert {result.n_titles for result in title_genres(some)} == {36}


def test_titles_of_a_series_are_nearest_by_what_tells_it(titles: Titles) -> None:
    found = by_name(list(title_series(titles)))
    assert (found["told"].value or 0) > 0.9
    assert (found["blind"].value or 1) < 0.3
    assert found[CHANCE].value == pytest.approx(expected_precision(2, N - 1))
    for result in found.values():
        assert result.ci_low is not None
        assert result.ci_high is not None
        assert result.ci_low <= (result.value or 0) <= result.ci_high


@pytest.mark.parametrize(("relevant", "ranked"), [(1, 1), (1, 5), (2, 5), (5, 5)])
def test_chance_is_what_random_orders_have_in_the_mean(relevant: int, ranked: int) -> None:
    rng = np.random.default_rng(0)
    found = []
    for _ in range(4000):
        places = np.sort(rng.permutation(ranked)[:relevant]) + 1
        found.append((np.arange(1, relevant + 1) / places).mean())
    assert expected_precision(relevant, ranked) == pytest.approx(np.mean(found), abs=0.02)


def test_too_few_titles_or_series_have_a_note_and_no_number(titles: Titles) -> None:
    few = Titles(titles.ids[:9], {"told": titles.vectors["told"][:9]}, titles.genres[:9], titles.series[:9])
    genres, series = by_name(list(title_genres(few))), by_name(list(title_series(few)))
    assert {result.value for result in (*genres.values(), *series.values())} == {None}
    assert (genres["told"].note or "").startswith("too few titles: 9 of 3 works have genres; 20 titles of 4 works")
    assert series["told"].note == "too few series: 3 have two titles or more; 4 are needed"
