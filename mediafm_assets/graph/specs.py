"""The assets that Dagster is told of: owners, kinds, partitions, column schemas, contracts; all from the stages."""

from collections.abc import Iterator, Mapping
from typing import Any

import dagster as dg

from mediafm_assets.graph.partitions import tasks_partitions, titles_partitions
from mediafm_assets.graph.stage import Stage, Stages
from resources.lake import TABLES, checks, column_schema

OWNERS = ["team:media-ml"]

CONTRACT = "contract"


def asset_specs(stage: Stage, stages: Stages, resources: Mapping[str, Any]) -> Iterator[dg.AssetSpec]:
    """The assets of what the stage makes; a table's description and columns are its own.

    What is made title by title or task by task is recorded as it is written, hence `skippable`.
    """
    partitions = {"title": titles_partitions, "task": tasks_partitions, "catalogue": None}[stage.scope]
    for table in stage.tables:
        delta = table in TABLES
        yield dg.AssetSpec(
            table,
            group_name=stage.group,
            description=TABLES[table].description if delta else stage.about,
            deps=stages.dependencies(table),
            owners=OWNERS,
            kinds={*stage.kinds, *(["deltalake"] if delta else [])},
            metadata={"dagster/column_schema": column_schema(table)} if delta else {},
            partitions_def=partitions,
            skippable=partitions is not None,
            code_version=stages.code_version(table, resources),
        )


def contract_spec(table: str) -> dg.AssetCheckSpec:
    """The check of a table's contract, which is evaluated where its rows are written."""
    rules = "\n".join(f"* {name}: {check.__doc__}" for name, check in checks(table).items())
    return dg.AssetCheckSpec(
        CONTRACT, asset=table, description=f"Whatever is written keeps the table's contract:\n\n{rules}"
    )
