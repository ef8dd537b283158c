"""The audio encoder without weights: log-mel statistics over time."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from resources.encoders.audio.encoder import AudioEncoder


class LogMel:
    def __init__(self, settings: "AudioEncoder") -> None:
        pass

    def config_key(self) -> str:
        return "log-mel-statistics-v1"

    def space(self) -> str:
        return self.config_key()

    def preflight(self) -> list[str]:
        return []

    def embed(self, shots: "Iterable[np.ndarray]") -> "Iterator[np.ndarray | None]":
        from resources.encoders.audio.mel_statistics import describe_samples

        return (describe_samples(samples) if len(samples) else None for samples in shots)
