"""Search: shots by words or by another shot, titles by words.

A query becomes vectors for the blocks of the fused embedding: the text encoder's for what is said, the picture tower's
for what is seen where the video encoder has one, and the fused vector itself for a shot that others should be like.
Each gives a list of shots from the lake's search index, and lists are joined by reciprocal rank fusion (Cormack, Clarke
and Büttcher, SIGIR 2009, k = 60). Titles, and shots of one encoder generation, are compared exactly in memory.
"""

import threading
import unicodedata
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from mediafm_assets.graph import versions
from mediafm_assets.pages.catalogue import Catalogue, NotThere, Row, parse_shot
from mediafm_assets.pages.recent import Recent
from mediafm_assets.pages.vectors import WHOLE, Refused, Vectors
from mediafm_assets.stages import all_stages
from model.ranking import reciprocal_rank_fusion
from resources.errors import Unavailable
from resources.search_index import OtherSpace, SearchIndex, index_uri

if TYPE_CHECKING:
    import numpy as np

LONGEST_QUERY = 1000
MOST_HITS = 100
MOST_TITLES = 20
TITLE_HITS = 4


class Hit(NamedTuple):
    """A shot that a query found. score: a cosine. parts: what video, audio and text, as far as they were asked for, add
    to it."""

    title_id: str
    shot_index: int
    score: float
    parts: dict[str, float]

    @property
    def modality(self) -> str:
        """The one that carried it: video, audio or text."""
        return max(self.parts, key=lambda name: self.parts[name])

    def said(self, rank: int) -> Row:
        """What a reader is told of it."""
        parts = {name: round(part, 4) for name, part in self.parts.items()}
        return {"modality": self.modality, "rank": rank, "score": round(self.score, 4), "parts": parts}


def checked_query(said: str) -> str:
    """The query in one line. Raises Refused for one that is too long or holds control characters."""
    if len(said) > LONGEST_QUERY:
        raise Refused(f"The query has {len(said):,} characters; ask in at most {LONGEST_QUERY:,}.")
    query = " ".join(said.split())
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in query):
        raise Refused("The query holds control characters; leave them out.")
    return query


@dataclass(frozen=True)
class Question:
    """What is asked for. text: in one line, or "". like: a shot, or None. titles: only in these; none: in all."""

    text: str
    like: tuple[str, int] | None
    titles: tuple[str, ...]
    k: int


def question(text: str = "", like: str = "", titles: Sequence[str] = (), k: int | str = 10) -> Question:
    """A question from what somebody said. Raises Refused, and NotThere for a shot that is no TITLE:SHOT."""
    try:
        number = int(k)
    except ValueError:
        number = 0
    if not 1 <= number <= MOST_HITS:
        raise Refused(f"k must be a whole number from 1 to {MOST_HITS}.")
    if len(titles) > MOST_TITLES:
        raise Refused(f"At most {MOST_TITLES} titles can be searched by name at once.")
    query = checked_query(text)
    if not query and not like.strip():
        raise Refused("Say what to look for: some words, or a shot as TITLE:SHOT.")
    named = tuple(title for title in titles if title)
    return Question(query, parse_shot(like) if like.strip() else None, named, number)


