"""With nobody watching: what lands is told to Dagster, and what the lake lacks is launched."""

import json
import platform
from collections.abc import Mapping, Sequence, Set
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

import dagster as dg
import psutil

from mediafm_assets.graph.adoption import adopt
from mediafm_assets.graph.approval import Change, settle, waiting_event
from mediafm_assets.graph.health import HEARTBEAT, failure_events, health_events, health_version
from mediafm_assets.graph.materialise import PLANNED, catalogue_of, write_failure
from mediafm_assets.graph.overview import refresh, sight
from mediafm_assets.graph.partitions import tasks_partitions, titles_partitions
from mediafm_assets.graph.plan import (
    GAP,
    UNFINISHED,
    Batch,
    batches,
    discard_damaged,
    due,
    lacking,
    tasks_to_make,
    titles_of,
)
from mediafm_assets.graph.stage import Stage, Stages
from mediafm_assets.graph.versions import Catalogue, digest
from resources.errors import BadInput
from resources.lake import DeltaLake
from resources.landing import Landing, LandingZone

DATA_VERSION = "dagster/data_version"
"""Tag of an event: the version of what it tells of."""

TITLES_PER_TICK = 500
"""New or changed titles told of in one tick; the rest follows in the next ones."""

FEW = 4
"""Titles in a run that is not a backlog."""

BACKLOG = "mediafm/backlog"
"""Tag of large runs; dagster.yaml says how many of them may run at once."""

PROCESS_TAG = ".dagster/mediafm_process"
"""Tag (hidden in the UI) of the command's runs: the machine and the process that they live and die with."""

LAUNCHED_BY_CODE_SERVER = ".dagster/grpc_info"
"""Tag that Dagster's default launcher gives to a run."""

ADOPTED_PER_TICK = 200
"""Titles of the lake that a new instance is told of in one tick, some 15 s: a tick that takes a minute is ended."""


def seen_now(landing: LandingZone) -> tuple[dict[str, str], dict[str, str], list[str]]:
    """Fingerprints of the complete drops by title and of the label files by task, and what is wrong with the others."""
    found = landing.look()
    drops = {drop.title_id: drop.drop_fingerprint for drop in found.drops}
    problems = [f"{problem.title_id}: landing: {problem.reason}" for problem in found.problems]
    problems += [f"{stopped.title_id}: landing: {stopped.reason}" for stopped in found.stopped]
    labels = {}
    for task in tasks_partitions.get_partition_keys():
        try:
            fingerprint = landing.label_fingerprint(task)
        except BadInput as error:
            problems.append(f"{task}: landing: {error}")
            continue
        if fingerprint:
            labels[task] = fingerprint
    return drops, labels, problems


def changed(now: Mapping[str, str], before: Mapping[str, str]) -> list[str]:
    """The keys, in order, whose fingerprint is new or another than before."""
    return sorted(key for key in now if before.get(key) != now[key])


@dg.sensor(
    asset_selection=["titles", "clip_labels"],
    default_status=dg.DefaultSensorStatus.RUNNING,
    minimum_interval_seconds=10,
    description="Looks at the landing zone: complete drops that are new or changed become partitions of `titles` and "
    "events of `drops`, label files events of `label_files`. It launches nothing; automation does.",
)
def landing_sensor(context: dg.SensorEvaluationContext, landing: LandingZone) -> dg.SensorResult | dg.SkipReason:
    trouble = landing.follow(context.cursor)
    for sentence in trouble:
        context.log.warning(sentence)
    told = news_of_landing(context, landing)
    if isinstance(told, dg.SkipReason):
        landing.followed(context.cursor)
        return dg.SkipReason("; ".join([told.skip_message or "", *trouble]))
    landing.followed(told.cursor)
    return told


def news_of_landing(context: dg.SensorEvaluationContext, landing: LandingZone) -> dg.SensorResult | dg.SkipReason:
    """What Dagster is to be told of the landing zone."""
    drops, labels, problems = seen_now(landing)
    for problem in problems:
        context.log.warning(problem)
    # The cursor stands on the sensor's page and in every tick: it tells one sight from another, and no more.
    sight = digest(json.dumps([drops, labels, problems], sort_keys=True))
    if context.cursor == sight:
        return dg.SkipReason("nothing new" + (f"; {len(problems)} drops cannot be used" if problems else ""))
    new_drops = changed(drops, told_before(context.instance, "drops"))
    told_now = new_drops[:TITLES_PER_TICK]
    new_labels = changed(labels, told_before(context.instance, "label_files"))
    add = titles_partitions.build_add_request(told_now)
    return dg.SensorResult(
        dynamic_partitions_requests=[add] if told_now else [],
        asset_events=[
            *(landed("drops", title, drops[title]) for title in told_now),
            *(landed("label_files", task, labels[task]) for task in new_labels),
            usable_drops(drops, labels, problems),
        ],
        cursor=sight if told_now == new_drops else f"{len(new_drops) - len(told_now)} more to tell of",
    )


