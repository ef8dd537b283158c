"""How to fine-tune."""

import json
import math
from dataclasses import dataclass, fields


@dataclass(frozen=True)
class FineTuning:
    """The defaults are CLIP4Clip's. Raises ValueError for a value out of range."""

    epochs: int = 5
    batch_size: int = 128  # pairs, over all processes
    frames: int = 12  # per clip at most, uniformly spaced
    pretrained_lr: float = 1e-7
    new_lr: float = 1e-4  # projections that the checkpoint did not have
    weight_decay: float = 0.2
    warmup: float = 0.1  # share of the steps, before the cosine to zero
    held_out: float = 0.1  # share of the titles (a series counts as one), at least one
    seed: int = 0
    bf16: bool = False  # autocast where bf16 is fast (`matmul_dtype`); weights stay float32
    save_memory: bool = False  # compute activations a second time instead of keeping them

    def __post_init__(self) -> None:
        problems = []
        for field in fields(self):
            value, kinds = getattr(self, field.name), (int, float) if field.type is float else (field.type,)
            if type(value) not in kinds:
                problems.append(f"{field.name} must be of type {getattr(field.type, '__name__', field.type)}")
        if not problems:
            for name, least in {"epochs": 1, "batch_size": 2, "frames": 1, "seed": 0}.items():
                if getattr(self, name) < least:
                    problems.append(f"{name} must be at least {least}")
            for name in ("pretrained_lr", "new_lr", "weight_decay"):
                if not 0 <= getattr(self, name) < math.inf:
                    problems.append(f"{name} must not be negative")
            if not 0 <= self.warmup < 1 or not 0 < self.held_out < 1:
                problems.append("warmup and held_out must lie between 0 and 1")
        if problems:
            raise ValueError(f"These settings of a fine-tune cannot be used: {'; '.join(problems)}.")

    @classmethod
    def from_json(cls, text: str) -> "FineTuning":
        """Raises ValueError when `text` is not a JSON object, names an unknown field or holds a value out of range."""
        values = json.loads(text)
        if not isinstance(values, dict):
            raise ValueError("The settings of a fine-tune must be a JSON object.")
        if unknown := sorted(set(values) - {field.name for field in fields(cls)}):
            raise ValueError(f"A fine-tune has no settings {', '.join(unknown)}.")
        return cls(**values)
