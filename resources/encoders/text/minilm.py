"""The text encoder that is a sentence model joined with hashed n-grams; its weights come with a package."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from resources.encoders.packaged_weights import MINILM
from resources.encoders.weights import torch_device
from resources.errors import Unavailable

if TYPE_CHECKING:
    import numpy as np

    from resources.encoders.text.encoder import TextEncoder
    from resources.encoders.text.minilm_model import MiniLM

RECIPE = "minilm-384-with-ngrams-v1"


class MiniLMWithNgrams:
    usage = None

    def __init__(self, settings: "TextEncoder") -> None:
        self._dimensions = settings.dimensions

    def config_key(self) -> str:
        return f"minilm:{MINILM.sha256[:12]}:{self._dimensions}:{RECIPE}"

    def preflight(self) -> list[str]:
        if self._dimensions <= 384:
            return [f"The text encoder 'minilm' needs more than 384 dimensions, but has {self._dimensions}."]
        try:
            self._model()
        except Unavailable as problem:
            return [str(problem)]
        return []

    def embed(self, texts: Sequence[str]) -> "np.ndarray":
        return self._model().embed(texts, self._dimensions)

    def _model(self) -> "MiniLM":
        from resources.encoders.text import minilm_model

        return minilm_model.load(torch_device("auto"))
