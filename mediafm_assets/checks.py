"""A blocking check for every contract that a table's schema implies, on what is stored, a partition at a time."""

from collections.abc import Iterator

import dagster as dg

from mediafm_assets.partitions import tasks_partitions, titles_partitions
from mediafm_assets.versions import RECIPES
from resources.lake import DeltaLake
from resources.tables import TABLES, checks


def partitions_of(table: str) -> dg.PartitionsDefinition | None:
    """How the asset of the table is partitioned in Dagster."""
    if table in RECIPES or table == "titles":
        return titles_partitions
    return tasks_partitions if table == "clip_labels" else None


def delta_partition(lake: DeltaLake, table: str, key: str | None) -> dict[str, str]:
    """The Delta partition that a check of the asset's partition reads: of tables by encoder, the newest encoder's."""
    columns = TABLES[table].partition_by
    newest = {"encoder_version": max((version for (version, *_) in lake.data_versions("encoder")), default="")}
    return {column: newest.get(column, key or "") for column in columns}


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
    )
    def contract(
        context: dg.AssetCheckExecutionContext, lake: dg.ResourceParam[DeltaLake]
    ) -> Iterator[dg.AssetCheckResult]:
        partitioned = partitions_of(table) is not None
        violations: dict[str, list[str]] = {name: [] for name in by_name}
        for key in context.partition_keys if partitioned else [None]:
            rows = lake.read(table, **delta_partition(lake, table, key))
            for name, check in by_name.items():
                violations[name] += [f"{key}: {violation}" if key else violation for violation in check(rows)]
        for name, found in violations.items():
            yield dg.AssetCheckResult(
                check_name=name,
                asset_key=table,
                passed=not found,
                severity=dg.AssetCheckSeverity.ERROR,
                metadata={"violations": found[:20]} if found else {},
            )

    return contract


CHECKS = [contract_checks(table) for table in TABLES]
