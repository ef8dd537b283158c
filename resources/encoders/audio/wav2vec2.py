"""The audio encoder that is a wav2vec 2.0 checkpoint's last layer."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from resources.encoders.weights import checkpoint_folder, device_problems, torch_device, weights_identity
from resources.errors import Unavailable

if TYPE_CHECKING:
    import numpy as np

    from resources.encoders.audio.encoder import AudioEncoder
    from resources.encoders.audio.wav2vec2_model import Wav2Vec

POOLING = "mean-over-time-v1"


class Wav2Vec2:
    def __init__(self, settings: "AudioEncoder") -> None:
        self._settings = settings

    def config_key(self) -> str:
        return f"wav2vec2:{self._settings.model}:{self._settings.dtype}:{POOLING}"

    def space(self) -> str:
        weights = weights_identity(checkpoint_folder(self._settings.model))
        return f"wav2vec2:{weights}:{self._settings.dtype}:{POOLING}"

    def preflight(self) -> list[str]:
        if problems := device_problems(self._settings.device, self._settings.dtype):
            return problems
        try:
            self._wav2vec()
        except Unavailable as problem:
            return [str(problem)]
        return []

    def embed(self, shots: "Iterable[np.ndarray]") -> "Iterator[np.ndarray | None]":
        return self._wav2vec().embed_shots(shots, self._settings.batch_seconds)

    def _wav2vec(self) -> "Wav2Vec":
        from resources.encoders.audio import wav2vec2_model as wav2vec

        folder, device = checkpoint_folder(self._settings.model), torch_device(self._settings.device)
        return wav2vec.load(folder, weights_identity(folder), device, self._settings.dtype)
