"""The video encoder that is an ImageNet network joined with the palette; its weights come with a package."""

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from resources.encoders.packaged_weights import EFFICIENTNET_LITE0
from resources.encoders.weights import device_problems, torch_device
from resources.errors import Unavailable

if TYPE_CHECKING:
    import numpy as np

    from resources.encoders.video.efficientnet_model import EfficientNetLite0
    from resources.encoders.video.encoder import VideoEncoder

RECIPE = "lite0-640-palette-128-v1"


class EfficientNet:
    def __init__(self, settings: "VideoEncoder") -> None:
        self._settings = settings

    def config_key(self) -> str:
        return f"efficientnet:{EFFICIENTNET_LITE0.sha256[:12]}:{self._settings.dtype}:{RECIPE}"

    def space(self) -> str:
        return self.config_key()

    def preflight(self) -> list[str]:
        if problems := device_problems(self._settings.device, self._settings.dtype):
            return problems
        try:
            self._network()
        except Unavailable as problem:
            return [str(problem)]
        return []

    def embed(self, shots: Iterable[Sequence[bytes]]) -> "Iterator[np.ndarray]":
        return self._network().embed_shots(shots, self._settings.batch_size)

    def _network(self) -> "EfficientNetLite0":
        from resources.encoders.video import efficientnet_model

        return efficientnet_model.load(torch_device(self._settings.device), self._settings.dtype)
