"""The video encoder that is the image tower of a CLIP-style model, whose text tower reads queries."""

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from resources.encoders.weights import checkpoint_folder, device_problems, torch_device, weights_identity
from resources.errors import Unavailable

if TYPE_CHECKING:
    import numpy as np

    from resources.encoders.video.clip_model import Clip
    from resources.encoders.video.encoder import VideoEncoder

POOLING = "norm-mean-norm-v1"


class ClipFrames:
    def __init__(self, settings: "VideoEncoder") -> None:
        self._settings = settings

    def config_key(self) -> str:
        return f"clip:{self._settings.model}:{self._settings.dtype}:{POOLING}"

    def space(self) -> str:
        weights = weights_identity(checkpoint_folder(self._settings.model))
        return f"clip:{weights}:{self._settings.dtype}:{POOLING}"

    def preflight(self) -> list[str]:
        if problems := device_problems(self._settings.device, self._settings.dtype):
            return problems
        try:
            self._clip()
        except Unavailable as problem:
            return [str(problem)]
        return []

    def embed(self, shots: Iterable[Sequence[bytes]]) -> "Iterator[np.ndarray]":
        return self._clip().embed_shots(shots, self._settings.batch_size)

    def embed_texts(self, texts: Sequence[str]) -> "np.ndarray":
        return self._clip().embed_texts(texts)

    def _clip(self) -> "Clip":
        from resources.encoders.video import clip_model as clip

        folder, device = checkpoint_folder(self._settings.model), torch_device(self._settings.device)
        return clip.load(folder, weights_identity(folder), device, self._settings.dtype)
