"""The configuration: one frozen dataclass for the encoder and its training.

A configuration is written beside every encoder and inside every checkpoint; a run resumes only under an equal one.
Fields that depart from the published recipe are options whose defaults follow it, except where a comment says why
not.
"""

import contextlib
import dataclasses
import json
import re
from dataclasses import dataclass
from typing import Any, Literal

from model.modalities import WIDTHS, Widths, blocks_of

# What fields that a stored configuration may lack meant when it was written.
BEFORE: dict[str, Any] = {
    "modalities": (("video", 768), ("audio", 768), ("text", 768)),
    "blend": False,
    "base_width": None,
    "conditioning": "token",
    "predicted_with": (),
}


@dataclass(frozen=True)
class Config:
    # ---- the encoder -------------------------------------------------------------------------------------------------
    modalities: Widths = WIDTHS  # name and width of each block of a fused vector, in order
    layers: int = 12
    hidden: int = 768
    heads: int = 12
    mlp_ratio: int = 4
    global_dim: int = 3072  # width of the title embedding behind [GLOBAL]
    max_shots: int = 512  # longest sequence
    stride: int = 256  # of the windows over longer titles
    # The publication says "positional embeddings" and no more. Rotary won the measurement on long titles
    # (docs/benchmarks.md).
    positions: Literal["learned", "sinusoidal", "rotary"] = "rotary"

    # Of the projections from and to the fused vectors: random as published, or the principal axes of the training
    # shots, with which a given loss takes far fewer steps and a small catalogue learns at all (docs/benchmarks.md).
    projections: Literal["random", "principal"] = "principal"

    # How the title embedding reaches the shots: as the token [GLOBAL] alone, as published, or besides by a scale and a
    # shift of every layer's norms (FiLM, Perez et al. 2018; zero at first, as adaLN-Zero of Peebles & Xie 2023).
    conditioning: Literal["token", "film"] = "token"

    # Add the encoder's prediction to the smoothed visible shots (model/smoothing.py), by weights that held-out titles
    # decide. Published is the encoder's alone; but on a small catalogue that is behind the mean of the neighbours,
    # and beside it it is ahead (docs/benchmarks.md). Training and contextual states are the same either way.
    blend: bool = True

    # ---- masked shot modelling ---------------------------------------------------------------------------------------
    mask_ratio: float = 0.2  # exactly round(mask_ratio * n) shots of n, at least one
    mask_ratio_end: float | None = None  # the ratio moves linearly to this one during training; None: it stays
    mask_span: int = 1  # shots masked in a row; 1: each on its own
    modality_masking: float = 0.0  # share of masked shots that lose one modality instead of all three
    # Besides the masked shots, these shares of a sequence are swapped for other shots of it, or left as they are,
    # and are predicted too (after Devlin et al. 2019, 3.1). The publication does not say so; but a loss at [MASK]
    # alone leaves the states of visible shots, which are what is used afterwards, free to forget what they show.
    swap_ratio: float = 0.02
    keep_ratio: float = 0.02
    global_dropout: float = 0.0  # share of sequences whose title embedding is replaced by zeros
    # Only shots that have one of these modalities are predicted, as those with speech in a catalogue of text; (): all.
    predicted_with: tuple[str, ...] = ()
    loss: Literal["cosine", "mse"] = "cosine"

    # ---- optimisation ------------------------------------------------------------------------------------------------
    optimizer: Literal["muon", "adamw"] = "muon"  # of the hidden matrices; the rest is always AdamW's
    muon_lr: float = 0.02  # scaled per matrix by 0.2 * sqrt(max(rows, columns)), "match_rms_adamw"
    # The width that muon_lr was measured at: sqrt(base_width / hidden) of it is used, so that an update's spectral norm
    # is the same at every width (Yang et al. 2023, "A Spectral Condition for Feature Learning"). None: as it is.
    base_width: int | None = 256
    muon_momentum: float = 0.8
    adamw_lr: float = 3e-3  # of projections and vectors, the same at every width
    adamw_betas: tuple[float, float] = (0.8, 0.95)
    weight_decay: float = 0.01
    schedule: Literal["cosine", "trapezoid"] = "trapezoid"
    warmup_steps: int = 100
    decay_share: float = 0.3  # trapezoid: the last share of the steps, over which the rate falls to zero
    clip_norm: float = 1.0  # of the whole gradient; 0 switches clipping off
    ema_decay: float = 0.0  # of an average of the weights that is validated and exported instead; 0: none

    # ---- the run -----------------------------------------------------------------------------------------------------
    seed: int = 0
    batch_sequences: int = 32  # per optimiser step, over all ranks
    microbatch_shots: int = 16384  # at most this many shots go through the encoder at once (one sequence always may)
    max_steps: int = 100_000
    # Steps, fewer on a small catalogue (`model.train.steps_between_validations`). A checkpoint is saved at each.
    evaluate_every: int = 500
    patience: int = 10  # evaluations without a better validation loss before the run stops
    log_every: int = 20  # steps
    validation_share: float = 0.1  # of the groups (series, else titles) about this share, at least one
    validation_windows: int = 512  # at most this many windows are evaluated
    minimum_groups: int = 5  # fewer cannot be split: the run then takes fixed_steps and validates nothing
    fixed_steps: int = 200
    keep_checkpoints: int = 2  # besides the best one
    precision: Literal["auto", "bf16", "fp32"] = "auto"  # of activations; auto: model.precision.matmul_dtype
    compile: bool = False  # torch.compile; no faster where measured (docs/benchmarks.md)

    def __post_init__(self) -> None:
        problems = _problems_of_modalities(self.modalities)
        for name in (
            "layers", "hidden", "heads", "mlp_ratio", "global_dim", "max_shots", "stride", "mask_span",
            "batch_sequences", "microbatch_shots", "max_steps", "evaluate_every", "patience", "log_every",
            "validation_windows", "minimum_groups", "fixed_steps", "keep_checkpoints",
        ):  # fmt: skip
            if not isinstance(getattr(self, name), int) or getattr(self, name) < 1:
                problems.append(f"{name} must be a whole number of at least 1")
        for field in dataclasses.fields(self):
            allowed = getattr(field.type, "__args__", ())
            if getattr(field.type, "__origin__", None) is Literal and getattr(self, field.name) not in allowed:
                problems.append(f"{field.name} must be one of {', '.join(allowed)}")
        for name in ("mask_ratio", "validation_share", "decay_share"):
            if not 0 < getattr(self, name) < 1:
                problems.append(f"{name} must lie between 0 and 1")
        masked = max(self.mask_ratio, self.mask_ratio_end or 0.0)
        if not problems and masked + self.swap_ratio + self.keep_ratio > 1:
            problems.append("mask_ratio, swap_ratio and keep_ratio together must not exceed 1")
        if self.mask_ratio_end is not None and not 0 < self.mask_ratio_end < 1:
            problems.append("mask_ratio_end must lie between 0 and 1")
        for name in ("modality_masking", "swap_ratio", "keep_ratio", "global_dropout", "ema_decay", "muon_momentum"):
            if not 0 <= getattr(self, name) < 1:
                problems.append(f"{name} must be at least 0 and below 1")
        for name in ("muon_lr", "adamw_lr"):
            if not getattr(self, name) > 0:
                problems.append(f"{name} must be above 0")
        for name in ("weight_decay", "clip_norm", "warmup_steps", "seed"):
            if not getattr(self, name) >= 0:
                problems.append(f"{name} must not be negative")
        if not problems and self.hidden % (2 * self.heads):
            problems.append("hidden must be a multiple of twice the heads")
        if not problems and self.stride > self.max_shots:
            problems.append("stride must not exceed max_shots, or shots between windows would be skipped")
        if self.base_width is not None and not (isinstance(self.base_width, int) and self.base_width >= 1):
            problems.append("base_width must be a whole number of at least 1, or null")
        known = {block[0] for block in self.modalities} if not problems else set()
        if not problems and not known.issuperset(self.predicted_with):
            problems.append(f"predicted_with must name some of {', '.join(sorted(known))}")
        if self.minimum_groups < 2:
            problems.append("minimum_groups must be at least 2: a validation group must leave something to train on")
        if problems:
            raise ValueError("The configuration cannot be used: " + "; ".join(problems) + ".")

    @property
    def fused_dim(self) -> int:
        return sum(width for _, width in self.modalities)

    @property
    def blocks(self) -> dict[str, slice]:
        """Where each modality sits in a fused vector."""
        return blocks_of(self.modalities)

    @classmethod
    def reference(cls) -> "Config":
        """12 layers, 768 wide, a 3072-d title embedding: the published size as far as it was published."""
        return cls()

    @classmethod
    def embedded(cls) -> "Config":
        """4 layers, 256 wide, a 768-d title embedding: for a laptop's CPU and catalogues from a handful of titles.
        Those are soon known by heart, so a part of what the encoder sees is withheld (docs/benchmarks.md)."""
        return cls(
            layers=4, hidden=256, heads=4, global_dim=768, batch_sequences=16, max_steps=2000,
            evaluate_every=100, warmup_steps=20, log_every=5, patience=4, validation_share=0.2,
            muon_lr=0.01, muon_momentum=0.95, adamw_lr=1e-3, adamw_betas=(0.9, 0.95), ema_decay=0.9,
            modality_masking=0.3, global_dropout=0.3,
        )  # fmt: skip

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=2)

    def identity(self) -> str:
        """The configuration as text to make versions of: equal for equal configurations, and of one that could already
        be written before a field was there, what it was then."""
        fields = dataclasses.asdict(self)
        return json.dumps({k: v for k, v in fields.items() if k not in BEFORE or v != BEFORE[k]}, indent=2)

    @classmethod
    def from_json(cls, text: str) -> "Config":
        """A field that text lacks has its default or, where there is one, the meaning of `BEFORE`.

        Raises ValueError when text is not JSON, names an unknown field or holds a value out of range.
        """
        try:
            values: dict[str, Any] = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"The configuration is not JSON: {error}.") from None
        if not isinstance(values, dict):
            raise ValueError("The configuration must be a JSON object.")
        unknown = sorted(set(values) - {field.name for field in dataclasses.fields(cls)})
        if unknown:
            raise ValueError(f"The configuration has unknown fields: {', '.join(unknown)}.")
        values = BEFORE | values
        for name in {"adamw_betas", "predicted_with"} & values.keys():
            values[name] = tuple(values[name])
        with contextlib.suppress(TypeError):  # what is no list of lists is refused by name
            values["modalities"] = tuple(tuple(block) for block in values["modalities"])
        return cls(**values)


def _problems_of_modalities(modalities: object) -> list[str]:
    """Names are words of [a-z0-9_], so that they can be parts of columns and reports."""
    if not isinstance(modalities, tuple) or not modalities:
        return ["modalities must be a list of at least one name with its width"]
    problems = []
    names = []
    for block in modalities:
        match block:
            case (str(name), int(width)) if re.fullmatch(r"[a-z][a-z0-9_]{0,63}", name) and 0 < width <= 1 << 16:
                names.append(name)
            case _:
                problems.append(f"modalities holds {block!r}, and a name in small letters with a width is needed")
    problems += [f"modalities names {name} twice" for name in sorted({n for n in names if names.count(n) > 1})]
    problems += [f"{name} cannot name a modality" for name in ("all", "fused") if name in names]
    return problems
