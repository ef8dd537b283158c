"""What each part of the encoder's recipe is worth on the catalogue at hand, as the publication asks in its ablation."""

import json
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

from mediafm_assets.defs.encoder import training_config, training_titles
from mediafm_assets.defs.evaluation import metrics_version
from mediafm_assets.defs.labels import clips_by_task, labelled_titles, spans_of
from mediafm_assets.graph.shown import picture
from mediafm_assets.graph.stage import Recipe, Stage
from mediafm_assets.graph.versions import Catalogue, digest
from mediafm_assets.graph.whole import CatalogueRun
from model.modalities import MODALITIES
from resources.errors import BadInput
from resources.lake import typed_rows, vectors

if TYPE_CHECKING:
    from mediafm_assets.graph.materialise import Rows
    from model.ablations import EmbeddedTitle, Measured, Reading, Setup, Study, Variant

MOST_TITLES = 100
"""That variants are compared on, those with labels first: what is compared has to be held in memory."""
FROM_TITLES = ("fused_embeddings", "global_embeddings", "titles")


def ablations_version(catalogue: Catalogue) -> str | None:
    """Of what the probes are measured on, what an encoder would be trained on and how; None before there is an encoder,
    since the clips are those that it was probed on."""
    measured = metrics_version(catalogue)
    if measured is None:
        return None
    stored = (
        f"{table} {title} {version}"
        for table in FROM_TITLES
        for (title,), version in sorted(catalogue.stored_in(table).items())
    )
    code, budget = catalogue.stages.recipe["ablations"].code, catalogue.resources["ablation_budget"].config_key()
    return digest(code, budget, training_config(catalogue).identity(), measured, *stored)


def study_of(catalogue: Catalogue) -> "Study":
    """What all variants are measured on. Raises BadInput when it is too little to compare anything on, or of vectors
    that are not joined from those of the modalities."""
    from model.ablations import LabelledClips, Setup, Study

    preset, fusion = training_config(catalogue), catalogue.resources["fusion"].kind
    if fusion == "omni":
        raise BadInput(
            "ablations join the vectors of the modalities' tables, which MEDIAFM_FUSION=omni reads shots in place of; "
            "set it to balanced or as_published"
        )
    titles = embedded_titles(catalogue)
    works = {title.series_id or title.title_id for title in titles}
    if len(works) < preset.minimum_groups:
        raise BadInput(
            f"{preset.minimum_groups} titles are needed to compare variants on, so that some can be set aside, and "
            f"there are {len(works)} (the episodes of a series count as one); land more"
        )
    known = [title.title_id for title in titles]
    by_task, _unused = catalogue.once(clips_by_task)
    tasks = {}
    for task, rows in by_task.items():
        rows = rows.filter(rows["title_id"].is_in(known))
        tasks[task] = LabelledClips(spans_of(rows), rows["target"].to_list())
    setup = Setup(preset, preset.modalities, fusion)
    return Study(titles, tasks, setup, catalogue.resources["ablation_budget"].steps)


def embedded_titles(catalogue: Catalogue) -> "list[EmbeddedTitle]":
    """The titles whose fused vectors are made from what is stored of their modalities. Raises BadInput as
    `training_titles`."""
    from model.ablations import EmbeddedTitle

    lake = catalogue.lake
    series = dict(lake.scan("titles").select("title_id", "series_id").collect().rows())
    whole = [
        title
        for title in training_titles(catalogue)
        if catalogue.stored("fused_embeddings", title) == catalogue.made_from_stored("fused_embeddings", title)
    ]
    labelled = catalogue.once(labelled_titles)
    found = []
    for title in sorted(whole, key=lambda title: (title not in labelled, title))[:MOST_TITLES]:
        shots = lake.read("shots", title_id=title)
        tables = {modality.name: lake.read(modality.table, title_id=title) for modality in MODALITIES}
        if any(len(rows) != len(shots) for rows in tables.values()):
            raise BadInput(f"{title} is being made anew; materialise ablations again when that is done")
        found.append(
            EmbeddedTitle(
                title,
                series[title],
                shots["start_s"].to_numpy(),
                shots["end_s"].to_numpy(),
                {name: (vectors(rows), rows["present"].to_numpy()) for name, rows in tables.items()},
                lake.read("global_embeddings", title_id=title)["embedding"][0].to_numpy(),
            )
        )
    return found


def ablations(run: CatalogueRun) -> "Rows":
    """Train and score every variant with each seed, and compare each with the one that it differs from in one thing."""
    from model.ablations import compared, variants

    study = run.catalogue.once(study_of)
    run.notes |= {"titles": len(study.titles), "shots": sum(len(title.start_s) for title in study.titles)}
    of_variants = variants(study.preset.config, study.preset.fusion)
    # What is measured is kept until all is, so that a run that died repeats the training in hand and nothing else.
    kept = Path(run.resources.training.folder) / "ablations"
    scores: dict[Setup, dict[int | None, Mapping[str, Measured]]] = {}
    for setup, seed, by_task in measured(run, study, of_variants, kept / run.version):
        scores.setdefault(setup, {})[seed] = by_task
    yield "ablations", typed_rows("ablations", list(compared(study, of_variants, scores)))
    shutil.rmtree(kept)


