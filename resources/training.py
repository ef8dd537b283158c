"""Starts a training run of `model.train` as a process of its own."""

import sys
from pathlib import Path

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
        ranks = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(self.processes)]
        command = [sys.executable, *(ranks if self.processes > 1 else []), "-m", "model.train"]
        command += ["--config", str(config), "--data", str(self.store), "--out", str(out)]
        if init:
            command += ["--init", str(init)]
        dg.PipesSubprocessClient().run(command=command, context=context).get_results()
