"""Small pictures of decoded frames: upright, with square pixels, never enlarged, HDR mapped to SDR."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from resources.media import probe, read_frames
from resources.media.pictures import SmallFrames, upright
from tests.resources.films import numbered, render


@pytest.mark.parametrize("rotation", [(angle, flip, False) for angle in (0, 90, 180, 270) for flip in (False, True)])
def test_a_turned_or_mirrored_film_is_shown_upright(tmp_path: Path, rotation: tuple[int, bool, bool]) -> None:
    picture = np.zeros((48, 96, 3), np.uint8)
    picture[:24, :48] = 255  # the corner that tells all eight apart, with the sides
    picture[:24, 48:, 0] = 255
    film = render(tmp_path / "film.mp4", [picture] * 3, rotation=rotation)
    frame = next(iter(read_frames(film)))
    # ffmpeg's meaning of the display matrix: turned counter-clockwise, then mirrored.
    expected = np.rot90(picture, rotation[0] // 90)
    expected = expected[:, ::-1] if rotation[1] else expected
    shown = upright(SmallFrames(24)(frame).to_ndarray(format="rgb24"), frame.orientation)
    assert shown.shape[:2] == (expected.shape[0] // 2, expected.shape[1] // 2)
    assert np.abs(shown.astype(int) - expected[::2, ::2]).mean() < 12
    info = probe(film)
    assert (info.width, info.height) == (expected.shape[1], expected.shape[0])


def test_an_anamorphic_film_is_sampled_with_square_pixels(tmp_path: Path) -> None:
    film = render(tmp_path / "film.mp4", numbered(3, 72, 64), pixel_aspect=Fraction(2, 1))
    assert (probe(film).width, probe(film).height) == (128, 72)
    small = SmallFrames(36)(next(iter(read_frames(film))))
    assert (small.width, small.height) == (64, 36)


def test_a_small_film_is_never_enlarged(tmp_path: Path) -> None:
    small = SmallFrames(224)(next(iter(read_frames(render(tmp_path / "film.mp4", numbered(2))))))
    assert (small.width, small.height) == (64, 36)


@pytest.mark.parametrize("transfer", [16, 18])
def test_hdr_is_mapped_to_sdr(tmp_path: Path, transfer: int) -> None:
    ramp = np.repeat(np.linspace(0, 255, 16).astype(np.uint8), 8)
    picture = np.broadcast_to(ramp[None, :, None], (64, 128, 3)).copy()
    film = render(tmp_path / "film.mp4", [picture] * 2, pix_fmt="yuv420p10le", transfer=transfer)
    frame = next(iter(read_frames(film)))
    assert frame.image.color_trc == transfer
    small = SmallFrames(64)(frame)
    assert small.format.name == "yuv420p"
    levels = small.to_ndarray(format="rgb24")[32, 4::8].mean(axis=1)
    plain = frame.image.to_ndarray(format="rgb24")[32, 4::8].mean(axis=1)
    assert (np.diff(levels) >= -1).all()
    assert levels[0] < 10
    assert levels[-1] > 200
    assert len(np.unique(levels.round())) >= 12  # highlights are compressed, not clipped
    assert np.abs(levels - plain).max() > 15  # and the curve is not the undecoded one
