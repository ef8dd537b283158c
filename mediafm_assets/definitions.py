"""The code location: `dagster dev -m mediafm_assets.definitions`."""

import dagster as dg

from mediafm_assets.defs import embeddings, evaluation, ingest, maintenance, seqclip
from mediafm_assets.defs import encoder as training
from mediafm_assets.graph import checks
from mediafm_assets.graph.materialise import title_assets
from mediafm_assets.graph.sensors import automation, landing_sensor
from mediafm_assets.settings import resources, shaping

STAGES = (*ingest.STAGES, *embeddings.STAGES, *training.STAGES)


@dg.definitions
def defs() -> dg.Definitions:
    configured = resources()
    assets: list[dg.AssetSpec | dg.AssetsDefinition] = [
        ingest.drops,
        title_assets(STAGES, shaping(configured), int(configured["titles_per_run"])),
        training.encoder_assets(configured["encoder_config"]),
        *seqclip.build(configured["seqclip_config"]),
        evaluation.label_files,
        *evaluation.ASSETS,
        maintenance.maintenance,
    ]
    return dg.Definitions(
        assets=assets,
        asset_checks=checks.CHECKS,
        sensors=[landing_sensor, automation],
        schedules=[maintenance.weekly_maintenance],
        resources=configured,
        # A process for each step would load the models again; trainings have processes of their own all the same.
        executor=dg.in_process_executor,
    )
