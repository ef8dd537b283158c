"""`kill -9` of each part of a deployment in turn while it works off a backlog: what is lost, doubled, or stuck.

    python benchmarks/kill.py [--titles 50] [--kills 100]

deploy/local.sh starts the parts, and starts those again that end; encoders without weights. S3 is a server that keeps
what it was given, behind a relay of connections, which is what is killed: S3 goes away in the middle of a request and
comes back, as a real one does, with all that it had confirmed. Needs Debian's postgresql and the extra `deploy`.
"""

import argparse
import asyncio
import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).parents[1]))

from resources.demo import render_catalogue
from resources.lake.tables import TABLES
from tests.deploy.deployment import PROJECT, Deployment, deployed, wait_for
from tests.deploy.test_local import WEIGHTLESS

TABLES_OF_TITLES = ("titles", "shots", "shot_frames", "fused_embeddings", "contextual_embeddings")
IN_TURN = ("worker", "daemon", "worker", "webserver", "worker", "code", "worker", "postgres", "worker", "s3")


async def relay(port: int, upstream: int) -> None:
    """Pass on connections to `port` to the server at `upstream`, for ever."""

    async def passed_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, back = await asyncio.open_connection("127.0.0.1", upstream)
        except ConnectionError:
            writer.close()
            return
        await asyncio.gather(passed_on(reader, back), passed_on(there, writer))

    server = await asyncio.start_server(connected, "127.0.0.1", port)
    await server.serve_forever()


def start_relay(port: int, upstream: int) -> "subprocess.Popen[bytes]":
    return subprocess.Popen([sys.executable, __file__, "--relay", str(port), str(upstream)])


def workers_of(running: Deployment) -> list[int]:
    """The processes of runs that the code server started."""
    try:
        children = psutil.Process(running.pid("code")).children()
        return [child.pid for child in children if "spawn_main" in " ".join(child.cmdline())]
    except psutil.NoSuchProcess:
        return []


def killed(running: Deployment, part: str) -> bool:
    """Whether there was one to kill."""
    pids = workers_of(running) if part == "worker" else [running.pid(part)]
    try:
        os.kill(random.choice(pids), signal.SIGKILL)
    except (IndexError, ProcessLookupError):
        return False
    return True


def doubled(running: Deployment) -> dict[str, int]:
    """Rows more than there are keys, by table, where there are any."""
    program = (
        "import sys; from resources.lake import DeltaLake; from resources.lake.tables import TABLES\n"
        "lake = DeltaLake(uri=sys.argv[1])\n"
        "for table in sys.argv[2:]:\n"
        "    keys = lake.scan(table).select(*TABLES[table].partition_by, *TABLES[table].key).collect()\n"
        "    print(table, len(keys) - keys.n_unique())"
    )
    command = [sys.executable, "-c", program, running.environment["MEDIAFM_LAKE"], *TABLES_OF_TITLES]
    environment = {**os.environ, **running.environment, "PYTHONPATH": str(PROJECT)}
    printed = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, cwd=PROJECT).stdout
    counts = {table: int(count) for table, count in (line.split() for line in printed.splitlines())}
    return {table: count for table, count in counts.items() if count}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--titles", type=int, default=50)
    parser.add_argument("--shots", type=int, default=12, help="of a title")
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--every-s", type=float, default=8, help="seconds between two kills")
    parser.add_argument("--patience-s", type=float, default=900, help="before the first kill and after the last")
    parser.add_argument("--first-port", type=int, default=3920)
    parser.add_argument("--relay", type=int, nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.relay:
        return asyncio.run(relay(*options.relay))
    assert set(TABLES_OF_TITLES) <= TABLES.keys()
    random.seed(0)
    folder = Path(tempfile.mkdtemp(prefix="mediafm-kill-"))
    folder.chmod(0o755)  # Postgres' user has to reach it
    s3_port, store_port = options.first_port + 3, options.first_port + 5
    store = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(store_port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    s3 = start_relay(s3_port, store_port)
    try:
        films = render_catalogue(folder / "films", titles=options.titles, shots_per_title=options.shots).folder
        access = Deployment(folder, options.first_port).environment
        wait_for("the S3 server", lambda: make_bucket(access), 60)
        with deployed(folder, options.first_port, {**WEIGHTLESS, **access, "OMP_NUM_THREADS": "1"}) as running:
            titles = {title.name: title for title in sorted((films / "titles").iterdir())}
            for title_id, source in titles.items():
                running.drop(title_id, source)
            wait_for("the first run", lambda: workers_of(running), options.patience_s)
            counts: Counter[str] = Counter()
            begun = time.monotonic()
            turn = itertools.cycle(IN_TURN)
            while counts.total() < options.kills:
                part = next(turn)
                if part == "s3":
                    s3.kill()
                    s3.wait()
                    time.sleep(2)
                    s3 = start_relay(s3_port, store_port)
                elif not killed(running, part):
                    # Nothing is at work at this moment; the next in turn is up.
                    time.sleep(1)
                    continue
                counts[part] += 1
                print(f"{time.monotonic() - begun:6.0f} s  kill {counts.total()}: {part}", flush=True)
                time.sleep(options.every_s)
            ended = time.monotonic()
            for table in TABLES_OF_TITLES:
                while not titles.keys() <= running.titles_in(table):
                    if time.monotonic() - ended > options.patience_s:
                        raise SystemExit(f"{table} lacks {sorted(titles.keys() - running.titles_in(table))}")
                    time.sleep(5)
                print(f"{table} has all titles {time.monotonic() - ended:.0f} s after the last kill", flush=True)
            done = ("SUCCESS", "FAILURE", "CANCELED")
            wait_for("the end of all runs", lambda: all(run["status"] in done for run in running.runs()), 300)
            print(f"kills: {dict(counts)}; runs: {dict(Counter(run['status'] for run in running.runs()))}")
            print(f"rows that are twice there: {doubled(running) or 0}")
    finally:
        for process in (s3, store):
            process.kill()
            process.wait()
        shutil.rmtree(folder)
    return None


def make_bucket(access: dict[str, str]) -> bool:
    """Raises OSError while nothing answers."""
    import boto3
    from botocore.exceptions import BotoCoreError

    s3 = boto3.client(
        "s3",
        endpoint_url=access["AWS_ENDPOINT_URL"],
        region_name="us-east-1",
        aws_access_key_id="local",
        aws_secret_access_key="local",
    )
    try:
        s3.create_bucket(Bucket="mediafm")
    except BotoCoreError as error:
        raise OSError(str(error)) from error
    return True


if __name__ == "__main__":
    main()
