"""What the lake knows of its titles, for reading: the pages, the JSON and the commands all take it from here.

A row is a mapping of the columns that docs/tables.md describes, without vectors and pictures. A title is looked up
among the registered ones, and only then is a table asked for it, by the partition that has its name: no path and no
predicate comes from a request. Whatever has not been made yet is an empty part.
"""

import json
import logging
import math
import re
import threading
import time
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from mediafm_assets.graph.versions import PROMOTIONS
from mediafm_assets.pages.recent import Recent
from resources.errors import Unavailable, one_line
from resources.lake import TABLES, DeltaLake, PartitionMissing, vectors
from resources.lake.reading import scanned

if TYPE_CHECKING:
    import numpy as np
    import polars as pl

log = logging.getLogger(__name__)

Made = TypeVar("Made")
Row = dict[str, Any]
DataVersions = Mapping[tuple[str, ...], str]
"""Data versions of a table's partitions, by the values of the partition columns."""

FRESH_S = 1.0
"""So long what a table's log said counts as what it says."""
STILLS_READ_TOGETHER = 32
"""Shots whose stills are read at once: they lie in the same row group, which is unpacked as a whole."""
HEAVY = ("list<float32>", "binary")
FILE = "file of the table"
"""A column beside the declared ones, which have no spaces."""

OF_A_TITLE = ("scenes", "tags", "ad_breaks", "highlights")
"""Tables partitioned by title that a title's page shows as they are."""


class NotThere(LookupError):
    """What was asked for is not in the catalogue. The message is a sentence for whoever asked."""


class OnlyHeard(NotThere):
    """There is no picture of it, and there will be none."""


