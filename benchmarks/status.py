"""`mediafm status` on a large catalogue: seconds and peak memory of the whole command.

    python benchmarks/status.py [--titles 10000]

A few tiny titles are made with an encoder; all others get its row in `titles` and an entry in the logs of the other
tables, with the versions that the graph would give them: of those nothing else is read. So all is fresh but the search
index, which is not made. Seconds are of the clock and of the processor, which differ on a busy machine. The command is
measured before anybody looked, after the table `freshness` was written as the daemon does, and under another shot
detector, which makes everything stale.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import polars as pl
from catalogue_size import environment, measured
from orchestration import land

MEDIAFM = [sys.executable, "-m", "mediafm_assets.commands.cli"]
MADE = 4
QUICK = '{"layers": 1, "hidden": 32, "heads": 2, "max_steps": 6, "fixed_steps": 6, "evaluate_every": 3}'
ENCODERS = {"VIDEO": "descriptors", "AUDIO": "logmel", "TEXT": "hashed"}
LOOK = """
import time
from mediafm_assets.graph.overview import refresh
from mediafm_assets.graph.versions import Catalogue
from mediafm_assets.settings import resources
from mediafm_assets.stages import all_stages
configured = resources()
landing = configured["landing"].look()
for number in range(2):
    started = time.process_time()
    events = refresh(Catalogue(configured["lake"], configured, all_stages()), landing)
    print(f"  the daemon's look {number + 1}: {time.process_time() - started:.1f} s computed, {len(events)} events")
"""


def multiply(env: dict[str, str]) -> int:
    """Give every landed title what the first has: its row in `titles`, and in the logs of the other tables, of which
    nobody reads the data here, a file. Returns the number of tables."""
    from mediafm_assets.graph.versions import Catalogue
    from mediafm_assets.settings import resources
    from mediafm_assets.stages import all_stages
    from resources.lake import TABLES
    from resources.lake.log import NewFile, log_of

    configured = resources(env)
    lake, drops = configured["lake"], configured["landing"].look().drops
    first, others = drops[0].title_id, drops[MADE:]
    row = lake.read("titles", title_id=first)
    ids, fingerprints, uris = zip(
        *((drop.title_id, drop.drop_fingerprint, drop.media_uri) for drop in others), strict=True
    )
    named = {"title_id": pl.Series(ids), "drop_fingerprint": pl.Series(fingerprints), "media_uri": pl.Series(uris)}
    lake.write_partitions("titles", pl.concat([row] * len(others)).with_columns(**named))
    catalogue = Catalogue(lake, configured, all_stages())
    catalogue.read_all_titles()
    tables = [table for table in all_stages().title_tables if table in TABLES]
    for table in tables[1:]:
        log = log_of(lake.table_uri(table), TABLES[table].partition_by, {}, None)
        files = []
        for title_id in ids:
            version = {"data_version": catalogue.made_now(table, title_id)}
            statistics = json.dumps({"numRecords": 2, "minValues": version, "maxValues": version})
            files.append(NewFile(f"{title_id}.parquet", 1000, catalogue.partition(table, title_id), statistics))
        log.commit((log.version() or 0) + 1, [], files)
    return len(tables)


def large_lake(root: Path, titles: int) -> dict[str, str]:
    """Make a lake of that many titles, with its landing zone; the environment that leads there."""
    encoders = {f"MEDIAFM_{part}_ENCODER": kind for part, kind in ENCODERS.items()}
    env = {**environment(root), **encoders, "MEDIAFM_ENCODER_OVERRIDES": QUICK}
    (root / "landing").mkdir()
    land(root / "landing", titles, bad=0, same=True)
    time.sleep(3)
    some = [part for number in range(MADE) for part in ("--title", f"tiny-{number:05}")]
    measured([*MEDIAFM, "materialize", "--train", *some], env)
    print(f"{titles} titles x {multiply(env)} tables", flush=True)
    return env


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--titles", type=int, default=10_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        env = large_lake(Path(folder), options.titles)
        told("nobody has looked yet", env)
        subprocess.run([sys.executable, "-c", LOOK], env=env, check=True)
        told("all fresh", env)
        told("all stale", {**env, "MEDIAFM_DETECTOR": "adaptive"})


def told(name: str, env: dict[str, str]) -> None:
    before = os.times()
    seconds, mib = measured([*MEDIAFM, "status", "--why"], env)
    after = os.times()
    computed = after.children_user + after.children_system - before.children_user - before.children_system
    print(f"  status --why, {name}: {seconds:.1f} s, {computed:.1f} s computed, peak {mib:.0f} MiB", flush=True)


if __name__ == "__main__":
    main()
