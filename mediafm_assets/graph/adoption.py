"""A Dagster instance that is new to a lake: what the lake holds is told to it, so that the UI shows it."""

from collections.abc import Collection

import dagster as dg

from mediafm_assets.graph.materialise import provenance
from mediafm_assets.graph.plan import TITLE_TABLES
from mediafm_assets.graph.versions import Catalogue


def adopt(
    instance: dg.DagsterInstance, catalogue: Catalogue, most: int | None = None, busy: Collection[str] = ()
) -> int:
    """Report, as events without a run, the partitions that Dagster has never heard of, with their versions; at most
    those of `most` titles, and none of `busy` titles, whose runs report them. Returns the number of events.

    Of each title, the event of `titles` comes last: where it is known, everything is.
    """
    known = instance.get_materialized_partitions(dg.AssetKey("titles"))
    unknown = sorted({title for (title,) in catalogue.stored_in("titles")} - known - set(busy))[:most]
    events = []
    if unknown:
        instance.add_dynamic_partitions("titles", unknown)
        catalogue.read_all_titles()
    for title_id in unknown:
        for table in reversed(TITLE_TABLES):
            if catalogue.stored(table, title_id) is not None:
                tags = provenance(catalogue, table, title_id)
                events.append(dg.AssetMaterialization(table, partition=title_id, tags=tags))
    for table in ("encoder", "encoder_training", "probe_metrics"):
        version = catalogue.stored_in(table).get((catalogue.encoder_version or "",))
        if version and instance.get_latest_materialization_event(dg.AssetKey(table)) is None:
            events.append(dg.AssetMaterialization(table, tags={"dagster/data_version": version}))
    told = instance.get_materialized_partitions(dg.AssetKey("clip_labels"))
    for (task,), version in catalogue.stored_in("clip_labels").items():
        if task not in told:
            tags = {"dagster/data_version": version}
            events.append(dg.AssetMaterialization("clip_labels", partition=task, tags=tags))
    for event in events:
        instance.report_runless_asset_event(event)
    return len(events)
