"""What the embeddings are worth: labelled clips and linear probes on the five published tasks."""

import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import dagster as dg

from mediafm_assets.defs.clips import clip_encoders, labelled_clips, vectors_of_clips, without_encoders
from mediafm_assets.defs.encoder import read_encoder
from mediafm_assets.graph.partitions import tasks_partitions
from mediafm_assets.graph.shown import picture
from mediafm_assets.graph.stage import Recipe, Stage
from mediafm_assets.graph.versions import Catalogue, digest
from mediafm_assets.graph.whole import CatalogueRun
from model.modalities import MODALITIES
from model.tasks import TASKS
from resources.errors import BadInput, printable
from resources.lake import DeltaLake, vectors

if TYPE_CHECKING:
    import numpy as np
    import polars as pl

    from mediafm_assets.graph.materialise import Rows
    from model.encoder import Encoder
    from model.probes import ProbeResult

REPRESENTATIONS = (
    *(modality.name for modality in MODALITIES),
    "fused",
    "moving_average",
    "title_mean",
    "contextual_clip_alone",
    "contextual_in_context",
)
"""What is probed: each modality, the three concatenated, what smoothing those gives without an encoder, and contextual
embeddings with only the clip's shots before the encoder ("clip alone") or with the whole title ("in context")."""

PUBLISHED = "contextual_in_context"
"""What readers of `contextual_embeddings` take."""

SEED = 0
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


def probe_metrics(run: CatalogueRun) -> "Rows":
    """Probe every representation on every task, with folds grouped by title, and every clip encoder beside them."""
    import polars as pl

    from model.probes import probe

    encoder_version = run.partition["encoder_version"]
    clips, _unused = run.catalogue.once(clips_by_task)
    cells = []
    spans = {clip for rows in clips.values() for clip in spans_of(rows)}
    pooled, others = clip_vectors(run.lake, encoder_version, spans), vectors_of_clips(run.catalogue, spans)
    for task, rows in clips.items():
        for representation in REPRESENTATIONS:
            features = [pooled[clip][representation] for clip in spans_of(rows)]
            result = probe(task, features, rows["target"].to_list(), rows["title_id"].to_list(), seed=SEED)
            cells.append({"task": task, "representation": representation, **result._asdict()})
        for name, of_clips in others.items():
            cells.append({"task": task, "representation": name, **compared(task, rows, of_clips)._asdict()})
        run.context.log.info(f"{task}: {len(rows)} clips probed")
    yield "probe_metrics", pl.DataFrame(cells)


def compared(task: str, rows: "pl.DataFrame", vectors: "Mapping[Clip, np.ndarray | str]") -> "ProbeResult":
    """The score of a clip encoder on the very clips and folds of our own; none where it lacks one of the clips, since
    on other clips it would be another task's."""
    from model.probes import ProbeResult, probe

    features = [vectors[clip] for clip in spans_of(rows)]
    without = Counter(made for made in features if isinstance(made, str))
    if without:
        reason, _ = without.most_common(1)[0]
        note = f"cannot be evaluated: {without.total()} of {len(rows)} clips have no vector ({reason})"
        return ProbeResult(TASKS[task].metric, None, None, None, len(rows), rows["title_id"].n_unique(), note)
    made = [vector for vector in features if not isinstance(vector, str)]
    return probe(task, made, rows["target"].to_list(), rows["title_id"].to_list(), seed=SEED)


def scores(run: CatalogueRun) -> dict[str, Any]:
    """What the materialisation says: the scores, also as numbers and in a chart beside those of earlier encoders, and
    the labelled clips that could not be probed."""
    import polars as pl

    from resources.pictures import probe_chart

    _clips, unused = run.catalogue.once(clips_by_task)
    metrics = run.lake.read("probe_metrics", **run.partition)
    known = run.lake.scan("probe_metrics").filter(pl.col("value").is_not_null()).collect().sort("encoder_version")
    newest = known.filter(encoder_version=run.partition["encoder_version"])
    interval = ("representation", "value", "ci_low", "ci_high")
    by_task = {task: newest.filter(task=task).select(interval).rows() for task in TASKS if task in newest["task"]}
    in_context = known.filter(representation=PUBLISHED)
    history = {task: in_context.filter(task=task).select("encoder_version", "value").rows() for task in by_task}
    chart = "each task's score of each representation with its interval, and the published one's over generations"
    return {
        **unused_metadata(unused),
        "scores": dg.MarkdownMetadataValue(as_markdown(metrics)),
        **{f"{task}_in_context": points[-1][1] for task, points in history.items() if points},
        **({"chart": picture(probe_chart(by_task, history), chart)} if by_task else {}),
    }


