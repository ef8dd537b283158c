"""Which encoder is in use: how another one gets there, and how what older ones made is let go.

Readers go by the last promoted row of `encoder_promotions`, so a promotion is one commit: before it, every title is
read with the new encoder, beside what the old one made; after it, nobody needs the old one's.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import dagster as dg

from mediafm_assets.graph.materialise import TitleRun, explain, provenance
from mediafm_assets.graph.shown import as_metadata
from mediafm_assets.graph.versions import PROMOTIONS, Catalogue
from resources.errors import BadInput
from resources.lake import DeltaLake

if TYPE_CHECKING:
    import polars as pl

CONTEXT = "contextual_embeddings"
"""What every title needs of an encoder before that can be promoted."""

OF_A_GENERATION = (CONTEXT, "probes", "boundary_head", "title_neighbours")
"""Tables whose rows of an old encoder nobody needs any more. The encoder itself, its training and its scores stay."""

GATE = "gate"
"""Who decides, where no person does."""


def decision(
    catalogue: Catalogue,
    encoder_version: str,
    *,
    promoted: bool,
    by: str,
    why: str,
    comparison: Sequence[Mapping[str, Any]] = (),
) -> "pl.DataFrame":
    """A row of `encoder_promotions`."""
    import polars as pl

    row = {
        "encoder_version": encoder_version,
        "space": catalogue.encoders[encoder_version],
        "promoted": promoted,
        "previous": catalogue.promoted,
        "decided_at": datetime.now(UTC),
        "by": by,
        "why": why,
        "comparison": json.dumps(list(comparison)),
    }
    return pl.DataFrame([row], schema_overrides={"previous": pl.String})


def titles_without(catalogue: Catalogue) -> list[str]:
    """The titles that have contextual embeddings of the encoder that readers are sent to, or of none, and of the
    catalogue's none, or such as were made before the title changed."""
    own = {
        title
        for title, version in catalogue.titles_in(CONTEXT).items()
        if catalogue.made_from_stored(CONTEXT, title) in (None, version)
    }
    readable = {title for (encoder, title) in catalogue.stored_in(CONTEXT) if encoder == catalogue.promoted}
    return sorted((readable or catalogue.titles_in("fused_embeddings").keys()) - own)


def read_titles(
    catalogue: Catalogue,
    titles: Sequence[str],
    report: Callable[[str], None],
    tell: Callable[[dg.AssetMaterialization], None] | None = None,
) -> tuple[int, int]:
    """Make the contextual embeddings of titles with the catalogue's encoder, from what is stored of them.

    Those that have them are left, so what was interrupted goes on. A title fails alone: `report` gets a sentence. tell:
    gets what Dagster is to be told of each. Returns how many were made, and how many failed.
    """
    stage = catalogue.stages.by_table[CONTEXT]
    run = TitleRun(SimpleNamespace(**catalogue.resources), catalogue)
    made = failed = 0
    catalogue.wrote(PROMOTIONS, {}, catalogue.encoder_version or "")
    for title_id in titles:
        version = catalogue.made_from_stored(CONTEXT, title_id)
        if version is None or catalogue.stored(CONTEXT, title_id) == version:
            continue
        started, partition, run.last = time.monotonic(), catalogue.partition(CONTEXT, title_id), title_id == titles[-1]
        run.pictures.clear()
        try:
            for table, rows in stage.compute(run, title_id):
                catalogue.lake.write(table, partition, rows, version)
        except Exception as error:  # whatever it is, it is this title's
            report(f"{title_id}: {CONTEXT}: {explain(error)}")
            failed += 1
            continue
        catalogue.wrote(CONTEXT, partition, version)
        made += 1
        if tell:
            seconds = {"seconds": time.monotonic() - started}
            said = as_metadata({**catalogue.lake.write_metadata(CONTEXT, partition), **seconds, **run.pictures})
            tags = provenance(catalogue, CONTEXT, title_id)
            tell(dg.AssetMaterialization(CONTEXT, partition=title_id, metadata=said, tags=tags))
    return made, failed


def news_of_titles(instance: dg.DagsterInstance, catalogue: Catalogue) -> list[dg.AssetMaterialization]:
    """What Dagster has not been told of the titles' contextual embeddings, now that the catalogue's encoder is in
    use."""
    tag = "dagster/data_version"
    told = instance.event_log_storage.get_latest_tags_by_partition(
        dg.AssetKey(CONTEXT), dg.DagsterEventType.ASSET_MATERIALIZATION, [tag]
    )
    catalogue.wrote(PROMOTIONS, {}, catalogue.encoder_version or "")
    last = instance.event_log_storage.get_maximum_record_id()
    return [
        dg.AssetMaterialization(CONTEXT, partition=title_id, tags=provenance(catalogue, CONTEXT, title_id, last))
        for title_id, version in catalogue.titles_in(CONTEXT).items()
        if told.get(title_id, {}).get(tag) != version
    ]


def refuse_changed(before: Catalogue, now: Catalogue) -> None:
    """Raises BadInput when somebody has decided on an encoder since `before` was looked at."""
    if len(now.promotions) != len(before.promotions):
        last = now.promotions[-1]
        raise BadInput(
            f"meanwhile {last['by']} has decided on the encoder {last['encoder_version']}; look at that, then try again"
        )


def retire(lake: DeltaLake, promotions: Sequence[Mapping[str, Any]], keep: int) -> dict[str, int]:
    """Take what old encoders made of the titles out of the tables: bytes let go, by encoder version. `maintain` removes
    the files when nobody can still be reading them.

    Kept is what the newest `keep` encoders made, and the one in use. promotions: rows, in their order.
    """
    in_use = next((row["encoder_version"] for row in reversed(promotions) if row["promoted"]), None)
    stored = {table: lake.data_versions(table) for table in OF_A_GENERATION}
    trained = sorted(version for (version,) in lake.data_versions("encoder"))
    kept = {*trained[-keep:], in_use}
    freed: dict[str, int] = {}
    for table, versions in stored.items():
        for old in {key[0] for key in versions} - kept:
            freed[old] = freed.get(old, 0) + lake.delete(table, {"encoder_version": old})
    return freed
