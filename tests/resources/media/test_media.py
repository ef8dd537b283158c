"""Films as they come: probing, decoding, timing, sound, and files that mean harm."""

import http.server
import subprocess
import sys
import threading
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from resources.errors import BadInput
from resources.media import probe, read_ahead, read_frames, shot_audio
from tests.resources.films import number_of, numbered, render, scenes, spoken, tone

# What each odd file must end in: (frames, width, height, the last frame's end in s, audio tracks), the length in s of
# what is only heard, or a piece of the one sentence that refuses it.
ODD: dict[str, tuple[int, int, int, float, int] | float | str] = {
    "-video-with-dash-.mp4": (5, 1, 1, 5.0, 0),
    "PYSCENEDETECT_RESOURCES_LICENSE.txt": "cannot be opened as a film",
    "README.md": "cannot be opened as a film",
    "audio_only.opus": 2.74,
    "audio_only_5_1.ogg": 1.0,
    "audio_only_in_mp4.mp4": 91.939,
    "audio_only_trailing_bytes.wav": 1.0,
    "audio_shorter_than_video.mp4": (280, 640, 360, 11.2, 1),
    "av1.mkv": (125, 640, 360, 5.0, 0),
    "avi_mjpeg_or_mp4v.avi": (96, 960, 400, 4.087, 1),
    "bbb_360p_10s_no_audio.mp4": (300, 640, 360, 10.0, 0),
    "bbb_5s_5_1_audio.mp4": (132, 1280, 720, 5.28, 1),
    "broken.mp4": "cannot be opened as a film",
    "corrupted_frames.mp4": (49, 1280, 720, 5.0, 0),
    "empty.flv": "cannot be opened as a film",
    "flv_h264.flv": (30, 1080, 720, 0.968, 1),
    "h264_10bit.mp4": (30, 200, 200, 1.0, 0),
    "hevc_10bit.mp4": (30, 200, 200, 1.0, 0),
    "hevc_with_metadata_track.mp4": (3, 1080, 1920, 0.1, 1),
    "interlaced_hdv_1080i50.mov": (25, 1920, 1080, 1.0, 0),
    "mkv_embedded_vtt.mkv": (30, 1080, 720, 0.968, 1),
    "mkv_rotation_in_track_name.mkv": (30, 1080, 720, 0.968, 1),
    "mp4_1022ms.mp4": (30, 480, 360, 1.003, 1),
    "mp4_android_slow_motion.mp4": (7, 1280, 720, 0.525, 0),
    "mp4_cea608_segment.mp4": "cannot be opened as a film",
    "mp4_encrypted_cenc.mp4": "is encrypted",
    "mp4_fragmented.mp4": (30, 1080, 720, 1.068, 1),
    "mp4_increasing_timestamps_vfr.mp4": (932, 320, 240, 15.533, 1),
    "mp4_mdat_size_too_long.mp4": (30, 1080, 720, 1.001, 1),
    "mp4_partially_fragmented.mp4": (30, 1080, 720, 1.068, 1),
    "nasa_multi_stream.mp4": (390, 480, 270, 13.013, 2),
    "not_a_video_20_bytes.mp4": "cannot be opened as a film",
    "ogg_chained.ogg": 1.003,  # FFmpeg reads no further than the first chain
    "one_colour_very_short.webm": (30, 320, 240, 1.0, 0),
    "prores_422_10bit.mov": (25, 320, 240, 1.0, 0),
    "psd_counter_3s.mp4": (30, 1920, 1080, 3.0, 0),
    "psd_fades_no_audio.mp4": (250, 480, 320, 10.0, 0),
    "rotation_0.mov": (3, 568, 320, 0.1, 0),
    "rotation_270.mov": (3, 320, 568, 0.1, 0),
    "silent_film_single_shot_audio.mp4": (241, 640, 360, 9.64, 1),
    "sub_second_0.7s_ac3.mp4": (21, 660, 480, 0.701, 1),
    "theora_portrait.ogv": (160, 400, 300, 5.333, 0),
    "tiny_10x6_pixels.mp4": (1549, 10, 6, 64.542, 1),
    "truncated_no_moov.mp4": "cannot be opened as a film",
    "ts_bbb_2.5s.ts": (58, 1920, 1080, 2.511, 1),
    "ts_duplicate_audio_dts.ts": (59, 1280, 720, 2.0, 1),
    "ts_missing_dts.ts": (120, 1920, 1080, 2.001, 0),
    "ts_portrait.ts": (30, 720, 1280, 1.0, 0),
    "ts_zero_frame.ts": "can be decoded",
    "unordered_timestamps.mov": (4, 50, 50, 0.125, 0),
    "vfr_uneven_frame_durations.mp4": (190, 1080, 2280, 8.379, 0),
    "webm_alpha.webm": (150, 200, 200, 5.0, 1),
    "webm_audio_shorter_than_video.webm": (76, 640, 380, 3.047, 1),
    "webm_decode_error_vp9.webm": "128 of 250 pictures",
    "webm_embedded_webvtt.webm": (182, 320, 240, 6.042, 1),
    "webm_no_duration.webm": (74, 1280, 720, 4.938, 1),
    "wmv_vc1_zero_fps.wmv": (310, 512, 288, 12.481, 1),
    "zero_bytes.webm": "is empty",
}


