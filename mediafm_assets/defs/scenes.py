"""What a title's shots add up to: scenes, and the places between them where a break disturbs least."""

from typing import TYPE_CHECKING, Any

from mediafm_assets.defs.ingest import cues_of
from mediafm_assets.defs.labels import labelled_scenes
from mediafm_assets.graph.materialise import TitleRun
from mediafm_assets.graph.stage import Recipe, Stage
from mediafm_assets.graph.versions import Catalogue
from model.modalities import WIDTHS, blocks_of
from resources.lake import typed_rows, vectors

if TYPE_CHECKING:
    import polars as pl

    from mediafm_assets.graph.materialise import Rows
    from model.scene_finders import Shots
    from model.scene_metrics import LabelledScenes

    TitleWithScenes = tuple[Shots, LabelledScenes]

BREAKS_APART_S = 300.0
"""Breaks nearer to each other, or to an end of the title, than this count less."""
CATEGORIES = "ad_relevancy"
CATEGORIES_SHOWN = 3


def scenes(run: TitleRun, title_id: str) -> "Rows":
    """Cut the title where its shots change: in context, in what is seen, in what is heard and in what is said."""
    import numpy as np
    import polars as pl

    from model.scenes import scene_embeddings, scenes
    from resources.pictures import curve_and_map

    shots, context = run.read("fused_embeddings", title_id), run.read("contextual_embeddings", title_id)
    fused, contextual = vectors(shots), vectors(context, "last")
    found = scenes([contextual, *(fused[:, block] for block in blocks_of(WIDTHS).values())])
    run.notes["scenes"] = len(found.first)
    scene = np.repeat(np.arange(len(found.first)), np.asarray(found.last) - np.asarray(found.first) + 1)
    run.draw(
        "neighbours_and_map",
        "left, how like each shot is to the next; right, the shots in two dimensions, a colour for each scene",
        lambda: curve_and_map(contextual, scene),
    )
    rows = {
        "scene_index": range(len(found.first)),
        "first_shot": found.first,
        "last_shot": found.last,
        "start_s": shots["start_s"].to_numpy()[found.first],
        "end_s": shots["end_s"].to_numpy()[found.last],
        "boundary_score": found.begins[found.first],
        "embedding": list(scene_embeddings(contextual, found.first, found.last)),
    }
    yield "scenes", pl.DataFrame(rows).with_columns(encoder_version=pl.lit(run.catalogue.encoder_version))


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
        (Recipe("scenes", ("contextual_embeddings", "fused_embeddings")),),
        "uses",
        scenes,
        kinds=frozenset({"numpy"}),
    ),
    Stage(
        (Recipe("ad_breaks", ("scenes", "shots", "tags", "timed_text")),),
        "uses",
        ad_breaks,
        kinds=frozenset({"numpy"}),
    ),
)
