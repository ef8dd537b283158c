"""Turns the sampled frames of a shot into its video embedding."""

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from dagster import ConfigurableResource
from pydantic import Field, field_validator

from resources.errors import Unavailable
from resources.registry import Registry, implementation, known

if TYPE_CHECKING:
    import numpy as np

VIDEO_ENCODERS: Registry = {
    "descriptors": "resources.encoders.video.descriptors:Descriptors",
    "efficientnet": "resources.encoders.video.efficientnet:EfficientNet",
    "clip": "resources.encoders.video.clip:ClipFrames",
}
"""By `kind`. Another one is a class like these (`VideoModel`) in a module of its own, and a line here."""


class VideoModel(Protocol):
    """One kind of video encoder, made with the settings. See `VideoEncoder`, which has the same methods."""

    def config_key(self) -> str: ...
    def space(self) -> str: ...
    def preflight(self) -> list[str]: ...
    def embed(self, shots: Iterable[Sequence[bytes]]) -> "Iterator[np.ndarray]": ...


@runtime_checkable
class TextTower(Protocol):
    """What a kind has besides if it reads texts, too."""

    def embed_texts(self, texts: Sequence[str]) -> "np.ndarray": ...


class VideoEncoder(ConfigurableResource[Any]):
    """Shots' JPEG frames in, one 768-d unit vector per shot out.

    kind: "descriptors" (colour, gradients and texture; no weights), "efficientnet" (ImageNet features and colour; the
        weights are an installed package's) or "clip" (the image tower of a CLIP-style model).
    model: for "clip", a checkpoint folder (a SeqCLIP fine-tune too) or a name on the model hub: a CLIP, SigLIP or
        SigLIP 2 whose two towers meet in 768 dimensions or more, which are projected to 768.
    device: "auto" (a GPU where there is one), or PyTorch's name for it.
    dtype: the precision of the weights; it is part of the embedding space. On a GPU, bfloat16 is several times faster;
        where it is the slower one (`matmul_dtype`), its rounded weights are multiplied in float32.
    batch_size: frames given to the model at once.
    """

    kind: str = "descriptors"
    model: str = "openai/clip-vit-large-patch14"
    device: str = "auto"
    dtype: str = "float32"
    batch_size: int = Field(default=64, ge=1)

    @field_validator("kind")
    @classmethod
    def _known(cls, kind: str) -> str:
        return known(VIDEO_ENCODERS, kind)

    def config_key(self) -> str:
        """What this configuration computes, told without touching weights: for code versions at load time."""
        return self._model().config_key()

    def space(self) -> str:
        """The embedding space, weights identified by content: vectors of two spaces must never meet."""
        return self._model().space()

    def preflight(self) -> list[str]:
        """One sentence for each thing that is missing; empty when the encoder is ready to work."""
        return self._model().preflight()

    def embed(self, shots: Iterable[Sequence[bytes]]) -> "Iterator[np.ndarray]":
        """One unit-norm (768,) float32 vector per shot, in order; a shot is its JPEG frames, at least one.

        Shots are taken as they are needed, so memory does not grow with the title. Raises ValueError for a shot without
        frames, Unavailable for a checkpoint that cannot be used.
        """
        return self._model().embed(shots)

    def embed_texts(self, texts: Sequence[str]) -> "np.ndarray":
        """Unit-norm (len(texts), 768) float32: the text tower, whose vectors lie in the space of the shots'.

        Raises Unavailable for a kind without a text tower, or a checkpoint that cannot be used.
        """
        model = self._model()
        if not isinstance(model, TextTower):
            raise Unavailable(
                f"The video encoder {self.kind!r} has no text tower: shots are found by text with 'clip'."
            )
        return model.embed_texts(texts)

    def _model(self) -> VideoModel:
        model: VideoModel = implementation(VIDEO_ENCODERS, self.kind)(self)
        return model
