"""Text embeddings from OpenAI's API, or any server that speaks it, within its limits and paid for once.

Facts of the service (its API reference, 2026): a request has at most 2,048 inputs and 300,000 tokens, an input at most
8,192 tokens and at least one.
"""

import base64
import binascii
import functools
import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Any

import numpy as np
import openai

from resources.encoders.pace import Pace
from resources.errors import Unavailable
from resources.lake.text_cache import cache_in, key

MOST_INPUTS, MOST_TOKENS, MOST_TOKENS_PER_INPUT = 2_048, 300_000, 8_192
RETRIES = 6  # of the client, for 408, 409, 429, 5xx, timeouts and broken connections, at the server's own pace
ATTEMPTS_AT_AN_ANSWER = 3  # of ours, for an answer that cannot be read
KEY_VARIABLE = "OPENAI_API_KEY"
DOLLARS_PER_MILLION_TOKENS = {"text-embedding-3-large": 0.13, "text-embedding-3-small": 0.02}  # list prices, 2026


@dataclass(frozen=True)
class Service:
    """Which model to ask, where, and how hard. `base_url` "" is OpenAI's; `lake` "" keeps nothing."""

    model: str
    dimensions: int
    base_url: str
    lake: str
    timeout_s: float
    concurrency: int
    requests_per_minute: int
    tokens_per_minute: int


@dataclass
class Usage:
    """What an embedding of texts took so far. `cost_usd` is None for a model without a known price."""

    texts: int = 0
    from_cache: int = 0  # inputs that had been paid for before
    sent: int = 0  # inputs that were answered now
    requests: int = 0
    tokens: int = 0  # as the service counted them
    cost_usd: float | None = 0.0


class _Unreadable(Exception):
    """An answer that is no embedding of what was asked; worth asking again."""


def embed(texts: Sequence[str], service: Service, usage: Usage) -> np.ndarray:
    """Unit-norm (len(texts), dimensions) float32; `usage`, a new one, is told what it takes while it is taken.

    Equal texts are sent once, texts in the cache never; each answer is in the cache before the next is waited for. A
    text over the input limit is cut at spaces, its parts' vectors averaged by their tokens. Raises ValueError for a
    blank text, Unavailable when the service refuses or does not answer; what was answered by then stays in the cache.
    """
    count = token_counter(service.model)
    parts = {text: split(text, count) for text in dict.fromkeys(texts)}
    inputs = list(dict.fromkeys(part for pieces in parts.values() for part in pieces))
    vectors = _cached(inputs, service)
    missing = [part for part in inputs if part not in vectors]
    usage.texts, usage.from_cache = len(texts), len(vectors)
    if missing:
        requests = list(pack(missing, [count(part) for part in missing]))
        budget = _budget(service.base_url, service.requests_per_minute, service.tokens_per_minute)
        for request, answer, used in _ask_all(requests, count, service, budget):
            usage.sent += len(request)
            usage.requests += 1
            usage.tokens += used
            usage.cost_usd = cost(service.model, usage.tokens)
            _remember(request, answer, service)
            vectors |= zip(request, answer, strict=True)
    whole = {text: _joined([vectors[part] for part in pieces], pieces, count) for text, pieces in parts.items()}
    return np.stack([whole[text] for text in texts]) if texts else np.zeros((0, service.dimensions), np.float32)


def inputs_of(texts: Sequence[str], service: Service) -> dict[str, int]:
    """What `embed` sends for the texts, by key in the cache, with the tokens of each; blank texts are left out."""
    count = token_counter(service.model)
    parts = (part for text in dict.fromkeys(texts) if text.strip() for part in split(text, count))
    return {key(service.model, service.dimensions, part): count(part) for part in parts}


def paid_for(keys: Sequence[str], service: Service) -> set[str]:
    """Those of the keys whose vectors are in the cache."""
    return cache_in(service.lake).has(keys) if service.lake and keys else set()


