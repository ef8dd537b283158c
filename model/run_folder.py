"""The folder of a training run: what lies in it, and when the next run may start from its weights.

    config.json       the configuration (`model.config.Config`); the folder is a run's once this is there
    titles.json       what is trained on, each title's id with the version of its vectors
    init/             an exported encoder whose weights the run starts from, if any
    training.jsonl    one object per report: step, split ("train" or "validation"), loss, cosine, shots_per_s, rates
    checkpoints/      to go on from; not needed once the run is finished
    export/           the encoder: config.json, model.safetensors
    metrics.json      what came of it; written last, so a folder that has it holds a finished run

Whoever starts a run writes the first three (`begin`), the training the others. Imports no PyTorch.
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.config import Config
from model.files import write_atomically


@dataclass(frozen=True)
class RunFolder:
    path: Path

    @property
    def config(self) -> Path:
        return self.path / "config.json"

    @property
    def titles(self) -> Path:
        return self.path / "titles.json"

    @property
    def init(self) -> Path:
        return self.path / "init"

    @property
    def log(self) -> Path:
        return self.path / "training.jsonl"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def export(self) -> Path:
        return self.path / "export"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.json"

    def read_metrics(self) -> dict[str, Any]:
        metrics: dict[str, Any] = json.loads(self.metrics.read_text())
        return metrics

    def begin(self, config: Config, titles: Mapping[str, str], earlier: "RunFolder | None") -> None:
        """Lay the folder out, unless a first try already did: a retry goes on as that one began.

        titles:  what is trained on, each title with its version.
        earlier: of the run that made the newest encoder, whose weights are started from if `can_start_from` them.
        """
        if self.config.exists():
            return
        shutil.rmtree(self.path, ignore_errors=True)
        self.path.mkdir(parents=True)
        self.titles.write_text(json.dumps(dict(titles)))
        if earlier is not None and earlier.can_start(config, titles):
            shutil.copytree(earlier.export, self.init)
        write_atomically(self.config, config.to_json().encode())

    def can_start(self, config: Config, titles: Mapping[str, str]) -> bool:
        """Whether the next run may start from this one's weights: it is finished and still here, had the same
        configuration, trained on no other titles, and held some of them out: what it has trained on must not become
        what the next one is validated on.
        """
        export = (self.export / name for name in ("config.json", "model.safetensors"))
        if not all(file.exists() for file in (self.titles, self.config, self.metrics, *export)):
            return False
        before = json.loads(self.titles.read_text())
        try:
            same_recipe = Config.from_json(self.config.read_text()) == config
        except ValueError:  # written by another version of this code
            return False
        return same_recipe and self.read_metrics()["validation"] is not None and before.items() <= titles.items()