def metrics_version(catalogue: Catalogue) -> str | None:
    """The version that the probe metrics of the encoder in use would have now; None without one.

    Only titles with labelled clips count: another one that lands changes no probe.
    """
    if catalogue.encoder_version is None:
        return None
    labelled = catalogue.once(labelled_titles)
    made = catalogue.titles_in("contextual_embeddings").items()
    titles = [f"{title} {version}" for title, version in made if title in labelled]
    labels = [f"{task} {version}" for (task,), version in sorted(catalogue.stored_in("clip_labels").items())]
    return digest(catalogue.stages.recipe["probe_metrics"].code, catalogue.encoder_version, *titles, *labels)


def compared_version(catalogue: Catalogue) -> str | None:
    """The version that the probe metrics would have, with what is known of the clips by the clip encoders."""
    from resources.lake.clip_cache import known_keys

    version = metrics_version(catalogue)
    if version is None or without_encoders(catalogue):
        return version
    spaces = [encoder.space() for encoder in clip_encoders(catalogue).values()]
    keys = [clip.key(space) for clip in catalogue.once(labelled_clips) for space in spaces]
    return digest(version, *spaces, *sorted(known_keys(catalogue.lake, keys)))


def labelled_titles(catalogue: Catalogue) -> frozenset[str]:
    """The titles that label files name."""
    return frozenset(catalogue.lake.scan("clip_labels").select("title_id").unique().collect()["title_id"])


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
    labels, unused = usable_labels(lake, catalogue.encoder_version or "")
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
    from model.inference import read_out_many
    from model.probes import pool, shots_of
    from model.smoothing import moving_average

    shots = lake.read("fused_embeddings", title_id=title_id).sort("shot_index")
    contextual = lake.read("contextual_embeddings", encoder_version=encoder_version, title_id=title_id)
    start, end = shots["start_s"].to_numpy(), shots["end_s"].to_numpy()
    fused = vectors(shots)
    in_context = vectors(contextual.sort("shot_index"))
    title = lake.read("global_embeddings", title_id=title_id)["embedding"][0].to_numpy()
    alone = read_out_many(trained, [(fused[shots_of(start, end, *clip[1:])], title) for clip in clips])
    average, title_mean = moving_average(fused), fused.mean(axis=0)
    for clip, clip_alone in zip(clips, alone, strict=True):
        vector = {name: pool(start, end, fused[:, block], *clip[1:]) for name, block in trained.config.blocks.items()}
        vector["fused"] = pool(start, end, fused, *clip[1:])
        vector["moving_average"] = pool(start, end, average, *clip[1:])
        vector["title_mean"] = title_mean
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
    which = list(dict.fromkeys((*REPRESENTATIONS, *metrics["representation"])))
    lines = [["task", *which], ["---"] * (len(which) + 1)]
    lines += [[name, *(cells[task, representation] for representation in which)] for task, name in names.items()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


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
    Stage(
        (
            Recipe(
                "probe_metrics",
                (
                    "clip_embeddings",
                    "contextual_embeddings",
                    "clip_labels",
                    "encoder_promotions",
                    "fused_embeddings",
                    "global_embeddings",
                    "titles",
                ),
                code="3",
            ),
        ),
        "evaluation",
        probe_metrics,
        scope="catalogue",
        kinds=frozenset({"scikitlearn"}),
        version=compared_version,
        describe=scores,
        uses=frozenset({"clip_encoders"}),
    ),
)
