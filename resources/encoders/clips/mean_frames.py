"""The free clip encoder: the mean of a clip's frames through the video encoder that shots are given to.

It checks the comparison: on the same clips it is to score about as much as our own representation `video`, which is the
mean over the clip's shots.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from resources.encoders.clips.encoder import Limits

if TYPE_CHECKING:
    import numpy as np

    from resources.encoders.clips.encoder import ClipEncoders

FRAMES = 8  # as many as are sampled of a shot


class MeanFrames:
    limits = Limits()
    dimensions = None
    at_once = 1

    def __init__(self, settings: "ClipEncoders") -> None:
        self._video = settings.video

    def space(self) -> str:
        return f"mean-of-{FRAMES}-frames-v1:{self._video.space()}"

    def dollars(self, seconds: float) -> float:
        return 0.0

    def embed(self, clip: Path, seconds: float, key: str) -> "np.ndarray":
        from resources.shots import sample_frames

        (vector,) = self._video.embed([[frame.jpeg for frame in sample_frames(clip, FRAMES)]])
        return vector