def use(path: Path) -> None:
    probe(path)
    list(read_frames(path))


@pytest.mark.parametrize("name", ODD)
def test_an_odd_file_ends_in_the_right_film_or_in_one_clear_sentence(media: Path, name: str) -> None:
    path, expected = media / "odd" / name, ODD[name]
    if isinstance(expected, str):
        with pytest.raises(BadInput) as refused:
            use(path)
        sentence = str(refused.value)
        assert name in sentence
        assert expected in sentence
        assert "\n" not in sentence
        return
    info = probe(path)
    if isinstance(expected, float):
        assert (info.has_picture, info.has_audio, info.width, info.height, info.fps) == (False, True, None, None, None)
        assert info.duration_s == pytest.approx(expected, abs=2e-3)
        (samples,) = shot_audio(path, [(0.0, expected)])
        assert len(samples) == round(expected * 16000)
        assert np.abs(samples).max() > 0.001
        return
    n_frames, width, height, end_s, n_audio = expected
    assert info.has_picture
    assert (info.width, info.height, len(info.audio_languages)) == (width, height, n_audio)
    assert info.has_audio == bool(n_audio)
    frames = list(read_frames(path))
    times = [frame.time_s for frame in frames]
    assert len(frames) == n_frames
    assert all(np.isfinite(times))
    assert times[0] >= 0
    assert all(a < b for a, b in pairwise(times))
    assert times[-1] + frames[-1].duration_s == pytest.approx(end_s, abs=2e-3)
    assert info.duration_s == pytest.approx(end_s, abs=2e-3)
    assert sum(len(samples) for samples in shot_audio(path, [(0.0, end_s)])) == round(end_s * 16000) * bool(n_audio)


def test_the_table_of_odd_files_knows_every_file(media: Path) -> None:
    assert {path.name for path in (media / "odd").iterdir() if path.is_file()} == set(ODD)


def test_every_frame_of_a_rendered_film_comes_once_at_its_own_time(tmp_path: Path) -> None:
    times_s = [0.0, 0.04, 0.5, 0.54, 2.0, 2.04, 2.08, 3.0]
    film = render(tmp_path / "film.mkv", numbered(8), times_s=times_s)
    frames = list(read_frames(film))
    assert [number_of(frame.image.to_ndarray(format="rgb24")) for frame in frames] == list(range(8))
    assert [frame.time_s for frame in frames] == pytest.approx(times_s, abs=1e-3)


def test_a_frame_is_freed_as_soon_as_nobody_holds_it(tmp_path: Path) -> None:
    """A frame in a reference cycle would keep its pixels until the garbage collector comes by: gigabytes at 1080p."""
    film = render(tmp_path / "film.mp4", numbered(60), rotation=(90, False, False))
    script = (
        "import gc, sys, pathlib, av\n"
        "from resources.media import read_frames\n"
        "gc.disable()\n"
        "for _ in read_frames(pathlib.Path(sys.argv[1])): pass\n"
        "print(sum(isinstance(thing, av.VideoFrame) for thing in gc.get_objects()))\n"
    )
    root = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", script, film], cwd=root, capture_output=True, text=True, check=True)
    assert int(done.stdout) <= 3  # the last one, and the one whose orientation was read


