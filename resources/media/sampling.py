"""Shots and their sampled frames, in one decode of the film.

`cut_film` decodes once. The detector sees every frame at its own size. The frames of the shot that is still open
are thinned as it grows, and only those that end up as samples are scaled and compressed: memory depends on neither
the shot's nor the film's length. `sample_film` takes a whole film for one shot.

A detector takes frames one by one, in order, and names cuts: the index of the first frame of a new shot. The shots tile
[0, number of frames) in half-open ranges.
"""

import io
from collections import deque
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from resources.errors import BadInput
from resources.media.frames import Frame, Mark, read_frames
from resources.media.joined import FilmFile
from resources.media.pictures import SmallFrames, is_hdr, scaled, upright
from resources.media.read_ahead import read_ahead

if TYPE_CHECKING:
    import numpy as np
    from av.video.frame import VideoFrame

JPEG_QUALITY = 90
# Frames that the open shot keeps, per sampled frame, before it drops every second one: with at least half of them at
# hand, a sample is at most a quarter of the samples' distance off its place.
_KEPT_PER_SAMPLE = 4
_FRAMES_AHEAD = 8
# Decoded frames wait unscaled, as few are ever wanted small; beyond these many bytes they are scaled at once.
_WAITING_BYTES = 128 << 20
_KEPT_BYTES = 64 << 20
MOST_SHOTS = 100_000  # of a film: one a second for longer than a film may be


@dataclass(frozen=True)
class Shot:
    """Frames [start_frame, end_frame) and the time from the first one's to the next shot's first one (seconds).

    mark: where the film may be decoded from to find the shot again; None near the film's start.
    """

    index: int
    start_s: float
    end_s: float
    start_frame: int
    end_frame: int
    mark: Mark | None = field(default=None, compare=False)


@dataclass(frozen=True)
class SampledFrame:
    """A frame of a shot: its index in the film, its time in seconds, and the upright picture as a JPEG."""

    frame_index: int
    time_s: float
    jpeg: bytes


class Cuts(Protocol):
    """Finds cuts in one film, whose frames come in order.

    warm_up: so many frames before a cut it must begin, at least, to find it as if it had seen all before.
    """

    warm_up: int
    picture_format: str  # rgb24 or bgr24
    interpolation: str  # how its pictures are scaled down: AREA, FAST_BILINEAR

    def picture_size(self, width: int, height: int) -> tuple[int, int]:
        """(width, height) of the picture that it wants to see of an upright frame of this size."""
        ...

    @property
    def settled(self) -> int:
        """Every cut before this frame has been returned."""
        ...

    def push(self, picture: "np.ndarray") -> list[int]:
        """Take the next frame (height, width, 3) uint8, upright; return the cuts that are now known, rising."""
        ...

    def certain(self) -> list[int]:
        """Return the cuts that no frame to come can change and that were not returned yet."""
        ...

    def finish(self) -> list[int]:
        """The film is over: return the cuts that were still open."""
        ...


def cut_film(
    path: FilmFile,
    cuts: Cuts,
    frames_per_shot: int,
    short_side: int,
    growing: bool = False,
    begin: Mark | None = None,
) -> Generator[tuple[Shot, list[SampledFrame]]]:
    """Decode the film once and yield each shot, as soon as its end is known, with its sampled frames.

    A shot of n frames gives min(n, frames_per_shot) frames, in the middles of as many equal parts of it. Pictures are
    upright with square pixels, `short_side` pixels on the shorter side and never enlarged. growing: the film may go on:
    only the shots that it has whatever follows are yielded. begin: where to decode from, for a detector that begins
    there: what is found first is a part of a shot, and shots are numbered from 0. Raises BadInput and MarkNotFound as
    `read_frames` does; shots that were yielded before a truncated end are then void.
    """
    small_frames = SmallFrames(short_side)
    frames = read_ahead(_pictures(path, cuts, small_frames, growing, begin), _FRAMES_AHEAD)
    waiting = _Waiting()
    shot = _OpenShot(begin.frame if begin else 0, frames_per_shot, cuts.warm_up, begin)
    found: deque[int] = deque()
    end_s = 0.0
    try:
        for seen, picture in frames:
            waiting.append(seen)
            end_s = seen.end_s
            found.extend(cuts.push(picture))
            yield from _settle(waiting, found, cuts.settled, shot)
        if growing:
            found.extend(cuts.certain())
            yield from _settle(waiting, found, cuts.settled, shot)
            return
        found.extend(cuts.finish())
        yield from _settle(waiting, found, shot.end_frame + len(waiting), shot)
        yield shot.close(end_s)
    finally:
        frames.close()


def sample_film(path: FilmFile, frames: int, short_side: int) -> list[SampledFrame]:
    """Evenly spaced frames of the whole film, as `cut_film` would take them of one shot. Raises BadInput as
    `read_frames` does."""
    small_frames, film, end_s = SmallFrames(short_side), _OpenShot(0, frames), 0.0
    for number, frame in enumerate(read_frames(path)):
        seen = _Seen(number, frame, small_frames)
        film.add(seen)
        end_s = seen.end_s
    return film.close(end_s)[1]


