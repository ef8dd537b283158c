"""The smoother: a shot foretold from the visible shots around it, its title's mean and the training shots' mean.

Neighbours' means that are drawn towards the title's and the catalogue's mean are the best that is known without a model
of context (docs/benchmarks.md). Here their few weights, by block and by distance, are those of least squares on
training titles. The smoother is a baseline of every validation (model/metrics.py), and an encoder's predictions can be
added to it (`Config.blend`), so that they need not say again what the neighbours say.
"""

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from model.packing import SPECIAL_TOKENS, Packing

BANDS = ((1, 1), (2, 2), (3, 4), (5, 8), (9, 16))
"""Distances in shots, on both sides, whose visible shots share one weight; behind them comes the whole title's mean."""
RIDGE = 1e-3  # of the mean diagonal, for terms that a catalogue does not tell apart


class Smoother(nn.Module):
    """Its parameters are no optimiser's: `fit` solves for them once."""

    def __init__(self, blocks: dict[str, slice]) -> None:
        """blocks: where each modality sits in a fused vector of D numbers"""
        super().__init__()
        self.blocks = list(blocks.values())
        self.weights = nn.Parameter(torch.zeros(len(blocks), len(BANDS) + 1), requires_grad=False)  # by band, title
        self.mean = nn.Parameter(torch.zeros(self.blocks[-1].stop), requires_grad=False)  # (D,) weighted already

    def forward(self, shots: Tensor, packing: Packing, masked: Tensor | None, query_indices: Tensor) -> Tensor:
        """What sequences foretell of some of their shots, which are not looked at themselves.

        shots: (S, D). masked: (m,) indices of shots that may not be looked at. query_indices: (a,) rising indices of
        the shots to foretell. Returns (a, D) in the type of shots, not normed.
        """
        foretold = []
        for of, shares in _sequences(shots, packing, masked, query_indices):
            weights = torch.einsum("bk,kan->ban", self.weights, shares).to(of.dtype)
            foretold.append(torch.cat([w @ of[:, block] for w, block in zip(weights, self.blocks, strict=True)], dim=1))
        return torch.cat([*foretold, shots[:0]]) + self.mean.to(shots.dtype)

    @torch.no_grad()
    def fit(self, examples: Iterable[tuple[Tensor, Packing, Tensor]], mean: Tensor) -> None:
        """Least squares over masked shots of training titles, in one pass.

        examples: shots (S, D) float32, their packing, and (m,) rising indices of the masked ones. mean: (D,) of the
        training shots.
        """
        terms = len(BANDS) + 2
        gram, moment = torch.zeros(len(self.blocks), terms, terms), torch.zeros(len(self.blocks), terms)
        for shots, packing, masked in examples:
            first = 0
            for of, shares in _sequences(shots, packing, masked, masked):
                true = shots[masked[first : first + shares.shape[1]]]
                first += len(true)
                known = torch.stack([*(shares @ of), mean.expand_as(true)])  # (terms, a, D)
                for number, block in enumerate(self.blocks):
                    seen = known[:, :, block].flatten(1)
                    gram[number] += seen @ seen.T
                    moment[number] += seen @ true[:, block].flatten()
        scale = gram.diagonal(dim1=1, dim2=2).mean(dim=1).clamp_min(1e-12)
        solved = torch.linalg.solve(gram + RIDGE * scale[:, None, None] * torch.eye(terms), moment)
        self.weights.copy_(solved[:, :-1])
        for number, block in enumerate(self.blocks):
            self.mean[block] = solved[number, -1] * mean[block]


def _sequences(
    shots: Tensor, packing: Packing, masked: Tensor | None, query_indices: Tensor
) -> Iterator[tuple[Tensor, Tensor]]:
    """The n shots of each sequence that has queries, (n, D), and how much each counts in the mean of each band and of
    the title, (bands + 1, a, n).

    A band of which nothing is visible is the title's mean; where nothing of the title is, all shares are zero. Shots
    without any modality count as not visible.
    """
    visible = (shots != 0).any(dim=1).float()
    if masked is not None:
        visible[masked] = 0
    lengths = [n - SPECIAL_TOKENS for n in packing.lengths]
    ends = torch.tensor(lengths, device=shots.device).cumsum(0)
    counts = torch.searchsorted(query_indices, ends).diff(prepend=ends.new_zeros(1)).tolist()
    first = 0
    for of, n, queries in zip(shots.split(lengths), lengths, query_indices.split(counts), strict=True):
        if len(queries):
            distance = (queries[:, None] - first - torch.arange(n, device=queries.device)).abs()  # (a, n)
            others = visible[first : first + n] * (distance > 0)
            title = others / others.sum(dim=1, keepdim=True).clamp_min(1)
            shares = []
            for nearest, farthest in BANDS:
                near = others * ((distance >= nearest) & (distance <= farthest))
                count = near.sum(dim=1, keepdim=True)
                shares.append(torch.where(count > 0, near / count.clamp_min(1), title))
            yield of, torch.stack([*shares, title])
        first += n


def moving_average(fused: NDArray[np.floating], reach: int = BANDS[-1][1]) -> NDArray[np.float32]:
    """The mean of each shot and of those within `reach` shots on either side: (n, D) -> (n, D). What smoothing alone
    gives, so what a contextual vector has to beat.
    """
    sums = np.concatenate([np.zeros_like(fused[:1], dtype=np.float64), np.cumsum(fused, axis=0, dtype=np.float64)])
    shots = np.arange(len(fused))
    first, stop = np.maximum(shots - reach, 0), np.minimum(shots + reach + 1, len(fused))
    mean: NDArray[np.float32] = ((sums[stop] - sums[first]) / (stop - first)[:, None]).astype(np.float32)
    return mean
