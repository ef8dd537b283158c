"""The assets that Dagster is told of: owners, kinds, partitions, column schemas, contracts; all from the stages."""

import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import dagster as dg

from mediafm_assets.graph.partitions import tasks_partitions, titles_partitions
from mediafm_assets.graph.stage import Stage, Stages
from resources.lake import TABLES, DeltaLake, checks, column_lineage, column_schema

OWNERS = ["team:media-ml"]

CONTRACT = "contract"

DOCUMENTATION = Path(__file__).parents[2] / "docs" / "tables.md"


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
            tags={"made_for_each": stage.scope},
            metadata={
                "dagster/code_references": code_references(stage.compute, table),
                **(table_metadata(table, resources["lake"]) if delta else {}),
            },
            partitions_def=partitions,
            skippable=partitions is not None,
            code_version=stages.code_version(table, resources),
        )


def table_metadata(table: str, lake: DeltaLake) -> dict[str, Any]:
    """What the UI knows of a table before any row of it is there."""
    return {
        "dagster/table_name": table,
        "dagster/uri": lake.table_uri(table),
        "dagster/column_schema": column_schema(table),
        "dagster/column_lineage": column_lineage(table),
    }


def code_references(made_by: Callable[..., Any], table: str) -> dg.CodeReferencesMetadataValue:
    """Where the asset's function stands, and its section of docs/tables.md: the UI opens both."""
    code = made_by.__code__
    places = [(code.co_filename, code.co_firstlineno, "its code")]
    if table in documented():
        places.append((str(DOCUMENTATION), documented()[table], "its documentation"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.BetaWarning)  # code references are a beta of the pinned Dagster
        return dg.CodeReferencesMetadataValue(
            code_references=[
                dg.LocalFileCodeReference(file_path=file, line_number=line, label=label) for file, line, label in places
            ]
        )


@cache
def documented() -> Mapping[str, int]:
    """The line of each table's section in docs/tables.md; empty where the packages are installed without it."""
    lines = DOCUMENTATION.read_text().splitlines() if DOCUMENTATION.exists() else []
    return {line.removeprefix("## "): number for number, line in enumerate(lines, 1) if line.startswith("## ")}


def contract_spec(table: str) -> dg.AssetCheckSpec:
    """The check of a table's contract, which is evaluated where its rows are written."""
    rules = "\n".join(f"* {name}: {check.__doc__}" for name, check in checks(table).items())
    return dg.AssetCheckSpec(
        CONTRACT, asset=table, description=f"Whatever is written keeps the table's contract:\n\n{rules}"
    )
