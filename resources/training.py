"""Starts trainings (`model.train`, `model.seqclip`) as processes of their own."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dagster as dg


class TrainingJob(dg.ConfigurableResource):
    """Where and how training runs.

    folder:    for what training keeps between runs: the memory-mapped vectors, checkpoints, exported encoders. May be
               deleted at any time between runs; what it held is made again.
    processes: ranks on this machine; more than one are started by torchrun, one per GPU.
    """

    folder: str
    processes: int = 1

    @property
    def store(self) -> Path:
        """The memory-mapped vectors that trainings read."""
        return Path(self.folder) / "vectors"

    def run_folder(self, data_version: str) -> Path:
        """Where the training of that version keeps its checkpoints: a retry finds them and goes on."""
        return Path(self.folder) / "runs" / data_version

    def train(self, context: dg.AssetExecutionContext, config: Path, out: Path, init: Path | None = None) -> None:
        """Train on the store; returns when `out` holds the export.

        Losses reach the run's log as they come; cancelling the run stops the process, which saves a checkpoint first.
        Raises what Dagster raises for a process that fails.
        """
        options = ["--config", str(config), "--data", str(self.store), "--out", str(out)]
        self._run(context, "model.train", options + (["--init", str(init)] if init else []))

    def fine_tune(
        self, context: dg.AssetExecutionContext, pairs: Path, checkpoint: Path, out: Path, settings: Mapping[str, Any]
    ) -> None:
        """Fine-tune `checkpoint` on the laid-out pairs; returns when `out` holds the result.

        `settings` are the fields of `model.seqclip.FineTuning`. Otherwise as `train`, but nothing is saved half way.
        """
        options = ["--pairs", str(pairs), "--checkpoint", str(checkpoint), "--out", str(out)]
        for name, value in settings.items():
            option = f"--{name.replace('_', '-')}"
            options += ([option] if value else []) if isinstance(value, bool) else [option, str(value)]
        self._run(context, "model.seqclip", options)

    def _run(self, context: dg.AssetExecutionContext, module: str, options: list[str]) -> None:
        ranks = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(self.processes)]
        command = [sys.executable, *(ranks if self.processes > 1 else []), "-m", module, *options]
        dg.PipesSubprocessClient().run(command=command, context=context).get_results()
