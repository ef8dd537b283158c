"""The encoder: a BERT-like transformer over a title's shots.

    fused vectors (D) ──── input projection ─┐   masked shots become [MASK]
    title embedding ─ global projection ─────┼─> [CLS] [GLOBAL] shot shot shot … ─> blocks ─> norm ─> output
    learnable [CLS] ─────────────────────────┘                                                   projection (D)

Sequences of unequal length are packed: the tokens of all sequences lie one after the other in one (tokens, hidden)
tensor, without padding, so every linear layer and norm costs exactly the real tokens, and only attention looks at
where a sequence begins and ends. Weights are float32 and are cast to the activations' type where they are used
(bf16 in training, where the processor has it). Pre-norm blocks, GELU, biases; no dropout: a mask drawn anew at
every step regularises already.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.attention import Rotation, attend, frequencies
from model.config import Config
from model.packing import SPECIAL_TOKENS, Packing
from model.smoothing import Smoother


class Linear(nn.Linear):
    """A linear layer whose float32 weights are cast to the type of what comes in: (..., in) -> (..., out)."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.to(x.dtype), None if self.bias is None else self.bias.to(x.dtype))


class UnitLinear(Linear):
    """A linear layer that reads unit vectors at unit variance, x √in; the weights are scaled, which are fewer."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, (self.weight * self.in_features**0.5).to(x.dtype), self.bias.to(x.dtype))


class Norm(nn.LayerNorm):
    """Layer norm whose float32 weights are cast to the type of what comes in: (..., hidden) -> (..., hidden)."""

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.bias.to(x.dtype), self.eps)


class Positions(nn.Module):
    """Absolute positions, added to the tokens: learned as in BERT, or learned from a sinusoidal start (Vaswani et
    al. 2017).
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        length = config.max_shots + SPECIAL_TOKENS
        if config.positions == "sinusoidal":
            angles = torch.arange(length)[:, None] * frequencies(config.hidden)  # (length, hidden / 2)
            self.table = nn.Parameter(torch.cat([angles.sin(), angles.cos()], dim=1))
        else:
            self.table = nn.Parameter(0.02 * torch.randn(length, config.hidden))

    def forward(self, x: Tensor, position_ids: Tensor) -> Tensor:
        """x: (T, hidden), position_ids: (T,) -> (T, hidden)"""
        return x + self.table[position_ids].to(x.dtype)


