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

from mediafm_assets.commands import budget as budgets
from mediafm_assets.commands.approve import approve_by_hand
from mediafm_assets.commands.budget import Budget
from mediafm_assets.commands.progress import progress_bar, progress_logger
from mediafm_assets.definitions import defs
from mediafm_assets.graph.adoption import adopt
from mediafm_assets.graph.approval import change
from mediafm_assets.graph.forecast import COSTS
from mediafm_assets.graph.health import failure_sentence, health_events
from mediafm_assets.graph.materialise import FORCED, preflight
from mediafm_assets.graph.overview import refresh
from mediafm_assets.graph.plan import GAP, Batch, batches, discard_damaged, due, lacking, tasks_to_make
from mediafm_assets.graph.planned import plan_of, plan_of_all
from mediafm_assets.graph.sensors import PROCESS_TAG, end_runs_of_dead_processes, landed, process_identity, told_before
from mediafm_assets.graph.stage import Stage
from mediafm_assets.graph.versions import PROMOTIONS, Catalogue
from mediafm_assets.settings import ConfigurationError, resources
from mediafm_assets.stages import all_stages
from resources.errors import BadInput
from resources.lake import DeltaLake, PartitionMissing
from resources.landing import Drop, LandingZone

ENCODER = "encoder"
"""What `--train` and `--no-train` speak of."""


@dataclass
class Driver:
    """One call of `mediafm materialize`: what it works with, and what failed so far."""

    instance: dg.DagsterInstance
    resources: Mapping[str, Any]
    budget: Budget = field(default_factory=Budget)
    failures: list[str] = field(default_factory=list)
    failed: set[str] = field(default_factory=set)
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

    def require_encoders(self) -> None:
        """Before any title is made. Raises ConfigurationError for a key, package or checkpoint that an encoder lacks.
        It loads them, which takes longer than to find out that there is nothing to make."""
        if missing := preflight(self.resources):
            raise ConfigurationError(" ".join(missing))

    def catalogue(self) -> Catalogue:
        return Catalogue(self.lake, self.resources, all_stages())

    def run(self, assets: Sequence[str], tags: Mapping[str, str]) -> dg.ExecuteInProcessResult:
        """Run the assets' steps, as the UI would, for the partition or the range of titles that the tags name."""
        result = self.job.execute_in_process(
            instance=self.instance,
            asset_selection=[dg.AssetKey(asset) for asset in assets],
            tags={PROCESS_TAG: process_identity(os.getpid()), **tags},
            run_config={"loggers": {"progress": {}}},
            raise_on_error=False,
        )
        self.runs += 1
        if self.budget.limited:
            self.budget.spend(*booked(self.lake, result.run_id))
        return result

    def make(self, assets: Sequence[str], partition: str | None = None) -> bool:
        """Make assets that are not made title by title; failures are collected. True when everything succeeded."""
        result = self.run(assets, {"dagster/partition": partition} if partition else {})
        if not result.success:
            found = list(reasons(result, partition))
            self.failures += found or [f"{partition or assets[0]}: run {result.run_id} failed; see it in the UI"]
        return result.success

    def make_titles(self, batch: Batch, force: Sequence[str]) -> None:
        """Make what the batch's titles lack, and the tables to `force`; failures are collected."""
        result = self.run(batch.tables, batch.tags | ({FORCED: ",".join(force)} if force else {}))
        if result.success:
            return
        failed = self.catalogue().failures
        found = [
            f"{title}: {failed[title]['stage']}: {failed[title]['reason']}"
            for title in batch.titles
            if title in failed and failed[title]["run_id"] == result.run_id
        ]
        found = found or list(reasons(result, None))
        self.failed |= failed.keys() & set(batch.titles)
        self.failures += found or [f"{batch.first} to {batch.last}: run {result.run_id} failed; see it in the UI"]


def booked(lake: DeltaLake, run_id: str) -> tuple[float, float]:
    """Dollars and seconds that the run took by its books."""
    try:
        books = lake.read(COSTS, run_id=run_id)
    except PartitionMissing:
        return 0.0, 0.0
    return float(books["dollars"].fill_null(0.0).sum()), float(books["seconds"].sum())


