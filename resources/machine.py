"""The machine that a step runs on: what decides how long it takes."""

import os
import platform
import sys
from functools import cache
from pathlib import Path

CPUS = Path("/proc/cpuinfo")
GPUS = Path("/proc/driver/nvidia/gpus")


@cache
def machine() -> str:
    """Processor, cores that this process may use, and GPUs, in words. Machines with the same words take about the same
    time; a host's name is no part of it, as a container's changes with each start."""
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    return ", ".join([_field(CPUS, "model name") or platform.machine(), f"{cores} cores", *gpus()])


def gpus() -> list[str]:
    """Names of the NVIDIA GPUs that this process may use, told by the driver without loading PyTorch."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and visible.strip() in ("", "-1"):
        return []
    return [_field(gpu / "information", "Model") or "a GPU" for gpu in sorted(GPUS.glob("*"))]


def gpu_allocations() -> int:
    """How often this process has taken memory on a GPU so far: it grows exactly when something is computed there."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return 0
    return int(torch.cuda.memory_stats().get("allocation.all.allocated", 0))


def _field(file: Path, name: str) -> str:
    """The value of the first line `name : value`; empty where there is none."""
    lines = file.read_text().splitlines() if file.exists() else []
    values = (value.strip() for key, _, value in (line.partition(":") for line in lines) if key.strip() == name)
    return next(values, "")
