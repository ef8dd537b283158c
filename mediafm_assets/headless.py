"""Materialises a catalogue without the daemon: the same assets, runs and records, driven from one process."""

import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import dagster as dg
import psutil

from mediafm_assets.definitions import defs
from mediafm_assets.evaluation import labels_version, metrics_version
from mediafm_assets.materialise import preflight
from mediafm_assets.partitions import TASKS
from mediafm_assets.profiles import ConfigurationError, resources, shaping
from mediafm_assets.progress import ShowStep, progress_bar, progress_logger
from mediafm_assets.sensors import landed, range_tags, unbroken_ranges
from mediafm_assets.training import trained_on
from mediafm_assets.versions import RECIPES, Catalogue
from resources.errors import BadInput
from resources.lake import DeltaLake
from resources.landing import Drop, LandingZone

GROWTH_BEFORE_TRAINING = 0.1
"""A catalogue that has grown by this share since the last training is trained on again."""

PROCESS_TAG = "mediafm/process"
"""Tag of the command's runs: the id of the process that they live and die with."""

TITLE_ASSETS = ("titles", *RECIPES)


@dataclass
class Driver:
    """One call of `mediafm materialize`: what it works with, and what failed so far."""

    instance: dg.DagsterInstance
    resources: Mapping[str, Any]
    failures: list[str] = field(default_factory=list)
    runs: int = 0

    @property
    def lake(self) -> DeltaLake:
        lake: DeltaLake = self.resources["lake"]
        return lake

    @property
    def landing(self) -> LandingZone:
        landing: LandingZone = self.resources["landing"]
        return landing

    @cached_property
    def job(self) -> dg.JobDefinition:
        with_progress = dg.Definitions.merge(defs(), dg.Definitions(loggers={"progress": progress_logger}))
        return with_progress.resolve_implicit_global_asset_job_def()

    def catalogue(self) -> Catalogue:
        return Catalogue(self.lake, shaping(self.resources))

    def run(self, assets: Sequence[str], partition: str | None = None, titles: tuple[str, str] | None = None) -> bool:
        """Run the assets' steps, as the UI would, for one partition or a range of titles; failures are collected. True
        when everything succeeded."""
        result = self.job.execute_in_process(
            instance=self.instance,
            asset_selection=[dg.AssetKey(asset) for asset in assets],
            partition_key=partition,
            tags={PROCESS_TAG: process_identity(os.getpid()), **(range_tags(*titles) if titles else {})},
            run_config={"loggers": {"progress": {}}},
            raise_on_error=False,
        )
        self.runs += 1
        if not result.success:
            found = list(reasons(result, partition))
            self.failures += found or [f"{partition or assets[0]}: run {result.run_id} failed; see it in the UI"]
        return result.success


def reasons(result: dg.ExecuteInProcessResult, partition: str | None) -> Iterator[str]:
    """A sentence for each step or check of the run that failed."""
    for event in result.all_events:
        if event.is_step_failure:
            failure = event.step_failure_data
            if failure.user_failure_data and failure.user_failure_data.description:
                yield failure.user_failure_data.description
            elif failure.error:
                yield f"{partition or ''}: {event.step_key}: {root_cause(failure.error)}".lstrip(": ")
    for check in result.get_asset_check_evaluations():
        if not check.passed and check.severity == dg.AssetCheckSeverity.ERROR:
            violations = check.metadata.get("violations")
            why = f": {violations.value}" if violations else ""
            yield f"{partition or ''}: {check.asset_key.to_user_string()}: check {check.check_name} failed{why}".lstrip(
                ": "
            )


def root_cause(error: Any) -> str:
    while error.cause:
        error = error.cause
    return str(error.message).strip()


def materialize(only: Sequence[str], train: bool | None) -> int:
    """Materialise what is missing or stale; see the command's help. Returns the exit status."""
    with driver() as work:
        drops = registered_drops(work, only)
        for task in TASKS:
            materialise_labels(work, task)
        materialise_drops(work, drops)
        if should_train(work, train) and train_encoder(work):
            refresh_contextual_embeddings(work)
        materialise_metrics(work)
        return report(work, len(drops))


@contextmanager
def driver() -> Iterator[Driver]:
    """The configured resources, checked before any work starts, and the Dagster instance."""
    configured = resources()
    try:
        configured["encoder_config"].config()
    except ValueError as error:
        raise ConfigurationError(f"MEDIAFM_ENCODER or MEDIAFM_ENCODER_OVERRIDES: {error}") from error
    if missing := preflight(configured):
        raise ConfigurationError(" ".join(missing))
    configured["lake"].create_tables()
    with dg.DagsterInstance.get() as instance:
        end_runs_of_dead_processes(instance)
        yield Driver(instance, configured)


def end_runs_of_dead_processes(instance: dg.DagsterInstance) -> None:
    """A call that was killed leaves a run that nobody ends and that keeps its place in the pool: end it here."""
    started = dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED])
    for run in instance.get_runs(started):
        process = run.tags.get(PROCESS_TAG)
        if process and process != process_identity(int(process.split(":")[0])):
            instance.report_run_failed(run, "its process was killed")
            instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)


def process_identity(pid: int) -> str:
    """The process and when it was started, since numbers are used again; the number alone when there is no such
    process."""
    try:
        return f"{pid}:{psutil.Process(pid).create_time():.0f}"
    except psutil.NoSuchProcess:
        return str(pid)