def told_before(instance: dg.DagsterInstance, asset: str) -> dict[str, str]:
    """The fingerprint that Dagster was last told of each partition, by a sensor or the `mediafm` command: to tell it
    again would launch runs that find nothing to do."""
    told = instance.event_log_storage.get_latest_tags_by_partition(
        dg.AssetKey(asset), dg.DagsterEventType.ASSET_MATERIALIZATION, [DATA_VERSION]
    )
    return {partition: tags[DATA_VERSION] for partition, tags in told.items()}


def landed(asset: str, partition: str, fingerprint: str) -> dg.AssetMaterialization:
    """What Dagster is told of a drop or label file that is complete."""
    return dg.AssetMaterialization(asset, partition=partition, tags={DATA_VERSION: fingerprint})


def usable_drops(
    drops: Mapping[str, str], labels: Mapping[str, str], problems: Sequence[str]
) -> dg.AssetCheckEvaluation:
    """The check on `drops` that shows, in the UI, which folders of the landing zone cannot be used and why."""
    can = f"{len(drops)} drops and {len(labels)} label files can be used"
    return dg.AssetCheckEvaluation(
        asset_key=dg.AssetKey("drops"),
        check_name="usable",
        passed=not problems,
        severity=dg.AssetCheckSeverity.WARN,
        # what the UI shows without a click
        description="; ".join([*problems[:5], can]),
        metadata={
            "drops": len(drops),
            "label_files": len(labels),
            "unusable": len(problems),
            **({"problems": list(problems[:50])} if problems else {}),
        },
    )