class Catalogue:
    """One lake, read. Safe among threads; what it keeps is bounded and follows the tables' data versions."""

    def __init__(self, lake: DeltaLake) -> None:
        self.lake = lake
        self._turn = threading.Lock()
        self._versions: dict[str, tuple[float, DataVersions]] = {}
        self._titles: tuple[DataVersions, dict[str, Row]] = {}, {}
        self._newest_first: tuple[Mapping[str, Row], list[Row]] = {}, []
        self._rows: Recent[list[Row]] = Recent(512)
        self._shots: Recent[list[Row]] = Recent(512)
        self._cosines: Recent[dict[str, list[float]]] = Recent(256)
        self._stills: Recent[dict[int, bytes]] = Recent(128)  # at most 4,096 pictures of about 10 KB
        self._encoders: Recent[list[Row]] = Recent(1)
        self._promoted: Recent[str | None] = Recent(1)

    # ---- titles --------------------------------------------------------------------------------------------------

    def titles(self) -> Mapping[str, Row]:
        """The registered titles by id, each with its row in `titles`."""
        now = self.versions("titles")
        read, found = self._titles
        if read is now:
            return found
        with self._turn:
            known, found = self._titles
            if known is not now:
                missing = sorted(title_id for (title_id,), version in now.items() if known.get((title_id,)) != version)
                kept = {title_id: row for title_id, row in found.items() if (title_id,) in now}
                for part in self.readable("titles", missing, self._read_several):
                    for title_id, rows in part.items():
                        kept[title_id] = {"title_id": title_id, "data_version": now[(title_id,)], **rows[0]}
                found = kept
                self._titles = now, found
            return found

    def newest_first(self) -> list[Row]:
        """The registered titles by when they landed, the last one first."""
        found = self.titles()
        with self._turn:
            if self._newest_first[0] is not found:
                ordered = sorted(found.values(), key=lambda row: row["title"].casefold())
                self._newest_first = found, sorted(ordered, key=lambda row: row["landed_at"], reverse=True)
            return self._newest_first[1]

    def title(self, title_id: str) -> Row:
        """The title's row in `titles`. Raises NotThere."""
        row = self.titles().get(title_id)
        if row is None:
            raise NotThere("There is no such title in the catalogue.")
        return row

    def shots(self, title_id: str) -> list[Row]:
        """The title's shots in order, each with the words said in it (`text`; "" where nothing is)."""
        return self.shots_of([title_id])[title_id]

    def shots_of(self, title_ids: Collection[str]) -> dict[str, list[Row]]:
        """The shots of several titles, as `shots`. Read at once, which costs a fraction of reading one by one."""
        keys = {
            title_id: (title_id, *(self.versions(table).get((title_id,)) for table in ("shots", "text_embeddings")))
            for title_id in title_ids
        }
        missing = [title_id for title_id, key in keys.items() if key not in self._shots]
        read = self._shots_from(missing) if missing else {}

        def one(title_id: str) -> Callable[[], list[Row]]:
            # What other titles have pushed out since is read again.
            return lambda: read[title_id] if title_id in read else self._shots_from([title_id])[title_id]

        return {title_id: self._shots.get(key, one(title_id)) for title_id, key in keys.items()}

    def _shots_from(self, title_ids: Sequence[str]) -> dict[str, list[Row]]:
        shots, words = (self._read_several(table, title_ids) for table in ("shots", "text_embeddings"))
        found = {}
        for title_id in title_ids:
            said = {row["shot_index"]: row["text"] for row in words.get(title_id, ())}
            own = shots.get(title_id, ())
            found[title_id] = [{**shot, "text": said.get(shot["shot_index"], "")} for shot in own]
        return found

    def shot(self, title_id: str, shot_index: int) -> Row:
        """One registered title's shot. Raises NotThere."""
        self.title(title_id)
        shots = self.shots(title_id)
        if not 0 <= shot_index < len(shots):
            raise NotThere(f"That title has {len(shots)} shots, numbered from 0; there is no shot {shot_index}.")
        return shots[shot_index]

    def view(self, title_id: str) -> Row:
        """All that is known of a title, by part: its row in `title`, `shots`, `scenes`, `tags`, `ad_breaks`,
        `highlights`, `neighbours`, `cosines` of neighbouring shots by representation, and `failure`, or None.

        Raises NotThere for a title that is not registered.
        """
        title = self.title(title_id)
        registered = self.titles()
        failures = self.rows("failures", title_id=title_id)
        return {
            "title": title,
            "shots": self.shots(title_id),
            # Rank 0 is a row that says why there is none.
            **{
                table: [row for row in self.rows(table, title_id=title_id) if row.get("rank") != 0]
                for table in OF_A_TITLE
            },
            "neighbours": [
                {**row, "title": registered[row["neighbour_id"]]["title"]}
                for row in self._neighbours(title_id)
                if row["neighbour_id"] in registered
            ],
            "cosines": self.cosines(title_id),
            "failure": failures[0] if failures else None,
        }

    def _neighbours(self, title_id: str) -> list[Row]:
        stored = self.versions("title_neighbours")
        generation = self.chosen(encoder_version for (encoder_version,) in stored)
        if generation is None:
            return []
        where, version = {"encoder_version": generation}, stored[(generation,)]
        return self._rows.get(
            ("title_neighbours", title_id, generation, version),
            lambda: self._read("title_neighbours", where, title_id),
        )

    def cosines(self, title_id: str) -> dict[str, list[float]]:
        """The cosine of each shot and the next, -1 to 1: `contextual` of the encoder in use, if that has the title,
        and `fused`. A representation that is not there is left out."""
        partitions: dict[str, tuple[str, dict[str, str]]] = {}
        generation = self.generation_of(title_id)
        if generation is not None:
            where = {"encoder_version": generation, "title_id": title_id}
            partitions["contextual"] = ("contextual_embeddings", where)
        partitions["fused"] = ("fused_embeddings", {"title_id": title_id})
        stored = [self.versions(table).get(tuple(where.values())) for table, where in partitions.values()]

        def read() -> dict[str, list[float]]:
            found = {}
            for name, (table, where) in partitions.items():
                try:
                    rows = self.lake.read(table, **where)
                except PartitionMissing:
                    continue
                if len(rows) > 1:
                    found[name] = _neighbouring(vectors(rows, "last" if name == "contextual" else "embedding"))
            return found

        return self._cosines.get((title_id, generation, *stored), read)

    def generation_of(self, title_id: str) -> str | None:
        """The encoder version whose contextual embeddings of the title are to be read."""
        return self.chosen(key[0] for key in self.versions("contextual_embeddings") if key[1] == title_id)

    def chosen(self, encoder_versions: Iterable[str]) -> str | None:
        """Of the given encoder versions the one in use; the newest, where that is not among them."""
        given = set(encoder_versions)
        return self.promoted() if self.promoted() in given else max(given, default=None)

    def promoted(self) -> str | None:
        """The encoder in use: the last one that was promoted."""
        import polars as pl

        files = self.files(PROMOTIONS, {})  # rows of this table have no data version that tells one state from another

        def read() -> str | None:
            rows = self.collected(
                PROMOTIONS, self.scan(PROMOTIONS, files).filter("promoted").select(*light(PROMOTIONS))
            )
            decided = rows.filter(pl.col("decided_at") == pl.col("decided_at").max())["encoder_version"]
            return None if decided.is_empty() else str(decided[0])

        return self._promoted.get(tuple(files), read) if files else None

    # ---- stills --------------------------------------------------------------------------------------------------

    def still(self, title_id: str, shot_index: int) -> bytes:
        """The frame in the middle of those sampled from the shot, as JPEG. Raises NotThere, and OnlyHeard of a title
        without a picture."""
        self.shot(title_id, shot_index)
        if not self.title(title_id)["has_picture"]:
            raise OnlyHeard("That title has no picture.")
        first = shot_index // STILLS_READ_TOGETHER * STILLS_READ_TOGETHER
        versions = [self.versions(table).get((title_id,)) for table in ("shots", "shot_frames")]
        near = self._stills.get((title_id, first, *versions), lambda: self._stills_from(title_id, first))
        if shot_index not in near:
            raise NotThere("That shot has no picture yet.")
        return near[shot_index]

    def _stills_from(self, title_id: str, first: int) -> dict[int, bytes]:
        import polars as pl

        shots = self.rows("shots", title_id=title_id)[first : first + STILLS_READ_TOGETHER]
        files = self.files("shot_frames", {"title_id": title_id})
        if not shots or not files:
            return {}
        # By frame, whose least and greatest each row group tells: only those that hold these shots are unpacked.
        frames = self.scan("shot_frames", files).filter(
            pl.col("frame_index").is_between(shots[0]["start_frame"], shots[-1]["end_frame"], closed="left")
        )
        rows = self.collected("shot_frames", frames.select("shot_index", "frame_index", "jpeg")).sort("frame_index")
        of_shots = rows.group_by("shot_index").agg(pl.col("jpeg").get(pl.len() // 2))
        return dict(of_shots.iter_rows())

    # ---- encoders ------------------------------------------------------------------------------------------------

    def encoders(self) -> list[Row]:
        """The encoder generations, newest first: `encoder_version`, `space`, `config` and `metrics` (mappings),
        `created_at`, `titles` (how many have contextual embeddings of it), `promoted` (whether it is the one in use),
        `training` and `probes` (rows)."""
        stored = self.versions("encoder")
        if not stored:
            return []

        def read() -> list[Row]:
            files = [file for (version,) in stored for file in self.files("encoder", {"encoder_version": version})]
            wanted = ("space", "config", "metrics", "created_at")
            of_file = [
                self.collected("encoder", self.scan("encoder", [file]).select(wanted).head(1)).row(0, named=True)
                for file in files
            ]
            rows = [
                {**row, "encoder_version": version, "config": _said(row["config"]), "metrics": _said(row["metrics"])}
                for (version,), row in zip(stored, of_file, strict=True)
            ]
            return sorted(rows, key=lambda row: str(row["encoder_version"]), reverse=True)

        generations = self._encoders.get(tuple(sorted(stored.items())), read)
        embedded = [version for version, _ in self.versions("contextual_embeddings")]
        return [
            {
                **row,
                "titles": embedded.count(row["encoder_version"]),
                "promoted": row["encoder_version"] == self.promoted(),
                "training": self.rows("encoder_training", encoder_version=row["encoder_version"]),
                "probes": self.rows("probe_metrics", encoder_version=row["encoder_version"]),
            }
            for row in generations
        ]

    def ablations(self) -> list[Row]:
        """What each part of the encoder's recipe is worth: of each variant `ablation`, `variant`, `against` and
        `scores`, its rows of all seeds together by task. None before somebody asked for them."""
        found: dict[tuple[str, str], Row] = {}
        for row in self.rows("ablations"):
            if row["seed"] is None:
                of_variant = {name: row[name] for name in ("ablation", "variant", "against")}
                variant = found.setdefault((row["ablation"], row["variant"]), {**of_variant, "scores": {}})
                variant["scores"][row["task"]] = row
        return list(found.values())

    # ---- tables --------------------------------------------------------------------------------------------------

    def versions(self, table: str) -> DataVersions:
        """The data version of every partition, at most `FRESH_S` old; none of a table that does not exist. The same
        object as long as nothing changes."""
        if table not in TABLES:
            return {}
        read, found = self._versions.get(table, (-math.inf, {}))
        if time.monotonic() - read >= FRESH_S:
            newest = self.lake.data_versions(table)
            found = found if found == newest else newest
            self._versions[table] = (time.monotonic(), found)
        return found

    def rows(self, table: str, **partition: str) -> list[Row]:
        """The rows of one partition in the order of their key, without vectors, pictures and the partition's own
        columns; none where there are none."""
        key: tuple[Hashable, ...] = tuple(partition.values())
        version = self.versions(table).get(tuple(partition.values()))
        if version is None:
            return []
        return self._rows.get((table, key, version), lambda: self._read(table, partition))

    def _read(self, table: str, partition: Mapping[str, str], title_id: str | None = None) -> list[Row]:
        """title_id: of a table that is not partitioned by title, only this one's rows."""
        import polars as pl

        files = self.files(table, partition)
        if not files:
            return []
        wanted = pl.lit(True) if title_id is None else pl.col("title_id") == title_id
        rows = self.collected(table, self.scan(table, files).filter(wanted).select(light(table)))
        return (rows.sort(*TABLES[table].key) if TABLES[table].key else rows).to_dicts()

    def _read_several(self, table: str, title_ids: Sequence[str]) -> dict[str, list[Row]]:
        """The rows of a table partitioned by title, by title; of those that have any."""
        owners = {file: title for title in title_ids for file in self.files(table, {"title_id": title})}
        if not owners:
            return {}
        of_titles = self.scan(table, list(owners), include_file_paths=FILE).select(*light(table), FILE)
        of_file = self.collected(table, of_titles.sort(TABLES[table].key)).partition_by(FILE, as_dict=True)
        found: dict[str, list[Row]] = {}
        for (file,), rows in of_file.items():
            found.setdefault(owners[str(file)], []).extend(rows.drop(FILE).iter_rows(named=True))
        return found

    def readable(
        self, table: str, title_ids: Sequence[str], read: "Callable[[str, Sequence[str]], Made]"
    ) -> "Iterator[Made]":
        """What `read` makes of the titles' rows, all at once; one by one, without those that cannot be read, where it
        raises Unavailable: a damaged file is one title's trouble."""
        try:
            yield read(table, title_ids)
            return
        except Unavailable:
            pass
        for title_id in title_ids:
            try:
                yield read(table, [title_id])
            except Unavailable as error:
                log.warning("%s: left out: %s", title_id, error)

    def files(self, table: str, partition: Mapping[str, str]) -> list[str]:
        """The data files of the partitions that agree in the columns given."""
        return self.lake.partition_files(table, partition)

    def scan(self, table: str, files: Sequence[str], include_file_paths: str | None = None) -> "pl.LazyFrame":
        """Data files, of which only the columns asked for are read. include_file_paths: a column for their names."""
        return scanned(table, files, self.lake.storage_options, include_file_paths)

    def collected(self, table: str, rows: "pl.LazyFrame") -> "pl.DataFrame":
        """Raises Unavailable where a file of the table cannot be read."""
        import polars as pl

        try:
            return rows.collect()
        # A cut or changed file fails in many ways, one of which is a panic of polars.
        except (OSError, pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
            raise Unavailable(
                f"A part of the table {table} cannot be read; `mediafm verify` says more ({type(error).__name__})."
            ) from error


def light(table: str) -> list[str]:
    """The table's columns without vectors, pictures, and what is the same in a partition's rows."""
    whole = (*TABLES[table].partition_by, "data_version")
    return [column.name for column in TABLES[table].columns if column.type not in HEAVY and column.name not in whole]


def parse_shot(said: str) -> tuple[str, int]:
    """TITLE:SHOT as title id and shot index. Raises NotThere for what is no such thing; nobody knows yet whether the
    title exists."""
    found = re.fullmatch(r"([A-Za-z0-9][A-Za-z0-9._-]{0,127}):([0-9]{1,7})", said.strip())
    if not found:
        raise NotThere("A shot is named TITLE:SHOT, for instance night-train:12.")
    return found[1], int(found[2])


def _neighbouring(matrix: "np.ndarray") -> list[float]:
    """The cosine of each row of (n, d) and the next."""
    import numpy as np

    units = matrix / np.maximum(np.linalg.norm(matrix, axis=1, keepdims=True), 1e-12)
    return [round(float(cosine), 4) for cosine in np.einsum("ij,ij->i", units[:-1], units[1:])]


def _said(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return {"unreadable": one_line(text, 200)}
