"""Seconds from a live segment's arrival to its contextual rows, with nobody but the daemon at work.

    python benchmarks/live.py FILM [--seconds 6] [--segments 12]

Twelve films are rendered and made, with an encoder, so that one more is no reason for a training. Then `mediafm ui` is
started, and segments of FILM arrive in the landing zone at the pace of the film. A segment is there when contextual
embeddings are made of everything that was taken with it: all shots that are certain by its end. The target is 60 s.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from mediafm_assets.commands.cli import main as mediafm
from mediafm_assets.defs.ingest import parts_of_film
from mediafm_assets.graph.versions import Catalogue
from mediafm_assets.settings import resources
from mediafm_assets.stages import all_stages
from resources.demo import render_catalogue
from tests.conftest import free_port
from tests.mediafm_assets.conftest import QUICK_ENCODER
from tests.resources.segments import cut

TITLE = "zz-live"
AT_ONCE = 4
"""Segments that are there when the daemon starts."""


def covered(lake: Catalogue) -> set[str]:
    """The segments of which contextual embeddings are made."""
    row = lake.title(TITLE)
    fresh = row and lake.is_fresh("contextual_embeddings", TITLE)
    return {part.name for part in parts_of_film(row)} if fresh else set()


def write(path: Path, data: bytes) -> None:
    """As a packager does: whole, under another name first."""
    path.with_suffix(".tmp").write_bytes(data)
    path.with_suffix(".tmp").rename(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("film", type=Path)
    parser.add_argument("--seconds", type=float, default=6.0, help="of a segment; it ends at the next key frame")
    parser.add_argument("--segments", type=int, default=12)
    options = parser.parse_args()
    root = Path(tempfile.mkdtemp(prefix="mediafm-live-"))
    os.environ |= {
        "MEDIAFM_LANDING": str(render_catalogue(root / "landing", titles=12, shots_per_title=4).folder),
        "MEDIAFM_LAKE": str(root / "lake"),
        "DAGSTER_HOME": str(root / "home"),
        "MEDIAFM_ENCODER_OVERRIDES": json.dumps(QUICK_ENCODER),
    }
    if mediafm(["materialize"]):
        sys.exit("the films could not be made")
    command = [sys.executable, "-m", "mediafm_assets.commands.cli", "ui", "--port", str(free_port())]
    log = (root / "ui.log").open("w")
    ui = subprocess.Popen(command, cwd=root, stdout=log, stderr=log, start_new_session=True)
    try:
        took = sorted(arrive(root, cut(options.film, root / "cut", seconds=options.seconds), options))
        print(f"{len(took)} segments: median {took[len(took) // 2]:.0f} s, most {took[-1]:.0f} s")
    finally:
        ui.terminate()
        try:
            ui.wait(timeout=60)
        finally:
            if ui.poll() is None:
                os.killpg(ui.pid, signal.SIGKILL)
        shutil.rmtree(root, ignore_errors=True)


def arrive(root: Path, segments: list[Path], options: argparse.Namespace) -> list[float]:
    """Put the segments into the landing zone, each when it is over; the seconds until each is covered. The first ones
    are there at once, and do not count: the daemon starts."""
    made = resources(dict(os.environ))
    folder = root / "landing" / "titles" / TITLE
    folder.mkdir()
    write(folder / "title.json", json.dumps({"title": "Live", "live": True}).encode())
    came: dict[str, float] = {}
    took: dict[str, float] = {}

    def look() -> None:
        for name in covered(Catalogue(made["lake"], made, all_stages())) & came.keys() - took.keys():
            took[name] = time.monotonic() - came[name]
            print(f"{name}  {took[name]:5.1f} s", flush=True)
        time.sleep(0.5)

    def come(segment: Path) -> None:
        write(folder / segment.name, segment.read_bytes())
        came[segment.name] = time.monotonic()

    for segment in segments[:AT_ONCE]:
        come(segment)
    while len(took) < AT_ONCE:
        look()
    begun = time.monotonic()
    for place, segment in enumerate(segments[AT_ONCE : AT_ONCE + options.segments], 1):
        while time.monotonic() < begun + place * options.seconds:
            look()
        come(segment)
    while len(took) < len(came):
        look()
    return list(took.values())[AT_ONCE:]


if __name__ == "__main__":
    main()
