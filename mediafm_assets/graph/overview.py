"""The asset `freshness`: what Dagster is told of the table, and a check for each table that says how it is."""

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import dagster as dg

from mediafm_assets.graph.freshness import FRESHNESS, look, write
from mediafm_assets.graph.health import SHOWN
from mediafm_assets.graph.materialise import catalogue_of
from mediafm_assets.graph.planned import Plan, plan_now
from mediafm_assets.graph.reasons import STATES, by_reason, some_of
from mediafm_assets.graph.shown import as_metadata
from mediafm_assets.graph.specs import OWNERS, code_references, table_metadata
from mediafm_assets.graph.stage import Stages
from mediafm_assets.graph.versions import Catalogue, digest
from resources.lake import TABLES, DeltaLake
from resources.landing import Landing

if TYPE_CHECKING:
    import polars as pl

LISTED = 50
"""Reasons that the asset's page shows."""


def counts(rows: "pl.DataFrame") -> dict[str, int]:
    """How many of the rows are in each state, in the order of `STATES`."""
    found = dict(rows["state"].value_counts().rows())
    return {state: found.get(state, 0) for state in STATES}


def by_table(rows: "pl.DataFrame") -> "dict[str, pl.DataFrame]":
    """The rows of each table, in the order of the rows."""
    return {str(table): found for (table,), found in rows.partition_by("table", as_dict=True).items()}


def in_words(found: Mapping[str, int]) -> str:
    """Such as "23 fresh, 1 stale, 1 failed"."""
    return ", ".join(f"{number} {state}" for state, number in found.items() if number or state == "fresh")


def sentences(rows: "pl.DataFrame") -> list[str]:
    """Each row's reason, with its title."""
    of = rows.select("title_id", "reason").iter_rows()
    return [f"{title_id}: {reason}" if title_id else reason for title_id, reason in of]


def shown_metadata(rows: "pl.DataFrame") -> dict[str, Any]:
    """The numbers, table by table, and why the rest is not fresh. Dagster's pages leave a table little room: four short
    columns, of which the reason is read, and each reason once."""
    lines = [f"| table | {' | '.join(STATES)} |", f"|{'---|' * (1 + len(STATES))}"]
    for table, found in by_table(rows).items():
        lines.append(f"| [{table}](/assets/{table}) | {' | '.join(str(n) for n in counts(found).values())} |")
    reasons = by_reason(rows.select("table", "title_id", "state", "reason").iter_rows())
    records = [
        dg.TableRecord({"state": state, "reason": reason, "titles": some_of(titles), "tables": some_of(tables)})
        for state, reason, tables, titles in reasons[:LISTED]
    ]
    schema = dg.TableSchema([dg.TableColumn(name) for name in ("state", "reason", "titles", "tables")])
    return {
        **counts(rows),
        "tables": dg.MetadataValue.md("\n".join(lines)),
        f"not fresh, {len(records)} of {len(reasons)} reasons": dg.MetadataValue.table(records, schema),
    }


def check_of(table: str, rows: "pl.DataFrame") -> dict[str, Any]:
    """How the table is, as its check says: it warns of what failed; what is stale, missing or waiting is made yet."""
    import polars as pl

    failed = sentences(rows.filter(state="failed"))
    others = sentences(rows.filter(~pl.col("state").is_in(["fresh", "failed"])))
    reasons = (failed or others)[:3]
    return {
        "check_name": table,
        "asset_key": dg.AssetKey(FRESHNESS),
        "passed": not failed,
        "severity": dg.AssetCheckSeverity.WARN,
        "description": in_words(counts(rows)) + (f": {'; '.join(reasons)}" if reasons else ""),
        "metadata": as_metadata(
            {
                **counts(rows),
                **({"failures": failed[:SHOWN]} if failed else {}),
                **({"reasons": others[:SHOWN]} if others else {}),
            }
        ),
    }


