"""What happens outside Dagster, told to Dagster: drops and label files that land, and encoders that are new."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence

import dagster as dg

from mediafm_assets.partitions import TASKS, titles_partitions
from resources.errors import BadInput
from resources.lake import DeltaLake
from resources.landing import LandingZone

TITLES_PER_TICK = 500
"""New or changed titles told of in one tick; the rest follows in the next ones."""


def seen_now(landing: LandingZone) -> tuple[dict[str, str], dict[str, str], list[str]]:
    """Fingerprints of the complete drops by title and of the label files by task, and what is wrong with the others."""
    found = landing.look()
    drops = {drop.title_id: drop.drop_fingerprint for drop in found.drops}
    problems = [f"{problem.title_id}: landing: {problem.reason}" for problem in found.problems]
    labels = {}
    for task in TASKS:
        try:
            fingerprint = landing.label_fingerprint(task)
        except BadInput as error:
            problems.append(f"{task}: landing: {error}")
            continue
        if fingerprint:
            labels[task] = fingerprint
    return drops, labels, problems


def changed(now: Mapping[str, str], before: Mapping[str, str], among: Iterable[str] | None = None) -> list[str]:
    """The keys (`among` those given), in order, whose fingerprint is new or another than before."""
    return sorted(key for key in (now if among is None else among) if before.get(key) != now[key])


@dg.sensor(
    asset_selection=["titles", "clip_labels"],
    default_status=dg.DefaultSensorStatus.RUNNING,
    minimum_interval_seconds=10,
    description="Looks at the landing zone: complete drops that are new or changed become partitions of `titles` and "
    "events of `drops`, label files events of `label_files`. It launches nothing; automation does.",
)
def landing_sensor(context: dg.SensorEvaluationContext, landing: LandingZone) -> dg.SensorResult | dg.SkipReason:
    drops, labels, problems = seen_now(landing)
    for problem in problems:
        context.log.warning(problem)
    before = json.loads(context.cursor) if context.cursor else {"drops": {}, "labels": {}, "problems": []}
    new_drops = changed(drops, before["drops"])[:TITLES_PER_TICK]
    new_labels = changed(labels, before["labels"])
    if not new_drops and not new_labels and problems == before["problems"]:
        return dg.SkipReason("nothing new" + (f"; {len(problems)} drops cannot be used" if problems else ""))
    known = {
        "drops": {**before["drops"], **{title: drops[title] for title in new_drops}},
        "labels": {**before["labels"], **{task: labels[task] for task in new_labels}},
        "problems": problems,
    }
    told = {
        "drops": told_before(context.instance, "drops", new_drops),
        "label_files": told_before(context.instance, "label_files", new_labels),
    }
    add = titles_partitions.build_add_request(new_drops)
    return dg.SensorResult(
        dynamic_partitions_requests=[add] if new_drops else [],
        asset_events=[
            *(landed("drops", title, drops[title]) for title in changed(drops, told["drops"], new_drops)),
            *(landed("label_files", task, labels[task]) for task in changed(labels, told["label_files"], new_labels)),
            usable_drops(problems),
        ],
        cursor=json.dumps(known),
    )


def told_before(instance: dg.DagsterInstance, asset: str, partitions: Sequence[str]) -> dict[str, str]:
    """The fingerprints that Dagster was last told of these partitions, by the `mediafm` command or a sensor that has
    lost its cursor: to tell it again would launch runs that find nothing to do."""
    if not partitions:
        return {}
    records = dg.AssetRecordsFilter(asset_key=dg.AssetKey(asset), asset_partitions=list(partitions))
    told: dict[str, str] = {}
    for record in instance.fetch_materializations(records, limit=2 * len(partitions)).records:
        event = record.asset_materialization
        if event and event.partition:
            told.setdefault(event.partition, (event.tags or {}).get("dagster/data_version", ""))
    return told


def landed(asset: str, partition: str, fingerprint: str) -> dg.AssetMaterialization:
    """What Dagster is told of a drop or label file that is complete."""
    return dg.AssetMaterialization(asset, partition=partition, tags={"dagster/data_version": fingerprint})


def usable_drops(problems: Sequence[str]) -> dg.AssetCheckEvaluation:
    """The check on `drops` that shows, in the UI, which folders of the landing zone cannot be used and why."""
    return dg.AssetCheckEvaluation(
        asset_key=dg.AssetKey("drops"),
        check_name="usable",
        passed=not problems,
        severity=dg.AssetCheckSeverity.WARN,
        description="; ".join(problems[:5]) or None,  # what the UI shows without a click
        metadata={"problems": list(problems[:50])} if problems else {},
    )


@dg.sensor(
    asset_selection=["contextual_embeddings"],
    default_status=dg.DefaultSensorStatus.RUNNING,
    minimum_interval_seconds=10,
    description="Once for each new encoder: contextual embeddings of all fused titles that lack them, in one run for "
    "each unbroken range of titles. Switch it off to stay with the old encoder's embeddings until you backfill.",
)
def refresh_sensor(
    context: dg.SensorEvaluationContext, lake: dg.ResourceParam[DeltaLake]
) -> dg.SensorResult | dg.SkipReason:
    newest = max((version for (version,) in lake.data_versions("encoder")), default=None)
    if newest is None or newest == context.cursor:
        return dg.SkipReason("no new encoder")
    made = {title for version, title in lake.data_versions("contextual_embeddings") if version == newest}
    lacking = {title for (title,) in lake.data_versions("fused_embeddings")} - made
    return dg.SensorResult(
        run_requests=[
            dg.RunRequest(
                run_key=f"{newest}:{first}",
                asset_selection=[dg.AssetKey("contextual_embeddings")],
                tags=range_tags(first, last),
            )
            for first, last in unbroken_ranges(context.instance.get_dynamic_partitions("titles"), lacking)
        ],
        cursor=newest,
    )


def range_tags(first: str, last: str) -> dict[str, str]:
    """What makes a run cover the partitions from `first` to `last`."""
    return {"dagster/asset_partition_range_start": first, "dagster/asset_partition_range_end": last}


def unbroken_ranges(keys: Sequence[str], wanted: set[str]) -> Iterator[tuple[str, str]]:
    """First and last key of every run of neighbouring keys that are all wanted."""
    first: str | None = None
    last = ""
    for key in keys:
        if key in wanted:
            first, last = first or key, key
        elif first:
            yield first, last
            first = None
    if first:
        yield first, last