def reasons(result: dg.ExecuteInProcessResult, partition: str | None) -> Iterator[str]:
    """A sentence for each step or check of the run that failed."""
    for event in result.all_events:
        if event.is_step_failure:
            yield failure_sentence(event, partition)
    for check in result.get_asset_check_evaluations():
        if not check.passed and check.severity == dg.AssetCheckSeverity.ERROR:
            violations = check.metadata.get("violations")
            why = f": {violations.value}" if violations else ""
            yield f"{partition or ''}: {check.asset_key.to_user_string()}: check {check.check_name} failed{why}".lstrip(
                ": "
            )


def materialize(
    only: Sequence[str], train: bool | None, force: Sequence[str] = (), budget: Budget | None = None
) -> int:
    """Materialise what is missing or stale; see the command's help. Returns the exit status.

    only:   of these titles; then nothing else is made unless a training is asked for.
    force:  per-title tables that are made again though they are fresh.
    budget: what may be spent; what goes beyond it is not started.
    """
    with driver() as work:
        work.budget = budget or work.budget
        drops = registered_drops(work, only)
        if only and not drops:
            return report(work, 0)
        for sentence in discard_damaged(work.lake):
            print(sentence, flush=True)
        adopt(work.instance, work.catalogue())
        if not only and not work.budget.limited:
            approve_by_calling(work, drops)
        if not only:
            materialise_labels(work)
        materialise_titles(work, drops, only, force)
        if train is False:
            say_what_waits(work.catalogue())
        if not only or train:
            materialise_the_rest(work, drops, train)
        if work.runs:
            for event in (*health_events(work.catalogue()), *refresh(work.catalogue(), work.landing.look())):
                work.instance.report_runless_asset_event(event)
        return report(work, len(drops))


def verify(only: Sequence[str], deep: bool) -> int:
    """Look for lost and damaged data files. Returns the exit status: 1 when there are some."""
    with driver() as work:
        titles: list[str | None] = [*only] or [None]
        found = [sentence for title in titles for sentence in discard_damaged(work.lake, deep=deep, title_id=title)]
    for sentence in found:
        print(sentence, file=sys.stderr)
    print(f"{len(found)} damaged partitions" + ("; mediafm materialize makes them again" if found else ""))
    return 1 if found else 0


@contextmanager
def driver() -> Iterator[Driver]:
    """The configured resources and the Dagster instance."""
    configured = resources()
    try:
        configured["encoder_config"].config()
    except ValueError as error:
        raise ConfigurationError(f"MEDIAFM_ENCODER or MEDIAFM_ENCODER_OVERRIDES: {error}") from error
    configured["lake"].create_tables()
    with dg.DagsterInstance.get() as instance:
        end_runs_of_dead_processes(instance)
        yield Driver(instance, configured)


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
    for problem in found.stopped:
        print(f"{problem.title_id}: {problem.reason}", flush=True)
    seen = {drop.title_id for drop in found.drops} | {item.title_id for item in (*found.problems, *found.waiting)}
    work.failures += [f"{title}: landing: there is no such drop in {work.landing.uri}" for title in set(only) - seen]
    work.instance.add_dynamic_partitions("titles", [drop.title_id for drop in drops])
    return drops


def approve_by_calling(work: Driver, drops: Sequence[Drop]) -> None:
    """Whoever has everything made wants this configuration: it comes into force, so that the daemon does not ask."""
    catalogue = work.catalogue()
    catalogue.read_all_titles()
    found = change(catalogue, {drop.title_id: drop.drop_fingerprint for drop in drops})
    if found:
        work.require_encoders()
        approve_by_hand(catalogue, found, "mediafm materialize")


def materialise_titles(work: Driver, drops: Sequence[Drop], only: Sequence[str], force: Sequence[str] = ()) -> None:
    """Make what the drops' titles lack, and, unless there is an `only`, what the other titles of the lake lack too. A
    title that failed in this call is not tried again; one that failed in an earlier call is."""
    catalogue = work.catalogue()
    catalogue.read_all_titles()
    keys = work.instance.get_dynamic_partitions("titles")
    fingerprints = {drop.title_id: drop.drop_fingerprint for drop in drops}
    among = [title for title in keys if title not in work.failed and (not only or title in fingerprints)]
    wanted = lacking(catalogue, fingerprints, among)
    if force:
        wanted = {title: catalogue.stages.with_siblings([*wanted.get(title, ()), *force]) for title in among}
    if not wanted:
        return
    work.require_encoders()
    stages = stages_by_title(catalogue, wanted)
    print(plan_of(catalogue, fingerprints, stages).total.sentence(), flush=True)
    told = told_before(work.instance, "drops")
    for title in wanted:
        if title in fingerprints and told.get(title) != fingerprints[title]:
            work.instance.report_runless_asset_event(landed("drops", title, fingerprints[title]))
    with progress_bar(len(wanted), "titles") as bar:
        done = 0
        for batch in runs_within_budget(work, catalogue, fingerprints, keys, wanted, 0 if only else GAP):
            work.make_titles(batch, force)
            done += len(batch.titles)
            bar.update(done - bar.n)


