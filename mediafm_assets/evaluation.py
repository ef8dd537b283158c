"""What the embeddings are worth: labelled clips and linear probes on the five published tasks."""

import warnings
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import dagster as dg

from mediafm_assets.graph import OWNERS, TITLE_RESOURCES, table_spec
from mediafm_assets.materialise import catalogue_of, explain
from mediafm_assets.partitions import TASKS, tasks_partitions
from mediafm_assets.training import read_encoder
from mediafm_assets.versions import LABELS_CODE, PROBES_CODE, Catalogue, digest
from resources.errors import BadInput, printable
from resources.lake import DeltaLake, vectors
from resources.landing import Labels, LandingZone

if TYPE_CHECKING:
    import numpy as np
    import polars as pl

    from model.encoder import Encoder

REPRESENTATIONS = ("video", "audio", "text", "fused", "contextual_clip_alone", "contextual_in_context")
"""What is probed: each modality, the three concatenated, and the encoder's output with only the clip's shots before it
("clip alone") or with the whole title ("in context")."""

SEED = 0
BEYOND_S = 1.0
"""A clip may end this many seconds after its film: labels are rounded, and containers' durations are not exact."""
UNUSED_SHOWN = 50

label_files = dg.AssetSpec(
    "label_files",
    group_name="landing",
    partitions_def=tasks_partitions,
    owners=OWNERS,
    description="Label files in the landing zone, one for each task, as the landing sensor saw them.",
)


class LabelsToDo(NamedTuple):
    """What is to be done about one task's labels.

    action:      `write` and `remove` are both made by materialising `clip_labels` of the task.
    fingerprint: of the label file, for the event of `label_files`; None when there is none.
    problem:     a sentence for people; the stored labels then stay as they are.
    """

    action: Literal["write", "remove", "nothing", "problem"]
    fingerprint: str | None = None
    problem: str | None = None


def labels_to_do(landing: LandingZone, task: str, stored: str | None) -> LabelsToDo:
    """`stored`: the data version of the task's partition of `clip_labels`; None when there is none.

    Reads the label file for its fingerprint. Whether its rows can be used shows when it is materialised.
    """
    try:
        fingerprint = landing.label_fingerprint(task)
    except BadInput as error:
        return LabelsToDo("problem", problem=str(error))
    if fingerprint is None:
        return LabelsToDo("remove" if stored else "nothing")
    return LabelsToDo("nothing" if stored == labels_version(fingerprint) else "write", fingerprint)


with warnings.catch_warnings():
    # Checks by partition are a preview in the pinned Dagster; the UI then shows whose label file has bad rows.
    warnings.simplefilter("ignore", dg.PreviewWarning)
    EVERY_ROW_USABLE = dg.AssetCheckSpec(
        "every_row_usable",
        asset="clip_labels",
        description="No row of the label file was refused. The others are used in any case.",
        partitions_def=tasks_partitions,
    )


@dg.multi_asset(
    name="clip_labels",
    specs=[
        table_spec(
            "clip_labels",
            group_name="evaluation",
            deps=["label_files"],
            partitions_def=tasks_partitions,
            skippable=True,  # the checks of a table's contract have no partition to read when its labels are removed
            code_version=LABELS_CODE,
        )
    ],
    check_specs=[EVERY_ROW_USABLE],
)
def clip_labels(context: dg.AssetExecutionContext, lake: dg.ResourceParam[DeltaLake], landing: LandingZone) -> Any:
    """Labels follow their file: its usable rows replace the task's partition, and when it is gone, the partition goes.
    Refused rows are listed by file, line and reason. A file that cannot be used at all leaves the labels before it."""
    task = context.partition_key
    partition = {"task": task}
    try:
        # In this order: if the file changes meanwhile, its new rows get its old version, and are written again.
        version = labels_version(landing.label_fingerprint(task))
        labels = landing.labels(task)
    except Exception as error:
        raise dg.Failure(f"{task}: clip_labels: {explain(error)}", allow_retries=False) from error
    if labels is None:
        lake.delete("clip_labels", partition)
        context.log.info(f"{task}: there is no label file (any more); the task has no labels")
        context.log_event(
            dg.AssetMaterialization(
                "clip_labels",
                partition=task,
                metadata={"dagster/row_count": 0},
                tags={"dagster/data_version": labels_version(None)},
            )
        )
        yield dg.AssetCheckResult(check_name=EVERY_ROW_USABLE.name, asset_key="clip_labels", passed=True)
        return
    if lake.data_versions("clip_labels").get((task,)) != version:
        lake.write("clip_labels", partition, with_all_labels(labels.rows), version)
    metadata = {**lake.write_metadata("clip_labels", partition), **refused_metadata(labels)}
    yield dg.MaterializeResult("clip_labels", metadata=metadata, data_version=dg.DataVersion(version))
    yield dg.AssetCheckResult(
        check_name=EVERY_ROW_USABLE.name,
        asset_key="clip_labels",
        passed=not labels.refused,
        severity=dg.AssetCheckSeverity.WARN,
        description="; ".join(map(str, labels.refused[:3])) or None,  # what the UI shows without a click
    )
    for refused in labels.refused:
        context.log.warning(f"{task}: {refused}")


