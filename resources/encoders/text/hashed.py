"""The text encoder without weights: hashed word and character n-grams."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from resources.encoders.text.encoder import TextEncoder


class Hashed:
    usage = None

    def __init__(self, settings: "TextEncoder") -> None:
        self._dimensions = settings.dimensions

    def config_key(self) -> str:
        return f"hashed-ngrams-v1:{self._dimensions}"

    def preflight(self) -> list[str]:
        return []

    def embed(self, texts: Sequence[str]) -> "np.ndarray":
        from resources.encoders.text.hashed_ngrams import hash_texts

        return hash_texts(texts, self._dimensions)
