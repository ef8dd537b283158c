"""A Dagster instance that is new to a lake: what the lake holds is told to it, so that the UI shows it."""

from collections.abc import Collection

import dagster as dg

from mediafm_assets.graph.materialise import provenance
from mediafm_assets.graph.stage import ROOT
from mediafm_assets.graph.versions import Catalogue


def adopt(
    instance: dg.DagsterInstance, catalogue: Catalogue, most: int | None = None, busy: Collection[str] = ()
) -> int:
    """Report, as events without a run, the partitions that Dagster has never heard of, with their versions; at most
    those of `most` titles, and none of `busy` titles, whose runs report them. Returns the number of events.

    Of each title, the event of `titles` comes last: where it is known, everything is.
    """
    known = instance.get_materialized_partitions(dg.AssetKey(ROOT))
    unknown = sorted({title for (title,) in catalogue.stored_in(ROOT)} - known - set(busy))[:most]
    events = []
    if unknown:
        instance.add_dynamic_partitions("titles", unknown)
        catalogue.read_all_titles()
    for title_id in unknown:
        for table in reversed(catalogue.stages.title_tables):
            if catalogue.stored(table, title_id) is not None:
                tags = provenance(catalogue, table, title_id)
                events.append(dg.AssetMaterialization(table, partition=title_id, tags=tags))
    for stage in catalogue.stages.of_scope("catalogue"):
        for table in stage.tables:
            version = catalogue.stored(table)
            if version and instance.get_latest_materialization_event(dg.AssetKey(table)) is None:
                events.append(dg.AssetMaterialization(table, tags={"dagster/data_version": version}))
    for table in (table for stage in catalogue.stages.of_scope("task") for table in stage.tables):
        told = instance.get_materialized_partitions(dg.AssetKey(table))
        for (task,), version in catalogue.stored_in(table).items():
            if task not in told:
                tags = {"dagster/data_version": version}
                events.append(dg.AssetMaterialization(table, partition=task, tags=tags))
    for event in events:
        instance.report_runless_asset_event(event)
    return len(events)
