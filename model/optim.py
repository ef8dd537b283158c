"""Optimisers: Muon for the hidden matrices, AdamW for everything else, by explicit named groups.

Muon (Jordan et al. 2024) orthogonalises the momentum of a matrix by five Newton-Schulz steps, so that every
direction of the update has the same size. It is for matrices that map hidden states to hidden states: q, k, v, o
and the two of the MLP, each its own matrix. Projections from and to the embedding spaces, the special tokens,
positions, norms and biases are AdamW's.
"""

import functools
import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from model.config import Config
from model.precision import matmul_dtype

HIDDEN_MATRICES = ("query.weight", "key.weight", "value.weight", "out.weight", "up.weight", "down.weight")
PROJECTIONS = (
    "input_projection.weight", "global_projection.weight", "output_projection.weight", "film.weight",
)  # fmt: skip


NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
STEPS = 5


def parameter_groups(encoder: nn.Module) -> dict[str, list[tuple[str, nn.Parameter]]]:
    """The encoder's parameters that are trained by group, each in exactly one.

    hidden: the blocks' matrices. projections: matrices to and from the embedding spaces. vectors: biases, norms,
    special tokens and positions, which are not decayed. Raises ValueError for a parameter that belongs to none.
    """
    groups: dict[str, list[tuple[str, nn.Parameter]]] = {"hidden": [], "projections": [], "vectors": []}
    for name, parameter in encoder.named_parameters():
        if not parameter.requires_grad:
            continue
        if name.startswith("blocks.") and name.endswith(HIDDEN_MATRICES):
            groups["hidden"].append((name, parameter))
        elif name.endswith(PROJECTIONS):
            groups["projections"].append((name, parameter))
        elif parameter.ndim == 1 or name in ("positions.table", "modality_masks"):
            groups["vectors"].append((name, parameter))
        else:
            raise ValueError(f"Parameter {name} of shape {tuple(parameter.shape)} belongs to no optimiser group.")
    return groups


