"""Checkpoints, exports and tensor rows: the three forms in which an encoder is kept. All are safetensors or plain
bytes.

A checkpoint holds everything a run needs to go on: weights, optimiser states, the average of the weights if there
is one, and the step with what was decided so far. Order, masks and learning rates are functions of the step, so no
generator state is needed. It is written aside, synced and renamed: a checkpoint that can be seen is whole.
"""

import contextlib
import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, safe_open, save
from torch import Tensor, nn

from model.config import BEFORE, Config
from model.encoder import Encoder
from model.files import write_atomically

# What an encoder's weights depend on; the rest of a configuration is about training.
ARCHITECTURE = (
    "modalities", "layers", "hidden", "heads", "mlp_ratio", "global_dim", "max_shots", "positions", "modality_masking",
    "blend", "conditioning",
)  # fmt: skip
EMA = "average/"  # what the names of the averaged weights begin with in a checkpoint


# ---- a run's checkpoints ---------------------------------------------------------------------------------------------


@dataclass
class Progress:
    """Where a run is, besides its tensors."""

    step: int = 0  # optimiser steps taken
    best_loss: float | None = None  # lowest validation loss so far
    best_step: int | None = None
    evaluations_since_best: int = 0
    shots: int = 0  # trained on so far
    seconds: float = 0.0  # spent training so far
    best_report: dict = field(default_factory=dict)


def training_state(
    encoder: nn.Module, optimizers: dict[str, torch.optim.Optimizer], ema: dict[str, Tensor] | None
) -> dict[str, Tensor]:
    """Every tensor of a run by name: weights, the optimisers' states, the average of the weights."""
    state: dict[str, Tensor] = {f"weights/{name}": parameter for name, parameter in encoder.named_parameters()}
    for kind, optimizer in optimizers.items():
        for name, parameter in encoder.named_parameters():
            if parameter in optimizer.state:
                state |= {f"{kind}/{name}/{key}": value for key, value in optimizer.state[parameter].items()}
    state |= {f"{EMA}{name}": value for name, value in (ema or {}).items()}
    return {name: value.detach().cpu().contiguous() for name, value in state.items()}


def restore_training_state(
    state: dict[str, Tensor],
    encoder: nn.Module,
    optimizers: dict[str, torch.optim.Optimizer],
    ema: dict[str, Tensor] | None,
) -> None:
    """Puts what training_state returned back in place."""
    with torch.no_grad():
        for name, parameter in encoder.named_parameters():
            parameter.copy_(state[f"weights/{name}"])
        for kind, optimizer in optimizers.items():
            held = {p for group in optimizer.param_groups for p in group["params"]}
            for name, parameter in encoder.named_parameters():
                prefix = f"{kind}/{name}/"
                keys = [key for key in state if key.startswith(prefix)]
                if parameter in held and keys:
                    optimizer.state[parameter] = {
                        key.removeprefix(prefix): state[key].to(parameter.device, copy=True) for key in keys
                    }
        for name, value in (ema or {}).items():
            value.copy_(state[f"{EMA}{name}"])


class Checkpoints:
    """The checkpoints of one run, in one folder: the newest few and the best."""

    def __init__(self, folder: Path, config: Config, data: str) -> None:
        """data: identity of everything besides the configuration that the weights depend on."""
        self.folder = folder
        self.config = config
        self.data = data
        folder.mkdir(parents=True, exist_ok=True)

    def path(self, step: int) -> Path:
        return self.folder / f"step-{step:09d}.safetensors"

    def save(self, tensors: dict[str, Tensor], progress: Progress) -> None:
        """Raises OSError, and leaves the earlier checkpoints alone, when it cannot be written."""
        run = {"config": asdict(self.config), "data": self.data, "progress": asdict(progress)}
        write_atomically(self.path(progress.step), save(tensors, metadata={"run": json.dumps(run)}))
        steps = sorted(int(path.stem.removeprefix("step-")) for path in self.folder.glob("step-*.safetensors"))
        for step in steps[: -self.config.keep_checkpoints]:
            if step != progress.best_step:
                self.path(step).unlink()

    def latest(self) -> tuple[dict[str, Tensor], Progress, list[str]] | None:
        """The newest readable checkpoint, with a sentence for each damaged one passed over; None when there is none.

        Raises ValueError for a checkpoint of another configuration or other data, and when none of several is readable.
        """
        damaged = []
        for path in sorted(self.folder.glob("step-*.safetensors"), reverse=True):
            try:
                tensors, progress = self._read(path)
                if progress.best_step not in (None, progress.step):
                    self._read(self.path(progress.best_step))
            except (SafetensorError, OSError, KeyError, json.JSONDecodeError) as error:
                damaged.append(
                    f"Checkpoint {path.name} is damaged or its best one is gone ({error}); an earlier one is taken."
                )
                continue
            return tensors, progress, damaged
        if damaged:
            raise ValueError(
                f"No checkpoint in {self.folder} can be read; delete the folder to train anew. {damaged[0]}"
            )
        return None

    def weights(self, step: int) -> dict[str, Tensor]:
        """The weights to use from the checkpoint of a step: their average where the run kept one."""
        tensors, _ = self._read(self.path(step))
        kind = EMA if self.config.ema_decay > 0 else "weights/"
        return {name.removeprefix(kind): value for name, value in tensors.items() if name.startswith(kind)}

    def _read(self, path: Path) -> tuple[dict[str, Tensor], Progress]:
        with safe_open(path, framework="pt") as file:
            run = json.loads(file.metadata()["run"])
        mine, theirs = json.loads(json.dumps(asdict(self.config))), json.loads(json.dumps(BEFORE)) | run["config"]
        others = [f"{key} {theirs.get(key)!r} -> {mine.get(key)!r}" for key in mine | theirs
                  if theirs.get(key) != mine.get(key)]  # fmt: skip
        if others:
            raise ValueError(
                f"{path.parent} holds checkpoints of another configuration ({', '.join(others)}); choose another "
                "folder."
            )
        if run["data"] != self.data:
            raise ValueError(f"{path.parent} holds checkpoints of a run on other data; choose another folder.")
        return load_file(path), Progress(**run["progress"])


