"""Turns texts (a shot's cues, a title's metadata) into embeddings."""

import importlib.util
import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from dagster import ConfigurableResource
from pydantic import PrivateAttr

from resources.errors import Unavailable

if TYPE_CHECKING:
    import numpy as np

    from resources.openai_embeddings import Service, Usage
    from resources.pretrained_texts import MiniLM

HASHED = "hashed-ngrams-v1"
MINILM_RECIPE = "minilm-384-with-ngrams-v1"
OPENAI_JOINING = "mean-of-parts-v1"


class TextEncoder(ConfigurableResource[Any]):
    """Texts in, one unit vector of `dimensions` numbers per text out.

    kind: "hashed" (hashed word and character n-grams; no weights), "minilm" (a sentence model joined with those; the
        weights are an installed package's; more than 384 dimensions) or "openai" (an embedding model behind OpenAI's
        API; the key comes from OPENAI_API_KEY).
    dimensions: length of the vectors; for "openai", what the model is asked for.
    model: for "openai".
    base_url: any server that speaks the same API; "" is OpenAI's.
    cache: URI of the Delta table that keeps what was paid for; "" keeps nothing.
    timeout_s, concurrency, requests_per_minute, tokens_per_minute: how hard the service is asked.
    """

    kind: str = "hashed"
    dimensions: int = 768
    model: str = "text-embedding-3-large"
    base_url: str = ""
    cache: str = ""
    timeout_s: float = 60.0
    concurrency: int = 8
    requests_per_minute: int = 3_000
    tokens_per_minute: int = 1_000_000
    _last_usage: "Usage | None" = PrivateAttr(default=None)

    def config_key(self) -> str:
        """What this configuration computes, told without a network: for code versions at load time."""
        if self.kind == "hashed":
            return f"{HASHED}:{self.dimensions}"
        if self.kind == "minilm":
            from resources.pretrained_weights import MINILM

            return f"minilm:{MINILM.sha256[:12]}:{self.dimensions}:{MINILM_RECIPE}"
        return f"openai:{self.model}:{self.dimensions}:{OPENAI_JOINING}"

    def space(self) -> str:
        """The embedding space: vectors of two spaces must never meet. A hosted model is known by its name alone."""
        return self.config_key()

    def preflight(self) -> list[str]:
        """One sentence for each thing that is missing; empty when the encoder is ready to work. Asks no service."""
        if self.kind == "hashed":
            return []
        if self.kind == "minilm":
            return self._minilm_problems()
        if self.kind != "openai":
            return [f"The text encoder's kind is {self.kind!r}, but it must be 'hashed', 'minilm' or 'openai'."]
        problems = []
        if importlib.util.find_spec("openai") is None:
            problems.append("The text encoder needs the openai package: install it.")
        if not os.environ.get("OPENAI_API_KEY"):
            problems.append("The text encoder needs a key for the embedding service: set OPENAI_API_KEY.")
        return problems

    @property
    def last_usage(self) -> "Usage | None":
        """What the latest `embed` took (texts, cached, sent, requests, tokens, cost_usd); None for a free one."""
        return self._last_usage

    def embed(self, texts: Sequence[str]) -> "np.ndarray":
        """Unit-norm (len(texts), dimensions) float32; raises ValueError for a blank text.

        Raises Unavailable when the service cannot be used; what it answered by then is in the cache.
        """
        if self.kind == "openai":
            from resources import openai_embeddings

            vectors, self._last_usage = openai_embeddings.embed(texts, self._service())
            return vectors
        if self.kind == "minilm":
            return self._minilm().embed(texts, self.dimensions)
        from resources.hashed_ngrams import hash_texts

        return hash_texts(texts, self.dimensions)

    def fill_cache(self, texts: Iterable[str], poll_s: float = 30.0) -> "Usage":
        """Pay for many texts at half the price through the Batch API, before a backfill; `embed` then finds them.

        Blocks until the service has answered, up to 24 hours; a call after an interrupted one collects what that one
        sent. Needs "openai" and a cache. Raises ValueError for a blank text, Unavailable as `embed` does.
        """
        from resources import openai_embeddings

        if self.kind != "openai" or not self.cache:
            raise ValueError("only an 'openai' text encoder with a cache can be filled")
        return openai_embeddings.fill_cache(texts, self._service(), poll_s)

    def _minilm_problems(self) -> list[str]:
        if self.dimensions <= 384:
            return [f"The text encoder 'minilm' needs more than 384 dimensions, but has {self.dimensions}."]
        try:
            self._minilm()
        except Unavailable as problem:
            return [str(problem)]
        return []

    def _minilm(self) -> "MiniLM":
        from resources import pretrained_texts
        from resources.weights import torch_device

        return pretrained_texts.load(torch_device("auto"))

    def _service(self) -> "Service":
        from resources.openai_embeddings import Service

        return Service(
            model=self.model,
            dimensions=self.dimensions,
            base_url=self.base_url,
            cache=self.cache,
            timeout_s=self.timeout_s,
            concurrency=self.concurrency,
            requests_per_minute=self.requests_per_minute,
            tokens_per_minute=self.tokens_per_minute,
        )
