"""Checks that are no part of a step: contracts of what is not made title by title, what stages say of their own
results, and drops that cannot be read; and the asset that says how all titles are."""

from collections.abc import Callable, Iterator
from typing import Any

import dagster as dg

from mediafm_assets.graph.health import HEALTH, HEARTBEAT, every_title_spec, health_metadata, health_result
from mediafm_assets.graph.materialise import catalogue_of, stored_contract
from mediafm_assets.graph.sensors import seen_now, usable_drops
from mediafm_assets.graph.shown import as_metadata
from mediafm_assets.graph.specs import OWNERS, contract_spec
from mediafm_assets.graph.stage import Stage, Stages
from mediafm_assets.graph.versions import Catalogue
from resources.lake import TABLES


def asset_checks(stages: Stages) -> Iterator[dg.AssetChecksDefinition]:
    """The checks of all stages; those of titles' contracts are part of their step."""
    for stage in stages.all:
        if stage.scope != "title":
            yield from (contract_check(table) for table in stage.tables if table in TABLES)
        yield from (stage_check(check, stage, stages) for check in stage.checks)
    yield usable


def contract_check(table: str) -> dg.AssetChecksDefinition:
    """The check of a table that is not made title by title: of what is stored of it."""

    @dg.multi_asset_check(name=f"{table}_contract", specs=[contract_spec(table)], required_resource_keys={"lake"})
    def contract(context: dg.AssetCheckExecutionContext) -> Iterator[dg.AssetCheckResult]:
        yield stored_contract(context.resources.lake, table)

    return contract


def stage_check(
    check: Callable[[Catalogue], dg.AssetCheckResult], stage: Stage, stages: Stages
) -> dg.AssetChecksDefinition:
    @dg.asset_check(
        asset=stage.name,
        name=check.__name__,
        description=check.__doc__,
        required_resource_keys=stages.resource_keys | stage.resource_keys,
    )
    def evaluated(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
        return check(catalogue_of(context, stages, stage.resource_keys))

    return evaluated


@dg.asset_check(asset="drops", required_resource_keys={"landing"})
def usable(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
    """Every complete folder and label file of the landing zone can be used. The landing sensor evaluates this too."""
    seen = usable_drops(*seen_now(context.resources.landing))
    return dg.AssetCheckResult(
        passed=seen.passed, severity=seen.severity, description=seen.description, metadata=seen.metadata
    )


def health_asset(stages: Stages) -> dg.AssetsDefinition:
    """The asset that says which titles are fine and which failed."""

    @dg.multi_asset(
        name=HEALTH,
        specs=[
            dg.AssetSpec(
                HEALTH,
                group_name="operations",
                owners=OWNERS,
                description="Which titles are fine and which failed, with the reasons. The daemon tells of it whenever "
                "it changes, and every six hours; materialise it to look at once.",
                freshness_policy=dg.FreshnessPolicy.time_window(4 * HEARTBEAT, 2 * HEARTBEAT),
            )
        ],
        check_specs=[every_title_spec(HEALTH)],
        required_resource_keys=stages.resource_keys,
    )
    def health(context: dg.AssetExecutionContext) -> Iterator[Any]:
        catalogue = catalogue_of(context, stages)
        yield dg.MaterializeResult(HEALTH, metadata=as_metadata(health_metadata(catalogue)))
        yield health_result(catalogue)

    return health
