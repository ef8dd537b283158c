"""A blocking check for every contract that a table's schema implies, on what is stored, a partition at a time; and
warnings of what is right and still of little use: drops that cannot be read, an encoder that learnt no context."""

import json
import warnings
from collections.abc import Iterator

import dagster as dg

from mediafm_assets.graph import TITLE_RESOURCES
from mediafm_assets.materialise import catalogue_of
from mediafm_assets.partitions import tasks_partitions, titles_partitions
from mediafm_assets.sensors import seen_now, usable_drops
from mediafm_assets.versions import RECIPES, Catalogue
from resources.lake import DeltaLake
from resources.tables import TABLES, checks


def partitions_of(table: str) -> dg.PartitionsDefinition | None:
    """How the asset of the table is partitioned in Dagster."""
    if table in RECIPES or table == "titles":
        return titles_partitions
    return tasks_partitions if table == "clip_labels" else None


def delta_partition(catalogue: Catalogue, table: str, key: str | None) -> dict[str, str]:
    """The Delta partition that a check of the asset's partition reads: of tables by encoder, the current encoder's."""
    encoder = {"encoder_version": catalogue.encoder_version or ""}
    return {column: encoder.get(column, key or "") for column in TABLES[table].partition_by}


def contract_checks(table: str) -> dg.AssetChecksDefinition:
    """The checks of one table."""
    by_name = checks(table)

    @dg.multi_asset_check(
        name=f"{table}_contract",
        specs=[
            dg.AssetCheckSpec(
                name, asset=table, description=check.__doc__, blocking=True, partitions_def=partitions_of(table)
            )
            for name, check in by_name.items()
        ],
        required_resource_keys=TITLE_RESOURCES,
    )
    def contract(context: dg.AssetCheckExecutionContext) -> Iterator[dg.AssetCheckResult]:
        keys = context.partition_keys if partitions_of(table) else [None]
        catalogue = catalogue_of(context)
        violations: dict[str, list[str]] = {name: [] for name in by_name}
        for key in keys:
            rows = context.resources.lake.read(table, **delta_partition(catalogue, table, key))
            for name, check in by_name.items():
                violations[name] += [f"{key}: {violation}" if key else violation for violation in check(rows)]
        for name, found in violations.items():
            yield dg.AssetCheckResult(
                check_name=name,
                asset_key=table,
                passed=not found,
                severity=dg.AssetCheckSeverity.ERROR,
                description="; ".join(found[:3]) or None,  # what the UI shows without a click
                metadata={"violations": found[:20]} if found else {},
            )

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
    rows = lake.read("encoder", **delta_partition(catalogue_of(context), "encoder", None))
    warning: str | None = json.loads(rows["metrics"][0])["warning"]
    return dg.AssetCheckResult(passed=warning is None, severity=dg.AssetCheckSeverity.WARN, description=warning)


with warnings.catch_warnings():
    # Checks by partition are a preview in the pinned Dagster; the UI then shows which title breaks a contract.
    warnings.simplefilter("ignore", dg.PreviewWarning)
    CHECKS = [*(contract_checks(table) for table in TABLES), usable, has_learnt_context]
