"""A large catalogue in Dagster's database: what adding partitions, telling of them and asking about them takes.

    python benchmarks/postgres_partitions.py [--partitions 100000]

A real Postgres server of Debian's package, on this machine. Prints seconds of the clock and of this process' processor.
Statistics are taken before questions are asked, as Postgres does by itself within minutes: without them, it plans the
first question as of a few rows, and was not done with 100,000 after seven minutes.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import dagster as dg
import sqlalchemy

from mediafm_assets.graph.sensors import landed, told_before
from tests.conftest import postgres_server

NEW = 10
AT_ONCE = 1000


def told_at_once(instance: dg.DagsterInstance, titles: list[str]) -> None:
    """Tell of drops as the sensor does, but many in one statement: one by one they take some milliseconds each."""
    from dagster._core.events import AssetMaterialization, DagsterEvent, DagsterEventType, StepMaterializationData
    from dagster._core.events.log import EventLogEntry
    from dagster._core.instance.utils import RUNLESS_JOB_NAME, RUNLESS_RUN_ID

    def entry(event: AssetMaterialization) -> EventLogEntry:
        told = DagsterEvent(
            DagsterEventType.ASSET_MATERIALIZATION.value,
            job_name=RUNLESS_JOB_NAME,
            event_specific_data=StepMaterializationData(event),
        )
        return EventLogEntry(
            user_message="", level=10, job_name=RUNLESS_JOB_NAME, run_id=RUNLESS_RUN_ID, error_info=None,
            timestamp=time.time(), dagster_event=told,
        )  # fmt: skip

    for first in range(0, len(titles), AT_ONCE):
        some = titles[first : first + AT_ONCE]
        instance.event_log_storage.store_event_batch([entry(landed("drops", title, "f" * 32)) for title in some])


@contextmanager
def timed(what: str) -> Iterator[None]:
    began, busy = time.perf_counter(), time.process_time()
    yield
    print(f"{what}: {time.perf_counter() - began:.2f} s, processor {time.process_time() - busy:.2f} s", flush=True)


def analyse(url: str) -> None:
    with sqlalchemy.create_engine(url).begin() as connection:
        connection.execute(sqlalchemy.text("ANALYZE"))


def measure(instance: dg.DagsterInstance, url: str, partitions: int) -> None:
    titles = [f"title-{number:07d}" for number in range(partitions)]
    new = [f"zz-{number}" for number in range(NEW)]
    with timed(f"{partitions:,} partitions added"):
        instance.add_dynamic_partitions("titles", titles)
    with timed(f"{partitions:,} drops told of, {AT_ONCE} at once"):
        told_at_once(instance, titles)
    with timed(f"{NEW} more partitions added"):
        instance.add_dynamic_partitions("titles", new)
    with timed(f"{NEW} more drops told of, one by one"):
        for title in new:
            instance.report_runless_asset_event(landed("drops", title, "f" * 32))
    with timed("statistics taken"):
        analyse(url)
    with timed("all partitions asked for"):
        assert len(instance.get_dynamic_partitions("titles")) == partitions + NEW
    with timed("what Dagster was told of each drop, as a tick asks"):
        assert len(told_before(instance, "drops")) == partitions + NEW
    with timed("which partitions are materialised, as the UI asks"):
        assert len(instance.get_materialized_partitions(dg.AssetKey("drops"))) == partitions + NEW


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--partitions", type=int, default=100_000)
    options = parser.parse_args()
    with postgres_server() as server, tempfile.TemporaryDirectory() as home:
        url = server.new_database()
        storage = {"postgres": {"postgres_url": url}}
        with dg.instance_for_test(temp_dir=home, overrides={"storage": storage}) as instance:
            print(f"load {os.getloadavg()[0]:.1f}", flush=True)
            measure(instance, url, options.partitions)


if __name__ == "__main__":
    main()
