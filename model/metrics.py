"""Metrics of masked shot modelling, and the baselines, predictors without a model, that an encoder has to beat.

A falling loss is not yet context: fused vectors share a large common part, so the mean of all shots already has a
high cosine to each of them, and neighbours resemble each other. So the cosine at masked shots is always reported
beside that of four predictors without a model, and as skill, the share of the distance between the best of them and
perfection that is covered.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.batches import Batch, Window, gather, microbatches
from model.config import Config
from model.masking import validation_mask
from model.store import Store

NEIGHBOURS = 8  # on each side
RANK_SAMPLE = 2048  # predictions whose effective rank is taken
REPEATS = 5  # masks per window where the held-out shots are few, so that about every shot is masked once
SMALL_VALIDATION = 4096  # shots, up to which windows are repeated
MEAN_SAMPLE = 1024  # training windows that the global mean is taken over

Scores = dict[
    str, float
]  # mean cosine by part: "all", each modality, and, where there is text, of shots with and without
Blocks = dict[str, slice]  # where each modality sits in a fused vector of D numbers


@dataclass
class Cosines:
    """Sums of cosines between predicted and true fused vectors, overall and by part."""

    blocks: Blocks
    parts: tuple[str, ...]
    sums: NDArray[np.float64]
    counts: NDArray[np.float64]

    @classmethod
    def none(cls, blocks: Blocks) -> "Cosines":
        parts = ("all", *blocks, *(("with_text", "without_text") if "text" in blocks else ()))
        return cls(blocks, parts, np.zeros(len(parts)), np.zeros(len(parts)))

    def add(self, predicted: Tensor, true: Tensor) -> None:
        """predicted, true: (m, D). A modality's cosine counts where the shot has that modality."""
        predicted, true = predicted.float(), true.float()
        whole = torch.cosine_similarity(predicted, true, dim=-1)  # (m,)
        values, counted = [whole], [torch.ones_like(whole, dtype=torch.bool)]
        for block in self.blocks.values():
            values.append(torch.cosine_similarity(predicted[:, block], true[:, block], dim=-1))
            counted.append((true[:, block] != 0).any(dim=-1))
        if "text" in self.blocks:
            text = counted[self.parts.index("text")]
            values += [whole, whole]
            counted += [text, ~text]
        counts = torch.stack(counted, dim=1)  # (m, parts)
        self.sums += torch.where(counts, torch.stack(values, dim=1), 0).double().sum(0).cpu().numpy()
        self.counts += counts.double().sum(0).cpu().numpy()

    def means(self) -> Scores:
        """Parts that no shot belongs to are left out."""
        return {
            part: float(total / count)
            for part, total, count in zip(self.parts, self.sums, self.counts, strict=True)
            if count > 0
        }


def effective_rank(vectors: Tensor) -> float:
    """exp of the entropy of the normalised singular values (Roy & Vetterli 2007). vectors: (m, d), m >= 1."""
    values = torch.linalg.svdvals(vectors.float())
    shares = values / values.sum()
    return float(torch.exp(-(shares * torch.log(shares.clamp_min(1e-12))).sum()))


