"""Optimisers: Muon for the hidden matrices, AdamW for everything else, by explicit named groups.

Muon (Jordan et al. 2024) orthogonalises the momentum of a matrix by five Newton-Schulz steps, so that every
direction of the update has the same size. It is for matrices that map hidden states to hidden states: q, k, v, o
and the two of the MLP, each its own matrix. Projections from and to the embedding spaces, the special tokens,
positions, norms and biases are AdamW's.
"""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from model.config import Config

HIDDEN_MATRICES = ("query.weight", "key.weight", "value.weight", "out.weight", "up.weight", "down.weight")
PROJECTIONS = ("input_projection.weight", "global_projection.weight", "output_projection.weight")


def parameter_groups(encoder: nn.Module) -> dict[str, list[tuple[str, nn.Parameter]]]:
    """The encoder's parameters by group, each in exactly one.

    hidden: the blocks' matrices. projections: matrices to and from the embedding spaces. vectors: biases, norms,
    special tokens and positions, which are not decayed. Raises ValueError for a parameter that belongs to none.
    """
    groups: dict[str, list[tuple[str, nn.Parameter]]] = {"hidden": [], "projections": [], "vectors": []}
    for name, parameter in encoder.named_parameters():
        if name.startswith("blocks.") and name.endswith(HIDDEN_MATRICES):
            groups["hidden"].append((name, parameter))
        elif name in PROJECTIONS:
            groups["projections"].append((name, parameter))
        elif parameter.ndim == 1 or name in ("positions.table", "modality_masks"):
            groups["vectors"].append((name, parameter))
        else:
            raise ValueError(f"Parameter {name} of shape {tuple(parameter.shape)} belongs to no optimiser group.")
    return groups


def optimizers(encoder: nn.Module, config: Config) -> dict[str, torch.optim.Optimizer]:
    """The optimisers of a run: {"muon": ..., "adamw": ...}, or AdamW alone under config.optimizer == "adamw"."""
    groups = parameter_groups(encoder)
    adamw = [
        {"params": groups["projections"], "weight_decay": config.weight_decay},
        {"params": groups["vectors"], "weight_decay": 0.0},
    ]
    made: dict[str, torch.optim.Optimizer] = {}
    if config.optimizer == "muon":
        made["muon"] = torch.optim.Muon(
            groups["hidden"], lr=config.muon_lr, momentum=config.muon_momentum, weight_decay=config.weight_decay,
            adjust_lr_fn="match_rms_adamw",
        )  # fmt: skip
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


def set_learning_rates(made: dict[str, torch.optim.Optimizer], config: Config, factor: float) -> dict[str, float]:
    """Sets both rates to their peak times factor and returns them, {"lr_muon": ..., "lr_adamw": ...}."""
    peaks = {"muon": config.muon_lr, "adamw": config.adamw_lr}
    for name, optimizer in made.items():
        for group in optimizer.param_groups:
            group["lr"] = peaks[name] * factor
    return {"lr_muon": peaks["muon"] * factor if "muon" in made else 0.0, "lr_adamw": peaks["adamw"] * factor}


def clip_gradients(parameters: Iterable[nn.Parameter], max_norm: float) -> Tensor:
    """Scales the whole gradient down to max_norm where it exceeds it (0: never). Returns its norm before."""
    return nn.utils.clip_grad_norm_(parameters, max_norm if max_norm > 0 else math.inf, error_if_nonfinite=True)
