"""The video encoder without weights: colour, gradients and texture."""

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from resources.encoders.video.encoder import VideoEncoder


class Descriptors:
    def __init__(self, settings: "VideoEncoder") -> None:
        pass

    def config_key(self) -> str:
        return "visual-descriptors-v1"

    def space(self) -> str:
        return self.config_key()

    def preflight(self) -> list[str]:
        return []

    def embed(self, shots: Iterable[Sequence[bytes]]) -> "Iterator[np.ndarray]":
        from resources.encoders.video.visual_descriptors import describe_shot

        return map(describe_shot, shots)
