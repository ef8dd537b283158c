"""Films opened, probed and decoded with FFmpeg (PyAV), on the assumption that the file is hostile.

* `probe` says what a film is, or in one sentence why it cannot be used.
* `read_frames` streams the main video stream's frames, each with its own repaired time.
* `shot_audio` streams one mono array per shot in one pass over one audio track.
* `read_ahead` runs any of these streams ahead of its consumer in a thread, behind a bounded queue.

FFmpeg may open nothing but the file itself: the protocol is pinned to `file`, and only self-contained containers are on
the list of formats, so that a playlist, a script, an image list or a device name posing as film.mp4 reaches nothing.

Times are seconds from the media's start, which is the earliest start of the main video stream and the audio streams
(pre-roll before zero, as Opus and AAC have it, is not counted).
"""

import logging
import math
import os
import queue
import threading
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from resources.errors import BadInput

if TYPE_CHECKING:
    import av
    import numpy as np
    from av.audio.stream import AudioStream
    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

log = logging.getLogger(__name__)

# Containers that hold the film themselves. Left out on purpose: hls, dash, concat, sdp, rtsp, image2, lavfi, devices.
_FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpegtsraw,mpeg,flv,live_flv,kux,asf,asf_o,ogg,mxf,nut,rm,wtv,dv,gxf,"
    "ivf,obu,av1,h264,hevc,vvc,m4v,mpegvideo,h261,h263,vc1,dirac,yuv4mpegpipe,wav,w64,mp3,flac,aac,ac3,eac3,aiff,au,caf"
)
_MAX_SIDE = 16384
_MAX_PIXELS = 8192 * 8192
_MAX_STREAMS = 128
_MAX_DURATION_S = 14 * 24 * 3600.0
_MAX_DECODE_THREADS = 8
# What a still image or a playlist begins with; FFmpeg would open the first as a one-frame film.
_MAGIC = {
    b"\x89PNG": "a still image",
    b"\xff\xd8\xff": "a still image",
    b"GIF8": "a GIF image",
    b"BM": "a still image",
    b"II*\0": "a still image",
    b"MM\0*": "a still image",
    b"8BPS": "a still image",
    b"\0\0\x01\0": "a still image",
    b"#EXTM3U": "a playlist",
    b"ffconcat": "a playlist",
    b"<?xml": "a text document or playlist",
    b"<MPD": "a playlist",
    b"v=0": "a stream description",
    b"[playlist]": "a playlist",
}
_IMAGE_BRANDS = (b"avif", b"avis", b"mif1", b"msf1", b"heic", b"heix")
# ISO 639-1 to the 639-2 codes that containers carry (terminological, then bibliographic where it differs).
_ISO_639_2 = {
    "ar": ("ara",), "bg": ("bul",), "bn": ("ben",), "ca": ("cat",), "cs": ("ces", "cze"), "da": ("dan",),
    "de": ("deu", "ger"), "el": ("ell", "gre"), "en": ("eng",), "es": ("spa",), "et": ("est",), "eu": ("eus", "baq"),
    "fa": ("fas", "per"), "fi": ("fin",), "fr": ("fra", "fre"), "gl": ("glg",), "he": ("heb",), "hi": ("hin",),
    "hr": ("hrv",), "hu": ("hun",), "id": ("ind",), "is": ("isl", "ice"), "it": ("ita",), "ja": ("jpn",),
    "ko": ("kor",), "lt": ("lit",), "lv": ("lav",), "mk": ("mkd", "mac"), "ms": ("msa", "may"), "nb": ("nob",),
    "nl": ("nld", "dut"), "no": ("nor", "nob"), "pl": ("pol",), "pt": ("por",), "ro": ("ron", "rum"), "ru": ("rus",),
    "sk": ("slk", "slo"), "sl": ("slv",), "sq": ("sqi", "alb"), "sr": ("srp",), "sv": ("swe",), "ta": ("tam",),
    "te": ("tel",), "th": ("tha",), "tr": ("tur",), "uk": ("ukr",), "ur": ("urd",), "vi": ("vie",),
    "zh": ("zho", "chi"),
}  # fmt: skip

