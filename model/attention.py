"""Attention over packed sequences, and rotary positions.

Queries, keys and values of all sequences lie one after the other; each token attends to the tokens of its own sequence.
There is one kernel per case, chosen by measurement (docs/benchmarks.md):

    CUDA, 16 bit         variable-length flash attention, all sequences in one call
    CPU, bf16, training  two matrix products per sequence around a softmax, and their derivative, written out below:
                         PyTorch's bf16 flash attention has no fast backward on the CPU
    otherwise            PyTorch's scaled_dot_product_attention, sequence by sequence
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from model.packing import Packing


@torch.compiler.disable  # the sequences' lengths are new at every step, and a graph would be compiled for each
def attend(q: Tensor, k: Tensor, v: Tensor, packing: Packing, query_indices: Tensor | None = None) -> Tensor:
    """Softmax attention within each packed sequence.

    q: (A, heads, width), the queries of the tokens `query_indices`, (A,) and rising; of all T tokens if that is None.
    k, v: (T, heads, width). Returns (A, heads, width).
    """
    lengths = packing.lengths
    cu_queries = packing.cu_seqlens
    if query_indices is not None:
        cu_queries = torch.searchsorted(query_indices, packing.cu_seqlens, out_int32=True)
    if q.is_cuda and q.dtype != torch.float32:
        from torch.nn.attention.varlen import varlen_attn

        out = varlen_attn(q, k, v, cu_queries, packing.cu_seqlens, max(lengths), max(lengths))
        assert isinstance(out, Tensor)  # a tuple only where auxiliary results are asked for
        return out
    queries = lengths if query_indices is None else tuple(cu_queries.diff().tolist())
    if q.dtype == torch.bfloat16 and q.requires_grad:
        return _Attention.apply(q, k, v, queries, lengths)
    sequences = zip(_sequences(queries, q), _sequences(lengths, k), _sequences(lengths, v), strict=True)
    return torch.cat(
        [F.scaled_dot_product_attention(a[None], b[None], c[None])[0].transpose(0, 1) for a, b, c in sequences]
    )


class _Attention(torch.autograd.Function):
    """P = softmax(Q Kᵀ / √width), O = P V for each sequence and head; the probabilities are kept for the way back."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, queries: tuple[int, ...], lengths: tuple[int, ...]
    ) -> Tensor:
        q = q * q.shape[-1] ** -0.5
        out = torch.empty_like(q)
        probabilities = []
        asking, seen = (_sequences(queries, x) for x in (q, out)), (_sequences(lengths, x) for x in (k, v))
        for qs, os, ks, vs in zip(*asking, *seen, strict=True):
            p = torch.bmm(qs, ks.mT).softmax(-1)  # (heads, queries, length)
            os.copy_(torch.bmm(p, vs))
            probabilities.append(p)
        ctx.save_for_backward(q, k, v, *probabilities)
        ctx.queries, ctx.lengths = queries, lengths
        return out

    @staticmethod
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, *probabilities = ctx.saved_tensors
        d_q, d_k, d_v = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
        asking = (_sequences(ctx.queries, x) for x in (q, d_out, d_q))
        seen = (_sequences(ctx.lengths, x) for x in (k, v, d_k, d_v))
        for p, qs, d_os, d_qs, ks, vs, d_ks, d_vs in zip(probabilities, *asking, *seen, strict=True):
            d_vs.copy_(torch.bmm(p.mT, d_os))
            # The softmax's derivative: dS = P * (dP - rowsum(P * dP)).
            d_s = torch._softmax_backward_data(torch.bmm(d_os, vs.mT), p, -1, p.dtype)
            d_qs.copy_(torch.bmm(d_s, ks))
            d_ks.copy_(torch.bmm(d_s.mT, qs))
        return d_q * q.shape[-1] ** -0.5, d_k, d_v, None, None


def _sequences(lengths: tuple[int, ...], packed: Tensor) -> tuple[Tensor, ...]:
    """Each sequence's part of a packed tensor (T, heads, width), as a view (heads, length, width)."""
    return packed.transpose(0, 1).split(lengths, dim=1)


@dataclass(frozen=True)
class Rotation:
    """Turns queries and keys by their places, so that their product depends on the distance (Su et al. 2021,
    "RoFormer").
    """

    cos: Tensor  # (T, 1, width)
    sin: Tensor  # (T, 1, width), negative in the first half

    @classmethod
    def of(cls, position_ids: Tensor, width: int, dtype: torch.dtype) -> "Rotation":
        """position_ids: (T,) of the tokens in their sequences; width: of a head"""
        angles = position_ids[:, None, None].float() * frequencies(width).to(position_ids.device)
        cos, sin = angles.cos(), angles.sin()
        return cls(torch.cat([cos, cos], dim=-1).to(dtype), torch.cat([-sin, sin], dim=-1).to(dtype))

    def at(self, tokens: Tensor) -> "Rotation":
        """The same for some of the tokens, (A,)."""
        return Rotation(self.cos[tokens], self.sin[tokens])

    def __call__(self, x: Tensor) -> Tensor:
        """Turns each pair (x[i], x[i + width / 2]) by its angle. x: (T, heads, width) -> (T, heads, width)"""
        return torch.addcmul(x * self.cos, x.roll(x.shape[-1] // 2, dims=-1), self.sin)


def frequencies(width: int) -> Tensor:
    """(width / 2,) angles per place, from 1 down to about 1/10000 (Vaswani et al. 2017, 3.5)."""
    return 10_000.0 ** -(torch.arange(0, width, 2) / width)
