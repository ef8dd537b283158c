"""Films that would take the machine down: each fails alone, in one sentence, and the next one is read."""

import signal
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import av
import numpy as np
import psutil
import pytest

from resources.errors import BadInput
from resources.media import apart, probe, read_frames, shot_audio
from resources.shots import ShotDetector, detect_shots, sample_frames
from tests.resources.films import render, scenes, tone


@pytest.fixture
def film(tmp_path: Path) -> Path:
    return render(tmp_path / "film.mp4", scenes([30, 30]), sound={"eng": tone(440, 2.4)})


@pytest.fixture
def new_child() -> Iterator[None]:
    """A child with the bounds that the test sets, and none of them left behind."""
    end_children()
    yield
    end_children()


def end_children() -> None:
    while apart._idle:
        apart._idle.pop().end()


def reader() -> psutil.Process:
    """The process that reads films, among all that the tests of this process have started."""
    at_work = [p for p in psutil.Process().children() if p.status() != psutil.STATUS_ZOMBIE]
    (child,) = [p for p in at_work if "resources.media.apart" in " ".join(p.cmdline())]
    return child


def raw_video(path: Path, width: int, height: int, n_frames: int, kind: str = "420", bits: int = 12) -> Path:
    """Pictures of zeros, of which none is on the disk: the file is as large as they are, and takes no room. kind: of
    pixels, by Y4M's name; bits: of one."""
    with path.open("wb") as file:
        file.write(f"YUV4MPEG2 W{width} H{height} F25:1 C{kind}\n".encode())
        for _ in range(n_frames):
            file.write(b"FRAME\n")
            file.seek(width * height * bits // 8, 1)
        file.truncate()
    return path


def with_samples(film: Path, n_samples: int) -> Path:
    """The same film, whose tables say in a few bytes that each track has so many samples of one byte."""
    data = bytearray(film.read_bytes())
    at = -1
    while (at := data.find(b"stsz", at + 1)) >= 0:
        struct.pack_into(">II", data, at + 8, 1, n_samples)
    at = -1
    while (at := data.find(b"stsc", at + 1)) >= 0:
        (entries,) = struct.unpack_from(">I", data, at + 8)
        for entry in range(entries):
            struct.pack_into(">I", data, at + 12 + 12 * entry + 4, n_samples)
    bomb = film.with_name("bomb.mp4")
    bomb.write_bytes(data)
    return bomb


@pytest.mark.usefixtures("new_child")
def test_a_small_file_whose_tables_need_gigabytes_is_refused_and_the_next_film_is_read(
    film: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(apart, "MEMORY", 1 << 30)
    bomb = with_samples(film, 60_000_000)  # 4.3 GiB, where nothing bounds it
    assert bomb.stat().st_size < 200_000
    with pytest.raises(BadInput, match=r"no frame of bomb\.mp4 can be decoded"):
        probe(bomb)
    assert probe(film).duration_s == pytest.approx(2.4)


@pytest.mark.usefixtures("new_child")
def test_pictures_that_do_not_fit_into_the_memory_are_refused_and_the_next_film_is_read(
    film: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(apart, "MEMORY", 1 << 30)
    large = raw_video(tmp_path / "large.y4m", 8192, 8192, 12, kind="444p16", bits=48)
    with pytest.raises(BadInput, match=r"large\.y4m takes more than 1 GiB of memory"):
        list(detect_shots(large, ShotDetector(detector="adaptive")))
    assert probe(film).duration_s == pytest.approx(2.4)


@pytest.mark.usefixtures("new_child")
def test_pictures_that_take_the_processor_too_long_are_refused_and_the_next_film_is_read(
    film: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(apart, "ANSWER_CPU_S", 1)
    slow = raw_video(tmp_path / "slow.y4m", 8192, 4320, 400)
    with pytest.raises(BadInput, match=r"slow\.y4m takes more than 1 s of a processor"):
        sample_frames(slow, 1)
    assert probe(film).duration_s == pytest.approx(2.4)


@pytest.mark.parametrize(("width", "height"), [(60_000, 60_000), (8192 * 8, 1024), (16_000, 16_000)])
def test_a_huge_declared_picture_is_refused(tmp_path: Path, width: int, height: int) -> None:
    with pytest.raises(BadInput, match=r"huge\.y4m"):
        probe(raw_video(tmp_path / "huge.y4m", width, height, 1))


def test_a_file_of_many_streams_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "many.mkv"
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg4", rate=25)
        video.width = video.height = 16
        for _ in range(200):
            container.add_stream("pcm_s16le", rate=8000).layout = "mono"
        container.mux(video.encode(av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8))))
        container.mux(video.encode(None))
    with pytest.raises(BadInput, match=r"many\.mkv has 201 streams; the limit is 128"):
        probe(path)


def test_a_film_of_absurd_times_is_refused_by_its_header_and_by_its_frames(tmp_path: Path) -> None:
    film = render(tmp_path / "endless.mkv", scenes([30]), times_s=[3500.0 * i for i in range(30)])
    with pytest.raises(BadInput, match=r"endless\.mkv is longer than 24 hours"):
        probe(film)
    with pytest.raises(BadInput, match=r"endless\.mkv is longer than 24 hours"):
        list(read_frames(film))


def test_the_sound_of_a_shot_of_hours_is_refused_before_it_is_held(film: Path) -> None:
    with pytest.raises(BadInput, match=r"a shot of film\.mp4 is longer than 4 hours"):
        list(shot_audio(film, [(0.0, 20 * 3600.0)]))


def test_a_film_over_which_its_reader_dies_fails_alone(film: Path) -> None:
    shots = detect_shots(film, ShotDetector(detector="adaptive"))
    next(shots)
    reader().send_signal(signal.SIGSEGV)
    with pytest.raises(BadInput, match=r"film\.mp4 ended the process that read it"):
        list(shots)
    assert len(list(detect_shots(film, ShotDetector(detector="adaptive")))) == 2


@pytest.mark.usefixtures("new_child")
def test_the_reader_is_one_process_for_many_films_and_knows_no_secrets(
    film: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary")
    probe(film)
    first = reader()
    assert "AWS_SECRET_ACCESS_KEY" not in first.environ()
    probe(film)
    list(shot_audio(film, [(0.0, 1.2), (1.2, 2.4)]))
    assert reader() == first


def test_several_threads_read_films_at_once(film: Path, new_child: None) -> None:
    with ThreadPoolExecutor(4) as threads:
        assert set(threads.map(lambda _: probe(film), range(40))) == {probe(film)}


def test_whoever_leaves_a_film_early_leaves_no_reader_at_work(film: Path) -> None:
    shots = detect_shots(film, ShotDetector(detector="adaptive"))
    next(shots)
    at_work = reader()
    shots.close()
    assert not at_work.is_running()
