"""The code location: `dagster dev -m mediafm_assets.definitions`."""

import dagster as dg

from mediafm_assets.graph.alerts import alert_sensor
from mediafm_assets.graph.approval import approval_asset
from mediafm_assets.graph.checks import asset_checks, health_asset
from mediafm_assets.graph.materialise import title_assets
from mediafm_assets.graph.overview import freshness_asset
from mediafm_assets.graph.sensors import automation_sensor, landing_sensor
from mediafm_assets.graph.whole import whole_asset
from mediafm_assets.settings import resources
from mediafm_assets.stages import all_stages, declared


@dg.definitions
def defs() -> dg.Definitions:
    configured, stages = resources(), all_stages()
    return dg.Definitions(
        assets=[
            title_assets(stages, configured, int(configured["titles_per_run"])),
            *(whole_asset(stage, stages, configured) for stage in stages.all if stage.scope != "title"),
            *declared("ASSETS"),
            health_asset(stages),
            approval_asset(stages),
            freshness_asset(stages, configured),
        ],
        asset_checks=[*asset_checks(stages)],
        sensors=[landing_sensor, automation_sensor(stages), *([alert_sensor] if "webhook" in configured else [])],
        schedules=declared("SCHEDULES"),
        resources=configured,
        # A process for each step would load the models again; trainings have processes of their own all the same.
        executor=dg.in_process_executor,
    )
