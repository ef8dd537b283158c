"""What comes from outside: drops and label files, as the landing sensor saw them."""

import dagster as dg

from mediafm_assets.graph.partitions import tasks_partitions, titles_partitions
from mediafm_assets.graph.specs import OWNERS

ASSETS = (
    dg.AssetSpec(
        "drops",
        group_name="landing",
        partitions_def=titles_partitions,
        owners=OWNERS,
        kinds={"video"},
        description="Complete drops in the landing zone, as the landing sensor saw them; a changed drop is seen again.",
    ),
    dg.AssetSpec(
        "label_files",
        group_name="landing",
        partitions_def=tasks_partitions,
        owners=OWNERS,
        description="Label files in the landing zone, one for each task, as the landing sensor saw them.",
    ),
)