def refused_metadata(labels: Labels) -> dict[str, Any]:
    """What the materialisation says of rows that were refused."""
    return {"refused_rows": labels.refused_rows, "refused": [str(row) for row in labels.refused]}


def with_all_labels(rows: "pl.DataFrame") -> "pl.DataFrame":
    """Rows of one task with the label columns of the others, which are null."""
    import polars as pl

    types: dict[str, pl.DataType] = {"labels": pl.List(pl.String()), "score": pl.Float64(), "label": pl.Int32()}
    return rows.with_columns(
        pl.lit(None, dtype=kind).alias(name) for name, kind in types.items() if name not in rows.columns
    )


@dg.multi_asset(
    name="probe_metrics",
    specs=[
        table_spec(
            "probe_metrics",
            group_name="evaluation",
            deps=["contextual_embeddings", "clip_labels", "encoder"],
            kinds={"scikitlearn"},
            code_version=PROBES_CODE,
        )
    ],
    required_resource_keys=TITLE_RESOURCES,
)
def probe_metrics(context: dg.AssetExecutionContext) -> Iterator[dg.MaterializeResult[Any]]:
    """Probe every representation on every task, with folds grouped by title."""
    import polars as pl

    from model.probes import probe

    lake: DeltaLake = context.resources.lake
    catalogue = catalogue_of(context)
    encoder_version, version = catalogue.encoder_version, metrics_version(catalogue)
    if encoder_version is None or version is None:
        raise dg.Failure("probe_metrics: no encoder was trained yet; materialise `encoder` first", allow_retries=False)
    partition = {"encoder_version": encoder_version}
    clips, unused = clips_by_task(lake, encoder_version)
    if catalogue.stored_in("probe_metrics").get((encoder_version,)) != version:
        cells = []
        pooled = clip_vectors(lake, encoder_version, {clip for rows in clips.values() for clip in spans_of(rows)})
        for task, rows in clips.items():
            for representation in REPRESENTATIONS:
                features = [pooled[clip][representation] for clip in spans_of(rows)]
                result = probe(task, features, rows["target"].to_list(), rows["title_id"].to_list(), seed=SEED)
                cells.append({"task": task, "representation": representation, **result._asdict()})
            context.log.info(f"{task}: {len(rows)} clips probed")
        lake.write("probe_metrics", partition, pl.DataFrame(cells), version)
    yield dg.MaterializeResult(
        "probe_metrics",
        metadata={
            **lake.write_metadata("probe_metrics", partition),
            **partition,
            **unused_metadata(unused),
            "scores": dg.MarkdownMetadataValue(as_markdown(lake.read("probe_metrics", **partition))),
        },
        data_version=dg.DataVersion(version),
    )


def labels_version(fingerprint: str | None) -> str:
    """The version of a task's labels, from the fingerprint of their file."""
    return digest(LABELS_CODE, fingerprint)


def contextual_titles(catalogue: Catalogue) -> list[str]:
    """The titles that have contextual embeddings from the newest encoder."""
    made = catalogue.stored_in("contextual_embeddings")
    return sorted(title for encoder_version, title in made if encoder_version == catalogue.encoder_version)


def metrics_version(catalogue: Catalogue) -> str | None:
    """The version that the newest encoder's probe metrics would have now; None without an encoder.

    Only titles with labelled clips count: another one that lands changes no probe.
    """
    if catalogue.encoder_version is None:
        return None
    made = [title for title in contextual_titles(catalogue) if title in catalogue.labelled_titles]
    titles = [f"{title} {catalogue.stored('contextual_embeddings', title)}" for title in made]
    labels = [f"{task} {version}" for (task,), version in sorted(catalogue.stored_in("clip_labels").items())]
    return digest(PROBES_CODE, catalogue.encoder_version, *titles, *labels)


Clip = tuple[str, float, float]
"""title id, start and end in seconds"""


def spans_of(clips: "pl.DataFrame") -> list[Clip]:
    return clips.select("title_id", "start_s", "end_s").rows()


