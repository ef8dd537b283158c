"""What grows with the catalogue: the whole command with nothing to do and with one more title, and ticks of the
sensors, on a lake of many titles beside one of ten.

    python benchmarks/catalogue_size.py [--titles 1000] [--ticks 10]

Both lakes hold copies of one tiny title's rows, written in one commit for each table, with the versions that the graph
would give them. Their first call tells a new Dagster instance what the lake holds; it is printed apart. Prints seconds
and peak memory of whole processes, and the ratio of the two lakes.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import polars as pl
from orchestration import land

COMMAND = [sys.executable, "-m", "mediafm_assets.commands.cli", "materialize", "--no-train"]
TICKS = """
import time, resource, dagster as dg
from mediafm_assets.definitions import defs
from mediafm_assets.settings import resources
from mediafm_assets.stages import all_stages
from mediafm_assets.graph.sensors import automation_sensor, landing_sensor
with dg.DagsterInstance.get() as instance:
    cursors = {}
    for number in range(COUNT):
        for sensor in (landing_sensor, automation_sensor(all_stages())):
            started = time.perf_counter()
            with dg.build_sensor_context(
                instance, cursor=cursors.get(sensor.name), definitions=defs(), resources=resources()
            ) as context:
                tick = sensor.evaluate_tick(context)
            cursors[sensor.name] = tick.cursor or cursors.get(sensor.name)
            if number in (1, COUNT - 1):
                memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
                seconds = time.perf_counter() - started
                print(f"  tick {number + 1} of {sensor.name}: {seconds:.2f} s, peak {memory:.0f} MiB")
"""


def environment(root: Path) -> dict[str, str]:
    places = {"MEDIAFM_LANDING": "landing", "MEDIAFM_LAKE": "lake", "DAGSTER_HOME": "home"}
    return {**os.environ, **{name: str(root / folder) for name, folder in places.items()}}


def measured(command: list[str], env: Mapping[str, str]) -> tuple[float, float]:
    """Seconds and peak MiB of a process, which must succeed."""
    started, peak = time.perf_counter(), 0.0
    process = subprocess.Popen(command, env=dict(env), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None:
        peak = max(peak, peak_mib(process.pid))
        time.sleep(0.02)
    assert process.returncode == 0, command
    return time.perf_counter() - started, peak


def peak_mib(process: int) -> float:
    """So far; what has ended has none. Not `ru_maxrss`, which in a child begins with its parent's."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmHWM")), 0.0)


def multiply(root: Path) -> None:
    """Give every landed title the rows of the first, which the command has made."""
    from mediafm_assets.graph.versions import Catalogue
    from mediafm_assets.settings import resources
    from mediafm_assets.stages import all_stages
    from resources.lake import TABLES

    configured = resources(environment(root))
    lake = configured["lake"]
    drops = configured["landing"].look().drops
    first, others = drops[0], drops[1:]
    delta = (table for table in all_stages().title_tables if table in TABLES)
    for table in (table for table in delta if (first.title_id,) in lake.data_versions(table)):
        rows = lake.read(table, title_id=first.title_id)
        catalogue = Catalogue(lake, configured, all_stages())
        catalogue.read_all_titles()
        copies = []
        for drop in others:
            version = rows["data_version"][0] if table == "titles" else catalogue.made_now(table, drop.title_id)
            copy = rows.with_columns(title_id=pl.lit(drop.title_id), data_version=pl.lit(version))
            if table == "titles":
                copy = copy.with_columns(
                    drop_fingerprint=pl.lit(drop.drop_fingerprint), media_uri=pl.lit(drop.media_uri)
                )
            copies.append(copy)
        lake.write_partitions(table, pl.concat(copies))


def prepared(root: Path, titles: int) -> None:
    (root / "landing").mkdir(parents=True)
    land(root / "landing", titles + 1, bad=0, same=True)
    # The last one lands when everything else is done.
    (root / "landing" / "titles" / f"tiny-{titles:05}").rename(root / "later")
    time.sleep(3)
    measured([*COMMAND, "--title", "tiny-00000"], environment(root))
    multiply(root)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--titles", type=int, default=1000)
    parser.add_argument("--ticks", type=int, default=10)
    options = parser.parse_args()
    figures: dict[str, list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for titles in (10, options.titles):
            root = Path(folder) / str(titles)
            prepared(root, titles)
            env = environment(root)
            adopted, _ = measured(COMMAND, env)
            print(f"{titles} titles: told to a new Dagster instance in {adopted:.1f} s", flush=True)
            figures.setdefault("nothing to do", []).append(measured(COMMAND, env))
            subprocess.run([sys.executable, "-c", TICKS.replace("COUNT", str(options.ticks))], env=env, check=True)
            (root / "later").rename(root / "landing" / "titles" / f"tiny-{titles:05}")
            figures.setdefault("one more title", []).append(measured(COMMAND, env))
    for name, ((few_s, few_mib), (many_s, many_mib)) in figures.items():
        print(
            f"{name}: {few_s:.1f} s and {few_mib:.0f} MiB at 10, {many_s:.1f} s and {many_mib:.0f} MiB at "
            f"{options.titles}: {many_s / few_s:.2f} and {many_mib / few_mib:.2f} times"
        )


if __name__ == "__main__":
    main()