def refresh(catalogue: Catalogue, landing: Landing) -> list[dg.AssetMaterialization | dg.AssetCheckEvaluation]:
    """Write the table anew if something changed; the events to tell Dagster of: none, if nothing did."""
    before = by_table(catalogue.lake.read_whole(FRESHNESS))
    rows = look(catalogue, landing)
    if not write(catalogue.lake, rows):
        return []
    events: list[dg.AssetMaterialization | dg.AssetCheckEvaluation] = [
        dg.AssetMaterialization(FRESHNESS, metadata=metadata_of(catalogue.lake, rows))
    ]
    for table, found in by_table(rows).items():
        said = check_of(table, found)
        if table not in before or check_of(table, before[table]) != said:
            events.append(dg.AssetCheckEvaluation(**said))
    return events


def metadata_of(lake: DeltaLake, rows: "pl.DataFrame") -> dict[str, Any]:
    return as_metadata({**lake.write_metadata(FRESHNESS, {}), **shown_metadata(rows)})


def what_comes_next(plan: Plan) -> dg.MarkdownMetadataValue:
    """What `mediafm plan` says. Only where somebody asks: it opens films that are not registered yet, and reads texts
    that are to be paid for, which is too much for a sensor."""
    by_stage = [f"* {name}: {total.sentence()}" for name, total in plan.by_stage().items()]
    return dg.MetadataValue.md("\n".join([plan.total.sentence(), "", *by_stage, "", *plan.remarks]))


def sight(catalogue: Catalogue, landing: Landing) -> str:
    """Changes with everything that the table is made from: while it is the same, nobody needs to look closely."""
    lake, stages = catalogue.lake, catalogue.stages
    versions = {table: lake.table_version(table) for table in TABLES if table != FRESHNESS}
    drops = {drop.title_id: drop.drop_fingerprint for drop in landing.drops}
    others = {problem.title_id: problem.reason for problem in (*landing.problems, *landing.waiting)}
    spaces = {key: catalogue.space(key) for key in stages.shaping}
    codes = {table: recipe.code for table, recipe in stages.recipe.items()}
    asks = catalogue.resources["ask_above"]
    return digest(json.dumps([versions, drops, others, spaces, codes, asks], sort_keys=True))


def freshness_asset(stages: Stages, resources: Mapping[str, Any]) -> dg.AssetsDefinition:
    """The asset that says what is fresh, and why the rest is not."""
    needed = frozenset({"ask_above"}).union(*(stage.resource_keys for stage in stages.all))

    @dg.multi_asset(
        name=FRESHNESS,
        specs=[
            dg.AssetSpec(
                FRESHNESS,
                group_name="operations",
                owners=OWNERS,
                kinds={"deltalake"},
                description=f"{TABLES[FRESHNESS].description} Materialise it to look at once, with what is "
                "made next and what that takes; `mediafm status --why` and `mediafm plan` say the same.",
                metadata={
                    "dagster/code_references": code_references(look, FRESHNESS),
                    **table_metadata(FRESHNESS, resources["lake"]),
                },
            )
        ],
        check_specs=[
            dg.AssetCheckSpec(
                table, asset=FRESHNESS, description=f"How many are fresh in {table}, and why the others are not."
            )
            for stage in stages.all
            for table in stage.tables
        ],
        required_resource_keys=stages.resource_keys | needed,
    )
    def freshness(context: dg.AssetExecutionContext) -> Iterator[Any]:
        catalogue, landing = catalogue_of(context, stages, needed), context.resources.landing.look()
        rows = look(catalogue, landing)
        write(catalogue.lake, rows)
        plan = plan_now(catalogue, {drop.title_id: drop.drop_fingerprint for drop in landing.drops})
        said = {**metadata_of(catalogue.lake, rows), "next": what_comes_next(plan)}
        yield dg.MaterializeResult(FRESHNESS, metadata=said)
        for table, found in by_table(rows).items():
            yield dg.AssetCheckResult(**check_of(table, found))

    return freshness
