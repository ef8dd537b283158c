"""Turns the samples of a shot into its audio embedding."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from dagster import ConfigurableResource

from resources.errors import Unavailable
from resources.weights import checkpoint_folder, device_problems, torch_device, weights_identity

if TYPE_CHECKING:
    import numpy as np

    from resources.pretrained_sounds import SoundNet
    from resources.wav2vec import Wav2Vec

LOG_MEL = "log-mel-statistics-v1"
AISFX_RECIPE = "blocks-4-and-3-mean-v1"
WAV2VEC_POOLING = "mean-over-time-v1"


class AudioEncoder(ConfigurableResource[Any]):
    """Shots' samples in, one 768-d vector per shot out.

    kind: "logmel" (log-mel statistics over time; no weights; unit vectors), "aisfx" (a network trained on libraries of
        sound effects; the weights are an installed package's; unit vectors) or "wav2vec2" (the mean over time of a
        wav2vec 2.0 checkpoint's last layer; not unit vectors).
    model: for "wav2vec2", a checkpoint folder or a name on the model hub, 768 wide or (large) more, projected to 768.
    device: "auto" (a GPU where there is one), or PyTorch's name for it.
    dtype: the precision of the weights; it is part of the embedding space. Where bfloat16 is slow (`matmul_dtype`), its
        rounded weights are multiplied in float32.
    batch_seconds: sound given to the model at once, padding included; 30 s is the least that is ever given.
    """

    kind: str = "logmel"
    model: str = "facebook/wav2vec2-base"
    device: str = "auto"
    dtype: str = "float32"
    batch_seconds: float = 60.0

    def config_key(self) -> str:
        """What this configuration computes, told without touching weights: for code versions at load time."""
        if self.kind == "aisfx":
            return self._aisfx_space()
        return LOG_MEL if self.kind == "logmel" else f"wav2vec2:{self.model}:{self.dtype}:{WAV2VEC_POOLING}"

    def space(self) -> str:
        """The embedding space, weights identified by content: vectors of two spaces must never meet."""
        if self.kind != "wav2vec2":
            return self.config_key()
        return f"wav2vec2:{weights_identity(checkpoint_folder(self.model))}:{self.dtype}:{WAV2VEC_POOLING}"

    def preflight(self) -> list[str]:
        """One sentence for each thing that is missing; empty when the encoder is ready to work."""
        if self.kind == "logmel":
            return []
        if self.kind not in ("wav2vec2", "aisfx"):
            return [f"The audio encoder's kind is {self.kind!r}, but it must be 'logmel', 'aisfx' or 'wav2vec2'."]
        if problems := device_problems(self.device, self.dtype):
            return problems
        try:
            self._wav2vec() if self.kind == "wav2vec2" else self._aisfx()
        except Unavailable as problem:
            return [str(problem)]
        return []

    def embed(self, shots: "Iterable[np.ndarray]") -> "Iterator[np.ndarray | None]":
        """One (768,) float32 vector per shot, in order; None for a shot without samples.

        A shot is its mono samples at 16 kHz, float32 in -1..1. Shots are taken as they are needed; a shot's vector does
        not depend on the others. Raises Unavailable for a checkpoint that cannot be used.
        """
        if self.kind == "wav2vec2":
            return self._wav2vec().embed_shots(shots, self.batch_seconds)
        if self.kind == "aisfx":
            return self._aisfx().embed_shots(shots)
        from resources.log_mel import describe_samples

        return (describe_samples(samples) if len(samples) else None for samples in shots)

    def _aisfx_space(self) -> str:
        from resources.pretrained_weights import AISFX

        return f"aisfx:{AISFX.sha256[:12]}:{self.dtype}:{AISFX_RECIPE}"

    def _aisfx(self) -> "SoundNet":
        from resources import pretrained_sounds

        return pretrained_sounds.load(torch_device(self.device), self.dtype)

    def _wav2vec(self) -> "Wav2Vec":
        from resources import wav2vec

        folder = checkpoint_folder(self.model)
        return wav2vec.load(folder, weights_identity(folder), torch_device(self.device), self.dtype)
