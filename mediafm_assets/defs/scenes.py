"""What a title's shots add up to: scenes, and the places between them where a break disturbs least."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mediafm_assets.defs.ingest import cues_of
from mediafm_assets.defs.labels import labelled_scenes, labelled_scenes_version
from mediafm_assets.graph.materialise import TitleRun
from mediafm_assets.graph.stage import Recipe, Stage
from mediafm_assets.graph.versions import Catalogue, digest
from mediafm_assets.graph.whole import CatalogueRun
from model.modalities import WIDTHS, blocks_of
from resources.lake import typed_rows, vectors

if TYPE_CHECKING:
    import numpy as np
    import polars as pl
    from numpy.typing import NDArray

    from mediafm_assets.graph.materialise import Rows
    from model.boundary_head import Example, Head
    from model.scene_finders import Shots
    from model.scene_metrics import LabelledScenes

    TitleWithScenes = tuple[Shots, LabelledScenes]

BREAKS_APART_S = 300.0
"""Breaks nearer to each other, or to an end of the title, than this count less."""
CATEGORIES = "ad_relevancy"
CATEGORIES_SHOWN = 3


def scenes(run: TitleRun, title_id: str) -> "Rows":
    """Cut the title where its shots change: in context, in what is seen, in what is heard and in what is said; or where
    the boundary head says so, which knows that of them, where it is better."""
    import numpy as np
    import polars as pl

    from model.boundary_head import begins
    from model.scene_finders import UNSUPERVISED
    from model.scenes import scene_embeddings, scenes
    from resources.pictures import curve_and_map

    shots, context = run.read("fused_embeddings", title_id), run.read("contextual_embeddings", title_id)
    fused, contextual = vectors(shots), vectors(context, "last")
    known = {"contextual": contextual, **{name: fused[:, block] for name, block in blocks_of(WIDTHS).items()}}
    found = scenes([known[name] for name in UNSUPERVISED])
    scores, first = found.begins, found.first
    head, head_version = head_in_use(run.catalogue)
    if head:
        scores, first = begins(head, contextual, found.begins)
    last = np.append(first[1:], len(contextual)) - 1
    run.notes["scenes"] = len(first)
    scene = np.repeat(np.arange(len(first)), last - first + 1)
    run.draw(
        "neighbours_and_map",
        "left, how like each shot is to the next; right, the shots in two dimensions, a colour for each scene",
        lambda: curve_and_map(contextual, scene),
    )
    rows = {
        "scene_index": range(len(first)),
        "first_shot": first,
        "last_shot": last,
        "start_s": shots["start_s"].to_numpy()[first],
        "end_s": shots["end_s"].to_numpy()[last],
        "boundary_score": scores[first],
        "embedding": list(scene_embeddings(contextual, first, last)),
    }
    yield (
        "scenes",
        pl.DataFrame(rows).with_columns(
            encoder_version=pl.lit(run.catalogue.encoder_version),
            head_version=pl.lit(head_version, dtype=pl.String),
        ),
    )


def head_in_use(catalogue: Catalogue) -> "tuple[Head | None, str | None]":
    """The boundary head of the encoder in use, and its version; none where scenes are found better without labels."""
    from model.boundary_head import Head

    if not catalogue.is_in_use("boundary_head"):
        return None, None
    row = catalogue.lake.read("boundary_head", **catalogue.partition("boundary_head"))
    head = Head(vectors(row, "weights")[0], row["bias"][0], row["cutoff"][0])
    return head, row["data_version"][0]


def beats_what_is_found_without(catalogue: Catalogue) -> bool:
    """Whether the boundary head is better than none. Without labelled scenes there is none; with some, titles wait
    until it is known."""
    if catalogue.once(labelled_scenes_version) is None:
        return False
    if catalogue.stored("boundary_head") is None:
        return True
    return bool(catalogue.lake.read("boundary_head", **catalogue.partition("boundary_head"))["usable"][0])


def boundary_head(run: CatalogueRun) -> "Rows":
    """Learn from labelled scenes where scenes begin, and say whether that finds them better, on titles that were held
    out, than without labels."""
    from model.boundary_head import fit, worth
    from model.probes import TooFewLabels
    from model.scene_finders import UNSUPERVISED, grouped

    titles = list(run.catalogue.once(titles_with_scenes).values())
    find = grouped(*UNSUPERVISED)
    examples = examples_of(titles, [find(shots)[0] for shots, _ in titles])
    row: dict[str, Any] = {"usable": False}
    try:
        found = worth(examples)
        row |= {**found._asdict(), "usable": found.usable}
        if found.usable:
            row |= fit(examples)._asdict()
        else:
            row["reason"] = "scenes of titles that were held out are not found better than without labels"
    except TooFewLabels as error:
        row["reason"] = str(error)
    run.notes.update({name: value for name, value in row.items() if name != "weights"})
    yield "boundary_head", typed_rows("boundary_head", [row])


def head_version(catalogue: Catalogue) -> str | None:
    """The head follows the labelled scenes and the titles that they are of, and nothing else."""
    of_scenes = catalogue.once(labelled_scenes_version)
    if of_scenes is None or catalogue.encoder_version is None:
        return None
    return digest("boundary_head", catalogue.stages.recipe["boundary_head"].code, catalogue.encoder_version, of_scenes)


def examples_of(titles: "Sequence[TitleWithScenes]", unsupervised: "Sequence[NDArray[np.float64]]") -> "list[Example]":
    """What the boundary head learns from: titles, and what is found in each without labels."""
    from model.boundary_head import Example

    return [
        Example(shots.vectors["contextual"], scores, labels, shots.start_s, shots.end_s)
        for (shots, labels), scores in zip(titles, unsupervised, strict=True)
    ]


def titles_with_scenes(catalogue: Catalogue) -> "dict[str, TitleWithScenes]":
    """Every title whose scenes are labelled and can be compared, with its shots in each representation."""
    from model.scene_finders import Shots
    from model.scene_metrics import on_shots

    found = {}
    for title_id, rows in catalogue.once(labelled_scenes).items():
        shots = catalogue.lake.read("fused_embeddings", title_id=title_id).sort("shot_index")
        of_title = {"encoder_version": catalogue.encoder_version or "", "title_id": title_id}
        context = catalogue.lake.read("contextual_embeddings", **of_title).sort("shot_index")
        start_s, fused = shots["start_s"].to_numpy(), vectors(shots)
        in_context = {"contextual": vectors(context, "last"), "contextual_in_context": vectors(context)}
        by_representation = {name: fused[:, block] for name, block in blocks_of(WIDTHS).items()} | in_context
        labels = on_shots(rows["start_s"].to_numpy(), rows["end_s"].to_numpy(), start_s)
        found[title_id] = Shots(by_representation | {"fused": fused}, start_s, shots["end_s"].to_numpy()), labels
    return found


def ad_breaks(run: TitleRun, title_id: str) -> "Rows":
    """Rank the beginnings of scenes by how sure the cut is, how long nobody speaks there and how far other breaks are,
    each with the ad categories before and after it."""
    import numpy as np

    from model.ad_breaks import ad_breaks

    shots, found = run.read("shots", title_id), run.read("scenes", title_id)
    begins = np.zeros(len(shots))
    begins[found["first_shot"].to_numpy()] = found["boundary_score"].to_numpy()
    track, cues = cues_of(run, title_id)
    said = np.array([(cue.start_s, cue.end_s) for cue in cues], dtype=np.float64).reshape(-1, 2) if track else None
    spans = shots["start_s"].to_numpy(), shots["end_s"].to_numpy()
    ranked = ad_breaks(begins, found["first_shot"].to_numpy(), *spans, said, BREAKS_APART_S)
    tags = run.read("tags", title_id).filter(task=CATEGORIES, scope="window")
    rows: list[dict[str, Any]] = [
        {
            "rank": rank,
            "shot_index": each.shot,
            "time_s": each.time_s,
            "score": each.score,
            "boundary_score": each.boundary,
            "pause_s": each.pause_s,
            "gap_s": each.gap_s,
            "before": categories(tags, each.shot - 1),
            "after": categories(tags, each.shot),
        }
        for rank, each in enumerate(ranked, 1)
    ]
    run.notes["breaks"] = len(rows)
    none = {"rank": 0, "before": [], "after": [], "reason": "the title is a single scene"}
    yield "ad_breaks", typed_rows("ad_breaks", rows or [none])


def categories(tags: "pl.DataFrame", shot: int) -> list[str]:
    """The likeliest ad categories of the window that holds the shot, those that are likelier than not."""
    import polars as pl

    of_shot = tags.filter(pl.col("first_shot") <= shot, pl.col("last_shot") >= shot, pl.col("probability") > 0.5)
    return of_shot.sort("probability", descending=True)["label"].head(CATEGORIES_SHOWN).to_list()


STAGES = (
    Stage(
        (Recipe("scenes", ("contextual_embeddings", "fused_embeddings", "boundary_head")),),
        "uses",
        scenes,
        kinds=frozenset({"numpy"}),
    ),
    Stage(
        (
            Recipe(
                "boundary_head",
                ("clip_labels", "contextual_embeddings", "encoder_promotions", "fused_embeddings", "titles"),
            ),
        ),
        "evaluation",
        boundary_head,
        scope="catalogue",
        kinds=frozenset({"scikitlearn"}),
        version=head_version,
        in_use=beats_what_is_found_without,
    ),
    Stage(
        (Recipe("ad_breaks", ("scenes", "shots", "tags", "timed_text")),),
        "uses",
        ad_breaks,
        kinds=frozenset({"numpy"}),
    ),
)
