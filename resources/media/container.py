"""A title's media: opened within limits, its streams, its packets and its times.

Media without a picture, such as a podcast, have no main video; then their sound tells the time.
"""

import logging
import os
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from resources.errors import BadInput
from resources.media.joined import FilmFile, Joined

if TYPE_CHECKING:
    import av
    from av.audio.stream import AudioStream
    from av.container import InputContainer
    from av.video.stream import VideoStream

log = logging.getLogger(__name__)

# Containers that hold the film themselves. Left out on purpose: hls, dash, concat, sdp, rtsp, image2, lavfi, devices.
_FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpegtsraw,mpeg,flv,live_flv,kux,asf,asf_o,ogg,mxf,nut,rm,wtv,dv,gxf,"
    "ivf,obu,av1,h264,hevc,vvc,m4v,mpegvideo,h261,h263,vc1,dirac,yuv4mpegpipe,wav,w64,mp3,flac,aac,ac3,eac3,aiff,au,caf"
)
MAX_SIDE = 16384
MAX_PIXELS = 8192 * 8192
_MAX_STREAMS = 128
_MAX_DURATION_S = 14 * 24 * 3600.0
LONGEST_FILM_S = 24 * 3600.0
# Processor seconds that decoding may take: for any film, and more for each second of it. 4K in 10 bits takes 1 to 2.
_ANY_FILM_CPU_S, _CPU_S_PER_SECOND = 600.0, 20.0
MAX_DECODE_THREADS = 8
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
_IMAGE_BRANDS = (b"avif", b"avis", b"mif1", b"msf1", b"heic", b"heix")


def open_film(path: FilmFile) -> "InputContainer":
    import av

    name = path.name
    try:
        with path.open() if isinstance(path, Joined) else open(path, "rb") as stream:
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
            path.open() if isinstance(path, Joined) else "file:" + os.path.abspath(path),
            "r",
            buffer_size=1 << 20 if isinstance(path, Joined) else 32768,
            options={"protocol_whitelist": "file", "format_whitelist": _FORMATS},
            metadata_errors="replace",
        )
    except MemoryError:  # an FFmpegError, too
        raise
    except av.FFmpegError as error:
        raise BadInput(
            f"{name} cannot be opened as a film ({error.strerror}); it is damaged, truncated, or no media file"
        ) from None
    n_streams = len(container.streams)
    if n_streams > _MAX_STREAMS:
        container.close()
        raise BadInput(f"{name} has {n_streams} streams; the limit is {_MAX_STREAMS}")
    return container


def main_video(container: "InputContainer", path: FilmFile) -> "VideoStream | None":
    """The stream of the picture; None of media that are only heard, whose cover pictures are no video.

    Raises BadInput where nothing can be decoded: neither picture nor sound, or a picture in an unknown codec.
    """
    from av.stream import Disposition

    pictures = Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.still_image
    films = [stream for stream in container.streams.video if not stream.disposition & pictures]
    if not films:
        if any(stream.codec_context is not None for stream in container.streams.audio):
            return None
        besides = " besides cover pictures" if container.streams.video else ""
        raise BadInput(f"{path.name} has neither a video stream{besides} nor sound that can be decoded")
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


def main_audio(container: "InputContainer", language: str | None = None) -> "AudioStream | None":
    """The track in the title's language, else the default one, else the first; None without one that can be decoded."""
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


def packets_of(container: "InputContainer", stream: "av.stream.Stream", path: FilmFile) -> Iterator[Any]:
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
        except MemoryError:
            raise
        except av.FFmpegError as error:
            log.warning("%s: reading stops early: %s", path.name, error)
            return
        if packet is None:
            return
        yield packet


