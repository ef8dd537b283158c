"""What the declarations of all assets have in common: owners, kinds, partitions, conditions, column schemas."""

from collections.abc import Mapping
from typing import Any

import dagster as dg

from mediafm_assets.automation import per_title
from mediafm_assets.materialise import SHAPING
from mediafm_assets.partitions import titles_partitions
from mediafm_assets.versions import RECIPES, TITLES_CODE, Shaping
from resources.tables import TABLES, column_schema

OWNERS = ["team:media-ml"]


def code_version(table: str, shaping: Mapping[str, Shaping]) -> str:
    """Dagster's code version of a per-title table: it changes with the recipe's code and with the configuration that
    shapes the values, so that the UI shows what a new profile or threshold makes stale, and automation redoes it."""
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


def title_spec(
    table: str, *, group: str, deps: list[str], shaping: Mapping[str, Shaping], kinds: set[str] | None = None
) -> dg.AssetSpec:
    """The asset of a per-title table."""
    return table_spec(
        table,
        group_name=group,
        deps=deps,
        kinds=kinds or set(),
        partitions_def=titles_partitions,
        automation_condition=per_title(table),
        skippable=table == "contextual_embeddings",  # which waits where there is no encoder for it yet
        code_version=code_version(table, shaping),
    )


TITLE_RESOURCES = {"lake", *SHAPING}
