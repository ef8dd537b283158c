"""The sound of a title: as it comes, or cut where its shots are."""

import logging
from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING, Any

from resources.errors import BadInput
from resources.media.container import (
    Allowance,
    declared_end_of,
    longest_gap_of,
    main_audio,
    main_video,
    open_film,
    packets_of,
    zero_of,
)
from resources.media.joined import FilmFile

if TYPE_CHECKING:
    import av
    import numpy as np

log = logging.getLogger(__name__)

SAMPLE_RATE = 16_000
_TOLD_BY_HEADER = ("mov", "matroska", "flac")
"""Containers whose header tells the sound's length; of others it is a guess, or what the file's end says."""
LONGEST_SHOT_S = 4 * 3600.0  # whose samples are held at once: 0.9 GB


def shot_audio(
    path: FilmFile, shots: Sequence[tuple[float, float]], language: str | None = None, sample_rate: int = SAMPLE_RATE
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

    chunks = sound_chunks(path, language, sample_rate)
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


def sound_blocks(path: FilmFile, language: str | None = None, block_s: float = 30.0) -> "Generator[np.ndarray]":
    """Decode one audio track once and yield all of it from the media's start on: float32 mono arrays at `SAMPLE_RATE`
    of `block_s` each, the last one shorter, with silence in gaps.

    Chosen as by `shot_audio`. Memory holds one block. Raises BadInput where no sound can be decoded, and at the end
    where it stops well before the end that the header declares.
    """
    import numpy as np

    size = round(block_s * SAMPLE_RATE)
    waiting: list[np.ndarray] = []
    held = at = 0  # samples that wait, and those that were given out
    chunks = sound_chunks(path, language)
    try:
        for start, samples in chunks:
            gap = start - at - held
            while gap > 0:
                silence = min(gap, size - held)
                waiting, held, gap = [*waiting, np.zeros(silence, np.float32)], held + silence, gap - silence
                if held == size:
                    yield np.concatenate(waiting)
                    waiting, held, at = [], 0, at + size
            waiting, held = [*waiting, samples], held + len(samples)
            while held >= size:
                whole = np.concatenate(waiting)
                yield whole[:size]
                waiting, held, at = [whole[size:]], held - size, at + size
    finally:
        chunks.close()
    if not at + held:
        raise BadInput(f"no sound of {path.name} can be decoded; the file is damaged or empty of sound")
    if held:
        yield np.concatenate(waiting)
    _refuse_truncated(path, language, (at + held) / SAMPLE_RATE)


def _refuse_truncated(path: FilmFile, language: str | None, end_s: float) -> None:
    with open_film(path) as container:
        audio = main_audio(container, language)
        if audio is None or not container.format.name.startswith(_TOLD_BY_HEADER):
            return
        declared_s = declared_end_of(container, audio, zero_of(container, main_video(container, path)))
    if declared_s is not None and declared_s - end_s > max(1.0, 0.02 * declared_s):
        raise BadInput(
            f"the sound of {path.name} ends at {end_s:.1f} s of the {declared_s:.1f} s that the file declares; it is "
            "truncated or damaged, copy it again"
        )


def sound_chunks(
    path: FilmFile, language: str | None = None, rate: int = SAMPLE_RATE
) -> "Generator[tuple[int, np.ndarray]]":
    """Decode one audio track: (first sample's place on the media's time line at `rate`, float32 mono samples), in
    rising order, no overlap. Chosen and refused as by `shot_audio`."""
    import av
    from av.audio.resampler import AudioResampler

    with open_film(path) as container:
        audio = main_audio(container, language)
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
