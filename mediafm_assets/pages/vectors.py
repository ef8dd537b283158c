"""Vectors in memory, compared exactly: of titles, and of one encoder generation. They are followed title by title."""

import threading
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from mediafm_assets.pages.catalogue import FILE, Catalogue
from resources.lake import TABLES, vectors

if TYPE_CHECKING:
    import numpy as np

EXACT_NUMBERS = 150_000_000
"""In the vectors of titles, or of one encoder generation, that are compared exactly: 600 MB."""
FILES_READ_TOGETHER = 256
SEGMENTS = 16

WHOLE = {"whole": slice(None)}


class Refused(ValueError):
    """A query that cannot be answered as it is. The message is a sentence for whoever asked."""


class _Segment(NamedTuple):
    """Vectors of some titles' shots. owner: (n,) index into `titles`; shot: (n,); vectors: (n, d); norms: (n,) of each
    block; alive: (n,) bool."""

    titles: list[str]
    owner: "np.ndarray"
    shot: "np.ndarray"
    vectors: "np.ndarray"
    norms: "Mapping[str, np.ndarray]"
    alive: "np.ndarray"


class Vectors:
    """The vectors of one space, of every title in a table partitioned by title, kept in memory and followed by title.

    table: its rows have `embedding`. generation: of a table that is partitioned by encoder, too. space: a column and
    the value that it must have. blocks: the parts that can be searched. Safe among threads.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        table: str,
        blocks: Mapping[str, slice],
        generation: str | None = None,
        space: tuple[str, str] | None = None,
    ) -> None:
        self._catalogue, self._table, self._blocks = catalogue, table, blocks
        self._generation, self._space = generation, space
        self._turn = threading.Lock()
        self._followed: Mapping[tuple[str, ...], str] = {}
        self._known: dict[str, str] = {}
        self._segments: list[_Segment] = []

    def nearest(
        self, query: "np.ndarray", block: str, k: int, titles: Collection[str] | None, but: tuple[str, int] | None
    ) -> "list[tuple[str, int, float, np.ndarray]]":
        """The k rows of the greatest positive cosine with `query` in `block`: title, shot index (0 where the table has
        none), cosine and the row's vector. titles: only of these. but: not this shot."""
        import numpy as np

        found: list[tuple[float, str, int, np.ndarray]] = []
        registered = self._catalogue.titles()
        for segment in self._current():
            products = segment.vectors[:, self._blocks[block]] @ query
            cosines = products / np.maximum(segment.norms[block] * float(np.linalg.norm(query)), 1e-12)
            wanted = [name in registered and (titles is None or name in titles) for name in segment.titles]
            cosines[~(segment.alive & np.asarray(wanted, dtype=bool)[segment.owner])] = -1
            if but is not None and but[0] in segment.titles:
                own = segment.owner == segment.titles.index(but[0])
                cosines[own & (segment.shot == but[1])] = -1
            best = np.argpartition(-cosines, min(k, len(cosines) - 1))[:k]
            found += [
                (float(cosines[i]), segment.titles[segment.owner[i]], int(segment.shot[i]), segment.vectors[i])
                for i in best
                if cosines[i] > 0
            ]
        found.sort(key=lambda hit: (-hit[0], hit[1], hit[2]))
        return [(title, shot, cosine, vector) for cosine, title, shot, vector in found[:k]]

    def _current(self) -> list[_Segment]:
        """The segments after the titles that came, changed and went are followed. Raises Refused for too many shots."""
        import numpy as np

        stored_now = self._catalogue.versions(self._table)
        with self._turn:
            if stored_now is self._followed:
                return self._segments
            stored = {key[-1]: version for key, version in stored_now.items() if self._generation in (None, key[0])}
            gone = {title for title, version in self._known.items() if stored.get(title) != version}
            came = sorted(title for title, version in stored.items() if self._known.get(title) != version)
            segments = []
            for segment in self._segments:
                left = np.asarray([title not in gone for title in segment.titles], dtype=bool)
                segments.append(segment if left.all() else segment._replace(alive=segment.alive & left[segment.owner]))
            for start in range(0, len(came), FILES_READ_TOGETHER):
                titles = came[start : start + FILES_READ_TOGETHER]
                read = self._catalogue.readable(self._table, titles, self._read)
                segments += [segment for segment in read if segment is not None]
                if sum(segment.vectors.size for segment in segments) > EXACT_NUMBERS:
                    raise Refused(f"{self._table} holds more vectors than can be compared at once.")
            if len(segments) > SEGMENTS:
                segments = [_joined(segments)]
            self._segments, self._known, self._followed = segments, stored, stored_now
            return segments

    def _read(self, table: str, titles: Sequence[str]) -> _Segment | None:
        """The titles' rows of the space, as a segment; None where there are none."""
        import numpy as np
        import polars as pl

        of_title = {} if self._generation is None else {"encoder_version": self._generation}
        owners: dict[str, str] = {}
        for title in titles:
            for file in self._catalogue.files(table, {**of_title, "title_id": title}):
                owners[file] = title
        if not owners:
            return None
        names = {column.name for column in TABLES[table].columns}
        columns = [name for name in ("shot_index", *(self._space or ())[:1], "embedding") if name in names]
        scanned = self._catalogue.scan(table, list(owners), include_file_paths=FILE)
        rows = self._catalogue.collected(table, scanned.select(*columns, FILE))
        if self._space is not None:
            column, space = self._space
            rows = rows.filter(pl.col(column) == space)
        if rows.is_empty():
            return None
        kept = list(dict.fromkeys(owners[file] for file in rows[FILE]))
        number = {title: i for i, title in enumerate(kept)}
        found = vectors(rows)
        return _Segment(
            kept,
            np.asarray([number[owners[file]] for file in rows[FILE]], dtype=np.int32),
            rows["shot_index"].to_numpy() if "shot_index" in columns else np.zeros(len(rows), dtype=np.int32),
            found,
            {name: np.linalg.norm(found[:, block], axis=1) for name, block in self._blocks.items()},
            np.ones(len(rows), dtype=bool),
        )

    def count(self) -> int:
        """How many rows there are to search."""
        return sum(int(segment.alive.sum()) for segment in self._current())


def _joined(segments: Sequence[_Segment]) -> _Segment:
    """One segment of what is alive in several."""
    import numpy as np

    titles: list[str] = []
    owners = []
    for segment in segments:
        owners.append(segment.owner[segment.alive] + len(titles))
        titles += segment.titles
    return _Segment(
        titles,
        np.concatenate(owners),
        np.concatenate([segment.shot[segment.alive] for segment in segments]),
        np.concatenate([segment.vectors[segment.alive] for segment in segments]),
        {
            block: np.concatenate([segment.norms[block][segment.alive] for segment in segments])
            for block in segments[0].norms
        },
        np.ones(sum(map(len, owners)), dtype=bool),
    )
