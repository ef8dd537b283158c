"""How long the code location takes to load, against `import dagster` alone. Target: under 2.

    python benchmarks/load_time.py

Each is a fresh process; the two take turns, and the ratio is of the medians.
"""

import statistics
import subprocess
import sys
import time

PROGRAMS = {
    "import dagster": "import dagster",
    "code location": ("from mediafm_assets.definitions import defs; defs().resolve_implicit_global_asset_job_def()"),
}
ROUNDS = 7


def seconds(program: str) -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, "-W", "ignore", "-c", program], check=True)
    return time.perf_counter() - started


def main() -> None:
    taken: dict[str, list[float]] = {name: [] for name in PROGRAMS}
    for round_ in range(ROUNDS + 1):
        for name, program in PROGRAMS.items():
            duration = seconds(program)
            if round_:  # the first one fills the disk's cache
                taken[name].append(duration)
    for name, durations in taken.items():
        print(f"{name:<16} median {statistics.median(durations):.2f} s  ({min(durations):.2f} to {max(durations):.2f})")
    ratio = statistics.median(taken["code location"]) / statistics.median(taken["import dagster"])
    print(f"ratio            {ratio:.2f}  (target: under 2)")


if __name__ == "__main__":
    main()
