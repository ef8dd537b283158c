"""What Dagster costs beside the work: many tiny titles landed at once, through `mediafm materialize`, beside the same
stages without Dagster and beside Dagster's own floor (the events alone).

    python benchmarks/orchestration.py [--titles 200] [--bad 10]

Prints orchestration per title and asset (the command's time less that of the same stages called directly), the floor
(planned and materialised events of as many partitions) and the number of runs. Of the titles, --bad are not films: the
others must finish.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg


def land(folder: Path, titles: int, bad: int, same: bool = False) -> None:
    """Tiny titles: one film of 48 by 32 pixels and two seconds, with a subtitle line; every so many, no film at all.
    `same` gives all of them one name."""
    import av
    import numpy as np

    film = folder / "film.mp4"
    with av.open(str(film), "w") as container:
        stream = container.add_stream("libx264", rate=12)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        for number in range(24):
            picture = np.full((32, 48, 3), 40 if number < 12 else 200, dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture)))
        container.mux(stream.encode())
    spoilt = set(range(0, titles, titles // bad)) if bad else set()
    for number in range(titles):
        title = folder / "titles" / f"tiny-{number:05}"
        title.mkdir(parents=True)
        if number in spoilt:
            (title / "film.mp4").write_bytes(b"not a film")
        else:
            os.link(film, title / "film.mp4")
        (title / "film.en.srt").write_text("1\n00:00:00,100 --> 00:00:01,500\nGood evening.\n")
        (title / "title.json").write_text(json.dumps({"title": "Tiny" if same else f"Tiny {number}"}))


def without_dagster(titles: int) -> tuple[float, int]:
    """Seconds of the same stages over the same drops, called one after the other, and the partitions made."""
    from mediafm_assets.graph.materialise import TitleRun, stale_tables, write_title
    from mediafm_assets.graph.versions import Catalogue
    from mediafm_assets.settings import resources
    from mediafm_assets.stages import all_stages

    configured = resources()
    lake = configured["lake"]
    lake.create_tables()
    namespace = argparse.Namespace(**configured)
    run = TitleRun(namespace, Catalogue(lake, configured, all_stages()))
    started, made = time.perf_counter(), 0
    for drop in configured["landing"].look().drops[:titles]:
        try:
            for stage in all_stages().of_scope("title"):
                if not any(run.catalogue.waits_for(table) for table in stage.tables):
                    stale_tables(run, stage, drop.title_id)
                    write_title(run, stage, drop.title_id)
                    made += len(stage.tables)
        except Exception as error:
            print(f"{drop.title_id}: {error}"[:100], file=sys.stderr)
    return time.perf_counter() - started, made


def floor(titles: int, assets: int) -> float:
    """Seconds in which Dagster plans and records as many partitions of as many assets in one run, and nothing else."""
    partitions = dg.DynamicPartitionsDefinition(name="titles")
    specs = [dg.AssetSpec(f"asset_{number}", partitions_def=partitions, skippable=True) for number in range(assets)]

    @dg.multi_asset(name="floor", specs=specs, can_subset=True)
    def nothing(context: dg.AssetExecutionContext) -> Iterator[Any]:
        for key in context.partition_keys:
            for spec in specs:
                tags = {"dagster/data_version": "1"}
                context.log_event(dg.AssetMaterialization(spec.key, partition=key, tags=tags))
        return
        yield

    keys = [f"t{number}" for number in range(titles)]
    tags = {"dagster/asset_partition_range_start": keys[0], "dagster/asset_partition_range_end": keys[-1]}
    with tempfile.TemporaryDirectory() as home, dg.DagsterInstance.local_temp(home) as instance:
        instance.add_dynamic_partitions("titles", keys)
        job = dg.Definitions(assets=[nothing], loggers={"none": quiet}).resolve_implicit_global_asset_job_def()
        started = time.perf_counter()
        job.execute_in_process(instance=instance, tags=tags, run_config={"loggers": {"none": {}}})
        return time.perf_counter() - started


@dg.logger(None)
def quiet(context: dg.InitLoggerContext) -> Any:
    import logging

    return logging.Logger("quiet")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--titles", type=int, default=200)
    parser.add_argument("--bad", type=int, default=0)
    options = parser.parse_args()
    root = Path(tempfile.mkdtemp())
    try:
        (root / "landing").mkdir()
        land(root / "landing", options.titles, options.bad)
        time.sleep(3)  # drops settle
        os.environ |= {"MEDIAFM_LANDING": str(root / "landing"), "DAGSTER_HOME": str(root / "home")}

        os.environ["MEDIAFM_LAKE"] = str(root / "alone")
        without_dagster(3)  # loads the models
        shutil.rmtree(root / "alone")
        alone, made = without_dagster(options.titles)

        from mediafm_assets.commands.cli import main as mediafm

        os.environ["MEDIAFM_LAKE"] = str(root / "lake")
        started = time.perf_counter()
        mediafm(["materialize", "--no-train"])
        command = time.perf_counter() - started
        with dg.DagsterInstance.get() as instance:
            runs = instance.get_runs_count()
        started = time.perf_counter()
        mediafm(["materialize", "--no-train"])
        again = time.perf_counter() - started
        of_floor = floor(options.titles, 8)
        print(f"{options.titles} titles, {options.bad} of them no films; {made} partitions made; runs: {runs}")
        print(f"without Dagster                {alone:8.1f} s")
        print(f"mediafm materialize            {command:8.1f} s")
        print(f"orchestration                  {(command - alone) / made * 1000:8.1f} ms per title and asset")
        print(f"Dagster's own floor            {of_floor / options.titles / 8 * 1000:8.1f} ms per title and asset")
        print(f"mediafm materialize once more  {again:8.1f} s")
    finally:
        shutil.rmtree(root)


if __name__ == "__main__":
    main()
