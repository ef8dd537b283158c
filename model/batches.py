"""Batches: which windows of which titles a step sees, and their vectors, masked.

The order is a pure function of (seed, step, row): the stream of rows runs through one permutation of all windows
after the other, and step s takes rows s*B ... (s+1)*B - 1 of it. A step's rows are shared out among the ranks by
cost, and each rank's share is cut into microbatches of bounded size; neither changes what the step computes.
"""

import hashlib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from model.config import Config
from model.fusion import FUSED_DIM, MODALITIES
from model.masking import ORDER, WHOLE, Mask, permutation, training_mask
from model.packing import Packing
from model.store import Entry, Store
from model.windows import windows


@dataclass(frozen=True)
class Window:
    """A sequence: shots [start, stop) of a title."""

    title: Entry
    start: int
    stop: int

    @property
    def shots(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True)
class Batch:
    """B sequences of S shots together, m of them masked."""

    shots: Tensor  # (S, 2304) float16, as the encoder sees them: swapped, and blocks of hidden modalities zero
    global_embeddings: Tensor  # (B, g) float32; zeros where [GLOBAL] is dropped
    packing: Packing
    masked: Tensor  # (m,) indices into the S shots, those that [MASK] replaces
    predicted: Tensor  # (q,) the same, then those swapped or kept, if any
    targets: Tensor  # (q, 2304) float16, the true vectors of the predicted shots
    partly_masked: Tensor  # (p,) indices of the shots that lack one modality; empty but for modality-wise masking
    hidden_modality: Tensor  # (p,) which one
    partial_targets: Tensor  # (p, 2304) float16, their whole vectors

    def to(self, device: torch.device) -> "Batch":
        if self.shots.device.type == device.type:
            return self

        def there(part: Any) -> Any:
            return part.pin_memory().to(device, non_blocking=True) if isinstance(part, Tensor) else part

        packing = Packing(**{name: there(part) for name, part in vars(self.packing).items()})
        return Batch(**{name: there(part) for name, part in vars(self).items()} | {"packing": packing})


def windows_of(titles: Iterable[Entry], config: Config) -> list[Window]:
    """Every window of the titles, in the order of their ids."""
    return [
        Window(title, start, stop)
        for title in sorted(titles, key=lambda title: title.title_id)
        for start, stop in windows(title.shots, config.max_shots, config.stride)
    ]


def split(titles: Iterable[Entry], config: Config) -> tuple[list[Entry], list[Entry]]:
    """Titles to train on and to validate on, never a series in both; none to validate on when there are too few groups.

    A group is a series, or a title without one. A group's side is decided by a hash of the seed and its name: those
    in the lowest validation_share of the hash's range are held out, and always the lowest of all. So a catalogue that
    grows never holds out what an earlier training, whose weights it may start from, has trained on.
    """
    groups: dict[tuple[str, str], list[Entry]] = {}
    for title in titles:
        group = ("series", title.series_id) if title.series_id else ("title", title.title_id)
        groups.setdefault(group, []).append(title)
    if len(groups) < config.minimum_groups:
        return [title for group in sorted(groups) for title in groups[group]], []
    places = {group: _place(config.seed, group) for group in groups}
    lowest, *_, highest = sorted(groups, key=places.__getitem__)
    held_out = {group for group, place in places.items() if place < config.validation_share}
    held_out = (held_out | {lowest}) - {highest}
    return (
        [title for group in sorted(groups) if group not in held_out for title in groups[group]],
        [title for group in sorted(held_out) for title in groups[group]],
    )


def _place(seed: int, group: tuple[str, str]) -> float:
    """A uniform number in [0, 1) that depends on seed and group alone."""
    words = hashlib.blake2b("\0".join((str(seed), *group)).encode(), digest_size=8).digest()
    return int.from_bytes(words) / 2.0**64


class Order:
    """Which window each row of each step is."""

    def __init__(self, count: int, config: Config) -> None:
        self.count = count
        self.config = config
        self._epoch: tuple[int, np.ndarray] = (-1, np.empty(0, dtype=np.int64))

    def rows(self, step: int) -> list[int]:
        """The batch_sequences window indices of a step, row by row."""
        first = step * self.config.batch_sequences
        rows = []
        for position in range(first, first + self.config.batch_sequences):
            epoch, place = divmod(position, self.count)
            if self._epoch[0] != epoch:
                self._epoch = (epoch, permutation(self.count, self.config.seed, ORDER, epoch, 0))
            rows.append(int(self._epoch[1][place]))
        return rows


def share_of_rank(lengths: list[int], rank: int, ranks: int) -> list[int]:
    """Which rows of a step are this rank's: rows by falling length, each to the rank with the fewest shots so far."""
    loads = [0] * ranks
    mine = []
    for row in sorted(range(len(lengths)), key=lambda row: (-lengths[row], row)):
        lightest = min(range(ranks), key=lambda r: (loads[r], r))
        loads[lightest] += lengths[row]
        if lightest == rank:
            mine.append(row)
    return sorted(mine)


def microbatches(lengths: list[int], rows: list[int], most: int) -> list[list[int]]:
    """The rows in consecutive groups of at most `most` shots, or of one row."""
    groups: list[list[int]] = []
    load = 0
    for row in rows:
        if not groups or load + lengths[row] > most:
            groups.append([])
            load = 0
        groups[-1].append(row)
        load += lengths[row]
    return groups