def automation_sensor(stages: Stages) -> dg.SensorDefinition:
    """The sensor that launches what the lake lacks."""
    needed = frozenset({"ask_above"}).union(*(stage.resource_keys for stage in stages.all))

    @dg.sensor(
        asset_selection=dg.AssetSelection.all(),
        default_status=dg.DefaultSensorStatus.RUNNING,
        minimum_interval_seconds=10,
        required_resource_keys=stages.resource_keys | needed | {"titles_per_run", "run_tags"},
        description="Launches what is missing or stale by the lake's own versions: titles in runs of many, then what "
        "is made once for all of them, such as a training when one is due. A title that failed is left alone until "
        "its drop, the code or the configuration changes, or somebody materialises it.",
    )
    def automation(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        return tick(context, catalogue_of(context, stages, needed))

    return automation


def tick(context: dg.SensorEvaluationContext, catalogue: Catalogue) -> dg.SensorResult | dg.SkipReason:
    """One look at the landing zone, the lake and what is under way."""
    instance = context.instance
    end_runs_of_dead_processes(instance)
    end_runs_of_dead_workers(instance)
    memory = Memory.from_cursor(context.cursor)
    for sentence in discard_damaged(catalogue.lake):
        context.log.warning(sentence)
    landing = context.resources.landing.look()
    drops = {drop.title_id: drop.drop_fingerprint for drop in landing.drops}
    keys = instance.get_dynamic_partitions("titles")
    catalogue.read_all_titles()
    running = instance.get_runs(dg.RunsFilter(statuses=UNFINISHED))
    busy = {title for run in running for title in titles_of(run, keys)}
    adopt(instance, catalogue, ADOPTED_PER_TICK, busy)
    wanted = {
        title: tables
        for title, tables in lacking(catalogue, drops, keys).items()
        if title not in busy and not catalogue.failed_before(title, drops.get(title, ""))
    }
    waiting = settle(catalogue, drops, float(context.resources.ask_above))
    if waiting:
        wanted = {title: tables for title, tables in wanted.items() if title not in waiting.titles}
    memory.learn(context, catalogue, drops, wanted, keys)
    memory.forget(busy | wanted.keys())
    alone = {title: wanted.pop(title) for title in memory.deaths if title in wanted}
    gap = 0 if waiting else GAP  # a run makes all titles of its range, and those that wait are stale
    runs = [*batches(keys, wanted, int(context.resources.titles_per_run), gap), *batches(keys, alone, 1)]
    requests = [request_of(batch) for batch in runs]
    requests += task_requests(catalogue)
    if not requests and not running and not waiting:
        requests = whole_requests(instance, catalogue)
    requests = [placed(request, catalogue.stages, context.resources.run_tags) for request in requests]
    events = [
        *memory.news_of_health(catalogue),
        *memory.news_of_approval(waiting),
        *memory.news_of_freshness(catalogue, landing),
    ]
    cursor = memory.to_cursor()
    if not requests and cursor == context.cursor:
        asked = f"; {len(waiting.titles)} titles wait for an approval: see the asset `approval`" if waiting else ""
        return dg.SkipReason(f"nothing to do; {len(running)} runs under way{asked}")
    return dg.SensorResult(run_requests=requests, cursor=cursor, asset_events=events)


def request_of(batch: Batch) -> dg.RunRequest:
    """The run that makes the batch. A large one is a backlog, of which dagster.yaml lets few run at once, so that a
    title that lands meanwhile need not wait for all of them."""
    tags = {**batch.tags, PLANNED: "true"}
    if len(batch.titles) > FEW:
        tags |= {BACKLOG: "true", "dagster/priority": "-1"}
    return dg.RunRequest(asset_selection=[dg.AssetKey(table) for table in batch.tables], tags=tags)


def placed(request: dg.RunRequest, stages: Stages, run_tags: Mapping[str, Mapping[str, str]]) -> dg.RunRequest:
    """The request with the tags that the configuration gives its stage's runs: titles' by "title", others' by name."""
    first, *_ = request.asset_selection or []
    stage = stages.by_table[first.to_user_string()]
    of = "title" if stage.scope == "title" else stage.name
    return request.with_replaced_attrs(tags={**run_tags.get(of, {}), **request.tags})


def whole_requests(instance: dg.DagsterInstance, catalogue: Catalogue) -> list[dg.RunRequest]:
    """The first that is due of what is made once for all titles, but what was asked for before: it failed, and would
    hold up what is due after it."""
    requests = (whole_request(catalogue, stage) for stage in due(catalogue))
    asked = (request for request in requests if instance.get_runs_count(dg.RunsFilter(tags=run_key(request))) == 0)
    return [request for request in [next(asked, None)] if request]


def run_key(request: dg.RunRequest) -> dict[str, str]:
    """The tag by which the daemon knows that a run was asked for."""
    return {"dagster/run_key": request.run_key or ""}


def whole_request(catalogue: Catalogue, stage: Stage) -> dg.RunRequest:
    """What is made once for all titles is not asked for twice on the same tables: the run key names what it reads."""
    if stage.due is None:
        of = catalogue.version_of(stage)
    else:
        titles = [table for table in sorted(stage.inputs) if table in catalogue.stages.title_tables]
        versions = (version for table in titles for version in catalogue.titles_in(table).values())
        of = digest(catalogue.encoder_space(), *versions)
    assets = [dg.AssetKey(table) for table in stage.tables]
    return dg.RunRequest(f"{stage.name}:{of}", asset_selection=assets, tags={PLANNED: "true"})


def task_requests(catalogue: Catalogue) -> list[dg.RunRequest]:
    """The tasks whose labels are not what their file says. Each change is asked for once, by its run key."""
    return [
        dg.RunRequest(
            f"{todo.stage.name}:{todo.task}:{todo.stored}:{todo.version}",
            asset_selection=[dg.AssetKey(table) for table in todo.stage.tables],
            partition_key=todo.task,
        )
        for todo in tasks_to_make(catalogue)
        if todo.problem is None
    ]


@dataclass
class Memory:
    """What the sensor keeps between ticks.

    since:  planned runs that ended later have not been looked at yet (seconds since the epoch).
    deaths: titles that a run was at work on when it died, with how often.
    health: of all titles, as Dagster was last told of it, and when.
    asked:  which configuration people were last told that it waits for them; and for how many titles.
    freshness: everything that the table `freshness` is made from, when it was last made.
    """

    since: float
    deaths: dict[str, int]
    health: str = ""
    health_told: float = 0.0
    asked: str = ""
    freshness: str = ""

    @classmethod
    def from_cursor(cls, cursor: str | None) -> "Memory":
        return cls(**json.loads(cursor)) if cursor else cls(datetime.now(UTC).timestamp(), {})

    def to_cursor(self) -> str:
        return json.dumps(asdict(self))

    def news_of_health(self, catalogue: Catalogue) -> Sequence[dg.AssetMaterialization | dg.AssetCheckEvaluation]:
        """What Dagster is to be told of the titles' health: nothing, while it is as it was told a short while ago."""
        health, now = health_version(catalogue), datetime.now(UTC).timestamp()
        if health == self.health and now - self.health_told < HEARTBEAT.total_seconds():
            return []
        self.health, self.health_told = health, now
        return health_events(catalogue)

    def news_of_approval(self, waiting: Change | None) -> Sequence[dg.AssetCheckEvaluation]:
        """What waits for an approval, with what it takes, when that is another thing than people were told."""
        now = f"{waiting.configuration} {len(waiting.titles)}" if waiting else ""
        if now == self.asked:
            return []
        self.asked = now
        return [waiting_event(waiting)]

    def news_of_freshness(
        self, catalogue: Catalogue, landing: Landing
    ) -> Sequence[dg.AssetMaterialization | dg.AssetCheckEvaluation]:
        """What Dagster is to be told of the table `freshness`, which is written anew when something has changed."""
        seen = sight(catalogue, landing)
        if seen == self.freshness:
            return []
        self.freshness = seen
        return refresh(catalogue, landing)

    def learn(
        self,
        context: dg.SensorEvaluationContext,
        catalogue: Catalogue,
        drops: Mapping[str, str],
        wanted: dict[str, list[str]],
        keys: Sequence[str],
    ) -> None:
        """Look at the planned runs that did not come to their end. What a cancelled one left waits for a person. The
        title that a killed one was at work on is tried once more, alone; if that dies too, it has failed. Titles that
        have to wait are taken out of `wanted`."""
        ended = [dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED]
        after = datetime.fromtimestamp(self.since, UTC)
        records = context.instance.get_run_records(
            dg.RunsFilter(statuses=ended, tags={PLANNED: "true"}, updated_after=after)
        )
        lake: DeltaLake = context.resources.lake
        for record in records:
            self.since = max(self.since, record.update_timestamp.timestamp())
            left = [title for title in titles_of(record.dagster_run, keys) if title in wanted]
            cancelled = record.dagster_run.status == dg.DagsterRunStatus.CANCELED
            given_up = {}
            for title in left if cancelled else left[:1]:
                self.deaths[title] = self.deaths.get(title, 0) + 1
                if cancelled:
                    given_up[title] = "its run was cancelled; materialise the title when it may go on"
                elif self.deaths[title] > 1:
                    given_up[title] = (
                        "the process that was at work on it died, twice; see the run's last lines (out of memory?), "
                        "then materialise the title"
                    )
            for title, reason in given_up.items():
                stage, run_id = wanted.pop(title)[0], record.dagster_run.run_id
                write_failure(lake, catalogue, stage, title, drops.get(title, ""), reason, run_id)
                for event in failure_events(catalogue.stages, stage, title, reason):
                    context.instance.report_runless_asset_event(event)

    def forget(self, unfinished: Set[str]) -> None:
        """Keep the deaths of unfinished titles only. One that is being tried again is not forgotten meanwhile."""
        self.deaths = {title: times for title, times in self.deaths.items() if title in unfinished}


def end_runs_of_dead_processes(instance: dg.DagsterInstance) -> None:
    """A command that was killed leaves a run that nobody ends, perhaps before it began: end it here. Of processes on
    other machines nothing is known."""
    begun = [dg.DagsterRunStatus.NOT_STARTED, dg.DagsterRunStatus.STARTED]
    for run in instance.get_runs(dg.RunsFilter(statuses=begun)):
        machine, _, process = run.tags.get(PROCESS_TAG, "").rpartition("/")
        if machine == platform.node() and run.tags[PROCESS_TAG] != process_identity(int(process.split(":")[0])):
            end_dead(instance, run)


def end_runs_of_dead_workers(instance: dg.DagsterInstance) -> None:
    """End the runs of the code server's workers that are no more. It does so itself, unless it was killed too, or could
    not reach the database just then. To be called beside it, as sensors are: the processes are looked for here."""
    for run in instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING])):
        if LAUNCHED_BY_CODE_SERVER in run.tags and worker_died(instance, run.run_id):
            end_dead(instance, run)


def worker_died(instance: dg.DagsterInstance, run_id: str) -> bool:
    """Whether the process that said that it works on the run is no more."""
    said = instance.get_records_for_run(run_id, of_type=dg.DagsterEventType.ENGINE_EVENT).records
    for entry in (record.event_log_entry for record in said):
        pid = entry.get_dagster_event().engine_event_data.metadata.get("pid")
        if pid is not None:
            try:
                worker = psutil.Process(int(str(pid.value)))
                # A number that is used again is that of a process younger than what the worker said.
                return worker.status() == psutil.STATUS_ZOMBIE or worker.create_time() > entry.timestamp
            except psutil.NoSuchProcess:
                return True
    return False


def end_dead(instance: dg.DagsterInstance, run: dg.DagsterRun) -> None:
    instance.report_run_failed(run, "its process was killed")
    instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)


def process_identity(pid: int) -> str:
    """The machine (in a container, the container), the process and when it was started, since numbers are used again;
    without that when there is no such process."""
    try:
        return f"{platform.node()}/{pid}:{psutil.Process(pid).create_time():.0f}"
    except psutil.NoSuchProcess:
        return f"{platform.node()}/{pid}"
