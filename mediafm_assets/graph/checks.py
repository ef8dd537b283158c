"""Checks of tables that are not made title by title, and warnings of what is right and still of little use: drops that
cannot be read, an encoder that learnt no context."""

import json
from collections.abc import Iterator

import dagster as dg

from mediafm_assets.graph.materialise import catalogue_of, stored_contract
from mediafm_assets.graph.sensors import seen_now, usable_drops
from mediafm_assets.graph.specs import TITLE_RESOURCES, contract_spec
from resources.lake import DeltaLake


def contract_check(table: str) -> dg.AssetChecksDefinition:
    """The check of a table that is not made title by title: of what is stored of it."""

    @dg.multi_asset_check(name=f"{table}_contract", specs=[contract_spec(table)], required_resource_keys={"lake"})
    def contract(context: dg.AssetCheckExecutionContext) -> Iterator[dg.AssetCheckResult]:
        yield stored_contract(context.resources.lake, table)

    return contract


@dg.asset_check(asset="drops", required_resource_keys={"landing"})
def usable(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
    """Every complete folder and label file of the landing zone can be used. The landing sensor evaluates this too."""
    _drops, _labels, problems = seen_now(context.resources.landing)
    seen = usable_drops(problems)
    return dg.AssetCheckResult(
        passed=seen.passed, severity=seen.severity, description=seen.description, metadata=seen.metadata
    )


@dg.asset_check(asset="encoder", required_resource_keys=TITLE_RESOURCES)
def has_learnt_context(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
    """On titles that were held out, the encoder predicts masked shots better than any predictor without a model."""
    lake: DeltaLake = context.resources.lake
    rows = lake.read("encoder", encoder_version=catalogue_of(context).encoder_version or "")
    warning: str | None = json.loads(rows["metrics"][0])["warning"]
    return dg.AssetCheckResult(passed=warning is None, severity=dg.AssetCheckSeverity.WARN, description=warning)


CHECKS = [
    *(contract_check(table) for table in ("encoder", "encoder_training", "clip_labels", "probe_metrics")),
    usable,
    has_learnt_context,
]