def measured(
    run: CatalogueRun, study: "Study", of_variants: "Sequence[Variant]", folder: Path
) -> "Iterator[tuple[Setup, int | None, Mapping[str, Measured]]]":
    """The scores by task of each variant's setup with each seed (None: nothing is trained), in the order of their
    making."""
    from dataclasses import replace

    from model.ablations import Measured, measure
    from model.files import write_atomically

    # One training serves all ways to read its encoder.
    readings: dict[Setup, dict[Reading, None]] = {}
    for variant in of_variants:
        trained = variant.setup.read != "concatenated"
        of = replace(variant.setup, read="in_context") if trained else variant.setup
        readings.setdefault(of, {})[variant.setup.read] = None
    first = study.preset.config.seed
    seeds = range(first, first + run.catalogue.resources["ablation_budget"].seeds)
    todo = [(setup, seed) for setup in readings for seed in (seeds if setup.read == "in_context" else [None])]
    todo.sort(key=lambda unit: unit[1] is None)  # what takes longest first, so that the time left is not promised short
    folder.mkdir(parents=True, exist_ok=True)
    began, made = time.monotonic(), 0
    for number, (setup, seed) in enumerate(todo, 1):
        file = folder / f"{digest(json.dumps(asdict(setup)), str(seed))}.json"
        if not file.exists():
            with tempfile.TemporaryDirectory(dir=folder) as empty:
                found = measure(study, setup, readings[setup], seed, Path(empty))
            write_atomically(file, json.dumps(found).encode())
            made += 1
            left_s = (time.monotonic() - began) / made * (len(todo) - number)
            run.context.log.info(f"ablations: {number} of {len(todo)} measured, about {left_s / 60:.1f} min left")
        for reading, by_task in json.loads(file.read_text()).items():
            yield replace(setup, read=reading), seed, {task: Measured(*of_task) for task, of_task in by_task.items()}


def findings(run: CatalogueRun) -> dict[str, Any]:
    """What the materialisation says: the charts, how many differences can be told from none, and what has no score."""
    import polars as pl

    from model.ablations import variants
    from resources.pictures import ablation_chart, difference_chart

    rows = run.lake.read_whole("ablations").filter(pl.col("seed").is_null())
    preset, fusion = training_config(run.catalogue), run.catalogue.resources["fusion"].kind
    order = [(variant.ablation, variant.name) for variant in variants(preset, fusion)]
    by_variant = {key: of.to_dicts() for key, of in rows.partition_by("ablation", "variant", as_dict=True).items()}
    ordered = [row for key in order for row in by_variant.get(key, [])]
    differences = [row for row in ordered if row["difference"] is not None]
    told = [row for row in differences if row["difference_low"] > 0 or row["difference_high"] < 0]
    without = Counter(f"{row['task']}: {row['note']}" for row in ordered if row["note"])
    charts = {}
    if any(row["value"] is not None for row in ordered):
        said = "each task's score of each modality, of several joined, and in context, with intervals"
        charts["chart"] = picture(ablation_chart(ordered), said)
        said = "each variant's difference to what it is compared with, by task, with intervals"
        charts["differences"] = picture(difference_chart(differences), said)
    return {
        "compared": len(differences),
        "told_apart": len(told),
        "told_apart_by_chance": round(len(differences) / 20),
        "without_score": [f"{count} variants without a score: {why}" for why, count in without.most_common(20)],
        "variants": dg.MarkdownMetadataValue(as_markdown(ordered)),
        **charts,
    }


def as_markdown(rows: "Sequence[Mapping[str, Any]]") -> str:
    """A line for each variant: its score by task, with the difference where that can be told from none."""
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    lines = [["ablation", "variant", *tasks], ["---"] * (2 + len(tasks))]
    by_variant: dict[tuple[str, str], dict[str, str]] = {}
    for row in rows:
        by_variant.setdefault((row["ablation"], row["variant"]), {})[row["task"]] = in_words(row)
    lines += [[*key, *(of.get(task, "–") for task in tasks)] for key, of in by_variant.items()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def in_words(row: "Mapping[str, Any]") -> str:
    """Such as "0.612 (−0.043)"; without the difference where its interval holds 0."""
    if row["value"] is None:
        return "–"
    apart = row["difference"] is not None and not row["difference_low"] <= 0 <= row["difference_high"]
    return f"{row['value']:.3f}" + (f" ({row['difference']:+.3f})" if apart else "")


STAGES = (
    Stage(
        (
            Recipe(
                "ablations",
                (
                    *FROM_TITLES,
                    *("shots", *(modality.table for modality in MODALITIES)),
                    *("contextual_embeddings", "clip_labels", "encoder_promotions"),
                ),
                "ablation_budget",
            ),
        ),
        "evaluation",
        ablations,
        scope="catalogue",
        kinds=frozenset({"pytorch", "scikitlearn"}),
        version=ablations_version,
        on_request=True,
        describe=findings,
        uses=frozenset({"encoder_config", "training"}),
        pool="gpu",
    ),
)
