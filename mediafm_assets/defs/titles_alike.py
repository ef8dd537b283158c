"""Titles as vectors, the titles most like each, which can be recommended before anybody has watched, and what the
vectors are worth."""

from typing import TYPE_CHECKING, Any

from mediafm_assets.graph.materialise import TitleRun
from mediafm_assets.graph.stage import Recipe, Stage
from mediafm_assets.graph.whole import CatalogueRun
from model.modalities import WIDTHS, blocks_of
from resources.lake import typed_rows, vectors
from resources.lake.tables import TITLE_PARTS

if TYPE_CHECKING:
    from mediafm_assets.graph.materialise import Rows

NEIGHBOURS = 10
MOST_TITLES = 1000
"""That title vectors are judged on, evenly over the catalogue."""
SEED = 0


def title_embeddings(run: TitleRun, title_id: str) -> "Rows":
    """Pool the title's shots, each by how long it is on screen: in context, by modality; and its metadata beside."""
    from model.titles import joined, pooled

    shots = run.read("fused_embeddings", title_id)
    seconds, fused = (shots["end_s"] - shots["start_s"]).to_numpy(), vectors(shots)
    parts = {
        "contextual": pooled(vectors(run.read("contextual_embeddings", title_id), "last"), seconds),
        **{name: pooled(fused[:, block], seconds) for name, block in blocks_of(WIDTHS).items()},
        "metadata": vectors(run.read("global_embeddings", title_id))[0],
    }
    row: dict[str, Any] = {
        "embedding": joined(parts),
        **parts,
        "shots": len(shots),
        "encoder_version": run.catalogue.encoder_version,
    }
    yield "title_embeddings", typed_rows("title_embeddings", [row])


def title_neighbours(run: CatalogueRun) -> "Rows":
    """For each title the most similar others, with what each part adds to the similarity."""
    from model.titles import nearest_titles

    titles = run.lake.read_whole("title_embeddings").filter(encoder_version=run.partition["encoder_version"])
    titles = titles.sort("title_id")
    ids = titles["title_id"].to_list()
    found = nearest_titles({part: vectors(titles, part) for part in TITLE_PARTS}, NEIGHBOURS)
    rows: list[dict[str, Any]] = []
    for title_id, neighbours in zip(ids, found, strict=True):
        rows += [
            {"title_id": title_id, "rank": rank, "neighbour_id": ids[near.title], "score": near.score, **near.carried}
            for rank, near in enumerate(neighbours, 1)
        ] or [{"title_id": title_id, "rank": 0, "reason": "there is no other title"}]
    yield "title_neighbours", typed_rows("title_neighbours", rows)


def title_metrics(run: CatalogueRun) -> "Rows":
    """Judge the title vectors, part by part: by the genres that they foretell, and by whether titles of a series are
    alike."""
    from model.title_probes import Titles, title_genres, title_series

    found = run.lake.read_whole("title_embeddings").filter(encoder_version=run.partition["encoder_version"])
    known = run.lake.scan("titles").select("title_id", "genres", "series_id").collect()
    rows = found.join(known, on="title_id").sort("title_id")[:: -(-len(found) // MOST_TITLES) or 1]
    parts = {part: vectors(rows, part) for part in ("embedding", *TITLE_PARTS)}
    titles = Titles(rows["title_id"].to_list(), parts, rows["genres"].to_list(), rows["series_id"].to_list())
    results = [*title_genres(titles, SEED), *title_series(titles, SEED)]
    run.notes["titles"] = len(rows)
    run.notes.update({f"{each.task}_{each.representation}": each.value for each in results if each.value is not None})
    yield "title_metrics", typed_rows("title_metrics", [result._asdict() for result in results])


STAGES = (
    Stage(
        (Recipe("title_embeddings", ("contextual_embeddings", "fused_embeddings", "global_embeddings")),),
        "uses",
        title_embeddings,
        kinds=frozenset({"numpy"}),
    ),
    Stage(
        (Recipe("title_neighbours", ("title_embeddings", "encoder_promotions")),),
        "uses",
        title_neighbours,
        scope="catalogue",
        kinds=frozenset({"numpy"}),
    ),
    Stage(
        (Recipe("title_metrics", ("title_embeddings", "encoder_promotions", "titles")),),
        "evaluation",
        title_metrics,
        scope="catalogue",
        kinds=frozenset({"scikitlearn"}),
    ),
)