T = TypeVar("T")


@dataclass(frozen=True)
class MediaInfo:
    """What a film is. Width and height are as displayed: turned upright, with square pixels."""

    duration_s: float
    fps: float | None  # the average; None where the file does not tell, or tells its clock's rate instead
    width: int
    height: int
    has_audio: bool
    container: str
    video_codec: str
    audio_languages: tuple[str, ...]  # of the decodable audio tracks, "und" where unknown, in file order


class Frame(NamedTuple):
    """A decoded frame.

    time_s: seconds from the media's start, strictly increasing. duration_s: > 0, the best guess. image: as decoded.
    pixel_aspect: a pixel's width over its height. orientation: (transpose, flip rows, flip columns), in this order,
    turns the picture upright.
    """

    time_s: float
    duration_s: float
    image: "VideoFrame"
    pixel_aspect: float
    orientation: tuple[bool, bool, bool]


def probe(path: Path) -> MediaInfo:
    """Open the film, decode its first frame, and say what it is.

    Raises BadInput, in one sentence that names the file, when there is no frame to decode: missing, empty, not a film
    container, a still image, a playlist, no video stream, encrypted, damaged, or beyond the limits on size.
    """
    frames = read_frames(path, refuse_truncated=False)
    try:
        first = next(frames)
    finally:
        frames.close()
    with _open(path) as container:
        video = _main_video(container, path)
        width, height = first.image.width * first.pixel_aspect, float(first.image.height)
        if first.orientation[0]:
            width, height = height, width
        rate = video.average_rate
        audio = [stream for stream in container.streams.audio if stream.codec_context is not None]
        return MediaInfo(
            duration_s=_declared_end_s(container, video, _zero_s(container, video)) or _demuxed_end_s(path),
            fps=float(rate) if rate and 0 < rate <= 480 else None,
            width=max(1, round(width)),
            height=max(1, round(height)),
            has_audio=bool(audio),
            container=container.format.name,
            video_codec=video.codec_context.name,
            audio_languages=tuple(stream.language or "und" for stream in audio),
        )


def read_frames(path: Path, refuse_truncated: bool = True) -> Generator[Frame]:
    """Decode the main video stream, frame by frame, in presentation order; FFmpeg's threads decode ahead by themselves.

    A packet that cannot be decoded is skipped and logged, as ffmpeg does. Raises BadInput as `probe` does, and at the
    end, when `refuse_truncated`, where the video stops well before the end that its header declares.
    """
    import av

    with _open(path) as container:
        video = _main_video(container, path)
        video.thread_type = "AUTO"
        video.codec_context.thread_count = min(os.cpu_count() or 1, _MAX_DECODE_THREADS)
        video.codec_context.options = {"max_pixels": str(_MAX_PIXELS)}
        zero_s, aspect = _zero_s(container, video), _sample_aspect(video)
        rate = video.average_rate or video.guessed_rate
        clock = _Clock(
            step_s=float(1 / rate) if rate and 0.01 <= rate <= 1000 else 0.04,
            longest_gap_s=_longest_gap_s(container),
        )
        time_s = duration_s = 0.0
        n_frames = n_errors = 0
        shape: tuple[int, ...] = ()
        orientation = False, False, False
        for packet in _packets(container, video, path):
            if packet.has_sidedata("encryption_info"):
                raise BadInput(f"{path.name} is encrypted; drop a copy without DRM")
            try:
                images = packet.decode()
            except av.FFmpegError as error:
                n_errors += 1
                if n_errors <= 3:
                    log.warning("%s: a video packet near %.2f s is skipped: %s", path.name, time_s, error)
                continue
            for image in images:
                if image.width > _MAX_SIDE or image.height > _MAX_SIDE:
                    raise BadInput(f"{path.name} is {image.width}x{image.height}; the limit is {_MAX_SIDE} on a side")
                pts = image.pts if image.pts is not None else image.dts
                base = float(image.time_base or video.time_base or 0)
                time_s, duration_s = clock.tick(
                    None if pts is None else round(pts * base - zero_s, 9), (image.duration or 0) * base
                )
                n_frames += 1
                # Looked up only where it can have changed: a frame whose side data were looked at is part of a
                # reference cycle, and keeps its pixels until the garbage collector comes by.
                if shape != (shape := (image.rotation, image.width, image.height)):
                    orientation = _orientation(image)
                yield Frame(time_s, duration_s, image, aspect, orientation)
        if not n_frames:
            raise BadInput(f"no frame of {path.name} can be decoded; the file is damaged or empty of pictures")
        if n_errors > n_frames:
            raise BadInput(
                f"{n_errors} of {n_errors + n_frames} pictures of {path.name} cannot be decoded; the file is damaged"
            )
        if n_errors:
            log.warning("%s: %d video packets were skipped, %d frames decoded", path.name, n_errors, n_frames)
        declared_s = _declared_end_s(container, video, zero_s)
        end_s = time_s + duration_s
        if refuse_truncated and declared_s is not None and declared_s - end_s > max(1.0, 0.02 * declared_s):
            raise BadInput(
                f"the video of {path.name} ends at {end_s:.1f} s of the {declared_s:.1f} s that the file declares; "
                "it is truncated or damaged, copy it again"
            )