def clips_by_task(lake: DeltaLake, encoder_version: str) -> "tuple[dict[str, pl.DataFrame], pl.DataFrame]":
    """The labelled clips that can be probed, by task, with a column `target`; and those that cannot, with a `reason`.

    Titles that are registered and have no contextual embeddings from this encoder yet are left out of both: they wait.
    A task without a label file has no clips; clip_genre then takes the clips of the other tasks. Where a clip has no
    genres of its own, they are its title's.
    """
    import polars as pl

    labels, unused = usable_labels(lake, encoder_version)
    genres = lake.scan("titles").select("title_id", "genres").collect()
    targets = {"clip_popularity": "score", "clip_retrieval": "label"}
    by_task = {}
    for task in TASKS:
        clips = labels.filter(pl.col("task") == task)
        if task == "clip_genre":
            clips = labels.unique(["title_id", "start_s", "end_s"], maintain_order=True) if clips.is_empty() else clips
            own = pl.col("labels") if task in labels["task"] else pl.lit(None, dtype=pl.List(pl.String))
            clips = clips.join(genres, on="title_id", how="left").with_columns(own.fill_null(pl.col("genres")))
        by_task[task] = clips.with_columns(pl.col(targets.get(task, "labels")).alias("target"))
    return by_task, unused


def usable_labels(lake: DeltaLake, encoder_version: str) -> "tuple[pl.DataFrame, pl.DataFrame]":
    """Labelled clips in titles with vectors of this encoder; and, with a `reason`, those of no title or outside of
    their film."""
    import polars as pl

    labels = lake.scan("clip_labels").collect().sort("title_id", "clip_id")
    titles = lake.scan("titles").select("title_id", "duration_s").collect()
    labelled = pl.col("title_id").is_in(labels["title_id"].unique().to_list())
    shots = lake.scan("fused_embeddings").filter(labelled).group_by("title_id")
    ends = shots.agg(pl.col("end_s").max().alias("last_shot_end_s"), pl.len().alias("shots")).collect()
    of_encoder = lake.scan("contextual_embeddings").filter(labelled, pl.col("encoder_version") == encoder_version)
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


def clip_vectors(lake: DeltaLake, encoder_version: str, clips: set[Clip]) -> "dict[Clip, dict[str, np.ndarray]]":
    """Each clip's vector in every representation: the mean over its shots."""
    trained = read_encoder(lake, encoder_version)
    by_title: dict[str, list[Clip]] = {}
    for clip in sorted(clips):
        by_title.setdefault(clip[0], []).append(clip)
    return {
        clip: by_representation
        for title_id, title_clips in by_title.items()
        for clip, by_representation in _title_clip_vectors(lake, trained, encoder_version, title_id, title_clips)
    }


def _title_clip_vectors(
    lake: DeltaLake, trained: "Encoder", encoder_version: str, title_id: str, clips: list[Clip]
) -> "Iterator[tuple[Clip, dict[str, np.ndarray]]]":
    from model.fusion import MODALITIES, MODALITY_DIM
    from model.inference import contextualise_many
    from model.probes import pool, shots_of

    shots = lake.read("fused_embeddings", title_id=title_id).sort("shot_index")
    contextual = lake.read("contextual_embeddings", encoder_version=encoder_version, title_id=title_id)
    start, end = shots["start_s"].to_numpy(), shots["end_s"].to_numpy()
    fused = vectors(shots)
    in_context = vectors(contextual.sort("shot_index"))
    title = lake.read("global_embeddings", title_id=title_id)["embedding"][0].to_numpy()
    alone = contextualise_many(trained, [(fused[shots_of(start, end, *clip[1:])], title) for clip in clips])
    for clip, clip_alone in zip(clips, alone, strict=True):
        vector = {
            name: pool(start, end, fused[:, block * MODALITY_DIM : (block + 1) * MODALITY_DIM], *clip[1:])
            for block, name in enumerate(MODALITIES)
        }
        vector["fused"] = pool(start, end, fused, *clip[1:])
        vector["contextual_clip_alone"] = clip_alone.mean(axis=0)
        vector["contextual_in_context"] = pool(start, end, in_context, *clip[1:])
        yield clip, vector


def as_markdown(metrics: "pl.DataFrame") -> str:
    """A table of tasks by representations, as the run's metadata shows it."""
    cells: Mapping[tuple[str, str], str] = {
        (row["task"], row["representation"]): "-" if row["value"] is None else f"{row['value']:.3f}"
        for row in metrics.iter_rows(named=True)
    }
    names = {row["task"]: f"{row['task']} ({row['metric']})" for row in metrics.iter_rows(named=True)}
    lines = [["task", *REPRESENTATIONS], ["---"] * (len(REPRESENTATIONS) + 1)]
    lines += [[name, *(cells[task, which] for which in REPRESENTATIONS)] for task, name in names.items()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


ASSETS = [clip_labels, probe_metrics]
