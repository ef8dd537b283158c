"""The audio encoder that is a network trained on sound effects; its weights come with a package."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from resources.encoders.packaged_weights import AISFX
from resources.encoders.weights import device_problems, torch_device
from resources.errors import Unavailable

if TYPE_CHECKING:
    import numpy as np

    from resources.encoders.audio.aisfx_model import SoundNet
    from resources.encoders.audio.encoder import AudioEncoder

RECIPE = "blocks-4-and-3-mean-v1"


class AiSfx:
    def __init__(self, settings: "AudioEncoder") -> None:
        self._settings = settings

    def config_key(self) -> str:
        return f"aisfx:{AISFX.sha256[:12]}:{self._settings.dtype}:{RECIPE}"

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

    def embed(self, shots: "Iterable[np.ndarray]") -> "Iterator[np.ndarray | None]":
        return self._network().embed_shots(shots)

    def _network(self) -> "SoundNet":
        from resources.encoders.audio import aisfx_model

        return aisfx_model.load(torch_device(self._settings.device), self._settings.dtype)
