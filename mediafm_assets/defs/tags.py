"""Tags: the labels that probes give to titles and to windows of them, with probabilities and the shots that argue for
them."""

from typing import TYPE_CHECKING, Any

from mediafm_assets.defs.evaluation import SEED, clip_vectors, labelled, metrics_version
from mediafm_assets.defs.labels import clips_by_task, spans_of
from mediafm_assets.graph.materialise import TitleRun
from mediafm_assets.graph.stage import Recipe, Stage
from mediafm_assets.graph.versions import Catalogue, digest
from mediafm_assets.graph.whole import CatalogueRun
from model.tasks import TASKS
from resources.lake import typed_rows, vectors

if TYPE_CHECKING:
    import numpy as np
    import polars as pl

    from mediafm_assets.graph.materialise import Rows

REPRESENTATION = "contextual_in_context"
CLIPS = "clip_retrieval"
SHORTEST, LONGEST = 0.75, 1.5
"""Of a highlight, times the length asked for."""
HIGHLIGHTS = 10
TAGS = tuple(task.name for task in TASKS.values() if task.label == "labels")
"""The tasks whose labels are words for a clip: they are given to titles and windows as well."""


def probes(run: CatalogueRun) -> "Rows":
    """Fit a model for each label on all labelled clips, and say what it is worth on titles that it has not seen."""
    from model.tagging import fit_probes

    encoder_version = run.partition["encoder_version"]
    clips, _unused = run.catalogue.once(clips_by_task)
    pooled = clip_vectors(run.lake, encoder_version, {clip for rows in clips.values() for clip in spans_of(rows)})
    asked = {
        task: labelled(task, rows, [pooled[clip][REPRESENTATION] for clip in spans_of(rows)])
        for task, rows in clips.items()
        if TASKS[task].label != "score"
    }
    rows: list[dict[str, Any]] = []
    for task, fitted in zip(asked, fit_probes(list(asked.values()), seed=SEED), strict=True):
        clip_s = (clips[task]["end_s"] - clips[task]["start_s"]).median()
        none = {"usable": False, "reason": f"too few labelled clips of {task} to learn any label"}
        chance = f"this label of {task} is not predicted better than by chance on titles that were held out"
        rows += [
            {"task": task, "clip_s": clip_s, "reason": None if probe["usable"] else chance, **probe}
            for probe in [of._asdict() for of in fitted] or [none]
        ]
    run.notes.update(probes=len(rows), usable=sum(row["usable"] for row in rows))
    yield "probes", typed_rows("probes", rows)


def probes_version(catalogue: Catalogue) -> str | None:
    """Probes follow the clips that the probe metrics are measured on, and nothing else."""
    measured = metrics_version(catalogue)
    return None if measured is None else digest("probes", catalogue.stages.recipe["probes"].code, measured)


def tags(run: TitleRun, title_id: str) -> "Rows":
    """Tag the title as a whole and in windows of the labelled clips' length, where a probe is known to beat chance."""
    import polars as pl

    from model.tagging import arguing_shots, probability, windows_of

    context = run.read("contextual_embeddings", title_id)
    shots = vectors(context)
    start_s, end_s = context["start_s"].to_numpy(), context["end_s"].to_numpy()
    fitted, probe_version = fitted_probes(run)
    rows: list[dict[str, Any]] = []
    for task in TAGS:
        of_task = fitted.filter(task=task)
        usable = of_task.filter("usable")
        whole = [(0, len(shots) - 1)]
        if usable.is_empty():
            rows.append(
                {**span("title", 0, len(shots) - 1, start_s, end_s), "task": task, "reason": why(of_task, task)}
            )
            continue
        windows = windows_of(start_s, end_s, usable["clip_s"][0])
        for probe in usable.iter_rows(named=True):
            weights = pl.Series(probe["weights"]).to_numpy()
            for scope, spans in (("title", whole), ("window", windows)):
                rows += [
                    {
                        **span(scope, first, last, start_s, end_s),
                        "task": task,
                        "label": probe["label"],
                        "probability": probability(shots[first : last + 1], weights, probe["bias"]),
                        "shots": [first + shot for shot in arguing_shots(shots[first : last + 1], weights)],
                    }
                    for first, last in spans
                ]
    run.notes["usable_probes"] = fitted["usable"].sum()
    rows = [{"shots": [], **row, "probe_version": probe_version} for row in rows]
    yield "tags", typed_rows("tags", rows)


def span(scope: str, first: int, last: int, start_s: "np.ndarray", end_s: "np.ndarray") -> dict[str, Any]:
    shown = {"first_shot": first, "last_shot": last, "start_s": start_s[first], "end_s": end_s[last]}
    return {"scope": scope, **shown}


def fitted_probes(run: TitleRun) -> "tuple[pl.DataFrame, str]":
    """The probes of the encoder in use, and their version."""
    version = run.catalogue.stored("probes")
    assert version is not None  # what reads probes waits until there are some
    return run.lake.read("probes", **run.catalogue.partition("probes")), version


def why(of_task: "pl.DataFrame", task: str) -> str:
    """A sentence for a task none of whose labels can be given."""
    if of_task["label"].drop_nulls().is_empty():
        return of_task["reason"][0] if len(of_task) else f"{task} has no labelled clips"
    return f"no label of {task} is predicted better than by chance on titles that were held out"


def highlights(run: TitleRun, title_id: str) -> "Rows":
    """Rank clips of the asked or the labelled clips' length by how likely an editor would choose them; none share a
    shot."""
    import polars as pl

    from model.highlights import highlights
    from model.tagging import sigmoid

    context = run.read("contextual_embeddings", title_id)
    start_s, end_s = context["start_s"].to_numpy(), context["end_s"].to_numpy()
    fitted, probe_version = fitted_probes(run)
    of_task = fitted.filter(task=CLIPS)
    rows: list[dict[str, Any]] = []
    reason = why(of_task, CLIPS)
    for probe in of_task.filter("usable").iter_rows(named=True):
        scores = sigmoid(vectors(context) @ pl.Series(probe["weights"]).to_numpy() + probe["bias"])
        length_s = run.resources.highlight_length.length_s or probe["clip_s"]
        found = highlights(scores, start_s, end_s, length_s * SHORTEST, length_s * LONGEST, HIGHLIGHTS)
        rows = [{"rank": rank, **clip._asdict()} for rank, clip in enumerate(found, 1)]
        reason = f"the title has no run of whole shots of about {length_s:.0f} s"
    run.notes["highlights"] = len(rows)
    rows = [{**row, "probe_version": probe_version} for row in rows or [{"rank": 0, "reason": reason}]]
    yield "highlights", typed_rows("highlights", rows)


STAGES = (
    Stage(
        (Recipe("probes", ("contextual_embeddings", "clip_labels", "encoder_promotions", "titles")),),
        "evaluation",
        probes,
        scope="catalogue",
        kinds=frozenset({"scikitlearn"}),
        version=probes_version,
    ),
    Stage((Recipe("tags", ("contextual_embeddings", "probes")),), "uses", tags, kinds=frozenset({"numpy"})),
    Stage(
        (Recipe("highlights", ("contextual_embeddings", "probes"), "highlight_length"),),
        "uses",
        highlights,
        kinds=frozenset({"numpy"}),
    ),
)