def shot_audio(
    path: Path, shots: Sequence[tuple[float, float]], language: str | None = None, sample_rate: int = 16000
) -> "Generator[np.ndarray]":
    """Decode one audio track once and yield one float32 mono array per shot, in order.

    shots: (start_s, end_s), sorted, not overlapping. language: the title's, such as "en" or "pt-BR"; it chooses the
    track, else the default one, else the first. An array has round(end_s * rate) - round(start_s * rate) samples in
    [-1, 1], each at its own timestamp, with silence in gaps; it is empty where the film has no sound within the shot.
    Memory holds the samples of one shot. Raises BadInput when the file cannot be opened.
    """
    import numpy as np

    chunks = _audio_chunks(path, language, sample_rate)
    held: list[tuple[int, np.ndarray]] = []  # (first sample on the media's time line, samples), sorted
    done = False
    try:
        for start_s, end_s in shots:
            first, last = round(start_s * sample_rate), round(end_s * sample_rate)
            while not done and (not held or held[-1][0] + len(held[-1][1]) < last):
                chunk = next(chunks, None)
                done = chunk is None
                if chunk is not None and chunk[0] + len(chunk[1]) > first:
                    held.append(chunk)
            inside = [(at, piece) for at, piece in held if at < last and at + len(piece) > first]
            samples = np.zeros(last - first if inside else 0, np.float32)
            for at, piece in inside:
                begin, end = max(at, first), min(at + len(piece), last)
                samples[begin - first : end - first] = piece[begin - at : end - at]
            held = [(at, piece) for at, piece in held if at + len(piece) > last]
            yield samples
    finally:
        chunks.close()


def read_ahead(stream: Iterable[T], depth: int) -> Generator[T]:
    """Run `stream` in a thread, at most `depth` items ahead of the consumer; a slow consumer stalls it.

    An exception of the stream is raised where its item would have come. Closing the generator stops the thread and
    closes the stream.
    """
    items: queue.Queue[tuple[bool, Any]] = queue.Queue(depth)
    stopped = threading.Event()

    def put(item: tuple[bool, Any]) -> None:
        while not stopped.is_set():
            try:
                items.put(item, timeout=0.1)
                return
            except queue.Full:
                continue

    def run() -> None:
        end: BaseException | None = None
        try:
            for item in stream:
                put((False, item))
                if stopped.is_set():
                    break
        except BaseException as error:  # handed over to the consumer, whatever it is
            end = error
        finally:
            if hasattr(stream, "close"):
                stream.close()
        put((True, end))

    thread = threading.Thread(target=run, name="read-ahead", daemon=True)
    thread.start()
    try:
        while True:
            last, item = items.get()
            if last:
                if item is not None:
                    raise item
                return
            yield item
    finally:
        stopped.set()
        thread.join()