def cost(model: str, tokens: int) -> float | None:
    """Dollars at list price; None for a model without a known one."""
    price = DOLLARS_PER_MILLION_TOKENS.get(model)
    return None if price is None else tokens * price / 1e6


def _cached(inputs: list[str], service: Service) -> dict[str, np.ndarray]:
    if not service.lake:
        return {}
    keys = {key(service.model, service.dimensions, part): part for part in inputs}
    return {keys[name]: vector for name, vector in cache_in(service.lake).get(list(keys)).items()}


def _remember(inputs: Sequence[str], vectors: np.ndarray, service: Service) -> None:
    if service.lake:
        keys = [key(service.model, service.dimensions, part) for part in inputs]
        cache_in(service.lake).put(service.model, service.dimensions, dict(zip(keys, vectors, strict=True)))


def _joined(vectors: list[np.ndarray], pieces: list[str], count: Callable[[str], int]) -> np.ndarray:
    mean = np.average(vectors, axis=0, weights=[count(piece) for piece in pieces])
    return (mean / np.linalg.norm(mean)).astype(np.float32)


# --- Tokens and requests ---


@functools.cache
def token_counter(model: str) -> Callable[[str], int]:
    """Counts a text's tokens: exactly where tiktoken and its vocabulary are at hand, else by UTF-8 bytes.

    Every token of a byte-pair vocabulary covers at least one byte, so the bytes never fall short.
    """
    try:
        import tiktoken  # type: ignore[import-not-found,unused-ignore]

        encoding = tiktoken.encoding_for_model(model)
    except (ImportError, KeyError, OSError):  # not installed, not an OpenAI model, no network to fetch the vocabulary
        return lambda text: len(text.encode())
    return lambda text: len(encoding.encode(text, disallowed_special=()))


def counts_exactly(model: str) -> bool:
    """Whether `token_counter` counts as the service does; if not, there are at most so many."""
    return token_counter(model)("token") == 1


def split(text: str, count: Callable[[str], int], most: int = MOST_TOKENS_PER_INPUT) -> list[str]:
    """The text in parts of at most `most` tokens, none blank, cut at the space nearest the middle where there is one.

    Raises ValueError for a blank text.
    """
    if not text.strip():
        raise ValueError("a blank text has no embedding")
    if count(text) <= most:
        return [text]
    middle = len(text) // 2
    left, right = text.rfind(" ", 1, middle), text.find(" ", middle, len(text) - 1)
    spaces = [space for space in (left, right) if space > 0]
    cut = min(spaces, key=lambda space: abs(space - middle)) if spaces else middle
    halves = (text[:cut].strip(), text[cut:].strip())
    return [part for half in halves if half for part in split(half, count, most)]


def pack(inputs: Sequence[str], tokens: Sequence[int]) -> Iterator[list[str]]:
    """Requests, in order, each within the limits of inputs and tokens."""
    request: list[str] = []
    total = 0
    for part, n in zip(inputs, tokens, strict=True):
        if request and (len(request) == MOST_INPUTS or total + n > MOST_TOKENS):
            yield request
            request, total = [], 0
        request.append(part)
        total += n
    if request:
        yield request


@functools.cache
def _budget(base_url: str, requests_per_minute: int, tokens_per_minute: int) -> Pace:
    return Pace(requests_per_minute, tokens_per_minute)


# --- Asking ---


def _client(service: Service) -> openai.OpenAI:
    if not os.environ.get(KEY_VARIABLE):
        raise Unavailable(f"The text encoder needs a key for the embedding service: set {KEY_VARIABLE}.")
    return openai.OpenAI(base_url=service.base_url or None, timeout=service.timeout_s, max_retries=RETRIES)


