"""Batches: which windows of which titles a step sees, and their vectors, masked.

The order is a pure function of (seed, step, row): the stream of rows runs through one permutation of all windows
after the other, and step s takes rows s*B ... (s+1)*B - 1 of it. A step's rows are shared out among the ranks by
cost, and each rank's share is cut into microbatches of bounded size; neither changes what the step computes.
"""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.config import Config
from model.masking import ORDER, WHOLE, Mask, permutation, training_mask
from model.packing import Packing
from model.splits import Group, group_of, held_out
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
    """B sequences of S shots together, m of them masked; fused vectors of D numbers."""

    shots: Tensor  # (S, D) float16, as the encoder sees them: swapped, and blocks of hidden modalities zero
    global_embeddings: Tensor  # (B, g) float32; zeros where [GLOBAL] is dropped
    packing: Packing
    masked: Tensor  # (m,) indices into the S shots, those that [MASK] replaces
    predicted: Tensor  # (q,) the same, then those swapped or kept, if any
    targets: Tensor  # (q, D) float16, the true vectors of the predicted shots
    partly_masked: Tensor  # (p,) indices of the shots that lack one modality; empty but for modality-wise masking
    hidden_modality: Tensor  # (p,) which one
    partial_targets: Tensor  # (p, D) float16, their whole vectors

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


def predictable(store: Store, sequences: Iterable[Window], config: Config) -> list[Window]:
    """The windows that have a shot to predict; the others teach nothing."""
    return [window for window in sequences if not left_out(store, window, config).all()]


def left_out(store: Store, window: Window, config: Config) -> NDArray[np.bool_]:
    """Which of a window's shots are never predicted, (n,): those without any modality, or without any of
    config.predicted_with."""
    if not config.predicted_with:
        return store.empty(window.title, window.start, window.stop)
    shots = store.read(window.title, window.start, window.stop)
    return ~np.any([shots[:, store.blocks[name]].any(axis=1) for name in config.predicted_with], axis=0)


class InSeries(Protocol):
    @property
    def title_id(self) -> str: ...
    @property
    def series_id(self) -> str | None: ...


Titled = TypeVar("Titled", bound=InSeries)


def split(titles: Iterable[Titled], config: Config) -> tuple[list[Titled], list[Titled]]:
    """Titles to train on and to validate on, never a series in both (`model.splits`); none to validate on when there
    are too few groups.
    """
    groups: dict[Group, list[Titled]] = {}
    for title in titles:
        groups.setdefault(group_of(title.title_id, title.series_id), []).append(title)
    held = held_out(groups, config.validation_share, config.seed) if len(groups) >= config.minimum_groups else set()
    return (
        [title for group in sorted(groups) if group not in held for title in groups[group]],
        [title for group in sorted(held) for title in groups[group]],
    )


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
        self.vectors = torch.empty(store.shots, store.fused_dim, dtype=torch.float16, device=device)
        self.first: dict[str, int] = {}
        first = 0
        for title in store.entries:
            self.first[title.title_id] = first
            self.vectors[first : first + title.shots] = torch.from_numpy(store.read(title, 0, title.shots)).to(device)
            first += title.shots

    @staticmethod
    def fits(store: Store, device: torch.device) -> bool:
        """Whether the vectors leave at least half of the GPU's free memory to the training."""
        return device.type == "cuda" and store.shots * store.fused_dim * 2 < torch.cuda.mem_get_info(device)[0] / 2

    def read(self, sequences: list[Window]) -> Tensor:
        """The windows' shots, one window after the other: (S, D)"""
        firsts = [self.first[window.title.title_id] for window in sequences]
        rows = [np.arange(f + w.start, f + w.stop) for f, w in zip(firsts, sequences, strict=True)]
        return self.vectors[torch.from_numpy(np.concatenate(rows)).to(self.vectors.device, non_blocking=True)]


def read_windows(store: Store, sequences: list[Window]) -> Tensor:
    """The windows' shots, one window after the other, read from the disk or its cache: (S, D)"""
    shots = torch.empty(sum(window.shots for window in sequences), store.fused_dim, dtype=torch.float16)
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
    # Only what a shot has can be hidden: instead of an absent modality, the first that is present.
    present = torch.stack([(partial_targets[:, block] != 0).any(dim=1) for block in store.blocks.values()], dim=1)
    drawn = present.gather(1, hidden_modality[:, None])[:, 0]
    hidden_modality = torch.where(drawn, hidden_modality, present.int().argmax(dim=1))
    for number, block in enumerate(store.blocks.values()):
        shots[partly_masked[hidden_modality == number], block] = 0
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
        masks = [training_mask(config, left_out(store, w, config), step, row) for row, w in enumerate(rows)]
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
