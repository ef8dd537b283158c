"""Clips cut out of a film, as files that other programs read: H.264 and AAC in MP4."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from resources.media.frames import Frame, read_frames
from resources.media.joined import FilmFile
from resources.media.pictures import SmallFrames, upright
from resources.media.sound import shot_audio

if TYPE_CHECKING:
    import av
    import numpy as np

Span = tuple[float, float]
"""start and end in seconds, half-open"""

SHORT_SIDE = 480
SAMPLE_RATE = 16_000
RECIPE = f"mp4-h264-{SHORT_SIDE}p-aac-{SAMPLE_RATE}-v1"
"""What a cut is made of: another one may give another vector."""

_CLOCK = 90_000  # ticks a second of the pictures' times
_ROUNDED_S = 0.0005
"""Labels are rounded to milliseconds: a frame this little before a clip's start is its first."""


def cut_clips(
    film: FilmFile, spans: Sequence[Span], folder: Path, language: str | None = None
) -> Iterator[tuple[Span, Path]]:
    """Each span's clip as a file in the folder, in the order of their ends; the caller removes the files.

    spans: none twice; they may overlap. The film is decoded once, up to the last of them. A clip has exactly the frames
    whose time lies in its span, each shown as long as in the film, and the samples of its sound from the first moment
    to the last. Pictures are upright, with square pixels, 8 bits, SDR, SHORT_SIDE pixels on the shorter side at most;
    the sound, of the track of the title's language, is mono at SAMPLE_RATE, and there is none where the film has none.
    A span without a frame is left out. Raises BadInput as `read_frames` and `shot_audio` do.
    """
    waiting = sorted(spans, reverse=True)
    open_clips: list[_Clip] = []
    small, sound = SmallFrames(SHORT_SIDE), _Sound(film, spans, language)
    with ExitStack() as left_open, closing(read_frames(film, refuse_truncated=False)) as frames:
        for frame in frames:
            now_s = frame.time_s + _ROUNDED_S
            for clip in sorted((clip for clip in open_clips if clip.span[1] <= now_s), key=_end):
                open_clips.remove(clip)
                yield clip.span, clip.close(sound.of(clip.span))
            while waiting and waiting[-1][0] <= now_s:
                span = waiting.pop()
                if span[1] > now_s:
                    clip = _Clip(span, folder / f"{len(spans) - len(waiting)}.mp4")
                    left_open.callback(clip.file.close)
                    open_clips.append(clip)
            if open_clips:
                picture = _picture(small(frame), frame)
                for clip in open_clips:
                    clip.add(picture, frame)
            elif not waiting:
                break
        for clip in sorted(open_clips, key=_end):
            yield clip.span, clip.close(sound.of(clip.span))


def _end(clip: "_Clip") -> float:
    return clip.span[1]


def _picture(small: "av.VideoFrame", frame: Frame) -> "np.ndarray":
    """RGB of even height and width, which 4:2:0 needs; an edge is doubled where there is one pixel too few."""
    import numpy as np

    picture = upright(small.to_ndarray(format="rgb24"), frame.orientation)
    odd = [(0, size % 2) for size in picture.shape[:2]]
    return np.ascontiguousarray(np.pad(picture, [*odd, (0, 0)], mode="edge"))


class _Sound:
    """The sound of spans that may overlap, from one pass over the film.

    `shot_audio` wants spans that do not: it is given the pieces between all starts and ends.
    """

    def __init__(self, film: FilmFile, spans: Sequence[Span], language: str | None) -> None:
        self.spans = sorted(spans)
        edges = sorted({edge for span in spans for edge in span})
        self.pieces = [
            piece for piece in pairwise(edges) if any(start <= piece[0] and piece[1] <= end for start, end in spans)
        ]
        self.heard: dict[Span, np.ndarray] = {}
        self.decoded = shot_audio(film, self.pieces, language, SAMPLE_RATE)
        self.next = 0

    def of(self, span: Span) -> "np.ndarray":
        """(n,) float32; empty where nothing is heard in the whole span. Spans are asked for in the order of their
        ends."""
        import numpy as np

        while self.next < len(self.pieces) and self.pieces[self.next][1] <= span[1]:
            self.heard[self.pieces[self.next]] = next(self.decoded)
            self.next += 1
        mine = [piece for piece in self.heard if span[0] <= piece[0] and piece[1] <= span[1]]
        self.spans.remove(span)
        parts = [self.heard[start, end] for start, end in mine]
        if any(len(part) for part in parts):  # a piece in which nothing is heard is empty, and here silent
            parts = [
                part if len(part) else np.zeros(round(end * SAMPLE_RATE) - round(start * SAMPLE_RATE), np.float32)
                for part, (start, end) in zip(parts, mine, strict=True)
            ]
        still_asked = min((start for start, _ in self.spans), default=float("inf"))
        self.heard = {piece: part for piece, part in self.heard.items() if piece[0] >= still_asked}
        return np.concatenate(parts) if parts else np.zeros(0, np.float32)


class _Clip:
    """A clip that is being written. Its coded pictures are held until its sound is known: the header names both."""

    def __init__(self, span: Span, path: Path) -> None:
        import av

        self.span = span
        self.path = path
        self.file = av.open(str(path), "w", format="mp4", container_options={"fflags": "+bitexact"})
        self.video: av.VideoStream | None = None
        self.pictures: list[av.Packet] = []
        self.durations: dict[int, int] = {}

    def add(self, picture: "np.ndarray", frame: Frame) -> None:
        import av

        if self.video is None:
            self.video = self.file.add_stream("libx264", rate=25, options={"preset": "ultrafast", "crf": "20"})
            self.video.height, self.video.width = picture.shape[:2]
            self.video.pix_fmt = "yuv420p"
            self.video.codec_context.time_base = Fraction(1, _CLOCK)
            self.video.codec_context.thread_count = 1
            self.video.codec_context.flags |= av.codec.context.Flags.bitexact
        # A film that changes its size half way is fitted into its first one.
        image = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(self.video.width, self.video.height)
        image.time_base = Fraction(1, _CLOCK)
        image.pts = max(0, round((frame.time_s - self.span[0]) * _CLOCK))
        self.durations[image.pts] = round(frame.duration_s * _CLOCK)
        self.pictures += self.video.encode(image)

    def close(self, samples: "np.ndarray") -> Path:
        """Write the file. samples: (n,) float32 mono, none for a clip without sound."""
        import av

        assert self.video is not None  # a clip is opened with its first frame
        audio = self.file.add_stream("aac", rate=SAMPLE_RATE, layout="mono") if len(samples) else None
        for packet in (*self.pictures, *self.video.encode(None)):
            packet.duration = self.durations[packet.pts or 0]  # the coder takes them for 1/25 s
            self.file.mux(packet)
        if audio is not None:
            audio.bit_rate = 64_000
            audio.codec_context.flags |= av.codec.context.Flags.bitexact
            for start in range(0, len(samples), 1024):
                piece = av.AudioFrame.from_ndarray(samples[None, start : start + 1024], format="fltp", layout="mono")
                piece.sample_rate, piece.pts = SAMPLE_RATE, start
                self.file.mux(audio.encode(piece))
            self.file.mux(audio.encode(None))
        self.file.close()
        return self.path
