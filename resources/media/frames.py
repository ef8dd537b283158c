"""Films opened, probed and decoded with FFmpeg (PyAV), on the assumption that the file is hostile.

* `probe` says what a film, or what is only heard, is, or in one sentence why it cannot be used.
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
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from resources.errors import BadInput
from resources.media.container import (
    MAX_DECODE_THREADS,
    MAX_PIXELS,
    MAX_SIDE,
    Allowance,
    declared_end_of,
    demuxed_end_of,
    longest_gap_of,
    main_video,
    open_film,
    packets_of,
    zero_of,
)
from resources.media.joined import FilmFile
from resources.media.sound import sound_chunks

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class MediaInfo:
    """What a film is. Width and height are as displayed: turned upright, with square pixels. Without a picture, what
    would be said of it is None."""

    duration_s: float
    fps: float | None  # the average; None where the file does not tell, or tells its clock's rate instead
    width: int | None
    height: int | None
    has_picture: bool
    has_audio: bool
    container: str
    video_codec: str | None
    audio_languages: tuple[str, ...]  # of the decodable audio tracks, "und" where unknown, in file order


class Mark(NamedTuple):
    """A key frame, from which a film can be decoded as if from its start.

    frame: its number in the film. byte, pts: where it stands in the file, and on the stream's clock. offset_s: what the
    clock's faults before it have moved its time by.
    """

    frame: int
    byte: int
    pts: int
    offset_s: float


class MarkNotFound(Exception):
    """The film has no such key frame where the mark says."""


class Frame(NamedTuple):
    """A decoded frame.

    time_s: seconds from the media's start, strictly increasing. duration_s: > 0, the best guess. image: as decoded.
    pixel_aspect: a pixel's width over its height. orientation: (transpose, flip rows, flip columns), in this order,
    turns the picture upright. mark: of a key frame.
    """

    time_s: float
    duration_s: float
    image: "VideoFrame"
    pixel_aspect: float
    orientation: tuple[bool, bool, bool]
    mark: Mark | None = None


def probe(path: FilmFile) -> MediaInfo:
    """Open the film, decode its first frame, or without a picture its first sound, and say what it is.

    Raises BadInput, in one sentence that names the file, when there is nothing to decode: missing, empty, not a film
    container, a still image, a playlist, neither picture nor sound, encrypted, damaged, or beyond the limits on size.
    """
    with open_film(path) as container:
        if main_video(container, path) is None:
            return _probe_sound(container, path)
    frames = read_frames(path, refuse_truncated=False)
    try:
        first = next(frames)
    finally:
        frames.close()
    with open_film(path) as container:
        video = _picture_of(container, path)
        width, height = first.image.width * first.pixel_aspect, float(first.image.height)
        if first.orientation[0]:
            width, height = height, width
        rate = video.average_rate
        duration_s = declared_end_of(container, video, zero_of(container, video)) or demuxed_end_of(path)
        Allowance(path).check(duration_s)
        return MediaInfo(
            duration_s=duration_s,
            fps=float(rate) if rate and 0 < rate <= 480 else None,
            width=max(1, round(width)),
            height=max(1, round(height)),
            has_picture=True,
            has_audio=bool(_languages(container)),
            container=container.format.name,
            video_codec=video.codec_context.name,
            audio_languages=_languages(container),
        )


def _probe_sound(container: "InputContainer", path: FilmFile) -> MediaInfo:
    """Of media without a picture. Their length is counted and not asked for: of MP3, headers tell a guess."""
    chunks = sound_chunks(path)
    try:
        if next(chunks, None) is None:
            raise BadInput(f"no sound of {path.name} can be decoded, and it has no picture; the file is damaged")
    finally:
        chunks.close()
    duration_s = demuxed_end_of(path)
    Allowance(path).check(duration_s)
    return MediaInfo(
        duration_s=duration_s,
        fps=None,
        width=None,
        height=None,
        has_picture=False,
        has_audio=True,
        container=container.format.name,
        video_codec=None,
        audio_languages=_languages(container),
    )


def _languages(container: "InputContainer") -> tuple[str, ...]:
    return tuple(stream.language or "und" for stream in container.streams.audio if stream.codec_context is not None)


def _picture_of(container: "InputContainer", path: FilmFile) -> "VideoStream":
    video = main_video(container, path)
    if video is None:
        raise BadInput(f"{path.name} has no video stream; it is only heard")
    return video


def read_frames(
    path: FilmFile, refuse_truncated: bool = True, growing: bool = False, begin: Mark | None = None
) -> Generator[Frame]:
    """Decode the main video stream, frame by frame, in presentation order; FFmpeg's threads decode ahead by themselves.

    growing: the film may go on: its last frames, which what comes after them could still change, are left out.
    begin: a mark of this film, or of what was its beginning: the frames from there on, as they are in the whole.
    A packet that cannot be decoded is skipped and logged, as ffmpeg does. Raises BadInput as `probe` does, and at the
    end, when `refuse_truncated`, where the video stops well before the end that its header declares; MarkNotFound.
    """
    import av

    with open_film(path) as container:
        video = _picture_of(container, path)
        video.thread_type = "AUTO"
        video.codec_context.thread_count = min(os.cpu_count() or 1, MAX_DECODE_THREADS)
        video.codec_context.options = {"max_pixels": str(MAX_PIXELS)}
        zero_s, aspect = zero_of(container, video), _sample_aspect(video)
        rate = video.average_rate or video.guessed_rate
        clock = _Clock(
            step_s=float(1 / rate) if rate and 0.01 <= rate <= 1000 else 0.04,
            longest_gap_s=longest_gap_of(container),
            offset_s=begin.offset_s if begin else None,
        )
        time_s = duration_s = 0.0
        n_frames = n_errors = 0
        shape: tuple[int, ...] = ()
        orientation = False, False, False
        allowance = Allowance(path)
        keys: dict[int, int] = {}  # bytes at which packets of key frames stand, by their time
        packets = packets_of(container, video, path)
        if begin:
            packets, n_frames = _packets_from(begin, packets, container, video), begin.frame
        for packet in _whole_packets(packets) if growing else packets:
            if packet.has_sidedata("encryption_info"):
                raise BadInput(f"{path.name} is encrypted; drop a copy without DRM")
            if packet.is_keyframe and packet.pts is not None and packet.pos is not None and packet.pos >= 0:
                keys[packet.pts] = packet.pos
            try:
                images = packet.decode()
            except MemoryError:
                raise
            except av.FFmpegError as error:
                n_errors += 1
                if n_errors <= 3:
                    log.warning("%s: a video packet near %.2f s is skipped: %s", path.name, time_s, error)
                continue
            for image in images:
                if image.width > MAX_SIDE or image.height > MAX_SIDE:
                    raise BadInput(f"{path.name} is {image.width}x{image.height}; the limit is {MAX_SIDE} on a side")
                pts = image.pts if image.pts is not None else image.dts
                if begin and n_frames == begin.frame and pts != begin.pts:
                    continue  # is shown before the key frame, and needs what stands before it
                base = float(image.time_base or video.time_base or 0)
                time_s, duration_s = clock.tick(
                    None if pts is None else round(pts * base - zero_s, 9), (image.duration or 0) * base
                )
                allowance.check(time_s)
                mark = None
                if pts is not None and pts in keys and clock.offset_s is not None:
                    byte = keys.pop(pts)
                    if time_s == round(pts * base - zero_s, 9) + clock.offset_s:  # nothing was repaired
                        mark = Mark(n_frames, byte, pts, clock.offset_s)
                n_frames += 1
                # Looked up only where it can have changed: a frame whose side data were looked at is part of a
                # reference cycle, and keeps its pixels until the garbage collector comes by.
                if shape != (shape := (image.rotation, image.width, image.height)):
                    orientation = _orientation(image)
                yield Frame(time_s, duration_s, image, aspect, orientation, mark)
        if not n_frames:
            raise BadInput(f"no frame of {path.name} can be decoded; the file is damaged or empty of pictures")
        if n_errors > n_frames:
            raise BadInput(
                f"{n_errors} of {n_errors + n_frames} pictures of {path.name} cannot be decoded; the file is damaged"
            )
        if n_errors:
            log.warning("%s: %d video packets were skipped, %d frames decoded", path.name, n_errors, n_frames)
        declared_s = declared_end_of(container, video, zero_s)
        end_s = time_s + duration_s
        refuse_truncated = refuse_truncated and not growing
        if refuse_truncated and declared_s is not None and declared_s - end_s > max(1.0, 0.02 * declared_s):
            raise BadInput(
                f"the video of {path.name} ends at {end_s:.1f} s of the {declared_s:.1f} s that the file declares; "
                "it is truncated or damaged, copy it again"
            )


def _whole_packets(packets: Iterator[Any]) -> Iterator[Any]:
    """The packets without the last one, which may be a part of what it will be, and without the end of the stream."""
    held = None
    for packet in packets:
        if held is not None:
            yield held
        if packet.size == 0:
            return
        held = packet


def _packets_from(
    mark: Mark, packets: Iterator[Any], container: "InputContainer", video: "VideoStream"
) -> Iterator[Any]:
    """The packets from the mark's on. MPEG streams are sought by bytes, as their clock may have begun anew."""
    import av

    try:
        if container.format.name in ("mpegts", "mpeg"):
            container.seek(mark.byte, unsupported_byte_offset=True)
        else:
            container.seek(mark.pts, stream=video)
    except av.FFmpegError as error:
        raise MarkNotFound from error
    first = next((packet for packet in packets if packet.pos == mark.byte or (packet.pos or 0) > mark.byte), None)
    if first is None or (first.pos, first.pts) != (mark.byte, mark.pts):
        raise MarkNotFound
    yield first
    yield from packets


class _Clock:
    """Turns stream times into finite, strictly increasing ones.

    A missing time follows its predecessor by one step. A small step back (reordered, doubled) becomes a millisecond
    forward, so that true times catch up again. A jump (back by more than a second, or forward by more than
    `longest_gap_s`) is a restarted clock: it continues where the old one stopped.
    """

    def __init__(self, step_s: float, longest_gap_s: float, offset_s: float | None) -> None:
        self.step_s = step_s
        self.longest_gap_s = longest_gap_s
        self.offset_s = offset_s  # None before the first frame of the film
        self.next_s = math.inf  # the end of the last frame
        self.last_s = -math.inf

    def tick(self, time_s: float | None, duration_s: float) -> tuple[float, float]:
        """(time, duration) in seconds of the next frame, from its own, possibly missing or wrong, ones."""
        step = duration_s if 0 < duration_s <= self.longest_gap_s else self.step_s
        if self.offset_s is None:
            time = max(time_s, 0.0) if time_s is not None and time_s < self.longest_gap_s else 0.0
            self.offset_s = time - time_s if time_s is not None else 0.0
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
