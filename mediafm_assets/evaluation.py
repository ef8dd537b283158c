"""What the embeddings are worth: labelled clips and linear probes on the five published tasks."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import dagster as dg

from mediafm_assets.graph import OWNERS, TITLE_RESOURCES, table_spec
from mediafm_assets.materialise import catalogue_of, explain
from mediafm_assets.partitions import TASKS, tasks_partitions
from mediafm_assets.training import read_encoder
from mediafm_assets.versions import LABELS_CODE, PROBES_CODE, Catalogue, digest
from resources.errors import BadInput
from resources.lake import DeltaLake
from resources.landing import LandingZone
from resources.tables import vectors

if TYPE_CHECKING:
    import numpy as np
    import polars as pl

    from model.encoder import Encoder

REPRESENTATIONS = ("video", "audio", "text", "fused", "contextual_clip_alone", "contextual_in_context")
"""What is probed: each modality, the three concatenated, and the encoder's output with only the clip's shots before it
("clip alone") or with the whole title ("in context")."""

SEED = 0

label_files = dg.AssetSpec(
    "label_files",
    group_name="landing",
    partitions_def=tasks_partitions,
    owners=OWNERS,
    description="Label files in the landing zone, one for each task, as the landing sensor saw them.",
)


@dg.multi_asset(
    name="clip_labels",
    specs=[
        table_spec(
            "clip_labels",
            group_name="evaluation",
            deps=["label_files"],
            partitions_def=tasks_partitions,
            code_version=LABELS_CODE,
        )
    ],
)
def clip_labels(
    context: dg.AssetExecutionContext, lake: dg.ResourceParam[DeltaLake], landing: LandingZone
) -> Iterator[dg.MaterializeResult[Any]]:
    """Read the task's label file; refuse the whole file at its first bad line."""
    task = context.partition_key
    try:
        rows = landing.labels(task)
        if rows is None:
            raise BadInput("there is no label file for this task in the landing zone")
    except Exception as error:
        raise dg.Failure(f"{task}: clip_labels: {explain(error)}", allow_retries=False) from error
    version = labels_version(landing.label_fingerprint(task))
    if lake.data_versions("clip_labels").get((task,)) != version:
        lake.write("clip_labels", {"task": task}, with_all_labels(rows), version)
    metadata = lake.write_metadata("clip_labels", {"task": task})
    yield dg.MaterializeResult("clip_labels", metadata=metadata, data_version=dg.DataVersion(version))


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
    if catalogue.stored_in("probe_metrics").get((encoder_version,)) != version:
        cells = []
        clips = clips_by_task(lake, contextual_titles(catalogue))
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
    """The version that the newest encoder's probe metrics would have now; None without an encoder."""
    if catalogue.encoder_version is None:
        return None
    titles = [f"{title} {catalogue.stored('contextual_embeddings', title)}" for title in contextual_titles(catalogue)]
    labels = [f"{task} {version}" for (task,), version in sorted(catalogue.stored_in("clip_labels").items())]
    return digest(PROBES_CODE, catalogue.encoder_version, *titles, *labels)


Clip = tuple[str, float, float]
"""title id, start and end in seconds"""


def spans_of(clips: "pl.DataFrame") -> list[Clip]:
    return clips.select("title_id", "start_s", "end_s").rows()


def clips_by_task(lake: DeltaLake, titles: list[str]) -> "dict[str, pl.DataFrame]":
    """The labelled clips of each task in these titles, with a column `target`.

    A task without a label file has no clips; clip_genre then takes the clips of the other tasks. Where a clip has no
    genres of its own, they are its title's.
    """
    import polars as pl

    labels = lake.scan("clip_labels").filter(pl.col("title_id").is_in(titles)).collect().sort("title_id", "clip_id")
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
    return by_task


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
