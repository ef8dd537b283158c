"""The search index: every title's shots in one LanceDB table, derived from the lake and rebuilt from it at any time.

A row is a shot, with its fused vector and each modality's part of it as a unit vector, null where the shot has nothing
of that modality. Every change is one commit of the table: a reader sees it whole or not at all, and a process that dies
leaves what was there before. Small tables are searched exactly; large ones through an index of bits (IVF_RQ: inverted
lists, Gao & Long 2024, "RaBitQ"), whose best rows are scored again by their vectors. Rows that came after the index was
made are searched exactly beside it.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from model.modalities import FUSED_DIM, WIDTHS, blocks_of
from resources.errors import Unavailable
from resources.landing.untrusted import TITLE_ID

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from lancedb import DBConnection
    from lancedb.table import Table
    from numpy.typing import NDArray

BLOCKS = ("fused", *(name for name, _ in WIDTHS))
"""What can be searched by: the whole fused vector, or one modality's part of it."""
TABLE = "shots"
FORMAT = "1"
EXACT_BELOW = 10_000
"""Shots, up to which every row is scored: docs/search.md has the measurement."""
PROBES = 32
SCORED_AGAIN = 10
"""Times k: rows that the index finds and whose exact score decides."""
SHOTS_IN_A_COMMIT = 8192
LOOK_AGAIN_S = 5
"""For what other processes committed."""
OLD_VERSIONS_KEPT = timedelta(hours=1)
"""For readers that hold them."""


def index_uri(lake: str) -> str:
    """Where a lake's index is: beside its tables."""
    return f"{lake.rstrip('/')}/search_index"


class OtherSpace(Unavailable):
    """The index holds vectors of another space, or of another form, than those it was opened for."""


class IndexedTitle(NamedTuple):
    """A title on its way into the index: its shots in the order of their index.

    version: of the fused vectors. shot_index: (n,). start_s, end_s: (n,) seconds. fused: (n, 2304), finite, n >= 1; a
    modality that a shot has nothing of is a block of zeros.
    """

    title_id: str
    version: str
    shot_index: "NDArray[np.integer[Any]]"
    start_s: "NDArray[np.floating[Any]]"
    end_s: "NDArray[np.floating[Any]]"
    fused: "NDArray[np.floating[Any]]"


class Hit(NamedTuple):
    """A shot that was found. score: the dot product with the query; with unit queries it is the cosine, from -1 to 1.
    parts: what each modality that was asked for adds to the score."""

    title_id: str
    shot_index: int
    start_s: float
    end_s: float
    score: float
    parts: dict[str, float]


