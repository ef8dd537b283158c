"""The gate between a trained encoder and what everybody reads: no worse encoder comes into use."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import dagster as dg

from mediafm_assets.defs.encoder import in_another_space, read_encoder
from mediafm_assets.defs.labels import Clip, clips_by_task, spans_of
from mediafm_assets.graph.promotions import GATE, decision, news_of_titles, read_titles, refuse_changed
from mediafm_assets.graph.shown import as_metadata
from mediafm_assets.graph.stage import Recipe, Stage
from mediafm_assets.graph.versions import PROMOTIONS, Catalogue
from mediafm_assets.graph.whole import CatalogueRun
from resources.errors import BadInput
from resources.lake import DeltaLake, vectors

if TYPE_CHECKING:
    import numpy as np

    from mediafm_assets.graph.materialise import Rows
    from model.encoder import Encoder
    from model.gate import Comparison, Pair

MASKED_SHOTS = "masked_shots"
"""Beside the tasks with labels: how well shots that are hidden are foretold."""


class Registered(NamedTuple):
    """A title and its series, by which titles are held out."""

    title_id: str
    series_id: str | None


def to_decide(catalogue: Catalogue) -> str | None:
    """The newest encoder for the configured spaces, unless it has been decided on: then the one in use."""
    decided = {row["encoder_version"] for row in catalogue.promotions}
    newest = catalogue.newest_encoder
    return catalogue.encoder_version if newest in decided else newest


def promotion_version(catalogue: Catalogue) -> str | None:
    """Names the encoder that readers are sent to; while there is something to decide, on which, and after which."""
    encoder, promoted = to_decide(catalogue), catalogue.promoted
    return encoder if encoder == promoted or None in (encoder, promoted) else f"{encoder} after {promoted}"


def encoder_promotions(run: CatalogueRun) -> "Rows":
    """Compare the newest encoder with the one in use. If it is no worse, read every title with it, and then, in one
    commit, put it to use."""
    catalogue, before = run.catalogue, run.catalogue.encoder_version
    encoder_version = to_decide(catalogue)
    assert encoder_version is not None  # else the stage has no version
    compared: list[Comparison] = []
    if before is None:
        why = "it is the first encoder for its embedding spaces"
    elif before == encoder_version:
        why = "its embedding spaces are configured again"
    else:
        compared = comparison(run, encoder_version, before)
        why = verdict(compared)
    promoted = not any(task.regressed for task in compared)
    candidate = catalogue.with_encoder(encoder_version)
    if promoted:
        context = run.context
        made, failed = read_titles(candidate, readable(catalogue), context.log.warning, context.log_event)
        run.notes |= {"titles_read": made, "titles_failed": failed}
    refuse_changed(catalogue, Catalogue(run.lake, catalogue.resources, catalogue.stages))
    run.version = (encoder_version if promoted else catalogue.promoted) or ""
    rows = [task._asdict() for task in compared]
    yield (
        PROMOTIONS,
        decision(catalogue, encoder_version, promoted=promoted, by=GATE, why=why, comparison=rows),
    )
    if promoted:
        for event in news_of_titles(run.context.instance, candidate):
            run.context.log_event(event)


def readable(catalogue: Catalogue) -> list[str]:
    """The titles that an encoder for the configured spaces can read."""
    there = catalogue.titles_in("fused_embeddings").keys() & catalogue.titles_in("global_embeddings").keys()
    return sorted(there - in_another_space(catalogue, catalogue.lake))


def comparison(run: CatalogueRun, candidate: str, in_use: str) -> "list[Comparison]":
    """How the two encoders do, task by task."""
    from model.gate import compare

    gate = run.resources.gate
    encoders = [read_encoder(run.lake, version) for version in (candidate, in_use)]
    pairs = [*probed(run.catalogue, encoders), *foretold(run.catalogue, encoders)]
    return compare(pairs, gate.level, gate.tolerance)


def probed(catalogue: Catalogue, encoders: "Sequence[Encoder]") -> "Iterator[Pair]":
    """The probes of every task that has enough labels, on the same clips and folds."""
    from model.gate import Pair
    from model.probes import TooFewLabels, held_out_score
    from model.tasks import TASKS

    by_task, _unused = catalogue.once(clips_by_task)
    clips = {clip for rows in by_task.values() for clip in spans_of(rows)}
    of_clips = [clip_vectors_of(catalogue.lake, encoder, clips) for encoder in encoders]
    for task, rows in by_task.items():
        targets, titles = rows["target"].to_list(), rows["title_id"].to_list()
        try:
            candidate, in_use = (
                held_out_score(task, [of_clip[clip] for clip in spans_of(rows)], targets, titles)
                for of_clip in of_clips
            )
        except TooFewLabels:
            continue
        yield Pair(task, TASKS[task].metric, candidate, in_use, titles)


def clip_vectors_of(lake: DeltaLake, encoder: "Encoder", clips: set[Clip]) -> "dict[Clip, np.ndarray]":
    """The mean over each clip's shots of what is published of them."""
    from model.inference import published
    from model.probes import pool

    found: dict[Clip, np.ndarray] = {}
    for title_id in sorted({title_id for title_id, _, _ in clips}):
        shots, title = vectors_of(lake, title_id)
        made = published(encoder, vectors(shots), title)["embedding"]
        start, end = shots["start_s"].to_numpy(), shots["end_s"].to_numpy()
        found |= {clip: pool(start, end, made, *clip[1:]) for clip in clips if clip[0] == title_id}
    return found


