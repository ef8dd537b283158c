"""Metrics of masked shot modelling, and the baselines, predictors without a model, that an encoder has to beat.

A falling loss is not yet context: fused vectors share a large common part, so the mean of all shots already has a
high cosine to each of them, and neighbours resemble each other. So the cosine at masked shots is always reported
beside that of five predictors without a model, and as skill, the share of the distance between the best of them and
perfection that is covered: overall and by modality, at the shots that have it, each with an interval over titles.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple, TypedDict, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.batches import Batch, Window, gather, left_out, microbatches
from model.config import Config
from model.masking import validation_mask
from model.smoothing import Smoother
from model.store import Store

NEIGHBOURS = 8  # on each side
RANK_SAMPLE = 2048  # predictions whose effective rank is taken
REPEATS = 5  # masks per window where the held-out shots are few, so that about every shot is masked once
SMALL_VALIDATION = 4096  # shots, up to which windows are repeated
MEAN_SAMPLE = 1024  # training windows that the global mean is taken over
FORWARD_SHARE = 0.3  # windows validated per window trained on since, at most: without a way back one costs a third
BLENDS = tuple(step / 20 for step in range(21))  # shares of the encoder's prediction beside the smoother's
BOOTSTRAP = 1000
MINIMUM_TITLES = 4  # fewer have no interval, and are not halved

Scores = dict[
    str, float
]  # mean cosine by part: "all", each modality, and, where there is text, of shots with and without
Blocks = dict[str, slice]  # where each modality sits in a fused vector of D numbers


@dataclass
class Cosines:
    """Sums of cosines between predicted and true fused vectors by title and part, the first of which is "all"."""

    blocks: Blocks
    parts: tuple[str, ...]
    sums: NDArray[np.float64]  # (titles, parts)
    counts: NDArray[np.float64]  # (titles, parts)

    @classmethod
    def none(cls, blocks: Blocks, titles: int = 1) -> "Cosines":
        parts = ("all", *blocks, *(("with_text", "without_text") if "text" in blocks else ()))
        return cls(blocks, parts, np.zeros((titles, len(parts))), np.zeros((titles, len(parts))))

    def add(self, predicted: Tensor, true: Tensor, titles: NDArray[np.int64] | None = None) -> None:
        """predicted, true: (m, D); titles: (m,) the number of each one's title. A modality's cosine counts where the
        shot has that modality.
        """
        predicted, true = predicted.float(), true.float()
        by_block, present = [], []
        for block in self.blocks.values():
            by_block.append(torch.cosine_similarity(predicted[:, block], true[:, block], dim=-1))
            present.append((true[:, block] != 0).any(dim=-1))
        rows = np.zeros(len(predicted), dtype=np.int64) if titles is None else titles
        whole = torch.cosine_similarity(predicted, true, dim=-1)
        self.add_values(whole, torch.stack(by_block, dim=1), torch.stack(present, dim=1), rows)

    def add_values(self, whole: Tensor, by_block: Tensor, present: Tensor, titles: NDArray[np.int64]) -> None:
        """Cosines of whole vectors, (m,), and of their blocks, (m, blocks), where these are present."""
        values, counted = [whole[:, None], by_block], [torch.ones_like(present[:, :1]), present]
        if "text" in self.blocks:
            text = present[:, [list(self.blocks).index("text")]]
            values += [whole[:, None], whole[:, None]]
            counted += [text, ~text]
        counts = torch.cat(counted, dim=1)  # (m, parts)
        np.add.at(self.sums, titles, torch.where(counts, torch.cat(values, dim=1), 0).double().cpu().numpy())
        np.add.at(self.counts, titles, counts.double().cpu().numpy())

    def means(self) -> Scores:
        """Parts that no shot belongs to are left out."""
        return {
            part: float(total / count)
            for part, total, count in zip(self.parts, self.sums.sum(axis=0), self.counts.sum(axis=0), strict=True)
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
    The fifth, shrunken_neighbours, is a fitted `model.smoothing.Smoother`.
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


class Foretold(NamedTuple):
    """What a model foretells of masked shots, against what they are.

    cosines: under config.blend those of its predictions beside the smoother's. alone: of the predictions themselves.
    blend: the share of these, under config.blend. predicted, true: a sample of both, (m, D); predicted of unit norm.
    """

    cosines: Cosines
    alone: Cosines
    blend: float | None
    predicted: Tensor
    true: Tensor


class Validation:
    """The held-out windows with their fixed masks, and what the baselines reach on them."""

    def __init__(
        self, store: Store, train: list[Window], held_out: list[Window], config: Config, smoother: Smoother, most: int
    ) -> None:
        """smoother: fitted on the training windows. most: windows to evaluate at once, masks of one counted apart."""
        self.store, self.config, self.smoother = store, config, smoother
        most = min(config.validation_windows, max(1, most))
        chosen = held_out[:: max(1, -(-len(held_out) // most))]
        repeats = min(REPEATS, max(1, SMALL_VALIDATION // sum(window.shots for window in chosen)))
        repeats = max(1, min(repeats, most // len(chosen)))
        self.windows = chosen * repeats  # under another mask each time
        self.masks = [
            validation_mask(config, left_out(store, window, config), row) for row, window in enumerate(self.windows)
        ]
        names = {window.title.title_id: None for window in self.windows}
        self.titles = {name: number for number, name in enumerate(names)}
        mean = global_mean(store, train)
        self.baseline_cosines: dict[str, Cosines] = {}
        for row in range(len(self.windows)):
            batch, titles = self.batch([row])
            shots = batch.shots.float()
            predictions = {
                name: torch.tensor(predicted)
                for name, predicted in baseline_predictions(shots.numpy(), self.masks[row].positions, mean).items()
            }
            predictions["shrunken_neighbours"] = smoother(shots, batch.packing, batch.masked, batch.masked)
            for name, predicted in predictions.items():
                cosines = self.baseline_cosines.setdefault(name, Cosines.none(config.blocks, len(self.titles)))
                cosines.add(predicted, batch.targets, titles)
        self.baselines = {name: cosines.means() for name, cosines in self.baseline_cosines.items()}

    def batch(self, rows: list[int]) -> tuple[Batch, NDArray[np.int64]]:
        """Some of the windows, and the number of the title of each masked shot, (m,)."""
        titles = [self.titles[self.windows[row].title.title_id] for row in rows]
        counts = [len(self.masks[row].positions) for row in rows]
        return gather(self.store, [(self.windows[row], self.masks[row]) for row in rows]), np.repeat(titles, counts)

    def batches(self) -> Iterable[tuple[Batch, NDArray[np.int64]]]:
        lengths = [window.shots for window in self.windows]
        for group in microbatches(lengths, list(range(len(lengths))), self.config.microbatch_shots):
            yield self.batch(group)

    def foretold(self, predict: Callable[[Batch], Tensor], blend: float | None = None) -> Foretold:
        """What a model foretells of the masked shots. predict: a batch -> (m, D) predictions of its masked shots.

        Under config.blend they are added to the smoother's with the share `blend`. Where that is None it is found
        here, and the cosines are cross-fitted: those of half of the titles with the share that the other half found.
        """
        alone, predictions, targets = Cosines.none(self.config.blocks, len(self.titles)), [], []
        products = []
        sampled = 0
        for batch, titles in self.batches():
            predicted, true = predict(batch).float().cpu(), batch.targets.float()
            alone.add(predicted, true, titles)
            if self.config.blend:
                smoothed = self.smoother(batch.shots.float(), batch.packing, batch.masked, batch.masked)
                products.append(Products.of(self.config.blocks, predicted, smoothed, true, titles))
            if sampled < RANK_SAMPLE:
                predictions.append(torch.nn.functional.normalize(predicted, dim=1)[: RANK_SAMPLE - sampled])
                targets.append(true[: RANK_SAMPLE - sampled])
                sampled += len(predictions[-1])
        cosines, found = alone, None
        if self.config.blend:
            together = Products.joined(products)
            found = together.best_blend() if blend is None else blend
            cosines = Cosines.none(self.config.blocks, len(self.titles))
            apart = blend is None and len(self.titles) >= MINIMUM_TITLES
            halves = [together.titles % 2 == half for half in (0, 1)] if apart else []
            for mine, others in zip(halves, reversed(halves), strict=True):
                together.chosen(mine).add_to(cosines, together.chosen(others).best_blend())
            if not apart:
                together.add_to(cosines, found)
        return Foretold(cosines, alone, found, torch.cat(predictions), torch.cat(targets))

    def report(self, predict: Callable[[Batch], Tensor], blend: float | None = None) -> dict:
        """The validation report of a model. Arguments as of `foretold`."""
        cosines, alone, found, predictions, targets = self.foretold(predict, blend)
        scores, of_encoder = cosines.means(), alone.means()
        best = self.best_baseline
        return {
            "loss": 1 - of_encoder["all"],  # of what is trained: the blend is good long before the states are
            "cosine": scores["all"],
            "skill": skill(scores["all"], self.baselines[best]["all"]),
            "best_trivial": best,
            "skills": skills(cosines, self.baseline_cosines),
            "cosines": {"encoder": scores, **self.baselines},
            "effective_rank": effective_rank(predictions),
            "effective_rank_of_targets": effective_rank(targets),
            "masked_shots": int(cosines.counts[:, 0].sum()),
            "windows": len(self.windows),
            "titles": len(self.titles),
            **({} if found is None else {"blend": found, "alone": of_encoder}),
        }

    @property
    def best_baseline(self) -> str:
        """The predictor without a model that has the highest cosine."""
        return max(self.baselines, key=lambda name: self.baselines[name]["all"])


@dataclass
class Products:
    """Inner products of m shots by block, from which the cosine of every blend follows: a prediction p of unit norm, a
    smoother's s and the truth t.
    """

    products: dict[str, Tensor]  # "pp", "ps", "pt", "ss", "st", "tt": (m, blocks) each
    titles: NDArray[np.int64]  # (m,)

    @classmethod
    def of(cls, blocks: Blocks, p: Tensor, s: Tensor, t: Tensor, titles: NDArray[np.int64]) -> "Products":
        """p, s, t: (m, D)"""
        vectors = {"p": torch.nn.functional.normalize(p, dim=1), "s": s, "t": t}

        def by_block(pair: str) -> Tensor:
            a, b = (vectors[name] for name in pair)
            return torch.stack([(a[:, block] * b[:, block]).sum(dim=1) for block in blocks.values()], dim=1).double()

        return cls({pair: by_block(pair) for pair in ("pp", "ps", "pt", "ss", "st", "tt")}, titles)

    @classmethod
    def joined(cls, parts: list["Products"]) -> "Products":
        pairs = parts[0].products
        titles = np.concatenate([part.titles for part in parts])
        return cls({pair: torch.cat([part.products[pair] for part in parts]) for pair in pairs}, titles)

    def chosen(self, rows: NDArray[np.bool_]) -> "Products":
        return Products({pair: of[torch.from_numpy(rows)] for pair, of in self.products.items()}, self.titles[rows])

    def best_blend(self) -> float:
        """The share of p, of those in BLENDS, with which the mean cosine to t is highest; the least where several are.

        One number and no scale of any block: a prediction that tells nothing has no other way to help than by chance.
        """
        cosines = [float(self.cosines(share)[0].mean()) for share in BLENDS]
        return BLENDS[int(np.argmax(cosines))]

    def cosines(self, share: float) -> tuple[Tensor, Tensor]:
        """To t, of (1 - share) * s + share * p at the norm of s: of whole vectors, (m,), and of blocks, (m, blocks)."""
        pp, ps, pt, ss, st, tt = (self.products[pair] for pair in ("pp", "ps", "pt", "ss", "st", "tt"))
        a, b = 1 - share, share * ss.sum(dim=1, keepdim=True).sqrt()
        dot, square = a * st + b * pt, a**2 * ss + 2 * a * b * ps + b**2 * pp

        def cosine(dot: Tensor, square: Tensor, true: Tensor) -> Tensor:
            return dot / (square.clamp_min(1e-24) * true.clamp_min(1e-24)).sqrt()

        return cosine(dot.sum(1), square.sum(1), tt.sum(1)), cosine(dot, square, tt)

    def add_to(self, cosines: Cosines, share: float) -> None:
        whole, by_block = self.cosines(share)
        cosines.add_values(whole, by_block, self.products["tt"] > 0, self.titles)


class Skill(TypedDict):
    """Of a part, over the baseline that is best at that part."""

    skill: float
    low: float | None  # 95 % percentile interval over bootstrap samples of titles; None of too few titles
    high: float | None
    best_trivial: str


def skills(encoder: Cosines, baselines: dict[str, Cosines]) -> dict[str, Skill]:
    """The skill in every part that the held-out shots have. Encoder and baselines are compared on the same samples."""
    means = {name: cosines.means() for name, cosines in baselines.items()}
    titles = len(encoder.sums)
    draws = np.random.default_rng(0).multinomial(titles, np.full(titles, 1 / titles), size=BOOTSTRAP)  # (B, titles)
    found: dict[str, Skill] = {}
    for part, cosine in encoder.means().items():
        best = max(baselines, key=lambda name: means[name][part])
        low = high = None
        column = encoder.parts.index(part)
        if np.count_nonzero(encoder.counts[:, column]) >= MINIMUM_TITLES:
            counts = draws @ encoder.counts[:, column]
            drawn, trivial = (draws @ of.sums[:, column] / np.maximum(counts, 1) for of in (encoder, baselines[best]))
            low, high = np.percentile(skill(drawn, trivial)[counts > 0], [2.5, 97.5]).tolist()
        found[part] = {"skill": skill(cosine, means[best][part]), "low": low, "high": high, "best_trivial": best}
    return found


Number = TypeVar("Number", float, NDArray[np.float64])


def skill(cosine: Number, baseline: Number) -> Number:
    """(cos - best baseline) / (1 - best baseline): 0 is no better than without a model, 1 is perfect."""
    return (cosine - baseline) / (1 - baseline + 1e-12)


def most_windows(config: Config, steps: int) -> int:
    """How many windows a validation after every `steps` steps may evaluate to cost a tenth of what these cost."""
    return int(FORWARD_SHARE * steps * config.batch_sequences)


def stall(report: dict, step: int) -> str:
    """The sentence for a run that is still below a baseline when it should have left it behind."""
    best = report["best_trivial"]
    return (
        f"This training stands still: after {step} steps its cosine at masked shots, {report['cosine']:.4f}, is not "
        f"above the {best.replace('_', ' ')} without a model, {report['cosines'][best]['all']:.4f}; stop it and try "
        "other rates (muon_lr, adamw_lr), or see whether the vectors tell shots apart."
    )


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