class Block(nn.Module):
    """x + attention(norm(x)), then x + MLP(norm(x))."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        hidden = config.hidden
        self.heads = config.heads
        self.attention_norm = Norm(hidden)
        self.query = Linear(hidden, hidden)
        self.key = Linear(hidden, hidden)
        self.value = Linear(hidden, hidden)
        self.out = Linear(hidden, hidden)
        self.mlp_norm = Norm(hidden)
        self.up = Linear(hidden, config.mlp_ratio * hidden)
        self.down = Linear(config.mlp_ratio * hidden, hidden)
        if config.conditioning == "film":
            self.film = Linear(hidden, 4 * hidden)  # scale and shift of both norms

    def forward(
        self,
        x: Tensor,
        packing: Packing,
        rotary: Rotation | None,
        query_indices: Tensor | None = None,
        title: Tensor | None = None,
    ) -> Tensor:
        """x: (T, hidden) -> (T, hidden), or (A, hidden) of the tokens `query_indices`.

        rotary: None where the positions are added to x. title: (T, hidden), each token's title, under "film".
        """
        scale, shift, mlp_scale, mlp_shift = (None,) * 4 if title is None else self.film(title).chunk(4, dim=-1)
        y = modulated(self.attention_norm(x), scale, shift)
        k, v = (layer(y).unflatten(-1, (self.heads, -1)) for layer in (self.key, self.value))
        if rotary is not None:
            k = rotary(k)
        if query_indices is not None:
            x, y, rotary = x[query_indices], y[query_indices], rotary and rotary.at(query_indices)
            if mlp_scale is not None and mlp_shift is not None:
                mlp_scale, mlp_shift = mlp_scale[query_indices], mlp_shift[query_indices]
        q = self.query(y).unflatten(-1, (self.heads, -1))
        if rotary is not None:
            q = rotary(q)
        x = x + self.out(attend(q, k, v, packing, query_indices).flatten(1))
        return x + self.down(F.gelu(self.up(modulated(self.mlp_norm(x), mlp_scale, mlp_shift))))


def modulated(x: Tensor, scale: Tensor | None, shift: Tensor | None) -> Tensor:
    return x if scale is None or shift is None else x * (1 + scale) + shift


class Encoder(nn.Module):
    """The MediaFM encoder, "architecturally similar to BERT" (Saluja et al. 2026, Model Architecture and Training
    Objective).
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        hidden = config.hidden
        self.input_projection = UnitLinear(config.fused_dim, hidden)
        self.global_projection = UnitLinear(config.global_dim, hidden)
        self.cls = nn.Parameter(torch.zeros(hidden))
        self.mask = nn.Parameter(torch.zeros(hidden))
        if config.modality_masking > 0:
            self.modality_masks = nn.Parameter(torch.zeros(len(config.blocks), hidden))
        self.positions = None if config.positions == "rotary" else Positions(config)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = Norm(hidden)
        self.output_projection = Linear(hidden, config.fused_dim)
        if config.blend:
            self.smoother = Smoother(config.blocks)
            # The share of the encoder's own prediction beside the smoother's; fitted on held-out titles.
            self.blend = nn.Parameter(torch.tensor([0.2]), requires_grad=False)
        self.initialise()

    def initialise(self) -> None:
        """N(0, 0.02) as BERT; projections of unit vectors N(0, 1/width) after scaling, so that tokens start at unit
        variance; matrices that write to the residual stream smaller by sqrt(2 layers) (Radford et al. 2019, 2.3);
        what a title does to the norms, zero.
        """
        for name, parameter in self.named_parameters():
            if not parameter.requires_grad:  # the smoother and the blend are fitted
                continue
            if name.endswith("film.weight"):
                nn.init.zeros_(parameter)
            elif name.endswith(("out.weight", "down.weight")):
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * self.config.layers))
            elif name in ("input_projection.weight", "global_projection.weight"):
                nn.init.normal_(parameter, std=parameter.shape[1] ** -0.5)
            elif parameter.ndim == 2 and name != "positions.table":
                nn.init.normal_(parameter, std=0.02)
            elif name in ("cls", "mask"):
                nn.init.normal_(parameter)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    @torch.no_grad()
    def initialise_projections(self, shots: Tensor) -> None:
        """Sets input and output projection to the principal axes of a sample of fused vectors, (m, D).

        The input projection then turns a shot into its centred coordinates at unit variance, and the output
        projection, its transpose, turns them back: attention that averages neighbours already predicts. From random
        projections that agreement has to be learnt first, and a small catalogue never gets there
        (docs/benchmarks.md). Needs m >= 2 distinct vectors, else nothing is changed; axes that the sample does not
        have stay random and are read but not written.
        """
        mean = shots.mean(dim=0)
        centred = shots - mean
        _, spread, axes = torch.linalg.svd(centred, full_matrices=False)
        kept = int((spread[: self.config.hidden] > 1e-3 * spread[0]).sum()) if spread[0] > 0 else 0
        if kept == 0:
            return
        axes = axes[:kept]  # (kept, D)
        scale = math.sqrt(self.config.hidden) / centred.square().sum(dim=1).mean().sqrt()
        self.input_projection.weight[:kept] = axes * scale / self.config.fused_dim**0.5
        self.input_projection.bias[:kept] = -scale * axes @ mean
        self.output_projection.weight[:, :kept] = axes.T
        self.output_projection.weight[:, kept:] = 0
        self.output_projection.bias.copy_(scale * mean)

    def forward(
        self,
        shots: Tensor,
        global_embeddings: Tensor,
        packing: Packing,
        masked: Tensor | None = None,
        partly_masked: tuple[Tensor, Tensor] | None = None,
        query_indices: Tensor | None = None,
        layer: int | None = None,
    ) -> Tensor:
        """Contextual states of the shots of B packed sequences.

        shots: (S, D) unit norm, or zero, in the activations' type. global_embeddings: (B, g).
        masked: (m,) indices into the S shots that [MASK] replaces. partly_masked: (p,) indices of shots that lack one
        modality (its block is zero in `shots`) and (p,) which one.
        query_indices: (a,) rising indices into the packing's shots, those whose states are wanted; all if None. The
        last block then reads every token and computes these alone.
        layer: 0 for the tokens before the first block, k for the residual stream after block k; the last one (and
        None) is the final norm's output, which the output projection reads.
        Returns (a, hidden).
        """
        x = self.input_projection(shots)
        if masked is not None:
            x = x.index_copy(0, masked, self.mask.to(x.dtype).expand(len(masked), -1))
        if partly_masked is not None:
            x = x.index_add(0, partly_masked[0], self.modality_masks[partly_masked[1]].to(x.dtype))
        title = self.global_projection(global_embeddings)
        cls = self.cls.to(x.dtype).expand(len(title), -1)
        x = torch.cat([cls, title, x])[packing.order]  # (T, hidden)
        rotary = None
        if self.positions is not None:
            x = self.positions(x, packing.position_ids)
        else:
            rotary = Rotation.of(packing.position_ids, self.config.hidden // self.config.heads, x.dtype)
        wanted = packing.shot_tokens if query_indices is None else packing.shot_tokens[query_indices]
        last = self.config.layers if layer is None else layer
        if last == 0:
            return x[wanted]
        of_token = None
        if self.config.conditioning == "film":
            of_token = title.repeat_interleave(packing.cu_seqlens.diff(), dim=0)
        for block in self.blocks[: last - 1]:
            x = block(x, packing, rotary, title=of_token)
        x = self.blocks[last - 1](x, packing, rotary, wanted, of_token)
        return self.norm(x) if last == self.config.layers else x

    def predict(self, states: Tensor) -> Tensor:
        """The fused vectors that states foretell. states: (m, hidden) -> (m, D), not normed"""
        return self.output_projection(states)