def foretold(catalogue: Catalogue, encoders: "Sequence[Encoder]") -> "Iterator[Pair]":
    """How well both foretell masked shots: of titles that neither has learnt from; of any, where those are too few."""
    from model.batches import split
    from model.gate import MINIMUM_TITLES, MOST_SHOTS, MOST_TITLES, by_title, masked_cosine

    lake, names = catalogue.lake, readable(catalogue)
    series = dict(lake.scan("titles").select("title_id", "series_id").collect().rows())
    titles = [Registered(name, series.get(name)) for name in names]
    unseen = [{title.title_id for title in split(titles, encoder.config)[1]} for encoder in encoders]
    held_out = sorted(set.intersection(*unseen))
    if len(held_out) >= MINIMUM_TITLES:
        names, metric = held_out, "cosine, held-out titles"
    else:
        metric = "cosine, all titles: too few were held out"
    names = names[:: -(-len(names) // MOST_TITLES) or 1]
    most = min(MOST_SHOTS, *(encoder.config.max_shots for encoder in encoders))
    scores: list[tuple[float, ...]] = []
    for name in names:
        shots, title = vectors_of(lake, name)
        scores.append(tuple(masked_cosine(encoder, vectors(shots), title, most) for encoder in encoders))
    pair = by_title(MASKED_SHOTS, metric, *zip(*scores, strict=True)) if scores else None
    if pair:
        yield pair


def vectors_of(lake: DeltaLake, title_id: str) -> "tuple[Any, np.ndarray]":
    """A title's rows in `fused_embeddings`, and its own embedding."""
    title = lake.read("global_embeddings", title_id=title_id)["embedding"][0].to_numpy()
    return lake.read("fused_embeddings", title_id=title_id), title


def verdict(compared: "Sequence[Comparison]") -> str:
    """The reason for the decision, in a sentence."""
    worse = [task for task in compared if task.regressed]
    if worse:
        losses = (f"{task.task} {task.difference:+.3f} ({task.low:+.3f} to {task.high:+.3f})" for task in worse)
        return f"it is worse than the encoder in use: {', '.join(losses)}"
    if not compared:
        return "there are too few labels and titles to compare encoders by"
    return f"it is no worse at any of {len(compared)} tasks"


def as_table(row: Mapping[str, Any]) -> str:
    """A decision's comparison, as a Markdown table."""
    lines = ["| task | metric | this encoder | before | difference | interval | titles |", "|---" * 7 + "|"]
    for task in json.loads(row["comparison"]):
        low, high = task["low"], task["high"]
        lines.append(
            f"| {task['task']}{' (worse)' if task['regressed'] else ''} | {task['metric']} | {task['candidate']:.3f} "
            f"| {task['in_use']:.3f} | {task['difference']:+.3f} | {low:+.3f} to {high:+.3f} | {task['titles']} |"
        )
    return "\n".join(lines)


def latest_decision(run: CatalogueRun) -> dict[str, Any]:
    """What the materialisation says: the encoder in use, and the last decision."""
    catalogue = Catalogue(run.lake, run.catalogue.resources, run.catalogue.stages)  # as it is now
    last = catalogue.promotions[-1]
    said = {"encoder_in_use": catalogue.promoted, "decided_on": last["encoder_version"], "promoted": last["promoted"]}
    return {**said, "why": last["why"], "comparison": dg.MarkdownMetadataValue(as_table(last))}


def newest_encoder_is_no_worse(catalogue: Catalogue) -> dg.AssetCheckResult:
    """The newest encoder does no task worse than the one that was in use before, beyond the interval of the difference;
    one that does is held back. `mediafm encoders promote` puts it to use all the same, with a reason."""
    newest = catalogue.newest_encoder
    of_newest = [row for row in catalogue.promotions if row["encoder_version"] == newest]
    if not of_newest:
        raise BadInput("the newest encoder has not been decided on; materialise encoder_promotions")
    row = of_newest[-1]
    tasks = {task["task"]: task["difference"] for task in json.loads(row["comparison"])}
    return dg.AssetCheckResult(
        passed=row["promoted"],
        description=f"{newest}, by {row['by']}: {row['why']}",
        metadata=as_metadata(
            {
                "comparison": dg.MarkdownMetadataValue(as_table(row)),
                **{f"{name}_difference": of for name, of in tasks.items()},
            }
        ),
    )


STAGES = (
    Stage(
        (
            Recipe(
                PROMOTIONS,
                ("encoder", "clip_labels", "fused_embeddings", "global_embeddings", "titles"),
            ),
        ),
        "model",
        encoder_promotions,
        scope="catalogue",
        kinds=frozenset({"pytorch", "scikitlearn"}),
        version=promotion_version,
        describe=latest_decision,
        stored=lambda catalogue: {(): catalogue.promoted} if catalogue.promoted else {},
        uses=frozenset({"gate"}),
        pool="gpu",
        checks=(newest_encoder_is_no_worse,),
    ),
)
