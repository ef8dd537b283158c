"""PySceneDetect's AdaptiveDetector."""

from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    import numpy as np

_WIDTH = 256  # PySceneDetect scales every film down to this width before it looks


class AdaptiveCuts:
    """PySceneDetect's AdaptiveDetector with its default window, minimum content and length.

    Its pictures are scaled as coarsely as PySceneDetect scales them: its threshold is a ratio to the noise between
    frames, and smoother pictures give it false cuts in fades.
    """

    package: ClassVar[str] = "scenedetect"
    default_threshold: ClassVar[float] = 3.0
    warm_up: ClassVar[int] = 100
    picture_format = "bgr24"
    interpolation = "FAST_BILINEAR"

    def __init__(self, threshold: float, device: str, begin: int = 0) -> None:
        from scenedetect import FrameTimecode
        from scenedetect.detectors import AdaptiveDetector

        self._detector = AdaptiveDetector(adaptive_threshold=threshold)
        self._timecode = FrameTimecode  # its unit here is the frame: PySceneDetect's lengths are in frames
        self._n = begin

    def picture_size(self, width: int, height: int) -> tuple[int, int]:
        factor = max(1.0, width / _WIDTH)
        return round(width / factor), max(1, round(height / factor))

    @property
    def settled(self) -> int:
        return max(0, self._n - self._detector.event_buffer_length)

    def certain(self) -> list[int]:
        return []

    def push(self, picture: "np.ndarray") -> list[int]:
        import numpy as np

        found = self._detector.process_frame(self._timecode(self._n, 25.0), np.ascontiguousarray(picture))
        self._n += 1
        return [cut.frame_num for cut in found]

    def finish(self) -> list[int]:
        return [cut.frame_num for cut in self._detector.post_process(self._timecode(self._n, 25.0))]