class Allowance:
    """What the decoding of one film may take of this process's time."""

    def __init__(self, path: FilmFile) -> None:
        self._path, self._began_s = path, time.process_time()

    def check(self, time_s: float) -> None:
        """Decoding has come to `time_s` of the film. Raises BadInput when the film is too long, or its seconds are."""
        if time_s > LONGEST_FILM_S:
            raise BadInput(
                f"{self._path.name} is longer than {LONGEST_FILM_S / 3600:.0f} hours, or its timestamps are wrong; "
                "cut it, or convert it"
            )
        used_s = time.process_time() - self._began_s
        if used_s > _ANY_FILM_CPU_S + _CPU_S_PER_SECOND * max(time_s, 0.0):
            raise BadInput(
                f"{self._path.name} took {used_s:.0f} s of a processor for its first {time_s:.1f} s, "
                f"which is more than {_CPU_S_PER_SECOND:.0f} for each; convert it to smaller pictures"
            )


def zero_of(container: "InputContainer", video: "VideoStream | None") -> float:
    """The media's start on the streams' clock: the earliest of video and audio, but not pre-roll before zero."""
    starts = [start for start in map(_start_s, container.streams.audio) if start is not None]
    start = min(starts, default=None) if video is None else _start_s(video)
    if start is None:
        return 0.0
    # Audio that claims to begin long before the picture is a damaged header rather than an overture.
    early = [s for s in starts if start - 60 <= s < start]
    zero = min(early, default=start)
    return 0.0 if zero < 0 <= start else zero


def _start_s(stream: "av.stream.Stream") -> float | None:
    if stream.start_time is None or stream.time_base is None:
        return None
    return float(stream.start_time * stream.time_base)


def declared_end_of(container: "InputContainer", stream: "av.stream.Stream", zero_s: float) -> float | None:
    """Where the header says that a stream of video or sound ends, seconds from the media's start; None where it does
    not say."""
    end: float | None = None
    tag = stream.metadata.get("DURATION", "")  # Matroska keeps a track's duration in a tag, as h:mm:ss.fraction
    if stream.duration and stream.time_base:
        end = float(stream.duration * stream.time_base) + (_start_s(stream) or 0.0) - zero_s
    elif tag.count(":") == 2 and all(part.replace(".", "", 1).isdigit() for part in tag.split(":")):
        hours, minutes, seconds = map(float, tag.split(":"))
        end = hours * 3600 + minutes * 60 + seconds
    elif container.duration and not container.streams.audio:
        end = container.duration / 1e6
    return end if end is not None and 0 < end <= _MAX_DURATION_S else None


def demuxed_end_of(path: FilmFile) -> float:
    """Where the last packet of the video, or without any of the sound, ends; reads the file, decodes nothing."""
    with open_film(path) as container:
        video = main_video(container, path)
        stream = video or main_audio(container)
        assert stream is not None, "media without a picture have sound"
        zero_s, end_s = zero_of(container, video), 0.0
        for packet in packets_of(container, stream, path):
            pts = packet.pts if packet.pts is not None else packet.dts
            if pts is not None:
                end_s = max(end_s, float((pts + (packet.duration or 0)) * packet.time_base) - zero_s)
        return min(end_s, _MAX_DURATION_S)


def span_of(path: FilmFile) -> tuple[float, float] | None:
    """Where the picture begins and ends on the stream's own clock, in seconds; reads the file, decodes nothing. None
    where no packet has a time."""
    with open_film(path) as container:
        video = main_video(container, path)
        packets = packets_of(container, video, path) if video else iter(())
        timed = [packet for packet in packets if packet.pts is not None]
        ends = [packet.pts + (packet.duration or 0) for packet in timed]
        base = float(timed[0].time_base) if timed else 0.0
        return (min(packet.pts for packet in timed) * base, max(ends) * base) if timed else None


def longest_gap_of(container: "InputContainer") -> float:
    """A forward jump of the clock beyond this is a fault of the clock: MPEG streams restart theirs, files do not."""
    return 10.0 if container.format.name in ("mpegts", "mpeg", "mpegtsraw") else 3600.0
