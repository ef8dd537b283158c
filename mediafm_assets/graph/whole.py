"""The steps of what is not made title by title: once for all titles, or for each task with labels."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import dagster as dg

from mediafm_assets.graph.costs import Books, film_seconds
from mediafm_assets.graph.forecast import History, expected_of_all
from mediafm_assets.graph.materialise import TitleRun, catalogue_of, explain
from mediafm_assets.graph.shown import as_metadata
from mediafm_assets.graph.specs import asset_specs
from mediafm_assets.graph.stage import Stage, Stages
from mediafm_assets.graph.versions import Catalogue
from resources.errors import BadInput, Unavailable
from resources.lake import TABLES


@dataclass
class CatalogueRun(TitleRun):
    """What a stage works with that is not made title by title.

    context:   of Dagster's step.
    version:   what is made gets; a stage that finds another to be right says so before it yields rows.
    task:      the task, of a stage that is made for each.
    partition: where the rows go: that of the encoder in use, or the task's; a stage that makes another says so before
               it yields rows.
    checked:   results of the stage's `reports`.
    """

    context: dg.AssetExecutionContext = field(kw_only=True)
    version: str = field(kw_only=True)
    task: str | None = None
    partition: dict[str, str] = field(default_factory=dict)
    checked: list[dg.AssetCheckResult] = field(default_factory=list)


def whole_asset(stage: Stage, stages: Stages, resources: Mapping[str, Any]) -> dg.AssetsDefinition:
    """The assets of a stage that is not made title by title."""

    @dg.multi_asset(
        name=stage.name,
        specs=list(asset_specs(stage, stages, resources)),
        check_specs=list(stage.reports),
        required_resource_keys=stages.resource_keys | stage.resource_keys,
        pool=stage.pool,
    )
    def step(context: dg.AssetExecutionContext) -> Iterator[Any]:
        catalogue = catalogue_of(context, stages, stage.resource_keys)
        task = context.partition_key if stage.scope == "task" else None
        of = f"{task}: " if task else ""
        try:
            if stage.off and (why := stage.off(catalogue)):
                raise BadInput(why)
            version = catalogue.version_of(stage, task)
            if version is None and task is None:
                raise BadInput(f"{missing_input(catalogue, stage)} first")
            if version is None:
                yield from removed(context, stage, catalogue)
            else:
                run = CatalogueRun(context.resources, catalogue, context=context, version=version, task=task)
                yield from made(run, stage)
        except (BadInput, Unavailable) as error:
            raise dg.Failure(f"{of}{stage.name}: {explain(error)}", allow_retries=False) from error

    return step


def missing_input(catalogue: Catalogue, stage: Stage) -> str:
    """What has to be materialised before the stage can be, in words."""
    stages = catalogue.stages
    inputs = {name for name in stage.inputs & stages.by_table.keys() if not stages.by_table[name].off}
    for name in sorted(inputs, key=lambda name: (stages.by_table[name].scope != "catalogue", name)):
        scope = stages.by_table[name].scope
        there = catalogue.titles_in(name) if scope == "title" else scope == "task" or catalogue.stored(name)
        if not there:
            return f"there is no {name} yet; materialise {name}"
    return "something that it is made from is not there yet; materialise what stands before it"


def made(run: CatalogueRun, stage: Stage) -> Iterator[Any]:
    """Make what the stage makes, unless it is stored in the version that it would get; say what there is."""
    catalogue = run.catalogue
    metadata: dict[str, dict[str, Any]] = {table: {"up_to_date": True} for table in stage.tables}
    if run.task is not None:
        run.partition = {"task": run.task}
        fresh = catalogue.stored_in(stage.name).get((run.task,)) == run.version
    else:
        run.partition = catalogue.partition(stage.name)
        fresh = run.version in catalogue.stored_in(stage.name).values()
    if fresh:
        run.context.log.info(f"{stage.name}: nothing changed since it was made, nothing to do")
    else:
        books = Books(catalogue, run.context.run.run_id, stage.name, run.notes)
        books.expect(expected_of_all(catalogue, History(catalogue), [stage], film_seconds(catalogue, None) or 0.0))
        try:
            with books.measured(stage, None, lambda _: run.partition):
                for table, rows in stage.compute(run):
                    if has_data_version(table):
                        run.lake.write(table, run.partition, rows, run.version)
                    else:
                        run.lake.append(table, rows)
                    metadata[table] = {**run.partition, "up_to_date": False, **run.notes}
        finally:
            books.write()
        for other in set(stage.tables) - TABLES.keys():
            metadata[other] = {"up_to_date": False, **run.notes}
    described = stage.describe(run) if stage.describe else {}
    for table, said in metadata.items():
        stored = run.lake.write_metadata(table, run.partition) if table in TABLES else {}
        said = as_metadata({**stored, **said, **described})
        yield dg.MaterializeResult(table, metadata=said, data_version=dg.DataVersion(run.version))
    yield from run.checked


def has_data_version(table: str) -> bool:
    """Whether rows of the table replace those before them; else they are added to them."""
    return any(column.name == "data_version" for column in TABLES[table].columns)


def removed(context: dg.AssetExecutionContext, stage: Stage, catalogue: Catalogue) -> Iterator[dg.AssetCheckResult]:
    """Take what is stored of the task away, since there is nothing (any more) that it is made from."""
    task = context.partition_key
    for table in stage.tables:
        catalogue.lake.delete(table, {"task": task})
        context.log_event(
            dg.AssetMaterialization(
                table,
                partition=task,
                metadata=catalogue.lake.write_metadata(table, {"task": task}),
                tags={"dagster/data_version": "none"},
            )
        )
    context.log.info(f"{task}: {stage.name}: there is nothing (any more) that it is made from; it is removed")
    for check in stage.reports:
        yield dg.AssetCheckResult(check_name=check.name, asset_key=check.asset_key, passed=True)