class Resident:
    """All vectors of a store on the device, for a GPU that can hold them: batches are then gathered and masked
    there.
    """

    def __init__(self, store: Store, device: torch.device) -> None:
        self.vectors = torch.empty(store.shots, FUSED_DIM, dtype=torch.float16, device=device)
        self.first: dict[str, int] = {}
        first = 0
        for title in store.entries:
            self.first[title.title_id] = first
            self.vectors[first : first + title.shots] = torch.from_numpy(store.read(title, 0, title.shots)).to(device)
            first += title.shots

    @staticmethod
    def fits(store: Store, device: torch.device) -> bool:
        """Whether the vectors leave at least half of the GPU's free memory to the training."""
        return device.type == "cuda" and store.shots * FUSED_DIM * 2 < torch.cuda.mem_get_info(device)[0] / 2

    def read(self, sequences: list[Window]) -> Tensor:
        """The windows' shots, one window after the other: (S, 2304)"""
        firsts = [self.first[window.title.title_id] for window in sequences]
        rows = [np.arange(f + w.start, f + w.stop) for f, w in zip(firsts, sequences, strict=True)]
        return self.vectors[torch.from_numpy(np.concatenate(rows)).to(self.vectors.device, non_blocking=True)]


def read_windows(store: Store, sequences: list[Window]) -> Tensor:
    """The windows' shots, one window after the other, read from the disk or its cache: (S, 2304)"""
    shots = torch.empty(sum(window.shots for window in sequences), FUSED_DIM, dtype=torch.float16)
    rows, first = shots.numpy(), 0
    for window in sequences:
        store.read(window.title, window.start, window.stop, out=rows[first : first + window.shots])
        first += window.shots
    return shots


def gather(store: Store, sequences: list[tuple[Window, Mask]], resident: Resident | None = None) -> Batch:
    """Reads the windows' vectors and applies their masks, on the device if the vectors are resident there."""
    lengths = [window.shots for window, _ in sequences]
    parts = [window for window, _ in sequences]
    shots = resident.read(parts) if resident else read_windows(store, parts)
    device = shots.device
    global_embeddings = np.zeros((len(sequences), store.global_dim), dtype=np.float32)
    whole, visible, swapped, sources, partly, modalities = [], [], [], [], [], []
    first = 0
    for row, (window, mask) in enumerate(sequences):
        if mask.keep_global:
            global_embeddings[row] = store.global_embedding(window.title)
        whole.append(first + mask.positions[mask.modality == WHOLE])
        visible += [first + mask.swapped, first + mask.kept]
        swapped.append(first + mask.swapped)
        sources.append(first + mask.source)
        partly.append(first + mask.positions[mask.modality != WHOLE])
        modalities.append(mask.modality[mask.modality != WHOLE])
        first += window.shots
    masked, left, swapped_shots, source, partly_masked, hidden_modality = (
        torch.from_numpy(np.concatenate(each)).to(device)
        for each in (whole, visible, swapped, sources, partly, modalities)
    )
    predicted = torch.cat([masked, left])
    targets, partial_targets = shots[predicted], shots[partly_masked]
    shots[swapped_shots] = shots[source]
    by_modality = shots.unflatten(1, (len(MODALITIES), -1))
    # A modality that a shot does not have cannot be hidden; video is always there.
    absent = (by_modality[partly_masked, hidden_modality] == 0).all(dim=1)
    hidden_modality = torch.where(absent, 0, hidden_modality)
    by_modality[partly_masked, hidden_modality] = 0
    return Batch(
        shots=shots,
        global_embeddings=torch.from_numpy(global_embeddings).to(device),
        packing=Packing.of(lengths, device),
        masked=masked,
        predicted=predicted,
        targets=targets,
        partly_masked=partly_masked,
        hidden_modality=hidden_modality,
        partial_targets=partial_targets,
    )


def training_batches(
    store: Store,
    train: list[Window],
    config: Config,
    first_step: int,
    rank: int = 0,
    ranks: int = 1,
    resident: Resident | None = None,
) -> Iterator[tuple[int, int, list[Batch]]]:
    """From step first_step on, without end: (step, predicted shots of the whole step, this rank's microbatches).

    One step is read ahead in a thread: copying from the page cache runs outside Python's lock.
    """
    order = Order(len(train), config)

    def read(step: int) -> tuple[int, int, list[Batch]]:
        rows = [train[index] for index in order.rows(step)]
        lengths = [window.shots for window in rows]
        masks = [training_mask(config, n, step, row) for row, n in enumerate(lengths)]
        mine = share_of_rank(lengths, rank, ranks)
        groups = microbatches(lengths, mine, config.microbatch_shots)
        batches = [gather(store, [(rows[row], masks[row]) for row in group], resident) for group in groups]
        predicted = sum(len(mask.positions) + len(mask.swapped) + len(mask.kept) for mask in masks)
        return step, predicted, batches

    with ThreadPoolExecutor(1) as ahead:
        coming = ahead.submit(read, first_step)
        step = first_step
        while True:
            ready = coming.result()
            step += 1
            coming = ahead.submit(read, step)
            yield ready
