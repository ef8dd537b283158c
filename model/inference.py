"""Inference: contextual embeddings of titles of any length.

A title over 512 shots is read in windows of 512 at stride 256, and each shot is taken from the window in which it
is most central. Windows of many titles share a batch; packed as they are, they do not see each other, and the
result is float32 arithmetic throughout, so a shot's vector does not depend on what it was batched with.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from model.checkpoint import from_tensors, read_export
from model.config import Config
from model.encoder import Encoder
from model.packing import Packing
from model.windows import most_central, windows

SHOTS_AT_ONCE = 4096  # in one pass through the encoder, unless one window is longer


def load(
    source: str | Path | Iterable[tuple[str, str, Iterable[int], bytes, str]], config: Config | None = None
) -> Encoder:
    """The encoder of an export folder or, given config too, of the encoder table's rows (name, dtype, shape, data,
    sha256).

    On the GPU if there is one. Raises ValueError when the parts do not fit together.
    """
    encoder = read_export(source) if isinstance(source, str | Path) else from_tensors(source, _needed(config))
    return encoder.to("cuda" if torch.cuda.is_available() else "cpu")


def _needed(config: Config | None) -> Config:
    if config is None:
        raise ValueError("An encoder made of tensor rows needs its configuration.")
    return config


def contextualise(
    encoder: Encoder, shots: NDArray[np.floating], global_embedding: NDArray[np.floating], layer: int | None = None
) -> NDArray[np.float32]:
    """Contextual embeddings of one title's shots.

    shots: (n, 2304) fused vectors in story order, n >= 1. global_embedding: (g,); zeros for a title without metadata.
    layer: 0 ... layers; the last one by default (Encoder.forward says what each is).
    Returns (n, hidden) float32. Raises ValueError for wrong shapes, NaN or infinity, and a layer that is not there.
    """
    return next(contextualise_many(encoder, [(shots, global_embedding)], layer))


def contextualise_many(
    encoder: Encoder,
    titles: Iterable[tuple[NDArray[np.floating], NDArray[np.floating]]],
    layer: int | None = None,
) -> Iterator[NDArray[np.float32]]:
    """contextualise for many titles (shots, global embedding), in their order; short titles share a pass."""
    config = encoder.config
    if layer is not None and not 0 <= layer <= config.layers:
        raise ValueError(f"There is no layer {layer}; the encoder has layers 0 to {config.layers}.")
    waiting: list[tuple[NDArray[np.floating], NDArray[np.floating]]] = []
    load = 0
    for number, (shots, global_embedding) in enumerate(titles):
        check(config, number, shots, global_embedding)
        waiting.append((shots, global_embedding))
        load += len(shots)
        if load >= SHOTS_AT_ONCE:
            yield from _contextualise(encoder, waiting, layer)
            waiting, load = [], 0
    yield from _contextualise(encoder, waiting, layer)


def check(config: Config, number: int, shots: NDArray[np.floating], global_embedding: NDArray[np.floating]) -> None:
    if shots.ndim != 2 or shots.shape[1] != config.fused_dim or len(shots) == 0:
        raise ValueError(
            f"Title {number} has shots of shape {shots.shape}; (n, {config.fused_dim}), n >= 1, is needed."
        )
    if global_embedding.shape != (config.global_dim,):
        raise ValueError(
            f"Title {number} has a global embedding of shape {global_embedding.shape}; "
            f"{(config.global_dim,)} is needed."
        )
    if not (np.isfinite(shots).all() and np.isfinite(global_embedding).all()):
        raise ValueError(f"Title {number} holds NaN or infinity in its shots or its global embedding.")


@torch.inference_mode()
def _contextualise(
    encoder: Encoder, titles: list[tuple[NDArray[np.floating], NDArray[np.floating]]], layer: int | None
) -> Iterator[NDArray[np.float32]]:
    config = encoder.config
    pieces = [
        (number, window)
        for number, (shots, _) in enumerate(titles)
        for window in windows(len(shots), config.max_shots, config.stride)
    ]
    states: list[list[NDArray[np.float32]]] = [[] for _ in titles]
    while pieces:
        batch: list[tuple[int, tuple[int, int]]] = []
        load = 0
        while pieces and (not batch or load + pieces[0][1][1] - pieces[0][1][0] <= SHOTS_AT_ONCE):
            batch.append(pieces.pop(0))
            load += batch[-1][1][1] - batch[-1][1][0]
        device = encoder.cls.device
        shots = np.concatenate([titles[number][0][start:stop] for number, (start, stop) in batch], dtype=np.float32)
        title_embeddings = np.stack([titles[number][1] for number, _ in batch]).astype(np.float32)
        lengths = [stop - start for _, (start, stop) in batch]
        out = encoder(
            torch.from_numpy(shots).to(device),
            torch.from_numpy(title_embeddings).to(device),
            Packing.of(lengths, device),
            layer=layer,
        )
        for (number, _), rows in zip(batch, out.cpu().split(lengths), strict=True):
            states[number].append(rows.numpy())
    for (shots, _), of_windows in zip(titles, states, strict=True):
        n = len(shots)
        chosen = most_central(n, config.max_shots, config.stride)
        starts = np.array([start for start, _ in windows(n, config.max_shots, config.stride)])
        yield np.stack(of_windows)[chosen, np.arange(n) - starts[chosen]]
