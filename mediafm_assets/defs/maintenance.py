"""What keeps the lake whole and small with nobody remembering to: an asset on a weekly schedule."""

from datetime import timedelta

import dagster as dg

from mediafm_assets.graph.plan import discard_damaged
from mediafm_assets.graph.promotions import retire
from mediafm_assets.graph.specs import OWNERS
from mediafm_assets.graph.versions import PROMOTIONS
from mediafm_assets.settings import Gate
from resources.lake import TABLES, DeltaLake


@dg.asset(
    group_name="operations",
    owners=OWNERS,
    kinds={"deltalake"},
    description="Every table's files compared with their checksums, its log shortened to a checkpoint, and files that "
    "no version of the last week names removed; the search index put in order; what old encoders made taken out. "
    "Damaged partitions are discarded, and then made again as missing ones.",
    # One week missed, and two.
    freshness_policy=dg.FreshnessPolicy.time_window(fail_window=timedelta(days=15), warn_window=timedelta(days=8)),
)
def maintenance(
    context: dg.AssetExecutionContext, lake: dg.ResourceParam[DeltaLake], gate: dg.ResourceParam[Gate]
) -> dg.MaterializeResult[None]:
    damaged = discard_damaged(lake, deep=True)
    for sentence in damaged:
        context.log.warning(sentence)
    lines = ["| table | checkpoint | log files removed | data files removed | MB freed |", "|---|---|---|---|---|"]
    gone = put_in_order(lake)
    retired = retire(lake, lake.read_whole(PROMOTIONS).sort("decided_at").to_dicts(), gate.keep)
    freed = 0
    for table in TABLES:
        done = lake.maintain(table)
        freed += done.bytes
        lines.append(f"| {table} | {done.checkpoint} | {done.log_files} | {done.files} | {done.bytes / 1e6:.1f} |")
    return dg.MaterializeResult(
        metadata={
            "damaged_partitions": len(damaged),
            "damaged": damaged[:50],
            "bytes_freed": freed,
            "titles_taken_out_of_the_index": gone,
            "encoders_retired": sorted(retired),
            "bytes_of_retired_encoders": sum(retired.values()),
            "tables": dg.MetadataValue.md("\n".join(lines)),
        }
    )


def put_in_order(lake: DeltaLake) -> int:
    """Take titles that the lake has no more out of the search index, and fold in what came. Returns how many went."""
    from resources.search_index import SearchIndex, index_uri

    index = SearchIndex.there(index_uri(lake.uri), None, lake.storage_options)
    if index is None:
        return 0
    gone = index.stored().keys() - {title_id for (title_id,) in lake.data_versions("titles")}
    for title_id in gone:
        index.remove(title_id)
    index.optimise()
    return len(gone)


weekly_maintenance = dg.ScheduleDefinition(
    name="weekly_maintenance",
    target=dg.AssetSelection.assets(maintenance),
    cron_schedule="0 4 * * 0",
    default_status=dg.DefaultScheduleStatus.RUNNING,
)

ASSETS = (maintenance,)
SCHEDULES = (weekly_maintenance,)
