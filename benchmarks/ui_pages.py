"""How long Dagster's pages take at the size of a large catalogue, in a real browser.

    python benchmarks/ui_pages.py [--titles 10000] [--runs 100]

Fills an instance of its own with a materialisation of two tables of every title, in runs of 200 titles, and with
further runs without events. Then opens each page in headless Chromium, twice, and prints the seconds until it says what
it is opened for, and the slowest of its GraphQL answers. Needs chromium and chromedriver.
"""

import argparse
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg

TITLES_PER_RUN = 200
TABLES = ("titles", "fused_embeddings")
PATIENCE_S = 120
SLOWEST = """return performance.getEntriesByType("resource").filter(e => e.name.includes("/graphql"))
.map(e => [e.duration / 1000, new URL(e.name).searchParams.get("op")]).sort((a, b) => b[0] - a[0])[0] ?? [0, "none"]"""


def fill(instance: dg.DagsterInstance, titles: list[str], runs: int) -> str:
    """The events as the graph's own runs leave them; returns the id of a run."""
    from dagster._core.storage.dagster_run import DagsterRun

    instance.add_dynamic_partitions("titles", titles)
    run = DagsterRun("__ASSET_JOB")
    batches = [titles[at : at + TITLES_PER_RUN] for at in range(0, len(titles), TITLES_PER_RUN)]
    for number in range(len(batches) + runs):
        run = DagsterRun("__ASSET_JOB", tags={"mediafm/planned": "true"})
        instance.add_run(run)
        # A run's row holds when it began and ended. Without, the runs page opens the run's own database to find out.
        for event in (dg.DagsterEventType.RUN_START, dg.DagsterEventType.RUN_SUCCESS):
            instance.run_storage.handle_run_event(run.run_id, dg.DagsterEvent(event.value, run.job_name))
        if number < len(batches):
            store(instance, run, batches[number], TABLES)
    return run.run_id


def store(instance: dg.DagsterInstance, run: dg.DagsterRun, titles: list[str], tables: tuple[str, ...]) -> None:
    from dagster._core.events import StepMaterializationData
    from dagster._core.events.log import EventLogEntry

    def entry(table: str, title: str) -> EventLogEntry:
        made = dg.AssetMaterialization(
            table,
            partition=title,
            metadata={"rows": 32, "seconds": 1.25, "dagster/partition_row_count": 32, "dagster/row_count": 320_000},
            tags={"dagster/data_version": "0" * 32, "dagster/code_version": "1"},
        )
        event = dg.DagsterEvent(
            dg.DagsterEventType.ASSET_MATERIALIZATION.value,
            run.job_name,
            step_key="title",
            event_specific_data=StepMaterializationData(made),
        )
        return EventLogEntry(None, 10, "", run.run_id, time.time(), "title", run.job_name, event)

    # In one transaction a table: one for each event, as runs have, takes 15 ms each.
    storage = instance.event_log_storage
    for table in tables:
        entries = [entry(table, title) for title in titles]
        with storage.index_connection() as connection:
            ids = [connection.execute(storage.prepare_insert_event(each)).inserted_primary_key[0] for each in entries]
        storage.store_asset_event_tags(entries, ids)
        storage.store_asset_event(entries[-1], ids[-1])


@contextmanager
def webserver() -> Iterator[str]:
    """The address of Dagster's UI, on the instance of the environment."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-m", "dagster_webserver", "-m", "mediafm_assets.definitions", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait()


@contextmanager
def browser(profile: Path) -> Iterator[Any]:
    from selenium.webdriver import Chrome
    from selenium.webdriver.chrome.options import Options
    from selenium.webdriver.chrome.service import Service

    options = Options()
    for flag in ("headless", "no-sandbox", "disable-gpu", "disable-dev-shm-usage", "no-first-run"):
        options.add_argument(f"--{flag}")
    options.add_argument("--window-size=1500,1000")
    options.add_argument(f"--user-data-dir={profile}")
    options.binary_location = str(shutil.which("chromium"))
    driver = Chrome(options=options, service=Service(executable_path=str(shutil.which("chromedriver"))))
    try:
        yield driver
    finally:
        driver.quit()


def seconds_until(page: Any, address: str, said: tuple[str, ...]) -> tuple[float, list[Any]]:
    """From the address to all that the page is to say; its slowest GraphQL answer, in seconds, and what was asked."""
    page.get("about:blank")
    started = time.perf_counter()
    page.get(address)
    while True:
        text = page.execute_script("return document.body.innerText")
        if all(part in text for part in said):
            break
        if time.perf_counter() - started > PATIENCE_S:
            raise TimeoutError(f"{address} did not say {said} but: {text[:2000]}")
        time.sleep(0.05)
    return time.perf_counter() - started, page.execute_script(SLOWEST)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--titles", type=int, default=10_000)
    parser.add_argument("--runs", type=int, default=100, help="runs beside those that made the titles")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "home"
        home.mkdir()
        (Path(folder) / "landing" / "titles").mkdir(parents=True)
        os.environ |= {
            "DAGSTER_HOME": str(home),
            "MEDIAFM_LANDING": f"{folder}/landing",
            "MEDIAFM_LAKE": f"{folder}/lake",
        }
        shutil.copyfile(Path(__file__).parents[1] / "dagster.yaml", home / "dagster.yaml")
        titles = [f"title-{number:05}" for number in range(asked.titles)]
        started = time.perf_counter()
        with dg.DagsterInstance.get() as instance:
            run_id = fill(instance, titles, asked.runs)
        print(f"filled in {time.perf_counter() - started:.0f} s")
        pages = {
            "asset": ("/assets/fused_embeddings", (titles[-1], "Latest materialization", "320,000", "Columns")),
            "asset's partitions": (
                "/assets/fused_embeddings?view=partitions",
                (titles[0], f"Materialized ({asked.titles})"),
            ),
            "a partition": (
                f"/assets/fused_embeddings?view=partitions&partition={titles[5]}",
                (titles[5], "Latest materialization", "seconds"),
            ),
            "runs": ("/runs", (run_id[:8],)),
            "lineage": ("/asset-groups", ("embeddings",)),
        }
        with webserver() as ui, browser(Path(folder) / "profile") as page:
            seconds_until(page, f"{ui}/overview", ("Overview",))  # the code location loads once for all
            for name, (path, said) in pages.items():
                first, (slowest, asked_for) = seconds_until(page, ui + path, said)
                again, _ = seconds_until(page, ui + path, said)
                print(
                    f"{name}: {first:.2f} s, slowest answer {slowest:.2f} s ({asked_for}); again {again:.2f} s",
                    flush=True,
                )


if __name__ == "__main__":
    main()