def stages_by_title(catalogue: Catalogue, wanted: Mapping[str, Sequence[str]]) -> dict[str, list[Stage]]:
    """The stages that make the wanted tables."""
    by_table = catalogue.stages.by_table
    return {title: list(dict.fromkeys(by_table[table] for table in tables)) for title, tables in wanted.items()}


def runs_within_budget(
    work: Driver,
    catalogue: Catalogue,
    fingerprints: Mapping[str, str],
    keys: Sequence[str],
    wanted: Mapping[str, Sequence[str]],
    gap: int,
) -> Iterator[Batch]:
    """The wanted titles in runs; with a budget, in small ones as long as it admits the next title."""
    if not work.budget.limited:
        yield from batches(keys, wanted, work.resources["titles_per_run"], gap)
        return
    left = [title for title in keys if title in wanted]
    while left and not work.budget.left_out:
        some = left[: budgets.TITLES_PER_RUN]
        plan = plan_of(catalogue, fingerprints, stages_by_title(catalogue, {title: wanted[title] for title in some}))
        admitted = work.budget.first_of(plan, some)
        yield from batches(keys, {title: wanted[title] for title in admitted}, budgets.TITLES_PER_RUN, gap=0)
        left = left[len(some) :]


def materialise_labels(work: Driver) -> None:
    """Make what is made for each task, of those whose label file has changed, come or gone."""
    for todo in tasks_to_make(work.catalogue()):
        if todo.problem:
            work.failures.append(f"{todo.task}: landing: {todo.problem}")
            continue
        if fingerprint := work.landing.label_fingerprint(todo.task):
            work.instance.report_runless_asset_event(landed("label_files", todo.task, fingerprint))
        work.make(todo.stage.tables, todo.task)


def materialise_the_rest(work: Driver, drops: Sequence[Drop], train: bool | None) -> None:
    """Make what is made once for all titles: an encoder as told, and what is due, each followed by the titles that read
    it."""
    if train and work.catalogue().stored_in("fused_embeddings"):
        make_whole(work, drops, ENCODER)
    skipped = {ENCODER} if train is not None else set()
    while stage := next((stage for stage in due(work.catalogue()) if stage.name not in skipped), None):
        skipped.add(stage.name)  # once a call: what failed would be due for ever
        make_whole(work, drops, stage.name)


def make_whole(work: Driver, drops: Sequence[Drop], name: str) -> None:
    stage = all_stages().by_table[name]
    if work.budget.limited and (
        work.budget.left_out or not work.budget.admits_stage(plan_of_all(work.catalogue(), stage), name)
    ):
        return
    print(f"making {', '.join(stage.tables)} of all titles", flush=True)
    read_by_titles = any(set(stage.tables) & other.inputs for other in all_stages().of_scope("title"))
    if work.make(stage.tables) and read_by_titles:
        materialise_titles(work, drops, ())


def say_what_waits(catalogue: Catalogue) -> None:
    """Name the tables of titles that cannot be made before there is an encoder."""
    waiting = [table for table in catalogue.stages.title_tables if catalogue.waits_for(table) == PROMOTIONS]
    if waiting:
        tables = ", ".join(table.replace("_", " ") for table in waiting)
        print(f"no encoder for this embedding space yet: {tables} wait for a training", flush=True)


def report(work: Driver, drops: int) -> int:
    """Say what was done and what failed; returns the exit status."""
    if work.budget.left_out:
        print(work.budget.left_out, flush=True)
    for failure in work.failures:
        print(f"FAILED {failure}", file=sys.stderr)
    if work.failures:
        print(f"{len(work.failures)} failed; of {drops} titles everything else is up to date", file=sys.stderr)
        return 1
    if work.budget.left_out:
        return 0
    print(f"{drops} titles up to date" + ("" if work.runs else ": nothing had changed, no step was run"))
    return 0
