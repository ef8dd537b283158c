"""What the embeddings are worth: linear probes of labelled clips on the five published tasks, and labelled scenes."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import dagster as dg

from mediafm_assets.defs.clips import clip_encoders, labelled_clips, vectors_of_clips, without_encoders
from mediafm_assets.defs.encoder import read_encoder
from mediafm_assets.defs.labels import (
    Clip,
    clips_by_task,
    labelled_scenes_version,
    labelled_titles,
    spans_of,
    unused_metadata,
)
from mediafm_assets.defs.scenes import examples_of, titles_with_scenes
from mediafm_assets.graph.shown import picture
from mediafm_assets.graph.stage import Recipe, Stage
from mediafm_assets.graph.versions import Catalogue, digest
from mediafm_assets.graph.whole import CatalogueRun
from model.modalities import MODALITIES
from model.tasks import SCENES, TASKS
from resources.lake import DeltaLake, typed_rows, vectors

if TYPE_CHECKING:
    import numpy as np
    import polars as pl

    from mediafm_assets.graph.materialise import Rows
    from model.encoder import Encoder
    from model.probes import Labelled, ProbeResult

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

LEARNT = "boundary_head"
"""Of scenes: what they are found by where labels are learnt from."""

SEED = 0


def probe_metrics(run: CatalogueRun) -> "Rows":
    """Probe every representation on every task, with folds grouped by title, and every clip encoder beside them; and
    compare the scenes that each finds with the labelled ones."""
    from model.probes import Labelled, probe_each

    encoder_version = run.partition["encoder_version"]
    clips, _unused = run.catalogue.once(clips_by_task)
    spans = {clip for rows in clips.values() for clip in spans_of(rows)}
    pooled, others = clip_vectors(run.lake, encoder_version, spans), vectors_of_clips(run.catalogue, spans)
    asked: dict[tuple[str, str], Labelled | ProbeResult] = {}
    for task, rows in clips.items():
        for representation in REPRESENTATIONS:
            features = [pooled[clip][representation] for clip in spans_of(rows)]
            asked[task, representation] = labelled(task, rows, features)
        asked |= {(task, name): compared(task, rows, of_clips) for name, of_clips in others.items()}
    probed = iter(probe_each([of for of in asked.values() if isinstance(of, Labelled)], seed=SEED))
    cells = []
    for (task, representation), of in asked.items():
        result = next(probed) if isinstance(of, Labelled) else of
        cells.append({"task": task, "representation": representation, **result._asdict()})
    cells += scene_cells(run.catalogue)
    yield "probe_metrics", typed_rows("probe_metrics", cells)


def scene_cells(catalogue: Catalogue) -> "list[dict[str, Any]]":
    """How well the labelled scenes are found, by each representation, by baselines and by a head that was learnt from
    other titles' labels; nothing where none are labelled."""
    from model.boundary_head import out_of_fold
    from model.probes import TooFewLabels
    from model.scene_finders import UNSUPERVISED, finders
    from model.scene_metrics import judge, scene_results, without_results

    titles = list(catalogue.once(titles_with_scenes).values())
    if not titles:
        return []
    begins = sum(int(labels.true.sum()) + labels.missed for _, labels in titles)
    share = max(1, begins) / sum(labels.judged.stop - labels.judged.start for _, labels in titles)
    ways = finders(titles[0][0].vectors.keys(), share)
    found = {name: [find(shots) for shots, _ in titles] for name, find in ways.items()}
    results = {}
    try:
        found[LEARNT] = out_of_fold(examples_of(titles, [scores for scores, _ in found["+".join(UNSUPERVISED)]]))
    except TooFewLabels as error:
        shots = sum(labels.judged.stop - labels.judged.start - 1 for _, labels in titles)
        results[LEARNT] = without_results(shots, len(titles), str(error))
    for name, of_titles in found.items():
        judged = [
            judge(labels, *of_title, shots.start_s, shots.end_s)
            for (shots, labels), of_title in zip(titles, of_titles, strict=True)
        ]
        results[name] = scene_results(judged, seed=SEED)
    return [
        {"task": SCENES, "representation": name, **result._asdict()} for name, of in results.items() for result in of
    ]