# ---- the finished encoder --------------------------------------------------------------------------------------------


def export(weights: dict[str, Tensor], config: Config, folder: Path, about: dict[str, Any]) -> None:
    """Writes model.safetensors and config.json (the configuration, model_type and `about`)."""
    folder.mkdir(parents=True, exist_ok=True)
    # "format": "pt" is what tools in the manner of from_pretrained look for.
    content = save(
        {name: value.detach().cpu().contiguous() for name, value in weights.items()}, metadata={"format": "pt"}
    )
    write_atomically(folder / "model.safetensors", content)
    described = {"model_type": "mediafm", **about, **asdict(config)}
    write_atomically(folder / "config.json", json.dumps(described, indent=2).encode())


def read_export(folder: str | Path) -> Encoder:
    """The encoder of an export folder, in evaluation mode. Raises ValueError when it is missing or does not fit
    together.
    """
    folder = Path(folder)
    try:
        described = json.loads((folder / "config.json").read_text())
        weights = load_file(folder / "model.safetensors")
    except FileNotFoundError as error:
        raise ValueError(f"{folder} is not an exported encoder: {Path(error.filename).name} is missing.") from None
    except (SafetensorError, json.JSONDecodeError) as error:
        raise ValueError(f"The exported encoder in {folder} is damaged: {error}.") from None
    known = Config.__dataclass_fields__
    return with_weights(Config.from_json(json.dumps({k: v for k, v in described.items() if k in known})), weights)


def with_weights(config: Config, weights: dict[str, Tensor]) -> Encoder:
    """An encoder holding the weights, in evaluation mode. Raises ValueError for missing, unknown or misshapen
    tensors.
    """
    encoder = Encoder(config)
    load_weights(encoder, weights)
    return encoder.eval()


def load_weights(encoder: Encoder, weights: dict[str, Tensor]) -> None:
    """Copies the weights in. Raises ValueError for missing, unknown or misshapen tensors."""
    expected = dict(encoder.named_parameters())
    if set(weights) != set(expected):
        missing, unknown = sorted(set(expected) - set(weights)), sorted(set(weights) - set(expected))
        raise ValueError(
            f"The weights do not fit the configuration: missing {missing or 'none'}, unknown {unknown or 'none'}."
        )
    with torch.no_grad():
        for name, parameter in expected.items():
            if weights[name].shape != parameter.shape:
                raise ValueError(
                    f"Weight {name} has shape {tuple(weights[name].shape)}, and the configuration needs "
                    f"{tuple(parameter.shape)}."
                )
            parameter.copy_(weights[name])


@contextlib.contextmanager
def using_weights(encoder: Encoder, weights: dict[str, Tensor]) -> Iterator[None]:
    """The encoder with other weights for a while."""
    own = {name: parameter.data for name, parameter in encoder.named_parameters()}
    try:
        for name, parameter in encoder.named_parameters():
            parameter.data = weights[name].data
        yield
    finally:
        for name, parameter in encoder.named_parameters():
            parameter.data = own[name]


class TensorRow(NamedTuple):
    """A parameter as a row of the encoder table."""

    name: str
    dtype: str  # "float32"
    shape: tuple[int, ...]
    data: bytes  # little-endian, C order
    sha256: str  # of data


def tensors(encoder: nn.Module) -> Iterator[TensorRow]:
    """The encoder's parameters as rows."""
    for name, parameter in encoder.named_parameters():
        data = parameter.detach().cpu().numpy().astype("<f4").tobytes()
        yield TensorRow(name, "float32", tuple(parameter.shape), data, hashlib.sha256(data).hexdigest())


def from_tensors(rows: Iterable[tuple[str, str, Iterable[int], bytes, str]], config: Config) -> Encoder:
    """The encoder made of rows (name, dtype, shape, data, sha256) in any order, in evaluation mode.

    Raises ValueError for a name given twice, missing or unknown, another dtype or shape, and a checksum that does
    not match.
    """
    weights: dict[str, Tensor] = {}
    for name, dtype, shape, data, sha256 in rows:
        shape = tuple(int(size) for size in shape)
        if name in weights:
            raise ValueError(f"Tensor {name} comes twice.")
        if dtype != "float32":
            raise ValueError(f"Tensor {name} has type {dtype}, and float32 is needed.")
        if hashlib.sha256(data).hexdigest() != sha256:
            raise ValueError(f"Tensor {name} is damaged: its checksum does not match.")
        if len(data) != 4 * int(np.prod(shape)):
            raise ValueError(f"Tensor {name} has {len(data)} bytes, which do not fill its shape {shape}.")
        weights[name] = torch.from_numpy(np.frombuffer(data, dtype="<f4").reshape(shape).copy())
    return with_weights(config, weights)
