"""The text encoder that is an embedding model behind OpenAI's API."""

import importlib.util
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from resources.encoders.text.encoder import TextEncoder
    from resources.encoders.text.openai_service import Service, Usage

JOINING = "mean-of-parts-v1"


class OpenAI:
    def __init__(self, settings: "TextEncoder") -> None:
        self._settings = settings
        self.usage: Usage | None = None

    def config_key(self) -> str:
        return f"openai:{self._settings.model}:{self._settings.dimensions}:{JOINING}"

    def preflight(self) -> list[str]:
        problems = []
        if importlib.util.find_spec("openai") is None:
            problems.append("The text encoder needs the openai package: install it.")
        if not os.environ.get("OPENAI_API_KEY"):
            problems.append("The text encoder needs a key for the embedding service: set OPENAI_API_KEY.")
        return problems

    def embed(self, texts: Sequence[str]) -> "np.ndarray":
        from resources.encoders.text import openai_service

        self.usage = openai_service.Usage()
        return openai_service.embed(texts, self._service(), self.usage)

    @property
    def counts_exactly(self) -> bool:
        from resources.encoders.text import openai_service

        return openai_service.counts_exactly(self._settings.model)

    def inputs_of(self, texts: Sequence[str]) -> dict[str, int]:
        from resources.encoders.text import openai_service

        return openai_service.inputs_of(texts, self._service())

    def paid_for(self, keys: Sequence[str]) -> set[str]:
        from resources.encoders.text import openai_service

        return openai_service.paid_for(keys, self._service())

    def cost(self, tokens: int) -> float | None:
        from resources.encoders.text import openai_service

        return openai_service.cost(self._settings.model, tokens)

    def _service(self) -> "Service":
        from resources.encoders.text.openai_service import Service

        asked = self._settings
        return Service(
            model=asked.model,
            dimensions=asked.dimensions,
            base_url=asked.base_url,
            lake=asked.lake,
            timeout_s=asked.timeout_s,
            concurrency=asked.concurrency,
            requests_per_minute=asked.requests_per_minute,
            tokens_per_minute=asked.tokens_per_minute,
        )