def labelled(task: str, rows: "pl.DataFrame", features: "Sequence[np.ndarray]") -> "Labelled":
    from model.probes import Labelled

    return Labelled(task, features, rows["target"].to_list(), rows["title_id"].to_list())


def compared(task: str, rows: "pl.DataFrame", vectors: "Mapping[Clip, np.ndarray | str]") -> "Labelled | ProbeResult":
    """What a clip encoder is to be probed on: the very clips and folds of our own; and where it lacks one of the clips
    a result without a score, since on other clips it would be another task's."""
    from model.probes import ProbeResult

    features = [vectors[clip] for clip in spans_of(rows)]
    without = Counter(made for made in features if isinstance(made, str))
    if without:
        reason, _ = without.most_common(1)[0]
        note = f"cannot be evaluated: {without.total()} of {len(rows)} clips have no vector ({reason})"
        return ProbeResult(TASKS[task].metric, None, None, None, len(rows), rows["title_id"].n_unique(), note)
    return labelled(task, rows, [vector for vector in features if not isinstance(vector, str)])


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
    """The version that the clips' probe metrics by the encoder in use would have now; None without one.

    Only titles with labelled clips count: another one that lands changes no probe.
    """
    if catalogue.encoder_version is None:
        return None
    labelled = catalogue.once(labelled_titles)
    made = catalogue.titles_in("contextual_embeddings").items()
    titles = [f"{title} {version}" for title, version in made if title in labelled]
    stored = sorted(catalogue.stored_in("clip_labels").items())
    labels = [f"{task} {version}" for (task,), version in stored if task != SCENES]
    return digest(catalogue.stages.recipe["probe_metrics"].code, catalogue.encoder_version, *titles, *labels)


def compared_version(catalogue: Catalogue) -> str | None:
    """The version that the table would have: of the probe metrics, with what is known of the clips by the clip encoders
    and of scenes by their labels. Where there is none of these, nothing of them is in it."""
    from resources.lake.clip_cache import known_keys

    version, of_scenes = metrics_version(catalogue), catalogue.once(labelled_scenes_version)
    if version and of_scenes:
        version = digest(version, of_scenes)
    if version is None or without_encoders(catalogue):
        return version
    spaces = [encoder.space() for encoder in clip_encoders(catalogue).values()]
    keys = [clip.key(space) for clip in catalogue.once(labelled_clips) for space in spaces]
    return digest(version, *spaces, *sorted(known_keys(catalogue.lake, keys)))


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
    """A table of tasks by representations, as the run's metadata shows it; and one of what scenes are found by."""
    import polars as pl

    of_scenes = metrics.filter(task=SCENES)
    metrics = metrics.filter(pl.col("task") != SCENES)
    cells: Mapping[tuple[str, str], str] = {
        (row["task"], row["representation"]): "-" if row["value"] is None else f"{row['value']:.3f}"
        for row in metrics.iter_rows(named=True)
    }
    names = {row["task"]: f"{row['task']} ({row['metric']})" for row in metrics.iter_rows(named=True)}
    which = list(dict.fromkeys((*REPRESENTATIONS, *metrics["representation"])))
    lines = [["task", *which], ["---"] * (len(which) + 1)]
    lines += [[name, *(cells[task, representation] for representation in which)] for task, name in names.items()]
    if len(of_scenes):
        by = of_scenes.pivot("metric", index="representation", values="value", maintain_order=True)
        lines += [[], ["scenes by", *by.columns[1:]], ["---"] * len(by.columns)]
        lines += [[name, *("-" if of is None else f"{of:.3f}" for of in row)] for name, *row in by.iter_rows()]
    return "\n".join(f"| {' | '.join(line)} |" if line else "" for line in lines)


STAGES = (
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
