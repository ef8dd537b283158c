"""Which titles are fine and which failed: on each table's page, on each partition's, and in one asset for all of them.

A failed title stops at a stage, so it has failed in that stage's tables and in all that are made after them. Everything
is read from the lake's logs and the table `failures`: cheap enough for the end of every run.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any

import dagster as dg

from mediafm_assets.graph.shown import as_metadata, without_a_run
from mediafm_assets.graph.stage import ROOT, Stages
from mediafm_assets.graph.versions import Catalogue, digest
from resources.errors import one_line

EVERY_TITLE = "every_title"
HEALTH = "health"
SHOWN = 20
"""Failed titles that are named."""

HEARTBEAT = timedelta(hours=6)
"""The daemon tells of the health when it changes, and as often as this: an older one says that no daemon runs."""


def later_tables(stages: Stages, stage: str) -> tuple[str, ...]:
    """The tables of titles that are made at the stage or after it; all of them, if there is no such stage any more."""
    tables = stages.title_tables
    return tables[tables.index(stages.by_table[stage].tables[0]) :] if stage in tables else tables


def sentence(title_id: str, stage: str, reason: str) -> str:
    return f"{title_id}: {stage}: {reason}"


def failure_sentence(event: dg.DagsterEvent, partition: str | None) -> str:
    """Why a step failed: what it says itself, which names title and stage, else the run's partition if it has one, the
    step, and the cause of its error."""
    data = event.step_failure_data
    if data.user_failure_data and data.user_failure_data.description:
        return data.user_failure_data.description
    cause = data.error
    while cause and cause.cause:
        cause = cause.cause
    why = one_line(cause.message) if cause else "no reason is known"
    return f"{partition or ''}: {event.step_key}: {why}".lstrip(": ")


def failed_in(catalogue: Catalogue, table: str) -> dict[str, str]:
    """A sentence for each title that lacks the table, or has an old one, since it failed."""
    return {
        title_id: sentence(title_id, row["stage"], row["reason"])
        for title_id, row in sorted(catalogue.failures.items())
        if table in later_tables(catalogue.stages, row["stage"])
    }


def failure_events(stages: Stages, stage: str, title_id: str, reason: str) -> Iterator[dg.AssetObservation]:
    """What the title's partition of every table that it now lacks says on its page: which title, which stage, why."""
    said = {"failed": sentence(title_id, stage, reason), "failed_at_stage": stage}
    for table in later_tables(stages, stage):
        yield dg.AssetObservation(table, partition=title_id, metadata=said)


def every_title_spec(table: str) -> dg.AssetCheckSpec:
    return dg.AssetCheckSpec(
        EVERY_TITLE,
        asset=table,
        description="No title failed at this table, or before it. The tables of the other titles are right in any case;"
        " the partition's page says why, and so does the table `failures`.",
    )


def every_title(catalogue: Catalogue, table: str) -> dg.AssetCheckResult:
    """How many titles have the table, and which failed."""
    failed = failed_in(catalogue, table)
    return titles_result(table, len(catalogue.titles_in(table).keys() - failed.keys()), failed)


def titles_result(asset: str, fine: int, failed: Mapping[str, str]) -> dg.AssetCheckResult:
    reasons = list(failed.values())
    return dg.AssetCheckResult(
        check_name=EVERY_TITLE,
        asset_key=asset,
        passed=not failed,
        severity=dg.AssetCheckSeverity.WARN,
        description=f"{fine} fine, {len(failed)} failed" + (f": {'; '.join(reasons[:3])}" if failed else ""),
        metadata={"fine": fine, "failed": len(failed), **({"failures": reasons[:SHOWN]} if failed else {})},
    )


def health_metadata(catalogue: Catalogue) -> dict[str, Any]:
    """What the asset `health` says: titles that are fine and failed, as numbers, and table by table."""
    failed = failed_in(catalogue, catalogue.stages.title_tables[-1])
    lines = ["| table | titles fine | failed |", "|---|---|---|"]
    for table in catalogue.stages.title_tables:
        of_table = every_title(catalogue, table).metadata
        fine, bad = of_table["fine"].value, of_table["failed"].value
        link = f"[{bad}](/assets/{table}?view=partitions&status=FAILED)" if bad else "0"
        lines.append(f"| [{table}](/assets/{table}) | {fine} | {link} |")
    more = [f"* … and {len(failed) - SHOWN} more, in the table failures"] if len(failed) > SHOWN else []
    return {
        "titles_fine": fine_titles(catalogue),
        "titles_failed": len(failed),
        "tables": dg.MetadataValue.md("\n".join(lines)),
        "failures": dg.MetadataValue.md(
            "\n".join([*(f"* {reason}" for reason in list(failed.values())[:SHOWN]), *more]) or "none"
        ),
    }


def fine_titles(catalogue: Catalogue) -> int:
    return len(catalogue.titles_in(ROOT).keys() - catalogue.failures.keys())


def health_result(catalogue: Catalogue) -> dg.AssetCheckResult:
    failed = failed_in(catalogue, catalogue.stages.title_tables[-1])
    return titles_result(HEALTH, fine_titles(catalogue), failed)


def health_events(catalogue: Catalogue) -> Sequence[dg.AssetMaterialization | dg.AssetCheckEvaluation]:
    """The health as events without a run, which the daemon tells Dagster of."""
    return [
        dg.AssetMaterialization(HEALTH, metadata=as_metadata(health_metadata(catalogue))),
        without_a_run(health_result(catalogue)),
    ]


def health_version(catalogue: Catalogue) -> str:
    """Changes when a title comes, fails or recovers."""
    failed = {title_id: (row["stage"], row["reason"]) for title_id, row in catalogue.failures.items()}
    return digest(json.dumps([fine_titles(catalogue), failed], sort_keys=True))
