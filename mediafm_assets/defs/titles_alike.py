"""Titles as vectors, and the titles most like each: what can be recommended before anybody has watched."""

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
)