def global_mean(store: Store, train: list[Window]) -> NDArray[np.float32]:
    """Mean fused vector of the training windows, of an even sample of them when there are many: (D,)"""
    total, count = np.zeros(store.fused_dim), 0
    for window in train[:: max(1, len(train) // MEAN_SAMPLE)]:
        rows = store.read(window.title, window.start, window.stop)
        total += rows.sum(axis=0, dtype=np.float64)
        count += int((~store.empty(window.title, window.start, window.stop)).sum())
    return (total / count).astype(np.float32)


def baseline_predictions(
    shots: NDArray[np.float32], masked: NDArray[np.int64], mean: NDArray[np.float32]
) -> dict[str, NDArray[np.float32]]:
    """What predicts a sequence's masked shots without a model, from its visible shots only.

    shots: (n, D), masked: (m,) positions, mean: (D,) of the training titles. Each prediction: (m, D). Shots without any
    modality, of zeros, count as not visible.
    global_mean; title_mean of the visible shots; previous_shot, the last visible one before (the first one after
    where there is none); neighbours, the mean of the visible shots within 8 on either side, weighted by 1/distance.
    Where a predictor sees nothing it falls back to title_mean, and that to global_mean.
    """
    visible = np.setdiff1d(np.flatnonzero(shots.any(axis=1)), masked)
    common = np.broadcast_to(mean, (len(masked), len(mean)))
    if not len(visible):
        return dict.fromkeys(("global_mean", "title_mean", "previous_shot", "neighbours"), common)
    title_mean = np.broadcast_to(shots[visible].mean(axis=0), (len(masked), len(mean)))
    before = np.searchsorted(visible, masked) - 1
    distance = np.abs(masked[:, None] - visible)  # (m, visible)
    weights = np.where(distance <= NEIGHBOURS, 1.0 / distance, 0.0).astype(np.float32)
    alone = weights.sum(axis=1, keepdims=True) == 0
    return {
        "global_mean": common,
        "title_mean": title_mean,
        "previous_shot": shots[visible[np.maximum(before, 0)]],
        "neighbours": np.where(alone, title_mean, weights @ shots[visible]),
    }


class Validation:
    """The held-out windows with their fixed masks, and what the baselines reach on them."""

    def __init__(self, store: Store, train: list[Window], held_out: list[Window], config: Config) -> None:
        self.store = store
        self.config = config
        chosen = held_out[:: max(1, -(-len(held_out) // config.validation_windows))]
        repeats = min(REPEATS, max(1, SMALL_VALIDATION // sum(window.shots for window in chosen)))
        self.windows = chosen * repeats  # under another mask each time
        self.masks = [
            validation_mask(config, store.empty(w.title, w.start, w.stop), row) for row, w in enumerate(self.windows)
        ]
        mean = global_mean(store, train)
        baselines: dict[str, Cosines] = {}
        for window, mask in zip(self.windows, self.masks, strict=True):
            shots = store.read(window.title, window.start, window.stop).astype(np.float32)
            for name, predicted in baseline_predictions(shots, mask.positions, mean).items():
                cosines = baselines.setdefault(name, Cosines.none(config.blocks))
                cosines.add(torch.tensor(predicted), torch.tensor(shots[mask.positions]))
        self.baselines = {name: cosines.means() for name, cosines in baselines.items()}

    def batches(self) -> Iterable[Batch]:
        lengths = [window.shots for window in self.windows]
        for group in microbatches(lengths, list(range(len(lengths))), self.config.microbatch_shots):
            yield gather(self.store, [(self.windows[row], self.masks[row]) for row in group])

    def report(self, predict: Callable[[Batch], Tensor]) -> dict:
        """The validation report of a model. predict: a batch -> (m, D) predictions of its masked shots."""
        cosines, predictions, targets = Cosines.none(self.config.blocks), [], []
        sampled = 0
        for batch in self.batches():
            predicted, true = predict(batch).float().cpu(), batch.targets.float()
            cosines.add(predicted, true)
            if sampled < RANK_SAMPLE:
                predictions.append(torch.nn.functional.normalize(predicted, dim=1)[: RANK_SAMPLE - sampled])
                targets.append(true[: RANK_SAMPLE - sampled])
                sampled += len(predictions[-1])
        scores = cosines.means()
        best = max(self.baselines, key=lambda name: self.baselines[name]["all"])
        return {
            "loss": 1 - scores["all"],
            "cosine": scores["all"],
            "skill": skill(scores["all"], self.baselines[best]["all"]),
            "best_trivial": best,
            "cosines": {"encoder": scores, **self.baselines},
            "effective_rank": effective_rank(torch.cat(predictions)),
            "effective_rank_of_targets": effective_rank(torch.cat(targets)),
            "masked_shots": int(cosines.counts[0]),
            "windows": len(self.windows),
            "titles": len({window.title.title_id for window in self.windows}),
        }


def skill(cosine: float, baseline: float) -> float:
    """(cos - best baseline) / (1 - best baseline): 0 is no better than without a model, 1 is perfect."""
    return (cosine - baseline) / max(1 - baseline, 1e-12)


def warning(report: dict) -> str | None:
    """The sentence that a report which shows no context must carry, or None."""
    if report["skill"] > 0:
        return None
    best = report["best_trivial"]
    return (
        f"The encoder has not learnt context: its cosine at masked shots, {report['cosine']:.4f}, does not beat the "
        f"{best.replace('_', ' ')} without a model, {report['cosines'][best]['all']:.4f} "
        f"(skill {report['skill']:+.3f})."
    )
