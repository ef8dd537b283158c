"""Turns the sampled frames of a shot into its video embedding."""

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from dagster import ConfigurableResource

if TYPE_CHECKING:
    import numpy as np

DESCRIPTORS = "visual-descriptors-v1"


class VideoEncoder(ConfigurableResource):
    """Shots' JPEG frames in, one 768-d unit vector per shot out.

    kind: "descriptors" (colour, gradients and texture; no weights).
    """

    kind: str = "descriptors"

    def config_key(self) -> str:
        """What this configuration computes, told without touching weights: for code versions at load time."""
        return DESCRIPTORS

    def space(self) -> str:
        """The embedding space, weights identified by content: vectors of two spaces must never meet."""
        return DESCRIPTORS

    def preflight(self) -> list[str]:
        """One sentence for each thing that is missing; empty when the encoder is ready to work."""
        if self.kind != "descriptors":
            return [f"The video encoder's kind is {self.kind!r}, but it must be 'descriptors' or 'clip'."]
        return []

    def embed(self, shots: Iterable[Sequence[bytes]]) -> "Iterator[np.ndarray]":
        """One unit-norm (768,) float32 vector per shot, in order; a shot is its JPEG frames, at least one.

        Shots are taken as they are needed, so memory does not grow with the title. Raises ValueError for a shot without
        frames.
        """
        from resources.visual_descriptors import describe_shot

        return map(describe_shot, shots)
