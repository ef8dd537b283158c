"""Packing: sequences of unequal length, one after the other, without padding.

The tokens of all sequences of a batch form one (tokens, hidden) tensor, so every linear layer and norm costs
exactly the real tokens, and only attention looks at where a sequence begins and ends.
"""

from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

SPECIAL_TOKENS = 2  # [CLS] and [GLOBAL], in front of the shots


@dataclass(frozen=True)
class Packing:
    """Where the tokens of B sequences lie; T tokens, 2 of them special in each sequence. Sequences may share shots."""

    lengths: tuple[int, ...]  # B numbers of tokens, [CLS] and [GLOBAL] included
    order: Tensor  # (T,) each token's row in the concatenation of B [CLS], B [GLOBAL] and the shots
    shot_tokens: Tensor  # (T - 2 B,) the tokens that are shots, sequence by sequence
    position_ids: Tensor  # (T,) each token's place in its own sequence
    cu_seqlens: Tensor  # (B + 1,) int32, the first token of each sequence, and T

    @classmethod
    def of(
        cls, shots_per_sequence: list[int], device: torch.device | None = None, firsts: list[int] | None = None
    ) -> "Packing":
        """firsts: the first shot of each sequence; one sequence's shots follow the other's where it is not given."""
        count = len(shots_per_sequence)
        firsts = firsts or [0, *accumulate(shots_per_sequence[:-1])]
        order, position_ids, cu_seqlens = [], [], [0]
        for row, (first, n) in enumerate(zip(firsts, shots_per_sequence, strict=True)):
            order += [torch.tensor([row, count + row]), 2 * count + torch.arange(first, first + n)]
            position_ids.append(torch.arange(n + SPECIAL_TOKENS))
            cu_seqlens.append(cu_seqlens[-1] + n + SPECIAL_TOKENS)
        flat_order, flat_position_ids = torch.cat(order), torch.cat(position_ids)
        return cls(
            lengths=tuple(n + SPECIAL_TOKENS for n in shots_per_sequence),
            order=flat_order.to(device),
            shot_tokens=torch.nonzero(flat_position_ids >= SPECIAL_TOKENS)[:, 0].to(device),
            position_ids=flat_position_ids.to(device),
            cu_seqlens=torch.tensor(cu_seqlens, dtype=torch.int32, device=device),
        )
