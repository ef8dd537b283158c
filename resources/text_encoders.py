"""Turns texts (a shot's cues, a title's metadata) into embeddings."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dagster import ConfigurableResource

if TYPE_CHECKING:
    import numpy as np

HASHED = "hashed-ngrams-v1"


class TextEncoder(ConfigurableResource):
    """Texts in, one unit vector of `dimensions` numbers per text out.

    kind: "hashed" (hashed word and character n-grams; no weights).
    """

    kind: str = "hashed"
    dimensions: int = 768

    def config_key(self) -> str:
        """What this configuration computes, told without touching weights: for code versions at load time."""
        return f"{HASHED}:{self.dimensions}"

    def space(self) -> str:
        """The embedding space: vectors of two spaces must never meet."""
        return self.config_key()

    def preflight(self) -> list[str]:
        """One sentence for each thing that is missing; empty when the encoder is ready to work."""
        if self.kind != "hashed":
            return [f"The text encoder's kind is {self.kind!r}, but it must be 'hashed' or 'openai'."]
        return []

    def embed(self, texts: Sequence[str]) -> "np.ndarray":
        """Unit-norm (len(texts), dimensions) float32; raises ValueError for a blank text."""
        from resources.hashed_ngrams import hash_texts

        return hash_texts(texts, self.dimensions)
