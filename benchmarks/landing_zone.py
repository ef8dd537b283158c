"""A look at a large landing zone: the first of a process, and the next after a few titles have landed.

    python benchmarks/landing_zone.py [--folders 100000] [--new 10] [--s3]

Each folder holds a film of a few bytes, subtitles and title.json. Local disk, or, with --s3, a bucket of moto's server:
its own time to answer is said beside, since a list request costs it more than it costs S3.
"""

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from resources.landing import LandingZone
from tests.conftest import free_port

FILES = {"film.mp4": b"film", "film.en.srt": b"1\n00:00:01,000 --> 00:00:02,000\nHello\n"}
LONG_AGO = 1_700_000_000


def title_json(number: int) -> bytes:
    return f'{{"title": "Title {number}", "language": "en", "genres": ["drama"]}}'.encode()


def drop_locally(root: Path, numbers: range) -> None:
    for number in numbers:
        folder = root / "titles" / f"title-{number:06d}"
        folder.mkdir(parents=True)
        for name, data in {**FILES, "title.json": title_json(number)}.items():
            (folder / name).write_bytes(data)
            os.utime(folder / name, (LONG_AGO, LONG_AGO))


def drop_into_bucket(numbers: range) -> None:
    import boto3

    s3 = boto3.client("s3")

    def drop(number: int) -> None:
        for name, data in {**FILES, "title.json": title_json(number)}.items():
            s3.put_object(Bucket="films", Key=f"landing/titles/title-{number:06d}/{name}", Body=data)

    with ThreadPoolExecutor(4) as senders:
        list(senders.map(drop, numbers))


@contextlib.contextmanager
def bucket() -> Iterator[None]:
    import boto3

    port = free_port()
    os.environ |= {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}", "AWS_REGION": "us-east-1"}
    os.environ |= {"AWS_DEFAULT_REGION": "us-east-1", "AWS_ACCESS_KEY_ID": "local", "AWS_SECRET_ACCESS_KEY": "local"}
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(100):
            with contextlib.suppress(Exception):
                boto3.client("s3").create_bucket(Bucket="films")
                break
            time.sleep(0.2)
        yield
    finally:
        server.kill()
        server.wait()


def measure(zone: LandingZone, drop: Callable[[range], None], folders: int, new: int) -> None:
    began = time.perf_counter()
    drop(range(folders))
    print(f"{folders:,} folders made in {time.perf_counter() - began:.0f} s", flush=True)
    for what in ("the first look", "the second"):
        timed(zone, what, folders)
    drop(range(folders, folders + new))
    timed(zone, f"with {new} new ones", folders + new)


def timed(zone: LandingZone, what: str, expected: int) -> None:
    began, busy = time.perf_counter(), time.process_time()
    found = len(zone.look().drops)
    print(f"{what}: {time.perf_counter() - began:.2f} s, processor {time.process_time() - busy:.2f} s", flush=True)
    assert found == expected


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folders", type=int, default=100_000)
    parser.add_argument("--new", type=int, default=10)
    parser.add_argument("--s3", action="store_true")
    options = parser.parse_args()
    if options.s3:
        with bucket():
            measure(LandingZone(uri="s3://films/landing"), drop_into_bucket, options.folders, options.new)
    else:
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            measure(LandingZone(uri=folder), lambda numbers: drop_locally(root, numbers), options.folders, options.new)


if __name__ == "__main__":
    main()
