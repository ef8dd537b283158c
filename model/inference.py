"""Inference: contextual embeddings of titles of any length.

    python -m model.inference EXPORT FOLDER --out OUT     of somebody's own vectors (docs/own_vectors.md)

A title over 512 shots is read in windows of 512 at stride 256, and each shot is taken from the window in which it
is most central. Windows of many titles share a batch; packed as they are, they do not see each other, and the
result is float32 arithmetic throughout, so a shot's vector does not depend on what it was batched with.
"""

import argparse
import io
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import tee
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.checkpoint import from_tensors, read_export
from model.config import Config
from model.encoder import Encoder
from model.files import write_atomically
from model.own_vectors import OwnVectors
from model.packing import Packing
from model.smoothing import moving_average
from model.windows import most_central, windows

PUBLISHED = "last+fused"
"""The read-out that readers are given unless they ask for another one. docs/decisions.md says why it is this one."""
SHOTS_AT_ONCE = 4096  # in one pass through the encoder, unless one window is longer


class Span(NamedTuple):
    """Shots [start, stop) of a title, read together."""

    title: int
    start: int
    stop: int
    kept: NDArray[np.int64]  # the shots, counted from the start, that no other window sees more centrally


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

    shots: (n, D) fused vectors in story order, n >= 1, D as the encoder's `config.modalities`
    say; zeros for a shot without any. global_embedding: (g,); zeros for a title without metadata.
    layer: 0 ... layers; the last one by default (Encoder.forward says what each is; `read_out_many` joins several).
    Returns (n, hidden) float32. Raises ValueError for wrong shapes, NaN or infinity, and a layer that is not there.
    """
    return next(contextualise_many(encoder, [(shots, global_embedding)], layer))


def published(
    encoder: Encoder, shots: NDArray[np.floating], global_embedding: NDArray[np.floating]
) -> dict[str, NDArray[np.float32]]:
    """What a reader can choose from: `embedding`, the read-out `PUBLISHED`, and the layers `last` and `middle`, (n,
    hidden) each. Arguments and errors as of `contextualise`."""
    layers = {
        part: contextualise(encoder, shots, global_embedding, layer_of(part, encoder.config))
        for part in ("last", "middle")
    }
    return {"embedding": joined([layers["last"], shots]), **layers}


def read_out_many(
    encoder: Encoder,
    titles: Iterable[tuple[NDArray[np.floating], NDArray[np.floating]]],
    parts: str = PUBLISHED,
) -> Iterator[NDArray[np.float32]]:
    """One or several parts of each title's shots, joined. No one of them serves every task best (docs/benchmarks.md).

    titles: (shots, global embedding) each, as in `contextualise`. parts: names joined by "+". `last`, `middle` (layer
    layers // 2) and `layer0`, `layer1`, ... are the encoder's layers, `fused` the shots themselves, `average` their
    moving average (model.smoothing.moving_average). Yields (n, sum of the parts' widths) float32 of each title.
    Raises ValueError as `contextualise`, and for an unknown part.
    """
    names = parts.split("+")
    made = [_part(encoder, own, name) for own, name in zip(tee(titles, len(names)), names, strict=True)]
    for of_title in zip(*made, strict=True):
        yield joined(of_title)


def _part(
    encoder: Encoder, titles: Iterator[tuple[NDArray[np.floating], NDArray[np.floating]]], name: str
) -> Iterator[NDArray[np.float32]]:
    if name == "fused":
        return (shots.astype(np.float32) for shots, _ in titles)
    if name == "average":
        return (moving_average(shots) for shots, _ in titles)
    return contextualise_many(encoder, titles, layer_of(name, encoder.config))


def joined(parts: Sequence[NDArray[np.floating]]) -> NDArray[np.float32]:
    """Parts of (n, width) each, side by side: each at the same norm, and one norm in all. A single one is left as it
    is."""
    if len(parts) == 1:
        return parts[0].astype(np.float32)
    normed = [part / np.maximum(np.linalg.norm(part, axis=1, keepdims=True), 1e-12) for part in parts]
    return (np.concatenate(normed, axis=1) / len(parts) ** 0.5).astype(np.float32)


def layer_of(part: str, config: Config) -> int:
    """The number of the layer that a part of a read-out names. Raises ValueError for any other part."""
    named = {"last": config.layers, "middle": config.layers // 2}
    layers = named | {f"layer{number}": number for number in range(config.layers + 1)}
    if part not in layers:
        raise ValueError(f"There is no read-out {part!r}; there are fused, average, {', '.join(layers)}.")
    return layers[part]


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
    if waiting:
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
) -> list[NDArray[np.float32]]:
    config = encoder.config
    waiting: deque[Span] = deque()
    for title, (shots, _) in enumerate(titles):
        chosen = most_central(len(shots), config.max_shots, config.stride)
        for number, (start, stop) in enumerate(windows(len(shots), config.max_shots, config.stride)):
            waiting.append(Span(title, start, stop, np.flatnonzero(chosen[start:stop] == number)))
    states = []
    while waiting:
        batch: list[Span] = []
        load = 0
        while waiting and (not batch or load + waiting[0].stop - waiting[0].start <= SHOTS_AT_ONCE):
            batch.append(waiting.popleft())
            load += batch[-1].stop - batch[-1].start
        states.append(_states(encoder, titles, batch, layer).cpu())
    # Each window kept the shots next to those of the window before, so together they are the titles in order.
    return [part.numpy() for part in torch.cat(states).split([len(shots) for shots, _ in titles])]


def _states(
    encoder: Encoder,
    titles: list[tuple[NDArray[np.floating], NDArray[np.floating]]],
    batch: list[Span],
    layer: int | None,
) -> Tensor:
    """The states of the shots that the windows keep, in order. Shots that two of them share are projected once."""
    shots, firsts, kept = [], [], []
    held = read = 0
    ends: dict[int, int] = {}  # of the window before, by title
    for window in batch:
        shots.append(titles[window.title][0][max(window.start, ends.get(window.title, 0)) : window.stop])
        held += len(shots[-1])
        length = window.stop - window.start
        firsts.append(held - length)
        kept.append(read + window.kept)
        read += length
        ends[window.title] = window.stop
    device = encoder.cls.device
    states: Tensor = encoder(
        torch.from_numpy(np.concatenate(shots, dtype=np.float32)).to(device),
        torch.from_numpy(np.stack([titles[window.title][1] for window in batch]).astype(np.float32)).to(device),
        Packing.of([window.stop - window.start for window in batch], device, firsts),
        query_indices=torch.from_numpy(np.concatenate(kept)).to(device),
        layer=layer,
    )
    return states


def contextualise_own(export: Path, folder: Path, out: Path, parts: str = PUBLISHED) -> int:
    """Writes each title's read-out (`read_out_many`), (n, width) float32, into `out` under its file's name; returns how
    many titles. Raises ValueError when vectors and encoder do not fit together.
    """
    encoder, own = load(export), OwnVectors.open(folder)
    config = encoder.config
    if own.modalities != config.modalities:
        theirs, ours = (", ".join(f"{n} {w}" for n, w in given) for given in (own.modalities, config.modalities))
        raise ValueError(f"The vectors in {folder} are {theirs}, and the encoder reads {ours}.")
    if out.resolve() == folder.resolve():
        raise ValueError("OUT must be another folder than FOLDER, whose files would be overwritten.")
    out.mkdir(parents=True, exist_ok=True)
    nothing = np.zeros(config.global_dim, dtype=np.float32)

    def read() -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32]]]:
        for title in own.titles:
            vectors, about = own.read(title)
            yield vectors, nothing if about is None else about

    for title, states in zip(own.titles, read_out_many(encoder, read(), parts), strict=True):
        file = io.BytesIO()
        np.save(file, states)
        write_atomically(out / title.vectors.name, file.getvalue())
    return len(own.titles)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m model.inference", description="Read own vectors in the context of their titles."
    )
    parser.add_argument("export", type=Path, help="folder of a trained encoder: export/ of a run")
    parser.add_argument("folder", type=Path, help="own vectors (docs/own_vectors.md)")
    parser.add_argument("--out", type=Path, required=True, help="folder for a .npy per title, (n, hidden) float32")
    parser.add_argument(
        "--read-out", default=PUBLISHED, help="parts joined by +: fused, average, last, middle, layer0, layer1, ..."
    )
    given = parser.parse_args(arguments)
    try:
        count = contextualise_own(given.export, given.folder, given.out, given.read_out)
    except (ValueError, OSError) as error:
        print(f"error: {error}")
        return 1
    print(f"{count} titles read in context; their embeddings are in {given.out}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
