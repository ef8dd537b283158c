"""Turns the samples of a shot into its audio embedding."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Protocol

from dagster import ConfigurableResource
from pydantic import Field, field_validator

from resources.registry import Registry, implementation, known

if TYPE_CHECKING:
    import numpy as np

AUDIO_ENCODERS: Registry = {
    "logmel": "resources.encoders.audio.logmel:LogMel",
    "aisfx": "resources.encoders.audio.aisfx:AiSfx",
    "wav2vec2": "resources.encoders.audio.wav2vec2:Wav2Vec2",
}
"""By `kind`. Another one is a class like these (`AudioModel`) in a module of its own, and a line here."""


class AudioModel(Protocol):
    """One kind of audio encoder, made with the settings. See `AudioEncoder`, which has the same methods."""

    def config_key(self) -> str: ...
    def space(self) -> str: ...
    def preflight(self) -> list[str]: ...
    def embed(self, shots: "Iterable[np.ndarray]") -> "Iterator[np.ndarray | None]": ...


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
    batch_seconds: float = Field(default=60.0, gt=0)

    @field_validator("kind")
    @classmethod
    def _known(cls, kind: str) -> str:
        return known(AUDIO_ENCODERS, kind)

    def config_key(self) -> str:
        """What this configuration computes, told without touching weights: for code versions at load time."""
        return self._model().config_key()

    def space(self) -> str:
        """The embedding space, weights identified by content: vectors of two spaces must never meet."""
        return self._model().space()

    def preflight(self) -> list[str]:
        """One sentence for each thing that is missing; empty when the encoder is ready to work."""
        return self._model().preflight()

    def embed(self, shots: "Iterable[np.ndarray]") -> "Iterator[np.ndarray | None]":
        """One (768,) float32 vector per shot, in order; None for a shot without samples.

        A shot is its mono samples at 16 kHz, float32 in -1..1. Shots are taken as they are needed; a shot's vector does
        not depend on the others. Raises Unavailable for a checkpoint that cannot be used.
        """
        return self._model().embed(shots)

    def _model(self) -> AudioModel:
        model: AudioModel = implementation(AUDIO_ENCODERS, self.kind)(self)
        return model
