"""The frame around every per-title step: versions, one commit per title, failures that stay with their title."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import dagster as dg

from mediafm_assets.versions import RECIPES, Catalogue
from resources.errors import BadInput, Unavailable
from resources.lake import DeltaLake

if TYPE_CHECKING:
    import polars as pl

    Rows = pl.DataFrame | Iterable[pl.DataFrame]

SHAPING = sorted({recipe.shaped_by for recipe in RECIPES.values() if recipe.shaped_by})
"""Keys of the resources that decide values. Every per-title step needs them all: it checks its inputs' versions."""

Results = Iterator[dg.MaterializeResult[Any]]


def for_each_title(context: dg.AssetExecutionContext, materialise: Callable[[str], Results]) -> Results:
    """Run `materialise(title_id)` for each title of the run.

    A run over one title yields its results or raises `dagster.Failure`. In a run over several, a title that fails does
    not stop its neighbours: each finished one is recorded at once, and the step fails at its end, naming the others.
    (Dagster itself would record all partitions of a step that ends well, with one data version for all of them.)
    """
    failures: list[str] = []
    for title_id in context.partition_keys:
        try:
            results = list(materialise(title_id))
        except Exception as error:
            reason = f"{title_id}: {context.op_handle.name}: {explain(error)}"
            if len(context.partition_keys) == 1:
                raise dg.Failure(reason, allow_retries=not isinstance(error, BadInput)) from error
            context.log.error(reason, exc_info=error)
            failures.append(reason)
            continue
        if len(context.partition_keys) == 1:
            yield from results
            return
        for result in results:
            key, metadata = result.asset_key or "", result.metadata or {}
            tags = {"dagster/data_version": result.data_version.value} if result.data_version else {}
            context.log_event(dg.AssetMaterialization(key, partition=title_id, metadata=metadata, tags=tags))
            context.add_asset_metadata(metadata, asset_key=key, partition_key=title_id)
    if failures:
        total = len(context.partition_keys)
        raise dg.Failure(f"{len(failures)} of {total} titles failed: {'; '.join(failures)}", allow_retries=False)
    for key in context.selected_asset_keys:
        yield dg.MaterializeResult(key)


def preflight(resources: Mapping[str, Any]) -> list[str]:
    """One sentence for each key, package or checkpoint that the configured encoders lack; cheap, before any work."""
    encoders = ("video_encoder", "audio_encoder", "text_encoder", "title_encoder")
    return list(dict.fromkeys(sentence for key in encoders for sentence in resources[key].preflight()))


def explain(error: Exception) -> str:
    """The reason that people read: our own errors speak for themselves, anything else is named by its type."""
    return str(error) if isinstance(error, BadInput | Unavailable) else f"{type(error).__name__}: {error}"


def materialise_titles(
    context: dg.AssetExecutionContext,
    tables: tuple[str, ...],
    compute: "Callable[[str], Iterable[tuple[str, Rows]]]",
    notes: dict[str, Any] | None = None,
) -> Results:
    """Materialise the partitions of `tables` that are missing or stale, for each title of the run.

    `compute(title_id)` yields (table, rows) in the order in which they are to be written; rows may be an iterator of
    frames, which is written as it is consumed, in one commit. `notes` is emptied before each title and read after it:
    what the step adds to the materialisation's metadata. A partition that has the version that it would get is left
    alone.

    Raises `BadInput` (as `dagster.Failure`) when an input is missing or stale: vectors of two versions never meet.
    """

    lake: DeltaLake = context.resources.lake

    def materialise(title_id: str) -> Results:
        catalogue = catalogue_of(context)
        versions = {}
        for table in tables:
            _refuse_stale_inputs(catalogue, table, tables, title_id)
            version = catalogue.made_now(table, title_id)
            if version is None:
                raise BadInput(f"the title is not registered yet; materialise `titles` of {title_id} first")
            versions[table] = version
        stale = [table for table in tables if catalogue.stored(table, title_id) != versions[table]]
        started = time.monotonic()
        if notes:
            notes.clear()
        if stale:
            for table, rows in compute(title_id):
                lake.write(table, partition_of(catalogue, table, title_id), rows, versions[table])
        else:
            context.log.info(f"{title_id}: {', '.join(tables)}: nothing changed, nothing to do")
        for table in tables:
            metadata: dict[str, Any] = {"up_to_date": table not in stale}
            if stale:
                metadata |= {"seconds": round(time.monotonic() - started, 3), **(notes or {})}
            yield dg.MaterializeResult(
                table,
                metadata={**lake.write_metadata(table, partition_of(catalogue, table, title_id)), **metadata},
                data_version=dg.DataVersion(versions[table]),
            )

    yield from for_each_title(context, materialise)


def catalogue_of(context: dg.AssetExecutionContext | dg.AssetCheckExecutionContext) -> Catalogue:
    """The versions of the run's lake as they are now."""
    return Catalogue(context.resources.lake, {key: getattr(context.resources, key) for key in SHAPING})


def partition_of(catalogue: Catalogue, table: str, title_id: str) -> dict[str, str]:
    """The Delta partition that holds the title's rows of the table."""
    if table == "contextual_embeddings":
        return {"encoder_version": catalogue.encoder_version or "", "title_id": title_id}
    return {"title_id": title_id}


def _refuse_stale_inputs(catalogue: Catalogue, table: str, made_here: tuple[str, ...], title_id: str) -> None:
    for name in RECIPES[table].inputs:
        if name == "encoder" and catalogue.encoder_version is None:
            raise BadInput("no encoder was trained yet; materialise `encoder` first")
        if name in RECIPES and name not in made_here and not catalogue.is_fresh(name, title_id):
            state = "missing" if catalogue.stored(name, title_id) is None else "out of date"
            raise BadInput(f"its {name} are {state}; materialise {name} of {title_id} first")
