"""Packing: sequences of unequal length, one after the other, without padding.

The tokens of all sequences of a batch form one (tokens, hidden) tensor, so every linear layer and norm costs
exactly the real tokens, and only attention looks at where a sequence begins and ends.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

SPECIAL_TOKENS = 2  # [CLS] and [GLOBAL], in front of the shots


@dataclass(frozen=True)
class Packing:
    """Where the tokens of B sequences of S shots together lie; T = S + 2 B tokens."""

    lengths: tuple[int, ...]  # B numbers of tokens, [CLS] and [GLOBAL] included
    order: Tensor  # (T,) each token's row in the concatenation of B [CLS], B [GLOBAL] and S shots
    shot_tokens: Tensor  # (S,) each shot's token
    places: Tensor  # (T,) each token's place in its own sequence
    starts: Tensor  # (B + 1,) int32, the first token of each sequence, and T

    @classmethod
    def of(cls, shots_per_sequence: list[int], device: torch.device | None = None) -> "Packing":
        count = len(shots_per_sequence)
        order, places, starts = [], [], [0]
        first_shot = 2 * count
        for row, n in enumerate(shots_per_sequence):
            order += [torch.tensor([row, count + row]), torch.arange(first_shot, first_shot + n)]
            places.append(torch.arange(n + SPECIAL_TOKENS))
            starts.append(starts[-1] + n + SPECIAL_TOKENS)
            first_shot += n
        flat_order, flat_places = torch.cat(order), torch.cat(places)
        return cls(
            lengths=tuple(n + SPECIAL_TOKENS for n in shots_per_sequence),
            order=flat_order.to(device),
            shot_tokens=torch.nonzero(flat_places >= SPECIAL_TOKENS)[:, 0].to(device),
            places=flat_places.to(device),
            starts=torch.tensor(starts, dtype=torch.int32, device=device),
        )