def _ask_all(
    requests: list[list[str]], count: Callable[[str], int], service: Service, budget: Pace
) -> Iterator[tuple[list[str], np.ndarray, int]]:
    """(inputs, their vectors, tokens used) as the answers arrive.

    After a failure no further request is started, but the answers of those under way are still given out: they are
    paid for.
    """
    failure: BaseException | None = None
    with _client(service) as client, ThreadPoolExecutor(service.concurrency) as threads:

        def ask(request: list[str]) -> tuple[np.ndarray, int]:
            budget.take(sum(map(count, request)))
            return _ask(client, request, service)

        under_way = {threads.submit(ask, request): request for request in requests}
        try:
            for future in as_completed(under_way):
                if future.cancelled():
                    continue
                if error := future.exception():
                    failure = failure or error
                    for other in under_way:
                        other.cancel()
                else:
                    yield under_way[future], *future.result()
        finally:
            for other in under_way:
                other.cancel()
    if failure is not None:
        raise failure


def _ask(client: openai.OpenAI, request: list[str], service: Service) -> tuple[np.ndarray, int]:
    for attempt in range(ATTEMPTS_AT_AN_ANSWER):
        try:
            answer = client.embeddings.with_raw_response.create(
                input=request, model=service.model, dimensions=service.dimensions, encoding_format="base64"
            )
        except openai.APIError as error:
            raise _explained(error, service) from error
        try:
            return read_answer(answer.text, len(request), service)
        except _Unreadable as problem:
            if attempt == ATTEMPTS_AT_AN_ANSWER - 1:
                raise Unavailable(
                    f"The embedding service's answers cannot be used ({problem}); try again, or look at what serves "
                    f"{service.base_url or 'the API'}."
                ) from problem
    raise AssertionError("unreachable")


def read_answer(text: str, n: int, service: Service) -> tuple[np.ndarray, int]:
    """(n, dimensions) float32, each vector at the place that its `index` names, and the tokens used.

    Raises _Unreadable for a body that is cut off or does not answer every input once, Unavailable for vectors of
    another length.
    """
    try:
        body: dict[str, Any] = json.loads(text)
        found = {int(item["index"]): _numbers(item["embedding"]) for item in body["data"]}
        tokens = int(body["usage"]["total_tokens"])
    except (ValueError, KeyError, TypeError, binascii.Error) as error:
        raise _Unreadable(f"no embeddings in the body: {type(error).__name__}") from error
    if len(body["data"]) != n or set(found) != set(range(n)):
        raise _Unreadable(f"{len(body['data'])} vectors for {n} inputs")
    lengths = {len(vector) for vector in found.values()}
    if lengths != {service.dimensions}:
        raise Unavailable(
            f"The embedding service gives vectors of {min(lengths - {service.dimensions})} numbers for {service.model} "
            f"where {service.dimensions} were asked for: choose a model that has that many."
        )
    vectors = np.stack([found[index] for index in range(n)])
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    if not (np.isfinite(norms).all() and norms.all()):
        raise _Unreadable("vectors that are zero or not finite")
    return vectors / norms, tokens


def _numbers(embedding: str | list[float]) -> np.ndarray:
    if isinstance(embedding, str):
        return np.frombuffer(base64.b64decode(embedding, validate=True), "<f4").astype(np.float32)
    return np.asarray(embedding, np.float32)


def _explained(error: openai.APIError, service: Service) -> Unavailable:
    """What the client raised as a sentence for the person on call; the key, which messages may repeat, is left out."""
    where = f"The embedding service at {service.base_url or 'api.openai.com'}"
    match error:
        case openai.AuthenticationError() | openai.PermissionDeniedError():
            return Unavailable(
                f"{where} refuses the key ({error.status_code}): set {KEY_VARIABLE} to a valid one that may use "
                f"{service.model}."
            )
        case openai.RateLimitError() | openai.InternalServerError():
            return Unavailable(
                f"{where} still answers {error.status_code} after {RETRIES} retries ({error.message}); try again "
                "later, or lower the encoder's requests and tokens per minute."
            )
        case openai.APIConnectionError():  # timeouts too
            return Unavailable(
                f"{where} did not answer in {RETRIES + 1} attempts ({type(error).__name__}); check the network and the "
                "encoder's base_url."
            )
    return Unavailable(
        f"{where} refuses the request for {service.model} ({error.message}); check the encoder's model and dimensions."
    )