def _open(path: Path) -> "InputContainer":
    import av

    name = path.name
    try:
        with open(path, "rb") as stream:
            head = stream.read(64)
    except FileNotFoundError:
        raise BadInput(f"{name} is missing; drop the film again") from None
    if not head:
        raise BadInput(f"{name} is empty; drop the film again")
    for magic, what in _MAGIC.items():
        if head.removeprefix(b"\xef\xbb\xbf").startswith(magic):
            raise BadInput(f"{name} is {what}, not a film; drop the film itself")
    if (head[:4], head[8:12]) == (b"RIFF", b"WEBP") or (head[4:8] == b"ftyp" and head[8:12] in _IMAGE_BRANDS):
        raise BadInput(f"{name} is a still image, not a film; drop the film itself")
    try:
        # The file: prefix keeps FFmpeg from reading an option, a protocol or a pattern into the name.
        container = av.open(
            "file:" + os.path.abspath(path),
            "r",
            options={"protocol_whitelist": "file", "format_whitelist": _FORMATS},
            metadata_errors="replace",
        )
    except av.FFmpegError as error:
        raise BadInput(
            f"{name} cannot be opened as a film ({error.strerror}); it is damaged, truncated, or no media file"
        ) from None
    if len(container.streams) > _MAX_STREAMS:
        container.close()
        raise BadInput(f"{name} has {len(container.streams)} streams; the limit is {_MAX_STREAMS}")
    return container


def _main_video(container: "InputContainer", path: Path) -> "VideoStream":
    from av.stream import Disposition

    if not container.streams.video:
        raise BadInput(f"{path.name} has no video stream; a title needs a film")
    pictures = Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.still_image
    films = [stream for stream in container.streams.video if not stream.disposition & pictures]
    if not films:
        raise BadInput(f"{path.name} has no video stream besides cover pictures; a title needs a film")
    known = [stream for stream in films if stream.codec_context is not None]
    if not known:
        raise BadInput(f"the video codec of {path.name} is unknown to FFmpeg; convert the film")
    return max(
        known,
        key=lambda s: (
            bool(s.disposition & Disposition.default),
            s.codec_context.width * s.codec_context.height,
            -s.index,
        ),
    )


def _main_audio(container: "InputContainer", language: str | None) -> "AudioStream | None":
    from av.stream import Disposition

    tracks = [stream for stream in container.streams.audio if stream.codec_context is not None]
    wanted = _language_codes(language)
    special = (
        Disposition.comment | Disposition.visual_impaired | Disposition.hearing_impaired | Disposition.descriptions
    )

    def merit(stream: "AudioStream") -> tuple[bool, bool, bool, int]:
        spoken = (stream.language or "und").lower().split("-")[0]
        main = not stream.disposition & special
        return spoken in wanted, main, bool(stream.disposition & Disposition.default), -stream.index

    return max(tracks, key=merit, default=None)


def _language_codes(language: str | None) -> frozenset[str]:
    primary = (language or "").lower().replace("_", "-").split("-")[0]
    same = {
        code for short, codes in _ISO_639_2.items() if primary == short or primary in codes for code in (short, *codes)
    }
    return frozenset(same | ({primary} - {"", "und"}))


def _packets(container: "InputContainer", stream: "av.stream.Stream", path: Path) -> Iterator[Any]:
    """The stream's packets; a damaged tail ends them, as it does in ffmpeg."""
    import av
    from av.stream import Discard

    for other in container.streams:
        if other.index != stream.index:
            other.discard = Discard.all
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
        except av.FFmpegError as error:
            log.warning("%s: reading stops early: %s", path.name, error)
            return
        if packet is None:
            return
        yield packet