class SearchIndex:
    """An open index. Titles come and go by `upsert` and `remove`, from any process; `optimise` now and then."""

    def __init__(self, table: "Table", space: str) -> None:
        self._table = table
        self.space = space

    @classmethod
    def open(cls, uri: str, space: str, storage_options: Mapping[str, str] | None = None) -> "SearchIndex":
        """The index of this embedding space at a folder or `s3://bucket/prefix`, made if there is none.

        space: the fused vectors' `space`. Raises OtherSpace when what is there was made for another one, or by another
        version of this module: `anew` then, and upsert every title.
        """
        return cls._at(uri, space, storage_options, "create", exist_ok=True)

    @classmethod
    def anew(cls, uri: str, space: str, storage_options: Mapping[str, str] | None = None) -> "SearchIndex":
        """An empty index in the place of whatever is there, in one commit."""
        return cls._at(uri, space, storage_options, "overwrite", exist_ok=False)

    @classmethod
    def there(
        cls, uri: str, space: str | None, storage_options: Mapping[str, str] | None = None
    ) -> "SearchIndex | None":
        """The index at the place, whose space must be the given one, if one is given; None where there is none. Raises
        OtherSpace as `open`."""
        if "://" not in uri and not Path(uri).is_dir():  # LanceDB would make the folder
            return None
        try:
            table = _database(uri, storage_options).open_table(TABLE)
        except ValueError:  # what LanceDB says of a table that is not there
            return None
        if space is None:
            return cls(table, (table.schema.metadata or {}).get(b"space", b"").decode(errors="replace"))
        return cls.open(uri, space, storage_options)

    @classmethod
    def _at(
        cls, uri: str, space: str, storage_options: Mapping[str, str] | None, mode: str, exist_ok: bool
    ) -> "SearchIndex":
        base = _database(uri, storage_options)
        made_for = {b"format": FORMAT.encode(), b"space": space.encode()}
        try:
            table = base.open_table(TABLE) if exist_ok else None
        except ValueError:  # what LanceDB says of a table that is not there
            table = None
        if table is None:
            table = base.create_table(TABLE, schema=_schema().with_metadata(made_for), mode=mode, exist_ok=exist_ok)
        found = table.schema.metadata or {}
        if any(found.get(key) != value for key, value in made_for.items()):
            other = found.get(b"space", b"unknown").decode(errors="replace")
            raise OtherSpace(
                f"The search index at {uri} is of the space {other!r} in format {found.get(b'format', b'?').decode()}, "
                f"and {space!r} in format {FORMAT} is needed."
            )
        return cls(table, space)

    def __len__(self) -> int:
        """Shots."""
        return int(self._table.count_rows())

    def stored(self) -> dict[str, str]:
        """title_id -> the version that is in the index."""
        columns = ["title_id", "version"]
        rows = self._table.search().where("first").select(columns).limit(len(self) + 1).to_arrow()
        return dict(zip(rows["title_id"].to_pylist(), rows["version"].to_pylist(), strict=True))

    def upsert(self, titles: Iterable[IndexedTitle]) -> None:
        """Put titles in, each in the place of its older rows. The same again changes nothing that a reader sees.

        Several titles share a commit; each is in one commit whole. Raises ValueError for a title id, shapes or numbers
        that do not fit; the titles of earlier commits are then in.
        """
        for batch in _batches(titles):
            ids = ", ".join(f"'{title.title_id}'" for title in batch)
            merge = self._table.merge_insert(["title_id", "shot_index"])
            merge = merge.when_matched_update_all().when_not_matched_insert_all()
            merge = merge.when_not_matched_by_source_delete(f"title_id IN ({ids})")
            # Absent modalities are nulls, which LanceDB accepts when it is told to make nulls of bad vectors.
            merge.execute(_rows(batch), on_bad_vectors="null")

    def remove(self, title_id: str) -> None:
        """Take a title out; one that is not there stays so."""
        self._table.delete(f"title_id = '{_checked_id(title_id)}'")

    def optimise(self) -> None:
        """Index what is worth it, fold in what came since, drop versions that nobody reads any more. Searches are right
        without it, and slower the longer it waits. A new table's index is made here."""
        from lancedb.index import BTree, IvfRq

        shots = len(self)
        if shots > EXACT_BELOW:
            made = {column for index in self._table.list_indices() for column in index.columns}
            if "title_id" not in made:
                self._table.create_index("title_id", config=BTree())
            for block in BLOCKS:
                present = self._table.count_rows(f"{block} IS NOT NULL")
                if block not in made and present > EXACT_BELOW:
                    lists = int(present**0.5)
                    bits = IvfRq(distance_type="dot", num_partitions=lists, max_iterations=15, sample_rate=64)
                    self._table.create_index(block, config=bits)
        self._table.optimize(cleanup_older_than=OLD_VERSIONS_KEPT)

    def nearest(
        self, vector: "NDArray[np.floating[Any]]", k: int, block: str = "fused", titles: Sequence[str] | None = None
    ) -> list[Hit]:
        """The k shots of the highest dot product with a query, best first; fewer where there are fewer.

        vector: (2304,) for the block fused, where zeros stand for modalities that are not asked for; (768,) for one
        modality, whose shots without it are never found. titles: look in these only. Equal scores come in the order of
        title and shot. Raises ValueError for another length, NaN or infinity, another block, k < 1 or no title id.
        """
        import numpy as np

        if block not in BLOCKS:
            raise ValueError(f"block must be one of {', '.join(BLOCKS)}, not {block!r}.")
        if k < 1:
            raise ValueError(f"k must be 1 or more, not {k}.")
        query = np.asarray(vector, dtype=np.float32)
        width = self._table.schema.field(block).type.list_size
        if query.shape != (width,) or not np.isfinite(query).all():
            raise ValueError(f"A query by {block} is {width} finite numbers; this one has shape {query.shape}.")
        search: Any = self._table.search(query, vector_column_name=block)  # the type that it names is too general
        search = search.distance_type("dot").nprobes(PROBES).refine_factor(SCORED_AGAIN).limit(k)
        if titles is not None:
            ids = ", ".join(f"'{_checked_id(title_id)}'" for title_id in titles)
            if not ids:
                return []
            search = search.where(f"title_id IN ({ids})")
        columns = ["title_id", "shot_index", "start_s", "end_s", block, "_distance"]
        rows = search.select(columns).to_arrow().to_pylist()
        hits = [_hit(row, query, block) for row in rows]
        return sorted(hits, key=lambda hit: (-hit.score, hit.title_id, hit.shot_index))


