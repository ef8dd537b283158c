"""The films of the demo catalogue: a story's pictures and sound, drawn with NumPy and written with PyAV."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from resources.demo.sound import SAMPLE_RATE

if TYPE_CHECKING:
    import numpy as np

WIDTH, HEIGHT = 256, 144


def render_film(
    path: Path,
    frames: "Iterable[np.ndarray]",
    fps: int,
    samples: "np.ndarray | None" = None,
    sample_rate: int = SAMPLE_RATE,
) -> None:
    """Write an H.264 film, with an AAC track of `samples` (mono float32 in [-1, 1]) unless there are none.

    `frames` are uint8 (height, width, 3) RGB arrays of one even size, shown for 1 / `fps` s each. The container is the
    one that the path's extension says. The same input gives the same bytes.
    """
    import av
    import numpy as np

    container = av.open(str(path), "w", container_options={"fflags": "+bitexact"})
    video: av.VideoStream | None = None
    audio = container.add_stream("aac", rate=sample_rate, layout="mono") if samples is not None else None
    if audio is not None:
        audio.bit_rate = 64_000
        audio.codec_context.flags |= av.codec.context.Flags.bitexact
    sent = 0

    def send_audio(until: int) -> None:
        nonlocal sent
        if audio is None or samples is None:
            return
        while sent < min(until, len(samples)):
            piece = np.ascontiguousarray(samples[None, sent : sent + 1024], dtype=np.float32)
            frame = av.AudioFrame.from_ndarray(piece, format="fltp", layout="mono")
            frame.sample_rate, frame.pts = sample_rate, sent
            container.mux(audio.encode(frame))
            sent += piece.shape[1]

    with container:
        for number, pixels in enumerate(frames):
            if video is None:
                video = container.add_stream("libx264", rate=fps, options={"preset": "ultrafast", "crf": "27"})
                video.height, video.width = pixels.shape[:2]
                video.pix_fmt = "yuv420p"
                video.codec_context.thread_count = 1
                video.codec_context.flags |= av.codec.context.Flags.bitexact
            picture = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            picture.pts = number
            container.mux(video.encode(picture))
            send_audio(round((number + 1) * sample_rate / fps))
        if video is None:
            raise ValueError("a film needs at least one frame")
        container.mux(video.encode(None))
        if audio is not None and samples is not None:
            send_audio(len(samples))
            container.mux(audio.encode(None))
