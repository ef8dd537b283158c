"""Clips cut out of films: exact to the frame and the sample, whatever the film's times, in one pass."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resources.errors import BadInput
from resources.media import cut_clips, probe, read_frames, shot_audio
from tests.resources.films import number_of, numbered, render, tone

FRAMES, FPS = 100, 25


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """4 s of numbered pictures at 25 a second, with a tone in the third of them."""
    sound = np.concatenate([np.zeros(96_000, np.float32), tone(440, 1), np.zeros(48_000, np.float32)])
    return render(tmp_path_factory.mktemp("film") / "f.mkv", numbered(FRAMES), FPS, sound={"eng": sound})


def numbers_in(clip: Path) -> list[int]:
    return [number_of(frame.image.to_ndarray(format="rgb24")) for frame in read_frames(clip)]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(0, FRAMES - 1), st.integers(1, 20)), min_size=1, max_size=5, unique=True))
def test_a_clip_has_just_the_frames_of_its_span_though_spans_overlap(
    film: Path, tmp_path_factory: pytest.TempPathFactory, frames: list[tuple[int, int]]
) -> None:
    wanted = {(first / FPS, (first + n) / FPS): range(first, min(first + n, FRAMES)) for first, n in frames}
    found = {span: numbers_in(clip) for span, clip in cut_clips(film, list(wanted), tmp_path_factory.mktemp("cuts"))}
    assert found == {span: list(numbers) for span, numbers in wanted.items()}


def test_spans_that_are_rounded_to_milliseconds_lose_no_frame(tmp_path: Path) -> None:
    film = render(tmp_path / "f.mkv", numbered(48), 12)
    ((_, clip),) = cut_clips(film, [(1.583, 3.0)], tmp_path)  # frame 19 is shown at 1.58333… s
    assert numbers_in(clip) == list(range(19, 36))


def test_frames_are_shown_as_long_as_in_the_film(tmp_path: Path) -> None:
    times = [0, 0.1, 0.5, 0.6, 1.4, 1.5]
    film = render(tmp_path / "f.mkv", numbered(6), 10, times_s=times)
    ((_, clip),) = cut_clips(film, [(0.5, 1.45)], tmp_path)
    assert [round(frame.time_s, 3) for frame in read_frames(clip)] == [0, 0.1, 0.9]


def test_sound_is_cut_where_the_pictures_are(film: Path, tmp_path: Path) -> None:
    spans = [(1.52, 2.52), (2.2, 3.6)]
    for span, clip in cut_clips(film, spans, tmp_path, "en"):
        seconds = span[1] - span[0]
        assert probe(clip).duration_s == pytest.approx(seconds, abs=0.01)
        (heard,) = shot_audio(clip, [(0, seconds)])
        loud = np.flatnonzero(np.abs(heard) > 0.1) / 16_000 + span[0]
        assert loud[0] == pytest.approx(max(2, span[0]), abs=0.1)  # AAC's coder runs ahead by some milliseconds
        assert loud[-1] == pytest.approx(min(3, span[1]), abs=0.1)


def test_a_film_without_sound_gives_clips_without(tmp_path: Path) -> None:
    film = render(tmp_path / "f.mp4", numbered(25), 25)
    ((_, clip),) = cut_clips(film, [(0, 0.5)], tmp_path)
    assert not probe(clip).has_audio


def test_pictures_stand_upright_and_fit_any_coder(tmp_path: Path) -> None:
    film = render(tmp_path / "f.mp4", numbered(5, height=50, width=70), 5, rotation=(90, False, False))
    ((_, clip),) = cut_clips(film, [(0, 1)], tmp_path)
    frame = next(read_frames(clip))
    assert (frame.image.width, frame.image.height) == (50, 70)


def test_a_span_beyond_the_film_gives_nothing_and_harms_no_other(film: Path, tmp_path: Path) -> None:
    spans = [(0.0, 1.0), (3.5, 9.0), (5.0, 6.0)]
    found = {span: numbers_in(clip) for span, clip in cut_clips(film, spans, tmp_path)}
    assert found == {(0.0, 1.0): list(range(25)), (3.5, 9.0): list(range(88, 100))}


def test_what_is_no_film_is_refused(tmp_path: Path) -> None:
    (tmp_path / "f.mp4").write_bytes(b"not a film" * 100)
    with pytest.raises(BadInput, match=r"f\.mp4 cannot be opened"):
        list(cut_clips(tmp_path / "f.mp4", [(0, 1)], tmp_path))
