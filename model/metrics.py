"""Metrics of masked shot modelling, and the trivial predictors that a model has to beat.

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
from model.fusion import FUSED_DIM, MODALITIES
from model.masking import validation_mask
from model.store import Store

NEIGHBOURS = 8  # on each side
RANK_SAMPLE = 2048  # predictions whose effective rank is taken
REPEATS = 5  # masks per window where the held-out shots are few, so that about every shot is masked once
SMALL_VALIDATION = 4096  # shots, up to which windows are repeated
MEAN_SAMPLE = 1024  # training windows that the global mean is taken over

Scores = dict[str, float]  # mean cosine by part: "all", each modality, "with_text", "without_text"


@dataclass
class Cosines:
    """Sums of cosines between predicted and true fused vectors, overall and by part."""

    sums: NDArray[np.float64]
    counts: NDArray[np.float64]

    PARTS = ("all", *MODALITIES, "with_text", "without_text")

    @classmethod
    def none(cls) -> "Cosines":
        return cls(np.zeros(len(cls.PARTS)), np.zeros(len(cls.PARTS)))

    def add(self, predicted: Tensor, true: Tensor) -> None:
        """predicted, true: (m, 2304). A modality's cosine counts where the shot has that modality."""
        predicted, true = predicted.float(), true.float()
        whole = torch.cosine_similarity(predicted, true, dim=-1)  # (m,)
        block = torch.cosine_similarity(by_modality(predicted), by_modality(true), dim=-1)  # (m, 3)
        present = by_modality(true).abs().amax(dim=-1) > 0  # (m, 3)
        text = present[:, MODALITIES.index("text")]
        values = torch.stack([whole, *block.unbind(1), whole, whole], dim=1)  # (m, parts)
        counted = torch.stack([torch.ones_like(text), *present.unbind(1), text, ~text], dim=1)
        self.sums += torch.where(counted, values, 0).double().sum(0).cpu().numpy()
        self.counts += counted.double().sum(0).cpu().numpy()

    def means(self) -> Scores:
        """Parts that no shot belongs to are left out."""
        return {
            part: float(total / count)
            for part, total, count in zip(self.PARTS, self.sums, self.counts, strict=True)
            if count > 0
        }


def by_modality(vectors: Tensor) -> Tensor:
    """(m, 2304) -> (m, 3, 768)"""
    return vectors.unflatten(-1, (len(MODALITIES), -1))


def effective_rank(vectors: Tensor) -> float:
    """exp of the entropy of the normalised singular values (Roy & Vetterli 2007). vectors: (m, d), m >= 1."""
    values = torch.linalg.svdvals(vectors.float())
    shares = values / values.sum()
    return float(torch.exp(-(shares * torch.log(shares.clamp_min(1e-12))).sum()))


def global_mean(store: Store, train: list[Window]) -> NDArray[np.float32]:
    """Mean fused vector of the training windows, of an even sample of them when there are many: (2304,)"""
    total, count = np.zeros(FUSED_DIM), 0
    for window in train[:: max(1, len(train) // MEAN_SAMPLE)]:
        rows = store.read(window.title, window.start, window.stop)
        total += rows.sum(axis=0, dtype=np.float64)
        count += len(rows)
    return (total / count).astype(np.float32)


def trivial_predictions(
    shots: NDArray[np.float32], masked: NDArray[np.int64], mean: NDArray[np.float32]
) -> dict[str, NDArray[np.float32]]:
    """What predicts a sequence's masked shots without a model, from its visible shots only.

    shots: (n, 2304), masked: (m,) positions, mean: (2304,) of the training titles. Each prediction: (m, 2304).
    global_mean; title_mean of the visible shots; previous_shot, the last visible one before (the first one after
    where there is none); neighbours, the mean of the visible shots within 8 on either side, weighted by 1/distance.
    Where a predictor sees nothing it falls back to title_mean, and that to global_mean.
    """
    n = len(shots)
    visible = np.setdiff1d(np.arange(n), masked)
    common = np.broadcast_to(mean, (len(masked), FUSED_DIM))
    if not len(visible):
        return dict.fromkeys(("global_mean", "title_mean", "previous_shot", "neighbours"), common)
    title_mean = np.broadcast_to(shots[visible].mean(axis=0), (len(masked), FUSED_DIM))
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
    """The held-out windows with their fixed masks, and what the trivial predictors reach on them."""

    def __init__(self, store: Store, train: list[Window], held_out: list[Window], config: Config) -> None:
        self.store = store
        self.config = config
        chosen = held_out[:: max(1, -(-len(held_out) // config.validation_windows))]
        repeats = min(REPEATS, max(1, SMALL_VALIDATION // sum(window.shots for window in chosen)))
        self.windows = chosen * repeats  # under another mask each time
        self.masks = [validation_mask(config, window.shots, row) for row, window in enumerate(self.windows)]
        mean = global_mean(store, train)
        trivial: dict[str, Cosines] = {}
        for window, mask in zip(self.windows, self.masks, strict=True):
            shots = store.read(window.title, window.start, window.stop).astype(np.float32)
            for name, predicted in trivial_predictions(shots, mask.positions, mean).items():
                cosines = trivial.setdefault(name, Cosines.none())
                cosines.add(torch.tensor(predicted), torch.tensor(shots[mask.positions]))
        self.trivial = {name: cosines.means() for name, cosines in trivial.items()}

    def batches(self) -> Iterable[Batch]:
        lengths = [window.shots for window in self.windows]
        for group in microbatches(lengths, list(range(len(lengths))), self.config.microbatch_shots):
            yield gather(self.store, [(self.windows[row], self.masks[row]) for row in group])

    def report(self, predict: Callable[[Batch], Tensor]) -> dict:
        """The validation report of a model. predict: a batch -> (m, 2304) predictions of its masked shots."""
        cosines, predictions, targets = Cosines.none(), [], []
        sampled = 0
        for batch in self.batches():
            predicted, true = predict(batch).float().cpu(), batch.targets.float()
            cosines.add(predicted, true)
            if sampled < RANK_SAMPLE:
                predictions.append(torch.nn.functional.normalize(predicted, dim=1)[: RANK_SAMPLE - sampled])
                targets.append(true[: RANK_SAMPLE - sampled])
                sampled += len(predictions[-1])
        scores = cosines.means()
        best = max(self.trivial, key=lambda name: self.trivial[name]["all"])
        return {
            "loss": 1 - scores["all"],
            "cosine": scores["all"],
            "skill": skill(scores["all"], self.trivial[best]["all"]),
            "best_trivial": best,
            "cosines": {"encoder": scores, **self.trivial},
            "effective_rank": effective_rank(torch.cat(predictions)),
            "effective_rank_of_targets": effective_rank(torch.cat(targets)),
            "masked_shots": int(cosines.counts[0]),
            "windows": len(self.windows),
            "titles": len({window.title.title_id for window in self.windows}),
        }


def skill(cosine: float, trivial: float) -> float:
    """(cos - best trivial) / (1 - best trivial): 0 is no better than without a model, 1 is perfect."""
    return (cosine - trivial) / max(1 - trivial, 1e-12)


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