class _Seen:
    """A frame of the film: as decoded, until somebody wants it small."""

    def __init__(self, number: int, frame: Frame, small_frames: SmallFrames) -> None:
        self.number = number
        self.time_s = frame.time_s
        self.end_s = frame.time_s + frame.duration_s
        self.orientation = frame.orientation
        self.mark = frame.mark
        self.bytes = sum(plane.buffer_size for plane in frame.image.planes)
        self._frame: Frame | None = frame
        self._small: VideoFrame | None = None
        self._small_frames = small_frames

    def small(self) -> "VideoFrame":
        """The frame as it is kept; the decoded one is let go."""
        if self._small is None:
            assert self._frame is not None
            self._small, self._frame, self.bytes = self._small_frames(self._frame), None, 0
        return self._small

    def jpeg(self) -> bytes:
        import numpy as np
        from PIL import Image

        picture = upright(self.small().to_ndarray(format="rgb24"), self.orientation)
        file = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(picture)).save(file, "JPEG", quality=JPEG_QUALITY)
        return file.getvalue()


def _pictures(
    path: FilmFile, cuts: Cuts, small_frames: SmallFrames, growing: bool, begin: Mark | None
) -> "Generator[tuple[_Seen, np.ndarray]]":
    """Every frame of the film from `begin` on, and the picture of it that the detector wants to see."""
    from av.video.reformatter import VideoReformatter

    scaler = VideoReformatter()
    frames = read_frames(path, growing=growing, begin=begin)
    try:
        for number, frame in enumerate(frames, begin.frame if begin else 0):
            seen = _Seen(number, frame, small_frames)
            source = seen.small() if is_hdr(frame.image) else frame.image
            if frame.orientation[0]:  # lies on its side until it is turned upright below
                height, width = cuts.picture_size(source.height, source.width)
            else:
                width, height = cuts.picture_size(source.width, source.height)
            picture = scaled(source, width, height, cuts.picture_format, scaler, cuts.interpolation).to_ndarray()
            yield seen, upright(picture, frame.orientation)
    finally:
        frames.close()


class _Waiting:
    """Frames that the detector has not settled yet, in order; the oldest are scaled when they take too many bytes."""

    def __init__(self) -> None:
        self._frames: deque[_Seen] = deque()
        self._n_small = 0  # so many at the front are scaled
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._frames)

    def append(self, seen: _Seen) -> None:
        self._frames.append(seen)
        self._bytes += seen.bytes
        while self._bytes > _WAITING_BYTES and self._n_small < len(self._frames):
            oldest = self._frames[self._n_small]
            self._bytes -= oldest.bytes
            self._n_small += 1
            oldest.small()

    def pop_before(self, settled: int) -> Iterator[_Seen]:
        while self._frames and self._frames[0].number < settled:
            seen = self._frames.popleft()
            self._bytes -= seen.bytes
            self._n_small = max(0, self._n_small - 1)
            yield seen


def _settle(
    waiting: _Waiting, found: deque[int], settled: int, shot: "_OpenShot"
) -> Iterator[tuple[Shot, list[SampledFrame]]]:
    for seen in waiting.pop_before(settled):
        if found and found[0] == seen.number:
            found.popleft()
            if shot.index >= MOST_SHOTS:
                raise BadInput(
                    f"the film has more than {MOST_SHOTS:,} shots, which no film has; convert it, or remove it"
                )
            yield shot.close(seen.time_s)
        shot.add(seen)


class _OpenShot:
    """The shot that is growing: a thinned, evenly spaced selection of its frames."""

    def __init__(self, start_frame: int, samples: int, warm_up: int = 0, mark: Mark | None = None) -> None:
        self.index = 0
        self.samples = samples
        self.warm_up = warm_up
        self.marks = deque([mark] if mark else [])  # those that this shot or a later one may need
        self.start_s = 0.0
        self.start_frame = self.end_frame = start_frame
        self.kept: list[_Seen] = []
        self.stride = 1

    def add(self, seen: _Seen) -> None:
        if self.start_frame == self.end_frame:
            self.start_s = seen.time_s
            while len(self.marks) > 1 and self.marks[1].frame <= seen.number - self.warm_up:
                self.marks.popleft()
        if seen.mark:
            self.marks.append(seen.mark)
        self.end_frame += 1
        if (seen.number - self.start_frame) % self.stride:
            return
        self.kept.append(seen)
        most = self.samples * _KEPT_PER_SAMPLE
        if seen.bytes * most > _KEPT_BYTES:
            seen.small()
        if len(self.kept) > most:
            self.kept = self.kept[::2]
            self.stride *= 2

    def close(self, end_s: float) -> tuple[Shot, list[SampledFrame]]:
        """End the shot at `end_s` and begin the next one."""
        near = self.marks and self.marks[0].frame <= self.start_frame - self.warm_up
        mark = self.marks[0] if near else None
        shot = Shot(self.index, self.start_s, end_s, self.start_frame, self.end_frame, mark)
        n_frames = self.end_frame - self.start_frame
        n_samples = min(self.samples, n_frames)
        places = [self.start_frame + (2 * i + 1) * n_frames // (2 * n_samples) for i in range(n_samples)]
        last = len(self.kept) - 1
        chosen = [self.kept[min(round((place - self.start_frame) / self.stride), last)] for place in places]
        self.index, self.start_frame, self.kept, self.stride = self.index + 1, self.end_frame, [], 1
        return shot, [SampledFrame(seen.number, seen.time_s, seen.jpeg()) for seen in chosen]