class Search:
    """Search over a catalogue, with the encoders that the environment configures."""

    def __init__(self, catalogue: Catalogue, resources: Mapping[str, Any]) -> None:
        self._catalogue = catalogue
        self._versions = versions.Catalogue(catalogue.lake, resources, all_stages())
        # A query is paid for again in another process rather than written into the lake, which readers leave alone.
        self._text = resources["text_encoder"].model_copy(update={"lake": ""})
        self._titles = resources["title_encoder"].model_copy(update={"lake": ""})
        self._video = resources["video_encoder"]
        self._fusion = resources["fusion"]
        self._turn = threading.Lock()
        self._vectors: Recent[Vectors] = Recent(5)  # fused, of the titles, and of generations that are compared
        self._queries: Recent[np.ndarray] = Recent(1024)

    def answer(self, asked: Question) -> Row:
        """`shots`: up to k hits, best first, each with its shot's times, words, title, and `matches`: for each way in
        which it was found, the modality that carried it, rank, cosine as `score`, and what each modality adds to that
        as `parts`. `titles`: up to `TITLE_HITS` titles nearest to the words.

        Raises NotThere for a title or shot that does not exist, Refused when the lake's vectors are of another space
        than the configured encoders', Unavailable when an encoder cannot be used.
        """
        for title in asked.titles:
            self._catalogue.title(title)
        hits = {
            block: self.find_shots(block, query, 2 * asked.k, asked.titles or None, asked.like)
            for block, query in self._query_vectors(asked).items()
        }
        places = {block: [(hit.title_id, hit.shot_index) for hit in found] for block, found in hits.items()}
        best = reciprocal_rank_fusion(places, asked.k)
        with suppress(Unavailable):  # of one title, which is then left out
            self._catalogue.shots_of({title for (title, _), _, _ in best})
        return {
            "query": asked.text,
            "like": f"{asked.like[0]}:{asked.like[1]}" if asked.like else None,
            "in_titles": list(asked.titles),
            "shots": [
                {
                    **shown,
                    "score": round(each.score, 6),
                    "matches": [hits[block][rank - 1].said(rank) for block, rank in each.places.items()],
                }
                for each in best
                if (shown := self._shown(*each.key)) is not None
            ],
            "titles": self.find_titles(asked.text) if asked.text and not asked.titles else [],
        }

    def read_ahead(self) -> None:
        """Read the vectors that searches compare with. Raises as `answer` does."""
        self._index()
        self._of_titles().count()

    def find_shots(
        self,
        block: str,
        query: "np.ndarray",
        k: int,
        titles: Collection[str] | None = None,
        but: tuple[str, int] | None = None,
    ) -> list[Hit]:
        """The k shots nearest to a query, best first. block: of the fused vector: video, audio or text with a query
        of (768,), or fused with one of (2304,). titles: only of these. but: not this shot. Raises Refused."""
        index, registered = self._index(), self._catalogue.titles()
        unit = query / max(float((query @ query) ** 0.5), 1e-12)
        kept: list[Hit] = []
        asked, more = k + 1, True
        while len(kept) < k and more:
            found = index.nearest(unit, asked, block, sorted(titles) if titles else None)
            kept = [
                Hit(hit.title_id, hit.shot_index, min(1.0, hit.score), hit.parts)
                for hit in found
                if hit.score > 0 and hit.title_id in registered and (hit.title_id, hit.shot_index) != but
            ]
            # Deleted titles stay in the index until the weekly maintenance: others are asked for in their place.
            more = len(found) == asked and found[-1].score > 0
            asked *= 2
        return kept[:k]

    def find_titles(self, text: str) -> list[Row]:
        """The titles whose metadata's vectors are nearest to the words, with their cosine as `score`."""
        query = self._queries.get(("title", text), lambda: self._titles.embed([text])[0])
        registered = self._catalogue.titles()
        return [
            {"title_id": title, "title": registered[title]["title"], "score": round(cosine, 4)}
            for title, _, cosine, _ in self._of_titles().nearest(query, "whole", TITLE_HITS, None, None)
        ]

    def compare(self, like: str, generations: Sequence[str], k: int | str) -> list[Row]:
        """For each encoder generation the k shots whose contextual vectors are nearest to the given shot's. Raises
        NotThere and Refused."""
        asked = question(like=like, k=k)
        title_id, shot_index = asked.like or ("", 0)
        self._catalogue.shot(title_id, shot_index)
        answers = []
        for generation in generations:
            stored = self._catalogue.versions("contextual_embeddings")
            if (generation, title_id) not in stored:
                raise NotThere("One of those encoder generations has no contextual embeddings of that title.")
            own = self._catalogue.lake.read("contextual_embeddings", encoder_version=generation, title_id=title_id)
            of_generation = self._of("contextual_embeddings", WHOLE, generation)
            query = own["embedding"][shot_index].to_numpy()
            near = of_generation.nearest(query, "whole", asked.k, None, (title_id, shot_index))
            hits = [
                {**shown, "score": round(cosine, 4)}
                for title, shot, cosine, _ in near
                if (shown := self._shown(title, shot)) is not None
            ]
            answers.append({"encoder_version": generation, "shots": hits})
        return answers

    def _query_vectors(self, asked: Question) -> "dict[str, np.ndarray]":
        """By block of the fused vector: what to look for in it."""
        found: dict[str, np.ndarray] = {}
        text = asked.text
        if text and self._fusion.kind == "omni":
            found["text"] = self._queries.get(("text", text), lambda: self._fusion.omni.embed_query(text))
        elif text:
            found["text"] = self._queries.get(("text", text), lambda: self._text.embed([text])[0])
            if self._video.kind == "clip":
                found["video"] = self._queries.get(("video", text), lambda: self._video.embed_texts([text])[0])
        if asked.like:
            found["fused"] = self._fused_vector(*asked.like)
        return found

    def _fused_vector(self, title_id: str, shot_index: int) -> "np.ndarray":
        self._catalogue.shot(title_id, shot_index)
        if (title_id,) not in self._catalogue.versions("fused_embeddings"):
            raise NotThere("That title has no fused embeddings yet.")
        rows = self._catalogue.lake.read("fused_embeddings", title_id=title_id)
        if rows["space"][0] != self._versions.fused_space():
            raise Refused("That shot's vector is of another space than the configured encoders'.")
        vector: np.ndarray = rows["embedding"][shot_index].to_numpy()
        return vector

    def _shown(self, title_id: str, shot_index: int) -> Row | None:
        """What a reader is told of a shot; None when it went since it was found, or cannot be read."""
        try:
            title, shot = self._catalogue.title(title_id), self._catalogue.shot(title_id, shot_index)
        except (NotThere, Unavailable):
            return None
        told = {name: shot[name] for name in ("shot_index", "start_s", "end_s", "text")}
        return {"title_id": title_id, "title": title["title"], **told}

    def _index(self) -> SearchIndex:
        """Raises Refused when there is none, or it is of another space."""
        lake = self._catalogue.lake
        try:
            index = SearchIndex.there(index_uri(lake.uri), self._versions.fused_space(), lake.storage_options)
        except OtherSpace:
            raise Refused(
                "The search index holds vectors of another space than the configured encoders'; set MEDIAFM_PROFILE "
                "and its like as for the lake."
            ) from None
        if index is None:
            raise Refused("There is no search index yet; `mediafm materialize` makes it.")
        return index

    def _of_titles(self) -> Vectors:
        return self._of("global_embeddings", WHOLE, space=("encoder", self._titles.space()))

    def _of(
        self,
        table: str,
        blocks: Mapping[str, slice],
        generation: str | None = None,
        space: tuple[str, str] | None = None,
    ) -> Vectors:
        def make() -> Vectors:
            return Vectors(self._catalogue, table, blocks, generation, space)

        with self._turn:
            return self._vectors.get((table, generation, space), make)
