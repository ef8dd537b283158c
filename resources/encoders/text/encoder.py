"""Turns texts (a shot's cues, a title's metadata) into embeddings."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from dagster import ConfigurableResource
from pydantic import Field, PrivateAttr, field_validator

from model.modalities import WIDTHS
from resources.registry import Registry, implementation, known

if TYPE_CHECKING:
    import numpy as np

    from resources.encoders.text.openai_service import Usage

TEXT_ENCODERS: Registry = {
    "hashed": "resources.encoders.text.hashed:Hashed",
    "minilm": "resources.encoders.text.minilm:MiniLMWithNgrams",
    "openai": "resources.encoders.text.openai:OpenAI",
}
"""By `kind`. Another one is a class like these (`TextModel`) in a module of its own, and a line here."""


class TextModel(Protocol):
    """One kind of text encoder, made with the settings. See `TextEncoder`.

    usage: what the texts took, even if some were refused; None of a free one.
    """

    usage: "Usage | None"

    def config_key(self) -> str: ...
    def preflight(self) -> list[str]: ...
    def embed(self, texts: Sequence[str]) -> "np.ndarray": ...


@runtime_checkable
class PaidTextModel(TextModel, Protocol):
    """A text encoder that is paid by the token. See `TextEncoder.paid`.

    counts_exactly: whether its tokens are counted as the service counts them; else there are at most so many.
    """

    counts_exactly: bool

    def inputs_of(self, texts: Sequence[str]) -> dict[str, int]:
        """What would be sent for the texts, by its key in the cache, with its tokens; blank texts are left out."""

    def paid_for(self, keys: Sequence[str]) -> set[str]:
        """Those of the keys that were paid for before."""

    def cost(self, tokens: int) -> float | None:
        """Dollars at list price; None for a model without a known one."""


class TextEncoder(ConfigurableResource[Any]):
    """Texts in, one unit vector of `dimensions` numbers per text out.

    kind: "hashed" (hashed word and character n-grams; no weights), "minilm" (a sentence model joined with those; the
        weights are an installed package's; more than 384 dimensions) or "openai" (an embedding model behind OpenAI's
        API; the key comes from OPENAI_API_KEY).
    dimensions: length of the vectors; for "openai", what the model is asked for.
    model: for "openai".
    base_url: any server that speaks the same API; "" is OpenAI's.
    lake: URI of the lake whose table `text_cache` keeps what was paid for; "" keeps nothing.
    timeout_s, concurrency, requests_per_minute, tokens_per_minute: how hard the service is asked.
    """

    kind: str = "hashed"
    dimensions: int = Field(default=dict(WIDTHS)["text"], ge=1)
    model: str = "text-embedding-3-large"
    base_url: str = ""
    lake: str = ""
    timeout_s: float = Field(default=60.0, gt=0)
    concurrency: int = Field(default=8, ge=1)
    requests_per_minute: int = Field(default=3_000, ge=1)
    tokens_per_minute: int = Field(default=1_000_000, ge=1)
    _last_usage: "Usage | None" = PrivateAttr(default=None)

    @field_validator("kind")
    @classmethod
    def _known(cls, kind: str) -> str:
        return known(TEXT_ENCODERS, kind)

    def config_key(self) -> str:
        """What this configuration computes, told without a network: for code versions at load time."""
        return self._model().config_key()

    def space(self) -> str:
        """The embedding space: vectors of two spaces must never meet. A hosted model is known by its name alone."""
        return self.config_key()

    def preflight(self) -> list[str]:
        """One sentence for each thing that is missing; empty when the encoder is ready to work. Asks no service."""
        return self._model().preflight()

    @property
    def last_usage(self) -> "Usage | None":
        """What the latest `embed` took (texts, cached, sent, requests, tokens, cost_usd), though it failed; None for a
        free one."""
        return self._last_usage

    def embed(self, texts: Sequence[str]) -> "np.ndarray":
        """Unit-norm (len(texts), dimensions) float32; raises ValueError for a blank text.

        Raises Unavailable when the service cannot be used; what it answered by then is in the cache.
        """
        model = self._model()
        try:
            return model.embed(texts)
        finally:
            self._last_usage = model.usage

    @property
    def paid(self) -> PaidTextModel | None:
        """What tells, before anything is sent, what texts will take; None of a free encoder."""
        model = self._model()
        return model if isinstance(model, PaidTextModel) else None

    def _model(self) -> TextModel:
        model: TextModel = implementation(TEXT_ENCODERS, self.kind)(self)
        return model