def _zero_s(container: "InputContainer", video: "VideoStream") -> float:
    """The media's start on the streams' clock: the earliest of video and audio, but not pre-roll before zero."""
    start = _start_s(video)
    if start is None:
        return 0.0
    # Audio that claims to begin long before the picture is a damaged header rather than an overture.
    early = [s for s in map(_start_s, container.streams.audio) if s is not None and start - 60 <= s < start]
    zero = min(early, default=start)
    return 0.0 if zero < 0 <= start else zero


def _start_s(stream: "av.stream.Stream") -> float | None:
    if stream.start_time is None or stream.time_base is None:
        return None
    return float(stream.start_time * stream.time_base)


def _declared_end_s(container: "InputContainer", video: "VideoStream", zero_s: float) -> float | None:
    """Where the header says that the video ends, seconds from the media's start; None where it does not say."""
    end: float | None = None
    tag = video.metadata.get("DURATION", "")  # Matroska keeps a track's duration in a tag, as h:mm:ss.fraction
    if video.duration and video.time_base:
        end = float(video.duration * video.time_base) + (_start_s(video) or 0.0) - zero_s
    elif tag.count(":") == 2 and all(part.replace(".", "", 1).isdigit() for part in tag.split(":")):
        hours, minutes, seconds = map(float, tag.split(":"))
        end = hours * 3600 + minutes * 60 + seconds
    elif container.duration and not container.streams.audio:
        end = container.duration / 1e6
    return end if end is not None and 0 < end <= _MAX_DURATION_S else None


def _demuxed_end_s(path: Path) -> float:
    """Where the last video packet ends, for files whose header does not tell; reads the file, decodes nothing."""
    with _open(path) as container:
        video = _main_video(container, path)
        zero_s, end_s = _zero_s(container, video), 0.0
        for packet in _packets(container, video, path):
            pts = packet.pts if packet.pts is not None else packet.dts
            if pts is not None:
                end_s = max(end_s, float((pts + (packet.duration or 0)) * packet.time_base) - zero_s)
        return min(end_s, _MAX_DURATION_S)


def _longest_gap_s(container: "InputContainer") -> float:
    """A forward jump of the clock beyond this is a fault of the clock: MPEG streams restart theirs, files do not."""
    return 10.0 if container.format.name in ("mpegts", "mpeg", "mpegtsraw") else 3600.0


class _Clock:
    """Turns stream times into finite, strictly increasing ones.

    A missing time follows its predecessor by one step. A small step back (reordered, doubled) becomes a millisecond
    forward, so that true times catch up again. A jump (back by more than a second, or forward by more than
    `longest_gap_s`) is a restarted clock: it continues where the old one stopped.
    """

    def __init__(self, step_s: float, longest_gap_s: float) -> None:
        self.step_s = step_s
        self.longest_gap_s = longest_gap_s
        self.offset_s = 0.0
        self.next_s: float | None = None  # the end of the last frame
        self.last_s = -math.inf

    def tick(self, time_s: float | None, duration_s: float) -> tuple[float, float]:
        """(time, duration) in seconds of the next frame, from its own, possibly missing or wrong, ones."""
        step = duration_s if 0 < duration_s <= self.longest_gap_s else self.step_s
        if self.next_s is None:
            time = max(time_s, 0.0) if time_s is not None and time_s < self.longest_gap_s else 0.0
            if time_s is not None:
                self.offset_s = time - time_s
        elif time_s is None:
            time = self.next_s
        else:
            time = time_s + self.offset_s
            if time < self.last_s - 1.0 or time > self.next_s + self.longest_gap_s:
                self.offset_s += self.next_s - time
                time = self.next_s
            elif time <= self.last_s:
                time = self.last_s + min(0.001, self.step_s / 2)
        self.last_s, self.next_s = time, time + step
        return time, step


