"""The search index: every title's shots, to be found by words or by another shot."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from mediafm_assets.graph.materialise import TitleRun
from mediafm_assets.graph.stage import Recipe, Stage
from mediafm_assets.graph.versions import Catalogue
from resources.lake import vectors
from resources.search_index import IndexedTitle, OtherSpace, SearchIndex, index_uri

if TYPE_CHECKING:
    from mediafm_assets.graph.materialise import Rows


def open_index(catalogue: Catalogue) -> SearchIndex:
    """The lake's index; an empty one in the place of an index of another space, whose titles are then all missing."""
    lake, space = catalogue.lake, catalogue.fused_space()
    try:
        return SearchIndex.open(index_uri(lake.uri), space, lake.storage_options)
    except OtherSpace:
        return SearchIndex.anew(index_uri(lake.uri), space, lake.storage_options)


def indexed(catalogue: Catalogue) -> Mapping[tuple[str, ...], str]:
    """The stored versions. Whoever looks, in whatever configuration, leaves an index of another space as it is."""
    lake = catalogue.lake
    try:
        index = SearchIndex.there(index_uri(lake.uri), catalogue.fused_space(), lake.storage_options)
    except OtherSpace:
        index = None
    return {(title_id,): version for title_id, version in index.stored().items()} if index else {}


def search_index(run: TitleRun, title_id: str) -> "Rows":
    """Put the title's shots into the index, in the place of its older ones."""
    shots = run.read("fused_embeddings", title_id)
    title = IndexedTitle(
        title_id,
        run.catalogue.made_now("search_index", title_id) or "",
        shots["shot_index"].to_numpy(),
        shots["start_s"].to_numpy(),
        shots["end_s"].to_numpy(),
        vectors(shots),
    )
    run.catalogue.once(open_index).upsert([title])
    run.notes["shots"] = len(shots)
    yield from ()


STAGES = (
    Stage(
        (Recipe("search_index", ("fused_embeddings",)),),
        "uses",
        search_index,
        kinds=frozenset({"lancedb"}),
        stored=indexed,
        about="Every title's shots in one LanceDB table beside the lake's, derived from `fused_embeddings`: what "
        "`mediafm search` and the pages ask. It can be deleted at any time and is then made again.",
    ),
)
