"""Labelled clips and scenes: they follow their files, and what cannot be used is named and stops nothing else."""

import warnings
from typing import TYPE_CHECKING, Any

import dagster as dg

from mediafm_assets.graph.partitions import tasks_partitions
from mediafm_assets.graph.stage import Recipe, Stage
from mediafm_assets.graph.versions import Catalogue, digest
from mediafm_assets.graph.whole import CatalogueRun
from model.tasks import SCENES, TASKS
from resources.errors import BadInput, printable

if TYPE_CHECKING:
    import polars as pl

    from mediafm_assets.graph.materialise import Rows

BEYOND_S = 1.0
"""A clip may end this many seconds after its film: labels are rounded, and containers' durations are not exact."""
UNUSED_SHOWN = 50

with warnings.catch_warnings():
    # Checks by partition are a preview in the pinned Dagster; the UI then shows whose label file has bad rows.
    warnings.simplefilter("ignore", dg.PreviewWarning)
    EVERY_ROW_USABLE = dg.AssetCheckSpec(
        "every_row_usable",
        asset="clip_labels",
        description="No row of the label file was refused. The others are used in any case.",
        partitions_def=tasks_partitions,
    )


def labels_version(catalogue: Catalogue, task: str) -> str | None:
    """The version of a task's labels, from the content of their file; None when there is none. Raises BadInput when the
    task has two files, or one that cannot be read. Whether its rows can be used shows when they are made."""
    fingerprint = catalogue.resources["landing"].label_fingerprint(task)
    return None if fingerprint is None else digest(catalogue.stages.recipe["clip_labels"].code, fingerprint)


def clip_labels(run: CatalogueRun) -> "Rows":
    """Labels follow their file: its usable rows replace the task's partition, and when it is gone, the partition goes.
    Refused rows are listed by file, line and reason. A file that cannot be used at all leaves the labels before it."""
    # Its version was read before: if the file changes meanwhile, its new rows get the old version, and are made again.
    labels = run.landing.labels(run.task or "")
    if labels is None:
        raise BadInput("the label file went while it was read; materialise the task again")
    yield "clip_labels", with_all_labels(labels.rows)


def refused_rows(run: CatalogueRun) -> dict[str, Any]:
    """What the materialisation and the check say of rows that were refused."""
    labels = run.landing.labels(run.task or "")
    refused = labels.refused if labels else []
    for row in refused:
        run.context.log.warning(f"{run.task}: {row}")
    used, lost = (len(labels.rows), labels.refused_rows) if labels else (0, 0)
    run.checked.append(
        dg.AssetCheckResult(
            check_name=EVERY_ROW_USABLE.name,
            asset_key="clip_labels",
            passed=not refused,
            severity=dg.AssetCheckSeverity.WARN,
            # what the UI shows without a click
            description="; ".join([f"{used} rows are used, {lost} refused", *map(str, refused[:3])]),
            metadata={"used": used, "refused": lost},
        )
    )
    return {"refused_rows": lost, "refused": [str(row) for row in refused]}


def with_all_labels(rows: "pl.DataFrame") -> "pl.DataFrame":
    """Rows of one task with the label columns of the others, which are null."""
    import polars as pl

    types: dict[str, pl.DataType] = {"labels": pl.List(pl.String()), "score": pl.Float64(), "label": pl.Int32()}
    return rows.with_columns(
        pl.lit(None, dtype=kind).alias(name) for name, kind in types.items() if name not in rows.columns
    )


def stored_clips(catalogue: Catalogue) -> "pl.LazyFrame":
    """The labelled clips of all tasks: labels without those of scenes, which are no clips."""
    import polars as pl

    return catalogue.lake.scan("clip_labels").filter(pl.col("task") != SCENES)


def labelled_titles(catalogue: Catalogue) -> frozenset[str]:
    """The titles that labelled clips are of."""
    return frozenset(stored_clips(catalogue).select("title_id").unique().collect()["title_id"])


Clip = tuple[str, float, float]
"""title id, start and end in seconds"""


def spans_of(clips: "pl.DataFrame") -> list[Clip]:
    return clips.select("title_id", "start_s", "end_s").rows()


def clips_by_task(catalogue: Catalogue) -> "tuple[dict[str, pl.DataFrame], pl.DataFrame]":
    """The labelled clips that can be probed, by task, with a column `target`; and those that cannot, with a `reason`.

    Titles that are registered and have no contextual embeddings from this encoder yet are left out of both: they wait.
    A task without a label file has no clips, unless its labels stand in `titles`: it then takes the clips of the other
    tasks. Where a clip has no labels of its own, they are its title's.
    """
    import polars as pl

    lake = catalogue.lake
    labels, unused = catalogue.once(usable_labels)
    labels = labels.filter(pl.col("task") != SCENES)
    by_task = {}
    for task in TASKS.values():
        clips = labels.filter(pl.col("task") == task.name)
        if task.of_titles:
            clips = labels.unique(["title_id", "start_s", "end_s"], maintain_order=True) if clips.is_empty() else clips
            label = pl.col(task.label)
            own = label if task.name in labels["task"] else pl.lit(None, dtype=labels.schema[task.label])
            titles = lake.scan("titles").select("title_id", pl.col(task.of_titles).alias("of_title")).collect()
            clips = clips.join(titles, on="title_id", how="left").with_columns(
                own.fill_null(pl.col("of_title")).alias(task.label)
            )
        by_task[task.name] = clips.with_columns(pl.col(task.label).alias("target"))
    return by_task, unused


