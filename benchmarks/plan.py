"""What a plan takes, and how far it is off.

    python benchmarks/plan.py size [--titles 10000]
    python benchmarks/plan.py seconds TITLES

size: `mediafm plan --json` on a lake of many titles (made as in status.py) with nothing to do but the search index, and
after the detector was changed, which makes nearly every table of every title stale. Prints seconds and peak memory of
the whole process.

seconds: materialises the title folders in TITLES, then once more into a new lake that has nothing but the books of the
first time, and prints what was planned for the second time beside what it took, by stage. No training.
"""

import argparse
import contextlib
import io
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

from catalogue_size import environment, measured
from status import large_lake

PLAN = ["-m", "mediafm_assets.commands.cli", "plan", "--json"]


def size(titles: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        env = large_lake(Path(folder), titles)
        for name, more in (("no search index", {}), ("another detector", {"MEDIAFM_DETECTOR": "adaptive"})):
            seconds, mib = measured([sys.executable, *PLAN], {**env, **more})
            print(f"{titles} titles, {name}: {seconds:.1f} s, peak {mib:.0f} MiB", flush=True)


def seconds(titles: Path) -> None:
    from mediafm_assets.commands.cli import main
    from mediafm_assets.settings import resources

    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        shutil.copytree(titles, root / "landing" / "titles", ignore=shutil.ignore_patterns(".*"))
        os.environ.update(environment(root))
        assert main(["materialize", "--no-train"]) == 0
        lake = resources()["lake"]
        first = set(lake.read_whole("costs")["run_id"])
        for table in (root / "lake").iterdir():
            if table.name != "costs":
                shutil.rmtree(table)
        shutil.rmtree(root / "home")
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            assert main(["plan", "--json"]) == 0
        planned = json.loads(printed.getvalue())["stages"]
        assert main(["materialize", "--no-train"]) == 0
        books = lake.read_whole("costs")
        second = books.filter(~books["run_id"].is_in(first))
        took: dict[str, float] = {}
        for stage, spent in second.select("stage", "seconds").rows():
            took[stage] = took.get(stage, 0.0) + spent
        for stage, actual in sorted(took.items(), key=lambda item: -item[1]):
            print(f"{stage:<20} planned {planned[stage]['seconds']:8.2f} s, took {actual:8.2f} s")
        whole, planned_whole = sum(took.values()), sum(planned[stage]["seconds"] for stage in took)
        print(f"together: planned {planned_whole:.1f} s, took {whole:.1f} s: {planned_whole / whole - 1:+.0%}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_subparsers(dest="what", required=True)
    what.add_parser("size").add_argument("--titles", type=int, default=10_000)
    what.add_parser("seconds").add_argument("folder", type=Path)
    options = parser.parse_args()
    if options.what == "size":
        size(options.titles)
    else:
        seconds(options.folder)


if __name__ == "__main__":
    main()
