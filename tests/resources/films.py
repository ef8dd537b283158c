"""Small films rendered for the tests: every property that matters is set by the caller and can be read back."""

from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.stream import Disposition


def render(
    path: Path,
    pictures: Iterable[np.ndarray],
    fps: int = 25,
    times_s: Sequence[float] | None = None,
    sound: dict[str, np.ndarray] | None = None,
    sound_times_s: Sequence[float] | None = None,
    rate: int = 48000,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    rotation: tuple[int, bool, bool] | None = None,
    pixel_aspect: Fraction | None = None,
    transfer: int | None = None,
    faststart: bool = False,
) -> Path:
    """Write (height, width, 3) uint8 pictures, and mono float tracks by language, into the container of the name.

    times_s: each frame's own time; else frame / fps. sound_times_s: the time of each 1024-sample block.
    """
    pictures = list(pictures)
    ticks = fps if path.suffix == ".avi" else 1000 * fps  # AVI has one fixed rate
    options = {"movflags": "faststart"} if faststart else {}
    with av.open(str(path), "w", options=options) as container:
        video: Any = container.add_stream(codec, rate=fps)
        video.height, video.width = pictures[0].shape[:2]
        video.pix_fmt = pix_fmt
        video.time_base = video.codec_context.time_base = Fraction(1, ticks)
        if codec == "libx264":
            video.options = {"crf": "12", "preset": "ultrafast", "x264-params": "keyint=25"}
        if rotation is not None:
            video.set_display_rotation(rotation[0], hflip=rotation[1], vflip=rotation[2])
        if pixel_aspect is not None:
            video.codec_context.sample_aspect_ratio = pixel_aspect
        if transfer is not None:
            video.codec_context.color_trc = transfer
            video.codec_context.color_primaries = video.codec_context.colorspace = 9  # BT.2020
        tracks = {}
        for language in sound or {}:
            audio = tracks[language] = container.add_stream("flac" if path.suffix == ".mkv" else "aac", rate=rate)
            audio.metadata["language"] = language
            audio.layout = "mono"
        for i, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.time_base = Fraction(1, ticks)
            frame.pts = round((times_s[i] if times_s is not None else i / fps) * ticks)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        for language, samples in (sound or {}).items():
            audio = tracks[language]
            for i, start in enumerate(range(0, len(samples), 1024)):
                block = av.AudioFrame.from_ndarray(
                    np.round(samples[None, start : start + 1024] * 32767).astype(np.int16), format="s16", layout="mono"
                )
                block.sample_rate, block.time_base = rate, Fraction(1, rate)
                block.pts = start if sound_times_s is None else round(sound_times_s[i] * rate)
                container.mux(audio.encode(block))
            container.mux(audio.encode(None))
    return path


def spoken(path: Path, samples: np.ndarray, rate: int = 16000, cover: np.ndarray | None = None) -> Path:
    """Write mono float samples without a picture into the container of the name; `cover` as its attached picture."""
    codecs = {".mp3": "libmp3lame", ".m4a": "aac", ".mp4": "aac", ".wav": "pcm_s16le", ".opus": "libopus"}
    with av.open(str(path), "w") as container:
        audio: Any = container.add_stream(codecs.get(path.suffix, "flac"), rate=rate)
        audio.layout = "mono"
        if cover is not None:
            art: Any = container.add_stream("mjpeg", rate=1)
            art.height, art.width = cover.shape[:2]
            art.pix_fmt = "yuvj420p"
            art.disposition = Disposition.attached_pic
            container.mux(art.encode(av.VideoFrame.from_ndarray(cover, format="rgb24")))
            container.mux(art.encode(None))
        whole = np.round(samples * 32767).astype(np.int16)
        for start in range(0, len(whole), 4096):
            block = av.AudioFrame.from_ndarray(whole[None, start : start + 4096], format="s16", layout="mono")
            block.sample_rate, block.time_base, block.pts = rate, Fraction(1, rate), start
            container.mux(audio.encode(block))
        container.mux(audio.encode(None))
    return path


def numbered(n: int, height: int = 36, width: int = 64) -> list[np.ndarray]:
    """n pictures that carry their number: ten vertical bars, black for a 0 bit and white for a 1 bit."""
    bits = (np.arange(n)[:, None] >> np.arange(10)) & 1
    bars = bits[:, np.arange(width) * 10 // width].astype(np.uint8) * 255
    return [np.broadcast_to(row[None, :, None], (height, width, 3)).copy() for row in bars]


def number_of(picture: np.ndarray) -> int:
    """The number that `numbered` put into a picture of any size."""
    middle = picture[picture.shape[0] // 2, :, 1]
    return sum(int(middle[int((bit + 0.5) * len(middle) / 10)] > 127) << bit for bit in range(10))


def scenes(lengths: Sequence[int], height: int = 72, width: int = 128, seed: int = 0) -> list[np.ndarray]:
    """A textured picture per scene, drifting slowly: hard cuts that any detector should find."""
    rng = np.random.default_rng(seed)
    pictures = []
    for length in lengths:
        base = rng.integers(30, 225, 3)
        coarse = rng.normal(0, 45, (height // 8 + 2, width // 8 + 8, 3)) + base
        stage = np.clip(np.repeat(np.repeat(coarse, 8, 0), 8, 1), 0, 255).astype(np.uint8)
        pictures += [stage[4 : 4 + height, i // 8 % 32 : i // 8 % 32 + width] for i in range(length)]
    return pictures


def tone(hz: float, seconds: float, rate: int = 48000, volume: float = 0.5) -> np.ndarray:
    return (volume * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)