def labelled_scenes(catalogue: Catalogue) -> "dict[str, pl.DataFrame]":
    """The labelled scenes that shots can be compared with, by title, in their order. What is left out and what waits is
    as of `clips_by_task`."""
    labels, _unused = catalogue.once(usable_labels)
    scenes = labels.filter(task=SCENES).sort("title_id", "start_s")
    return {title_id: rows for (title_id,), rows in scenes.partition_by("title_id", as_dict=True).items()}


def labelled_scenes_version(catalogue: Catalogue) -> str | None:
    """The version of what labelled scenes are compared with: changes with their labels, and with titles that have some;
    None where none are stored."""
    labels = catalogue.stored_in("clip_labels").get((SCENES,))
    if labels is None:
        return None
    scenes = catalogue.lake.read("clip_labels", task=SCENES)
    titles = sorted(scenes["title_id"].unique().to_list())
    made = catalogue.titles_in("contextual_embeddings")
    return digest(labels, *(f"{title} {made[title]}" for title in titles if title in made))


def usable_labels(catalogue: Catalogue) -> "tuple[pl.DataFrame, pl.DataFrame]":
    """Labelled clips and scenes in titles with vectors of the encoder in use; and, with a `reason`, those of no title
    or outside of their film."""
    import polars as pl

    lake = catalogue.lake
    labels = lake.scan("clip_labels").collect().sort("title_id", "clip_id")
    titles = lake.scan("titles").select("title_id", "duration_s").collect()
    labelled = pl.col("title_id").is_in(labels["title_id"].unique().to_list())
    shots = lake.scan("fused_embeddings").filter(labelled).group_by("title_id")
    ends = shots.agg(pl.col("end_s").max().alias("last_shot_end_s"), pl.len().alias("shots")).collect()
    of_encoder = lake.scan("contextual_embeddings").filter(
        labelled, pl.col("encoder_version") == (catalogue.encoder_version or "")
    )
    contextual = of_encoder.group_by("title_id").agg(pl.len().alias("shots_in_context")).collect()
    clips = labels.join(titles, on="title_id", how="left").join(ends, on="title_id", how="left")
    clips = clips.join(contextual, on="title_id", how="left", maintain_order="left")
    film_s = pl.max_horizontal("duration_s", "last_shot_end_s")
    seconds = pl.format("{} to {} s", pl.col("start_s").round(3), pl.col("end_s").round(3))
    clips = clips.with_columns(
        pl.when(pl.col("duration_s").is_null())
        .then(pl.lit("no such title is registered"))
        .when((pl.col("end_s") > film_s + BEYOND_S) | (pl.col("start_s") >= pl.col("last_shot_end_s")))
        .then(pl.format("{} lies outside of its film, which has {} s", seconds, film_s.round(3)))
        .when(pl.col("shots") != pl.col("shots_in_context"))
        .then(pl.lit("the title's contextual embeddings are out of date"))
        .alias("reason")
    )
    reached = pl.col("reason").is_null() & pl.col("shots_in_context").is_not_null() & pl.col("shots").is_not_null()
    return clips.filter(reached).select(labels.columns), clips.filter(pl.col("reason").is_not_null())


def unused_metadata(unused: "pl.DataFrame") -> dict[str, Any]:
    """What the materialisation says of labelled clips that cannot be probed: how many, and the first of them."""
    import polars as pl

    unknown = unused.filter(pl.col("duration_s").is_null())["title_id"].unique().sort()
    rows = unused.filter(pl.col("duration_s").is_not_null()).head(UNUSED_SHOWN)
    return {
        "unused_clips": len(unused),
        "unused": [
            f"{row['task']}: {printable(row['clip_id'])} of {row['title_id']}: {row['reason']}"
            for row in rows.iter_rows(named=True)
        ],
        "unknown_titles": unknown.head(UNUSED_SHOWN).to_list(),
        "unknown_titles_count": len(unknown),
    }


STAGES = (
    Stage(
        (Recipe("clip_labels", ("label_files",)),),
        "evaluation",
        clip_labels,
        scope="task",
        version=labels_version,
        describe=refused_rows,
        reports=(EVERY_ROW_USABLE,),
    ),
)