def _sample_aspect(video: "VideoStream") -> float:
    """Width of a pixel over its height; 1 where the file gives none or nonsense."""
    aspect = video.sample_aspect_ratio
    return float(aspect) if aspect and 0.1 <= aspect <= 10 else 1.0


def _orientation(image: "VideoFrame") -> tuple[bool, bool, bool]:
    from av.sidedata.sidedata import Type

    side_data: Any = image.side_data
    data = side_data.get(Type.DISPLAYMATRIX)
    if data is None:
        return False, False, False
    matrix = memoryview(bytes(data)).cast("i")
    a, b, c, d = matrix[0], matrix[1], matrix[3], matrix[4]  # x' = a x + c y, y' = b x + d y
    if abs(b) + abs(c) > abs(a) + abs(d):
        return True, b < 0, c < 0
    return False, d < 0, a < 0


def _audio_chunks(path: Path, language: str | None, rate: int) -> "Generator[tuple[int, np.ndarray]]":
    """(first sample's place on the media's time line at `rate`, float32 mono samples), in rising order, no overlap."""
    import av
    from av.audio.resampler import AudioResampler

    with _open(path) as container:
        audio = _main_audio(container, language)
        if audio is None:
            return
        zero_s = _zero_s(container, _main_video(container, path))
        longest_gap_s = _longest_gap_s(container)
        resampler: AudioResampler | None = None
        source: tuple[Any, ...] = ()
        at = 0  # where the next resampled sample goes
        ends_s: float | None = None  # where the last decoded frame ended on the stream's clock
        offset_s = 0.0
        n_frames = n_errors = 0

        def resampled(frame: "av.AudioFrame | None") -> "list[np.ndarray]":
            nonlocal resampler, source, n_errors
            try:
                return [piece.to_ndarray().reshape(-1) for piece in resampler.resample(frame)] if resampler else []
            except av.FFmpegError as error:  # a damaged header can name channels or rates that nothing converts
                log.warning("%s: sound near %.2f s is skipped: %s", path.name, ends_s or 0.0, error)
                resampler, source, n_errors = None, (), n_errors + 1
                return []

        for packet in _packets(container, audio, path):
            try:
                frames = audio.decode(packet)
            except av.FFmpegError as error:
                n_errors += 1
                if n_errors <= 3:
                    log.warning("%s: an audio packet is skipped: %s", path.name, error)
                continue
            for frame in frames:
                if not frame.samples or frame.sample_rate < 1000:  # less is damage, and would swell when resampled
                    continue
                n_frames += 1
                pts = frame.pts if frame.pts is not None else frame.dts
                time_s = (
                    None if pts is None else pts * float(frame.time_base or audio.time_base or 0) - zero_s + offset_s
                )
                if time_s is None:
                    time_s = ends_s if ends_s is not None else 0.0
                if ends_s is not None and (time_s < ends_s - 1.0 or time_s > ends_s + longest_gap_s):
                    offset_s += ends_s - time_s
                    time_s = ends_s
                kind = (frame.format.name, frame.layout.name, frame.sample_rate)
                # Timestamps are rounded (Matroska's to a millisecond), so only a real gap starts a new run.
                if kind != source or ends_s is None or abs(time_s - ends_s) > 0.05:
                    for samples in resampled(None):
                        yield at, samples
                        at += len(samples)
                    resampler, source = AudioResampler("flt", "mono", rate), kind
                    place = round(time_s * rate)
                    at = place if ends_s is None else max(at, place)
                    ends_s = time_s
                ends_s = ends_s + frame.samples / frame.sample_rate
                frame.pts = None  # the place is kept here; the resampler shall not move samples by itself
                for samples in resampled(frame):
                    yield at, samples
                    at += len(samples)
        for samples in resampled(None):
            yield at, samples
            at += len(samples)
        if n_errors:
            log.warning("%s: %d audio packets were skipped, %d frames decoded", path.name, n_errors, n_frames)
