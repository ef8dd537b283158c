"""Turns texts (a shot's cues, a title's metadata) into embeddings."""

import importlib.util
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dagster import ConfigurableResource
from pydantic import PrivateAttr

if TYPE_CHECKING:
    import numpy as np

    from resources.openai_embeddings import Service, Usage

HASHED = "hashed-ngrams-v1"
OPENAI_JOINING = "mean-of-parts-v1"


class TextEncoder(ConfigurableResource[Any]):
    """Texts in, one unit vector of `dimensions` numbers per text out.

    kind: "hashed" (hashed word and character n-grams; no weights) or "openai" (an embedding model behind OpenAI's API;
        the key comes from OPENAI_API_KEY).
    dimensions: length of the vectors; for "openai", what the model is asked for.
    model: for "openai".
    base_url: any server that speaks the same API; "" is OpenAI's.
    lake: URI of the lake whose table `text_cache` keeps what was paid for; "" keeps nothing.
    timeout_s, concurrency, requests_per_minute, tokens_per_minute: how hard the service is asked.
    """

    kind: str = "hashed"
    dimensions: int = 768
    model: str = "text-embedding-3-large"
    base_url: str = ""
    lake: str = ""
    timeout_s: float = 60.0
    concurrency: int = 8
    requests_per_minute: int = 3_000
    tokens_per_minute: int = 1_000_000
    _last_usage: "Usage | None" = PrivateAttr(default=None)

    def config_key(self) -> str:
        """What this configuration computes, told without a network: for code versions at load time."""
        if self.kind == "hashed":
            return f"{HASHED}:{self.dimensions}"
        return f"openai:{self.model}:{self.dimensions}:{OPENAI_JOINING}"

    def space(self) -> str:
        """The embedding space: vectors of two spaces must never meet. A hosted model is known by its name alone."""
        return self.config_key()

    def preflight(self) -> list[str]:
        """One sentence for each thing that is missing; empty when the encoder is ready to work. Asks no service."""
        if self.kind == "hashed":
            return []
        if self.kind != "openai":
            return [f"The text encoder's kind is {self.kind!r}, but it must be 'hashed' or 'openai'."]
        problems = []
        if importlib.util.find_spec("openai") is None:
            problems.append("The text encoder needs the openai package: install it.")
        if not os.environ.get("OPENAI_API_KEY"):
            problems.append("The text encoder needs a key for the embedding service: set OPENAI_API_KEY.")
        return problems

    @property
    def last_usage(self) -> "Usage | None":
        """What the latest `embed` took (texts, cached, sent, requests, tokens, cost_usd); None for "hashed"."""
        return self._last_usage

    def embed(self, texts: Sequence[str]) -> "np.ndarray":
        """Unit-norm (len(texts), dimensions) float32; raises ValueError for a blank text.

        Raises Unavailable when the service cannot be used; what it answered by then is in the cache.
        """
        if self.kind == "openai":
            from resources import openai_embeddings

            vectors, self._last_usage = openai_embeddings.embed(texts, self._service())
            return vectors
        from resources.hashed_ngrams import hash_texts

        return hash_texts(texts, self.dimensions)

    def _service(self) -> "Service":
        from resources.openai_embeddings import Service

        return Service(
            model=self.model,
            dimensions=self.dimensions,
            base_url=self.base_url,
            lake=self.lake,
            timeout_s=self.timeout_s,
            concurrency=self.concurrency,
            requests_per_minute=self.requests_per_minute,
            tokens_per_minute=self.tokens_per_minute,
        )