def test_a_clock_that_restarts_half_way_goes_on(tmp_path: Path) -> None:
    first = render(tmp_path / "1.ts", numbered(50)).read_bytes()
    second = render(tmp_path / "2.ts", numbered(50)).read_bytes()
    film = tmp_path / "film.ts"
    film.write_bytes(first + second)
    times = [frame.time_s for frame in read_frames(film)]
    assert len(times) >= 98  # FFmpeg may drop the frame at the seam
    steps = np.diff(times)
    assert (steps > 0).all()
    assert times[-1] == pytest.approx(4.0, abs=0.2)


def test_a_stream_without_any_timestamps_gets_even_times(tmp_path: Path) -> None:
    film = render(tmp_path / "film.h264", numbered(40))
    times = [frame.time_s for frame in read_frames(film)]
    assert len(times) == 40
    assert np.diff(times) == pytest.approx(np.diff(times)[0])
    assert times[0] == 0


@pytest.mark.parametrize("name", ["-film.mp4", "a:b.mp4", "http:film.mp4", "100%d.mp4", "film name.mp4", "фильм.mp4"])
def test_a_name_that_looks_like_something_else_is_only_a_name(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / name).write_bytes(render(tmp_path / "plain.mp4", numbered(5)).read_bytes())
    assert len(list(read_frames(tmp_path / name))) == 5
    monkeypatch.chdir(tmp_path)
    assert probe(Path(name)).duration_s == pytest.approx(0.2)


class Server(http.server.ThreadingHTTPServer):
    """Serves a film under every path, and remembers who asked."""

    asked: list[str]
    film: bytes


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.server.asked.append(self.path)  # type: ignore[attr-defined]
            self.send_response(200)
            self.end_headers()
            self.wfile.write(self.server.film)  # type: ignore[attr-defined]

        def log_message(self, *_: object) -> None:
            pass

    server = Server(("127.0.0.1", 0), Handler)
    server.asked, server.film = [], render(tmp_path / "served.ts", numbered(5)).read_bytes()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


def hostile(kind: str, target: str) -> str:
    if kind == "hls":
        return f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{target}\n#EXT-X-ENDLIST\n"
    if kind == "concat":
        return f"ffconcat version 1.0\nfile '{target}'\n"
    if kind == "dash":
        return (
            '<?xml version="1.0"?>\n<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
            'mediaPresentationDuration="PT1S"><Period><AdaptationSet><Representation id="1" bandwidth="1" '
            f'mimeType="video/mp4"><BaseURL>{target}</BaseURL></Representation></AdaptationSet></Period></MPD>'
        )
    return (
        f"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\na=control:{target}\nm=video 5004 RTP/AVP 96\n"
    )


@pytest.mark.parametrize("kind", ["hls", "concat", "dash", "sdp"])
@pytest.mark.parametrize("name", ["film.mp4", "film.m3u8", "film.mpd", "film.sdp", "film.txt"])
@pytest.mark.parametrize("padding", ["", "\n", "\ufeff"])
def test_a_playlist_reaches_no_address(tmp_path: Path, server: Server, kind: str, name: str, padding: str) -> None:
    (tmp_path / name).write_text(padding + hostile(kind, f"http://127.0.0.1:{server.server_port}/film.ts"))
    with pytest.raises(BadInput, match=name):
        probe(tmp_path / name)
    assert server.asked == []


def test_ffmpeg_itself_would_have_fetched_the_playlist(tmp_path: Path, server: Server) -> None:
    """The control of the test above: with another list of protocols the same file reaches the server."""
    (tmp_path / "film.m3u8").write_text(hostile("hls", f"http://127.0.0.1:{server.server_port}/film.ts"))
    with av.open(str(tmp_path / "film.m3u8"), options={"protocol_whitelist": "file,http,tcp"}) as container:
        assert sum(1 for _ in container.decode(video=0)) > 0
    assert server.asked


