"""Films that grow: what is found of them piece by piece is what is found of the whole."""

from pathlib import Path

import pytest

from resources.media import Joined, MarkNotFound
from resources.shots import SampledFrame, Shot, ShotDetector, detect_shots
from tests.resources.films import render, scenes
from tests.resources.segments import cut

LENGTHS = (70, 55, 90, 40, 120, 65, 80, 50, 100, 60, 75, 85, 45, 95)
Found = list[tuple[Shot, list[SampledFrame]]]


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return render(tmp_path_factory.mktemp("film") / "film.ts", scenes(LENGTHS))


def beginning(film: Path, share: float) -> Joined:
    return Joined(film.name, [(str(film), int(film.stat().st_size * share))])


@pytest.mark.parametrize(("detector", "shares"), [("adaptive", (0.2, 0.21, 0.5, 0.8)), ("transnetv2", (0.92,))])
def test_a_film_that_grows_has_the_shots_of_the_whole(detector: str, shares: tuple[float, ...], film: Path) -> None:
    cuts = ShotDetector(detector=detector)
    whole: Found = list(detect_shots(film, cuts))
    found: Found = []
    for share in (*shares, 1.0):
        known = found.pop()[0] if found else None
        found += detect_shots(beginning(film, share), cuts, growing=share < 1, known=known)
        assert found == whole[: len(found)]
        assert share == 1 or len(found) < len(whole)
        assert not known or known.mark or known.start_frame < type(cuts.cuts()).warm_up + 25
    assert found == whole


def test_another_film_has_not_the_shot_that_is_known(film: Path, tmp_path: Path) -> None:
    cuts = ShotDetector(detector="adaptive")
    *_, (known, _) = detect_shots(beginning(film, 0.5), cuts, growing=True)
    assert known.mark
    other = render(tmp_path / "other.ts", scenes(LENGTHS[::-1], seed=1))
    for path in (other, beginning(film, 0.05)):
        with pytest.raises(MarkNotFound):
            list(detect_shots(path, cuts, known=known))


def test_a_clock_that_begins_anew_in_a_later_segment_is_followed(tmp_path: Path) -> None:
    first = cut(render(tmp_path / "first.mp4", scenes(LENGTHS[:5])), tmp_path / "first")
    second = cut(render(tmp_path / "second.mp4", scenes(LENGTHS[5:9], seed=3)), tmp_path / "second")
    segments = [(str(file), file.stat().st_size) for file in (*first, *second)]
    cuts = ShotDetector(detector="adaptive")
    whole: Found = list(detect_shots(Joined("film", segments), cuts))
    assert [shot.end_frame - shot.start_frame for shot, _ in whole] == list(LENGTHS[:9])
    found: Found = []
    for end in (len(first) - 1, len(first) + 1, len(first) + 4, len(segments)):
        known = found.pop()[0] if found else None
        growing = end < len(segments)
        found += detect_shots(Joined("film", segments[:end]), cuts, growing=growing, known=known)
        assert found == whole[: len(found)]
    assert known
    assert known.mark
    assert known.mark.offset_s > 10
    assert found == whole
