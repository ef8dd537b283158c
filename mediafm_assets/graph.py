"""What the declarations of all assets have in common: owners, kinds, partitions, column schemas, contracts."""

from collections.abc import Mapping
from typing import Any

import dagster as dg

from mediafm_assets.partitions import titles_partitions
from mediafm_assets.versions import RECIPES, TITLES_CODE, Shaping, dependencies
from resources.lake import TABLES, checks, column_schema

OWNERS = ["team:media-ml"]

SHAPING = sorted({recipe.shaped_by for recipe in RECIPES.values() if recipe.shaped_by})
"""Keys of the resources that decide values. Every per-title step needs them all: it checks its inputs' versions."""

TITLE_RESOURCES = {"lake", *SHAPING}

CONTRACT = "contract"


def code_version(table: str, shaping: Mapping[str, Shaping]) -> str:
    """Dagster's code version of a per-title table: it changes with the recipe's code and with the configuration that
    shapes the values, so that the UI shows what a new profile or threshold makes stale."""
    if table == "titles":
        return TITLES_CODE
    recipe = RECIPES[table]
    return f"{recipe.code} {shaping[recipe.shaped_by].config_key()}" if recipe.shaped_by else recipe.code


def table_spec(table: str, **attributes: Any) -> dg.AssetSpec:
    """The asset of a table; its description and columns are the table's own."""
    return dg.AssetSpec(
        table,
        description=TABLES[table].description,
        owners=OWNERS,
        metadata={"dagster/column_schema": column_schema(table)},
        **{**attributes, "kinds": {"deltalake", *attributes.get("kinds", ())}},
    )


def title_spec(table: str, *, group: str, shaping: Mapping[str, Shaping], kinds: set[str]) -> dg.AssetSpec:
    """The asset of a per-title table. Its partitions are recorded as they are written, hence `skippable`."""
    return table_spec(
        table,
        group_name=group,
        deps=dependencies(table),
        kinds=kinds,
        partitions_def=titles_partitions,
        skippable=True,
        code_version=code_version(table, shaping),
    )


def contract_spec(table: str) -> dg.AssetCheckSpec:
    """The check of a table's contract, which is evaluated where its rows are written."""
    rules = "\n".join(f"* {name}: {check.__doc__}" for name, check in checks(table).items())
    return dg.AssetCheckSpec(
        CONTRACT, asset=table, description=f"Whatever is written keeps the table's contract:\n\n{rules}"
    )
