"""Turns the samples of a shot into its audio embedding."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from dagster import ConfigurableResource

if TYPE_CHECKING:
    import numpy as np

LOG_MEL = "log-mel-statistics-v1"


class AudioEncoder(ConfigurableResource):
    """Shots' samples in, one 768-d vector per shot out.

    kind: "logmel" (log-mel statistics over time; no weights).
    """

    kind: str = "logmel"

    def config_key(self) -> str:
        """What this configuration computes, told without touching weights: for code versions at load time."""
        return LOG_MEL

    def space(self) -> str:
        """The embedding space, weights identified by content: vectors of two spaces must never meet."""
        return LOG_MEL

    def preflight(self) -> list[str]:
        """One sentence for each thing that is missing; empty when the encoder is ready to work."""
        if self.kind != "logmel":
            return [f"The audio encoder's kind is {self.kind!r}, but it must be 'logmel' or 'wav2vec2'."]
        return []

    def embed(self, shots: "Iterable[np.ndarray]") -> "Iterator[np.ndarray | None]":
        """One (768,) float32 vector per shot, in order; None for a shot without samples.

        A shot is its mono samples at 16 kHz, float32 in -1..1. Shots are taken as they are needed.
        """
        from resources.log_mel import describe_samples

        return (describe_samples(samples) if len(samples) else None for samples in shots)