def _database(uri: str, storage_options: Mapping[str, str] | None) -> "DBConnection":
    import lancedb

    return lancedb.connect(
        uri,
        read_consistency_interval=timedelta(seconds=LOOK_AGAIN_S),
        storage_options=dict(storage_options or {}),
    )


def _hit(row: dict[str, Any], query: "NDArray[np.float32]", block: str) -> Hit:
    """The score is taken from the vectors, not from the engine, so that it is the same whichever way led to the row."""
    import numpy as np

    products = np.asarray(row[block], dtype=np.float64) * query
    if block == "fused":
        asked = {name: own for name, own in blocks_of(WIDTHS).items() if query[own].any()}
        parts = {name: float(products[own].sum()) for name, own in asked.items()}
    else:
        parts = {block: float(products.sum())}
    score = float(products.sum())
    return Hit(row["title_id"], row["shot_index"], row["start_s"], row["end_s"], score, parts)


def _checked_id(title_id: str) -> str:
    """Raises ValueError for what is no title id, which so never reaches a predicate."""
    if not TITLE_ID.fullmatch(title_id):
        raise ValueError(f"{title_id[:140]!r} is no title id.")
    return title_id


def _batches(titles: Iterable[IndexedTitle]) -> Iterator[list[IndexedTitle]]:
    batch: dict[str, IndexedTitle] = {}
    shots = 0
    for title in titles:
        _check(title)
        if batch and (shots + len(title.fused) > SHOTS_IN_A_COMMIT or title.title_id in batch):
            yield list(batch.values())
            batch, shots = {}, 0
        batch[title.title_id] = title
        shots += len(title.fused)
    if batch:
        yield list(batch.values())


def _check(title: IndexedTitle) -> None:
    import numpy as np

    _checked_id(title.title_id)
    n = len(title.shot_index)
    width = _schema().field("fused").type.list_size
    if not n or title.fused.shape != (n, width) or len(title.start_s) != n or len(title.end_s) != n:
        raise ValueError(f"{title.title_id}: {n} shots with fused vectors of shape {title.fused.shape} do not fit.")
    if len(np.unique(title.shot_index)) != n:
        raise ValueError(f"{title.title_id}: two shots have the same index.")
    if not np.isfinite(title.fused).all():
        raise ValueError(f"{title.title_id}: a fused vector holds NaN or infinity.")


def _schema() -> "pa.Schema":
    import pyarrow as pa

    return pa.schema(
        [
            ("title_id", pa.string()),
            ("version", pa.string()),
            ("first", pa.bool_()),  # a title's first row, so that its version is read once
            ("shot_index", pa.int32()),
            ("start_s", pa.float64()),
            ("end_s", pa.float64()),
            ("fused", pa.list_(pa.float32(), FUSED_DIM)),
            *((modality, pa.list_(pa.float32(), width)) for modality, width in WIDTHS),
        ]
    )


def _rows(titles: Sequence[IndexedTitle]) -> "pa.Table":
    import numpy as np
    import pyarrow as pa

    lengths = [len(title.fused) for title in titles]
    fused = np.concatenate([title.fused for title in titles]).astype(np.float32)
    first = np.zeros(len(fused), dtype=bool)
    first[np.cumsum([0, *lengths[:-1]])] = True
    columns: dict[str, Any] = {
        "title_id": [title.title_id for title, length in zip(titles, lengths, strict=True) for _ in range(length)],
        "version": [title.version for title, length in zip(titles, lengths, strict=True) for _ in range(length)],
        "first": pa.array(first),
        "shot_index": pa.array(np.concatenate([title.shot_index for title in titles]), pa.int32()),
        "start_s": pa.array(np.concatenate([title.start_s for title in titles]), pa.float64()),
        "end_s": pa.array(np.concatenate([title.end_s for title in titles]), pa.float64()),
        "fused": _vectors(fused),
    }
    for modality, block in blocks_of(WIDTHS).items():
        columns[modality] = _vectors(fused[:, block], unit=True)
    return pa.table(columns, schema=_schema())


def _vectors(rows: "NDArray[np.float32]", unit: bool = False) -> "pa.FixedSizeListArray":
    """unit: of norm 1, and null where all is zero."""
    import numpy as np
    import pyarrow as pa

    mask = None
    if unit:
        norms = np.linalg.norm(rows, axis=1, keepdims=True)
        rows = np.divide(rows, norms, out=np.zeros_like(rows), where=norms > 0)
        mask = pa.array(norms[:, 0] == 0)
    values = pa.array(np.ascontiguousarray(rows, dtype=np.float32).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(values, rows.shape[1], mask=mask)
