"""The code location: `dagster dev -m mediafm_assets.definitions`."""

import dagster as dg

from mediafm_assets import checks, embeddings, evaluation, ingest, seqclip, training
from mediafm_assets.automation import automation_sensor
from mediafm_assets.profiles import resources, shaping
from mediafm_assets.sensors import landing_sensor, refresh_sensor


@dg.definitions
def defs() -> dg.Definitions:
    configured = resources()
    shaped_by = shaping(configured)
    assets: list[dg.AssetSpec | dg.AssetsDefinition] = [
        ingest.drops,
        *ingest.build(shaped_by),
        *embeddings.build(shaped_by),
        *training.build(shaped_by, configured["encoder_config"]),
        *seqclip.build(configured["seqclip_config"]),
        evaluation.label_files,
        *evaluation.ASSETS,
    ]
    return dg.Definitions(
        assets=assets,
        asset_checks=checks.CHECKS,
        sensors=[landing_sensor, automation_sensor, refresh_sensor],
        resources=configured,
    )