def registered_drops(work: Driver, only: Sequence[str]) -> list[Drop]:
    """The complete drops (of the titles in `only`, if any), as partitions of `titles`. Unusable ones are failures."""
    try:
        found = work.landing.look()
    except BadInput as error:
        raise ConfigurationError(f"MEDIAFM_LANDING: {error}") from error
    if found.waiting:  # perhaps the last file was written a moment ago
        time.sleep(work.landing.settle_s)
        found = work.landing.look()
    drops = [drop for drop in found.drops if not only or drop.title_id in only]
    for problem in found.problems:
        if not only or problem.title_id in only:
            work.failures.append(f"{problem.title_id}: landing: {problem.reason}")
    for problem in found.waiting:
        print(f"{problem.title_id}: left alone: {problem.reason}", flush=True)
    seen = {drop.title_id for drop in found.drops} | {item.title_id for item in (*found.problems, *found.waiting)}
    work.failures += [f"{title}: landing: there is no such drop in {work.landing.uri}" for title in set(only) - seen]
    work.instance.add_dynamic_partitions("titles", [drop.title_id for drop in drops])
    return drops


def materialise_drops(work: Driver, drops: Sequence[Drop]) -> None:
    """Bring all partitions of the drops' titles up to date, as far as they can be made, a title after the other."""
    catalogue = work.catalogue()
    catalogue.read_all_titles()
    with progress_bar(len(drops), "titles") as bar:
        for drop in drops:
            ShowStep.title = drop.title_id
            materialise_title(work, drop, catalogue)
            bar.update()


def materialise_title(work: Driver, drop: Drop, catalogue: Catalogue) -> None:
    """`catalogue` may have been read before other titles were made: what concerns this one has not changed since."""
    row = catalogue.title(drop.title_id)
    if row is None or row["drop_fingerprint"] != drop.drop_fingerprint:
        work.instance.report_runless_asset_event(landed("drops", drop.title_id, drop.drop_fingerprint))
        contextual = catalogue.encoder_version is not None
        everything = [asset for asset in TITLE_ASSETS if contextual or asset != "contextual_embeddings"]
        # Of a changed drop, what else is stale shows when its row in `titles` is made.
        if not work.run(["titles"] if row else everything, drop.title_id):
            return
        catalogue = work.catalogue()
    stale = list(catalogue.stale(drop.title_id))
    if stale:
        work.run(with_siblings(stale), drop.title_id)


def with_siblings(tables: Sequence[str]) -> list[str]:
    """Shots and their frames are made in one step."""
    together = {"shots", "shot_frames"}
    return sorted({*tables, *(together if together & set(tables) else ())}, key=TITLE_ASSETS.index)


def materialise_labels(work: Driver, task: str) -> None:
    try:
        fingerprint = work.landing.label_fingerprint(task)
    except BadInput as error:
        work.failures.append(f"{task}: landing: {error}")
        return
    if fingerprint and work.catalogue().stored_in("clip_labels").get((task,)) != labels_version(fingerprint):
        work.instance.report_runless_asset_event(landed("label_files", task, fingerprint))
        work.run(["clip_labels"], task)


def should_train(work: Driver, train: bool | None) -> bool:
    """Whether to train now: as told; else without an encoder for the configured space, or when a tenth is new."""
    catalogue = work.catalogue()
    titles = len(catalogue.stored_in("fused_embeddings"))
    if train is not None:
        if not train and catalogue.encoder_version is None:
            print("no encoder for this embedding space yet: contextual embeddings wait for a training", flush=True)
        return train and titles > 0
    if catalogue.encoder_version is None:
        return titles > 0
    return titles >= trained_on(work.lake, catalogue.encoder_version)["titles"] * (1 + GROWTH_BEFORE_TRAINING)


def train_encoder(work: Driver) -> bool:
    print("training the encoder on all titles", flush=True)
    return work.run(["encoder", "encoder_training"])


def refresh_contextual_embeddings(work: Driver) -> None:
    """Contextual embeddings with a new encoder, of all titles that lack nothing else: runs over ranges of titles."""
    catalogue = work.catalogue()
    catalogue.read_all_titles()
    lacking = {
        title for (title,) in catalogue.stored_in("titles") if list(catalogue.stale(title)) == ["contextual_embeddings"]
    }
    print(f"reading {len(lacking)} titles with the new encoder", flush=True)
    for titles in unbroken_ranges(work.instance.get_dynamic_partitions("titles"), lacking):
        work.run(["contextual_embeddings"], titles=titles)


def materialise_metrics(work: Driver) -> None:
    catalogue = work.catalogue()
    version = metrics_version(catalogue)
    if version and catalogue.stored_in("probe_metrics").get((catalogue.encoder_version or "",)) != version:
        print("probing the embeddings", flush=True)
        work.run(["probe_metrics"])


def report(work: Driver, drops: int) -> int:
    """Say what was done and what failed; returns the exit status."""
    for failure in work.failures:
        print(f"FAILED {failure}", file=sys.stderr)
    if work.failures:
        print(f"{len(work.failures)} failed; of {drops} titles everything else is up to date", file=sys.stderr)
        return 1
    print(f"{drops} titles up to date" + ("" if work.runs else ": nothing had changed, no step was run"))
    return 0
