"""How long from nothing running to a film in the lake: deploy/local.sh starts on an empty folder, a rendered film is
uploaded to its bucket, and nobody does anything more. The encoders are the default ones, with weights.

    python benchmarks/local_deploy.py [--shots 40]

Needs Debian's postgresql and the extra `deploy`. Prints seconds, of which the target is 300 in all.
"""

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from resources.demo import render_catalogue
from tests.deploy.deployment import deployed, wait_for


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shots", type=int, default=40, help="of the film")
    parser.add_argument("--first-port", type=int, default=3900)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="mediafm-local-"))
    folder.chmod(0o755)  # Postgres' user has to reach it
    try:
        titles = render_catalogue(folder / "films", titles=1, shots_per_title=options.shots).folder / "titles"
        begun = time.monotonic()
        with deployed(folder, options.first_port, {}) as running:
            print(f"all processes answer after   {time.monotonic() - begun:6.1f} s", flush=True)
            running.drop("night-train", next(titles.iterdir()))
            dropped = time.monotonic()
            for table in ("shots", "fused_embeddings", "contextual_embeddings"):
                wait_for(table, lambda table=table: "night-train" in running.titles_in(table), 900)
                print(f"{table:<24} {time.monotonic() - dropped:6.1f} s after title.json", flush=True)
            print(f"in all                       {time.monotonic() - begun:6.1f} s")
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
