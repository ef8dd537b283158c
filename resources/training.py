"""Starts trainings (`model.train`, `model.seqclip`) as processes of their own."""

import signal
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

    def train(self, context: dg.AssetExecutionContext, run: Path) -> None:
        """Train on the store as `run` says; returns when it holds the export.

        run: a folder with config.json and, to start from an encoder's weights, its export as init/.

        Losses reach the Dagster run's log as they come; cancelling it stops the process, which saves a checkpoint
        first. Raises what Dagster raises for a process that fails.
        """
        options = ["--config", str(run / "config.json"), "--data", str(self.store), "--out", str(run)]
        if (run / "init").exists():
            options += ["--init", str(run / "init")]
        self._run(context, "model.train", options)

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
        # polars, once imported, makes system calls go on after a SIGINT, with which Dagster cancels: the wait for the
        # process would outlast the training.
        signal.siginterrupt(signal.SIGINT, True)
        dg.PipesSubprocessClient().run(command=command, context=context).get_results()