class Muon(torch.optim.Optimizer):
    """Muon with Nesterov's momentum, decoupled weight decay and the step length of Liu et al. 2025 (arXiv 2502.16982,
    "match_rms_adamw" in PyTorch).

    The same arithmetic and state as `torch.optim.Muon`, with two differences: the iteration multiplies in
    `matmul_dtype` instead of bf16 on every processor, and matrices of one shape are orthogonalised in one batch.
    """

    def __init__(
        self, named_matrices: list[tuple[str, nn.Parameter]], lr: float, momentum: float, weight_decay: float
    ) -> None:
        super().__init__(named_matrices, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update of every matrix that has a gradient."""
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[nn.Parameter]] = {}
            for matrix in group["params"]:
                if matrix.grad is not None:
                    by_shape.setdefault(matrix.shape, []).append(matrix)
            for shape, matrices in by_shape.items():
                updates = [self._momentum(matrix, group["momentum"]) for matrix in matrices]
                step_length = group["lr"] * 0.2 * math.sqrt(max(shape))
                for matrix, direction in zip(matrices, orthogonalised(torch.stack(updates)), strict=True):
                    matrix.mul_(1 - group["lr"] * group["weight_decay"]).add_(direction, alpha=-step_length)

    def _momentum(self, matrix: nn.Parameter, momentum: float) -> Tensor:
        state = self.state[matrix]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(matrix)
        average: Tensor = state["momentum_buffer"].lerp_(matrix.grad, 1 - momentum)
        assert matrix.grad is not None
        return matrix.grad.lerp(average, momentum)


def orthogonalised(matrices: Tensor) -> Tensor:
    """The matrices with all singular values brought near one, by `STEPS` Newton-Schulz steps in `matmul_dtype`.

    After Jordan et al. 2024 (https://kellerjordan.github.io/posts/muon/), whose `NEWTON_SCHULZ` coefficients are.
    matrices: (batch, rows, columns) -> the same shape
    """
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = (matrices.mT if tall else matrices).to(matmul_dtype(matrices.device))
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)  # no singular value above one
    if x.dtype == torch.float32 and x.shape[-1] >= 2 * x.shape[-2]:
        x = _stepped_by_gram(x)
    else:
        a, b, c = NEWTON_SCHULZ
        for _ in range(STEPS):
            gram = x @ x.mT
            x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


def _stepped_by_gram(x: Tensor) -> Tensor:
    """The same steps of wide matrices (batch, rows, columns) in fewer multiplications.

    Each step multiplies x by a polynomial of its Gram matrix. All these polynomials commute, so they can be found and
    multiplied with each other among the small Gram matrices, and x is multiplied once. Rounding grows in between
    (docs/decisions.md), so this is for float32; bf16, with its fewer digits, was not tried.
    """
    a, b, c = NEWTON_SCHULZ
    gram = x @ x.mT
    factors: list[Tensor] = []
    for _ in range(STEPS):
        if factors:
            gram = factors[-1] @ gram @ factors[-1]
        factors.append(torch.baddbmm(gram, gram, gram, beta=b, alpha=c))
        factors[-1].diagonal(dim1=-2, dim2=-1).add_(a)
    return functools.reduce(torch.matmul, factors) @ x


def optimizers(encoder: nn.Module, config: Config) -> dict[str, torch.optim.Optimizer]:
    """The optimisers of a run: {"muon": ..., "adamw": ...}, or AdamW alone under config.optimizer == "adamw"."""
    groups = parameter_groups(encoder)
    adamw = [
        {"params": groups["projections"], "weight_decay": config.weight_decay},
        {"params": groups["vectors"], "weight_decay": 0.0},
    ]
    made: dict[str, torch.optim.Optimizer] = {}
    if config.optimizer == "muon":
        made["muon"] = Muon(
            groups["hidden"], lr=config.muon_lr, momentum=config.muon_momentum, weight_decay=config.weight_decay
        )
    else:
        adamw.append({"params": groups["hidden"], "weight_decay": config.weight_decay})
    made["adamw"] = torch.optim.AdamW(adamw, lr=config.adamw_lr, betas=config.adamw_betas, fused=True)
    return made


def learning_rate_factor(config: Config, step: int, last_step: int) -> float:
    """The factor in (0, 1] on both learning rates at optimiser step `step`, counted from 0, of a run of last_step
    steps.
    """
    warm = min(1.0, (step + 1) / config.warmup_steps) if config.warmup_steps else 1.0
    left = max(0.0, (last_step - step) / last_step)
    if config.schedule == "cosine":
        return warm * (0.5 - 0.5 * math.cos(math.pi * left))
    return warm * min(1.0, left / config.decay_share)


def muon_lr(config: Config) -> float:
    """The peak rate at the configuration's width: `Config.base_width` says why."""
    return config.muon_lr * math.sqrt((config.base_width or config.hidden) / config.hidden)


def set_learning_rates(made: dict[str, torch.optim.Optimizer], config: Config, factor: float) -> dict[str, float]:
    """Sets both rates to their peak times factor and returns them, {"lr_muon": ..., "lr_adamw": ...}."""
    peaks = {"muon": muon_lr(config), "adamw": config.adamw_lr}
    for name, optimizer in made.items():
        for group in optimizer.param_groups:
            group["lr"] = peaks[name] * factor
    return {"lr_muon": peaks["muon"] * factor if "muon" in made else 0.0, "lr_adamw": peaks["adamw"] * factor}


def clip_gradients(parameters: Iterable[nn.Parameter], max_norm: float) -> Tensor:
    """Scales the whole gradient down to max_norm where it exceeds it (0: never). Returns its norm before."""
    return nn.utils.clip_grad_norm_(parameters, max_norm if max_norm > 0 else math.inf, error_if_nonfinite=True)


@torch.no_grad()
def update_ema(ema: dict[str, Tensor], encoder: nn.Module, decay: float, step: int) -> None:
    """Moves the exponential moving average of the weights, after the step counted from 0; early on over fewer steps, so
    that it forgets the initial weights."""
    decay = min(decay, (1 + step) / (10 + step))
    for name, parameter in encoder.named_parameters():
        ema[name].lerp_(parameter, 1 - decay)