@pytest.mark.parametrize("kind", ["hls", "concat", "dash"])
def test_a_script_reads_no_other_file(tmp_path: Path, kind: str) -> None:
    secret = render(tmp_path / "secret.ts", numbered(5))
    for target in (secret.name, str(secret), f"file:{secret}"):
        (tmp_path / "film.mp4").write_text(hostile(kind, target))
        with pytest.raises(BadInput, match=r"film\.mp4"):
            probe(tmp_path / "film.mp4")


def test_ffmpeg_itself_would_have_read_the_script(tmp_path: Path) -> None:
    render(tmp_path / "secret.ts", numbered(5))
    (tmp_path / "film.mp4").write_text(hostile("concat", "secret.ts"))
    with av.open(str(tmp_path / "film.mp4")) as container:
        assert sum(1 for _ in container.decode(video=0)) == 5


@pytest.mark.parametrize("format_", ["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "AVIF"])
def test_a_still_image_is_not_a_film(tmp_path: Path, format_: str) -> None:
    Image.new("RGB", (64, 36), (200, 30, 30)).save(tmp_path / "film.mp4", format_)
    with pytest.raises(BadInput, match=r"film\.mp4 is a .*image, not a film"):
        probe(tmp_path / "film.mp4")


def test_a_film_that_is_missing_or_empty_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"film\.mp4 is missing"):
        probe(tmp_path / "film.mp4")
    (tmp_path / "film.mp4").touch()
    with pytest.raises(BadInput, match=r"film\.mp4 is empty"):
        probe(tmp_path / "film.mp4")


@pytest.mark.parametrize("name", ["film.mp4", "film.mkv", "film.avi"])
def test_a_film_that_was_cut_short_is_refused_and_not_half_used(tmp_path: Path, name: str) -> None:
    codec = "mpeg4" if name.endswith("avi") else "libx264"
    film = render(tmp_path / name, scenes([50, 50, 50]), codec=codec, faststart=name.endswith("mp4"))
    assert len(list(read_frames(film))) == 150
    film.write_bytes(film.read_bytes()[: film.stat().st_size * 6 // 10])
    with pytest.raises(BadInput, match=r"ends at .* truncated"):
        list(read_frames(film))


def test_a_damaged_packet_in_the_middle_costs_no_more_than_its_frames(tmp_path: Path) -> None:
    film = render(tmp_path / "film.mp4", scenes([40, 40, 40]), faststart=True)
    data = bytearray(film.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 3000] = bytes(3000)
    film.write_bytes(data)
    assert 60 <= len(list(read_frames(film))) <= 120


def test_sound_lies_where_its_timestamps_put_it(tmp_path: Path) -> None:
    sound = np.concatenate([tone(440, 1, volume=0), tone(440, 1), tone(440, 1, volume=0)])
    film = render(tmp_path / "film.mp4", numbered(75), sound={"eng": sound})
    arrays = list(shot_audio(film, [(0, 0.9), (1.1, 1.9), (2.1, 3)]))
    assert [len(a) for a in arrays] == [14400, 12800, 14400]
    assert [a.dtype for a in arrays] == [np.float32] * 3
    loud = [float(np.sqrt((a**2).mean())) for a in arrays]
    assert loud == pytest.approx([0, 0.5 / 2**0.5, 0], abs=0.02)


def test_shots_share_no_sample_and_lose_none(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    film = render(tmp_path / "film.mkv", numbered(75), sound={"eng": rng.uniform(-0.5, 0.5, 144000)})
    (whole,) = shot_audio(film, [(0, 3)])
    edges = [0, 0.04, 0.333, 1.2345, 1.24, 2.9, 3]
    parts = list(shot_audio(film, list(pairwise(edges))))
    assert np.array_equal(np.concatenate(parts), whole)
    assert np.abs(whole).max() > 0.1


def test_a_hole_in_the_sound_is_silence_and_moves_nothing(tmp_path: Path) -> None:
    blocks = 2 * 48000 // 1024
    starts = [i * 1024 / 48000 + (1.0 if i >= blocks // 2 else 0.0) for i in range(blocks)]
    film = render(
        tmp_path / "film.mkv", numbered(75), sound={"eng": tone(440, 2)[: blocks * 1024]}, sound_times_s=starts
    )
    (whole,) = shot_audio(film, [(0, 3)])
    assert np.abs(whole[:15000]).max() > 0.4
    assert np.abs(whole[17500:31000]).max() < 0.01
    assert np.abs(whole[33000:46000]).max() > 0.4


def test_a_shot_after_the_sound_ended_gets_an_empty_array(tmp_path: Path) -> None:
    film = render(tmp_path / "film.mp4", numbered(75), sound={"eng": tone(440, 1)})
    assert [len(a) for a in shot_audio(film, [(0, 1.5), (1.5, 3)])] == [24000, 0]


def test_a_film_without_sound_gives_an_empty_array_per_shot(tmp_path: Path) -> None:
    film = render(tmp_path / "film.mp4", numbered(10))
    assert [len(a) for a in shot_audio(film, [(0, 0.2), (0.2, 0.4)])] == [0, 0]
    assert not probe(film).has_audio


@pytest.mark.parametrize(("language", "hz"), [("de", 880), ("ger", 880), ("en-GB", 440), ("fr", 440), (None, 440)])
def test_the_track_in_the_titles_language_is_heard(tmp_path: Path, language: str | None, hz: int) -> None:
    film = render(tmp_path / "film.mkv", numbered(25), sound={"eng": tone(440, 1), "ger": tone(880, 1)})
    assert probe(film).audio_languages == ("eng", "ger")
    (samples,) = shot_audio(film, [(0, 1)], language)
    assert np.abs(np.fft.rfft(samples)).argmax() == pytest.approx(hz, abs=2)


def test_reading_ahead_stops_at_its_depth_until_somebody_reads() -> None:
    made = []

    def numbers() -> Iterator[int]:
        for i in range(100):
            made.append(i)
            yield i

    ahead = read_ahead(numbers(), 4)
    assert next(ahead) == 0
    threading.Event().wait(0.3)
    assert len(made) <= 7
    assert list(ahead) == list(range(1, 100))


def test_a_failure_ahead_comes_in_its_place() -> None:
    def failing() -> Iterator[int]:
        yield 1
        raise BadInput("film.mp4 is broken")

    ahead = read_ahead(failing(), 4)
    assert next(ahead) == 1
    with pytest.raises(BadInput, match="broken"):
        next(ahead)


def test_a_reader_that_leaves_early_stops_the_thread_and_closes_the_stream() -> None:
    closed = threading.Event()

    def endless() -> Iterator[int]:
        try:
            while True:
                yield 0
        finally:
            closed.set()

    ahead = read_ahead(endless(), 2)
    next(ahead)
    ahead.close()
    assert closed.is_set()
    assert not [thread for thread in threading.enumerate() if thread.name == "read-ahead"]


def test_importing_the_resources_loads_no_media_library() -> None:
    check = (
        "import resources.landing, resources.shots, sys\n"
        "print(sorted({'av', 'torch', 'numpy', 'cv2', 'polars', 'boto3'} & set(sys.modules)))"
    )
    root = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", check], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", ["talk.mp3", "talk.mp4", "talk.flac"])
def test_cover_art_is_no_picture(tmp_path: Path, name: str) -> None:
    talk = spoken(tmp_path / name, tone(440, 2, rate=16000), cover=numbered(1, 64, 64)[0])
    with av.open(str(talk)) as container:
        assert len(container.streams.video) == 1
    info = probe(talk)
    assert (info.has_picture, info.has_audio, info.video_codec) == (False, True, None)
    assert info.duration_s == pytest.approx(2, abs=0.1)
    with pytest.raises(BadInput, match=f"{name} has no video stream; it is only heard"):
        next(read_frames(talk))


def test_the_length_of_mp3_is_counted_and_not_guessed_from_its_first_bytes(tmp_path: Path) -> None:
    quiet, loud = tone(440, 8, rate=16000, volume=0), np.random.default_rng(0).uniform(-0.5, 0.5, 32000)
    talk = spoken(tmp_path / "talk.mp3", np.concatenate([quiet, loud]))
    frames = talk.read_bytes()
    talk.write_bytes(frames[frames.index(b"\xff\xf3", frames.index(b"Info") if b"Info" in frames else 0) :])
    assert probe(talk).duration_s == pytest.approx(10, abs=0.2)
