"""The sound of a film, cut where its shots are."""

import logging
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resources.errors import BadInput
from resources.media.container import Allowance, longest_gap_of, main_video, open_film, packets_of, zero_of

if TYPE_CHECKING:
    import av
    import numpy as np
    from av.audio.stream import AudioStream
    from av.container import InputContainer

log = logging.getLogger(__name__)

LONGEST_SHOT_S = 4 * 3600.0  # whose samples are held at once: 0.9 GB

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


def shot_audio(
    path: Path, shots: Sequence[tuple[float, float]], language: str | None = None, sample_rate: int = 16000
) -> "Generator[np.ndarray]":
    """Decode one audio track once and yield one float32 mono array per shot, in order.

    shots: (start_s, end_s), sorted, not overlapping. language: the title's, such as "en" or "pt-BR"; it chooses the
    track, else the default one, else the first. An array has round(end_s * rate) - round(start_s * rate) samples in
    [-1, 1], each at its own timestamp, with silence in gaps; it is empty where the film has no sound within the shot.
    Memory holds the samples of one shot. Raises BadInput when the file cannot be opened, or a shot is too long.
    """
    import numpy as np

    if any(end_s - start_s > LONGEST_SHOT_S for start_s, end_s in shots):
        raise BadInput(
            f"a shot of {path.name} is longer than {LONGEST_SHOT_S / 3600:.0f} hours, too long for its sound to be "
            "held; cut the film, or convert it if its timestamps are wrong"
        )

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


def _audio_chunks(path: Path, language: str | None, rate: int) -> "Generator[tuple[int, np.ndarray]]":
    """(first sample's place on the media's time line at `rate`, float32 mono samples), in rising order, no overlap."""
    import av
    from av.audio.resampler import AudioResampler

    with open_film(path) as container:
        audio = _main_audio(container, language)
        if audio is None:
            return
        zero_s = zero_of(container, main_video(container, path))
        longest_gap_s = longest_gap_of(container)
        resampler: AudioResampler | None = None
        source: tuple[Any, ...] = ()
        at = 0  # where the next resampled sample goes
        ends_s: float | None = None  # where the last decoded frame ended on the stream's clock
        offset_s = 0.0
        n_frames = n_errors = 0
        allowance = Allowance(path)

        def resampled(frame: "av.AudioFrame | None") -> "list[np.ndarray]":
            nonlocal resampler, source, n_errors
            try:
                return [piece.to_ndarray().reshape(-1) for piece in resampler.resample(frame)] if resampler else []
            except av.FFmpegError as error:  # a damaged header can name channels or rates that nothing converts
                log.warning("%s: sound near %.2f s is skipped: %s", path.name, ends_s or 0.0, error)
                resampler, source, n_errors = None, (), n_errors + 1
                return []

        for packet in packets_of(container, audio, path):
            try:
                frames = audio.decode(packet)
            except MemoryError:
                raise
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
                allowance.check(ends_s)
                frame.pts = None  # the place is kept here; the resampler shall not move samples by itself
                for samples in resampled(frame):
                    yield at, samples
                    at += len(samples)
        for samples in resampled(None):
            yield at, samples
            at += len(samples)
        if n_errors:
            log.warning("%s: %d audio packets were skipped, %d frames decoded", path.name, n_errors, n_frames)
