"""Which version every table's partition has, and which it would have if it were made now.

A version is a hash of what a partition is made from: the versions of its inputs, the code version of its step and the
identity of the resource that shapes its values (an encoder and its weights, a detector and its threshold). Versions are
stored in the Delta tables themselves, so comparing the stored one with the one that would be made now says what is
missing, fresh or stale without Dagster's database, and a step that finds its partition fresh does no work.
"""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import Any, Protocol, TypeVar, cast

from mediafm_assets.graph.stage import PARTS, ROOT, Stage, Stages
from model.modalities import MODALITIES
from resources.lake import DeltaLake
from resources.shots import SEGMENTS
from resources.timed_text import TextTrack, choose_track

Found = TypeVar("Found")

PROMOTIONS = "encoder_promotions"
"""The table that says which encoder is in use; as an input, its version is that encoder's."""


class Shaping(Protocol):
    """A resource that decides the values in a table."""

    def space(self) -> str:
        """Everything that can change the values: model, weights by content, preprocessing, dimensions."""
        ...

    def config_key(self) -> str:
        """The part of `space` that is known without opening weights: Dagster's code version at load time."""
        ...


def digest(*parts: str | None) -> str:
    """128 bits of BLAKE2b over the parts, as 32 hex characters; no two different lists of parts share their bytes."""
    told = (b"-:" if part is None else b"%d:%b" % (len(data := part.encode()), data) for part in parts)
    return hashlib.blake2b(b"".join(told), digest_size=16).hexdigest()


def title_text(row: Mapping[str, Any]) -> str:
    """What is embedded of a title as a whole: its name, kind, synopsis, tags and genres, a line each."""
    lines = [row["title"], row["type"], row["synopsis"], ", ".join(row["tags"]), ", ".join(row["genres"])]
    return "\n".join(line for line in lines if line)


def drop_version(row: Mapping[str, Any], code: str) -> str:
    """The content fingerprint of a drop: its media, timed text and metadata; not where it lies or when it came.

    row:  the drop's, in `titles`.
    code: of the recipe of `titles`.
    """
    tracks = [f"{track['name']} {track['sha256']}" for track in row["text_tracks"]]
    names = ("title", "type", "synopsis", "tags", "genres", "language", "series_id", "extra", "media_sha256")
    return digest(code, *(str(row[name]) for name in names), *tracks)


def parts_of(row: Mapping[str, Any]) -> dict[str, str]:
    """The versions of a drop's parts, from its row in `titles`. What is only heard is cut by its sound and timed text,
    which are then a part of the media."""
    track = choose_track([TextTrack(**track) for track in row["text_tracks"]], row["language"])
    sound = digest(row["media_sha256"], row["language"])
    timed_text = digest(track.name, track.sha256) if track else digest("no timed text")
    return {
        "media": row["media_sha256"] if row["has_picture"] else digest(SEGMENTS, sound, timed_text),
        "sound": sound,
        "timed_text": timed_text,
        "metadata": digest(title_text(row)),
    }


class Catalogue:
    """The versions of one lake at one moment: what is stored, and what the given resources would make.

    Reads each table's Delta log and each title's row in `titles` once, when first asked. `resources` maps a resource
    key to the resource; those that shape titles' values must be among them.
    """

    def __init__(self, lake: DeltaLake, resources: Mapping[str, Any], stages: Stages) -> None:
        self.lake = lake
        self.resources = resources
        self.stages = stages
        self._stored: dict[str, dict[tuple[str, ...], str]] = {}
        self._spaces: dict[str, str] = {}
        self._made: defaultdict[str, dict[str, str | None]] = defaultdict(dict)  # by table and title
        self._inputs: dict[str, list[str]] = {}
        self._titles: dict[str, Mapping[str, Any] | None] = {}
        self._parts: tuple[str, Mapping[str, str]] = "", {}  # of the title that was asked for last
        self._found: dict[Callable[..., Any], Any] = {}

    def once(self, find: "Callable[[Catalogue], Found]") -> Found:
        """What `find` finds in this catalogue; it is called the first time only, so that a version and what is made
        under it come of one look."""
        if find not in self._found:
            self._found[find] = find(self)
        return cast("Found", self._found[find])

    def read_all_titles(self) -> None:
        """Read the whole table `titles` at once, before many titles are asked for one by one."""
        self._titles |= {row["title_id"]: row for row in self.lake.read_whole(ROOT).iter_rows(named=True)}

    def title(self, title_id: str) -> Mapping[str, Any] | None:
        """The title's row in `titles`; None when it is not registered."""
        if title_id not in self._titles:
            registered = (title_id,) in self.stored_in(ROOT)
            rows = self.lake.read(ROOT, title_id=title_id).rows(named=True) if registered else []
            self._titles[title_id] = rows[0] if rows else None
        return self._titles[title_id]

    @cached_property
    def encoders(self) -> Mapping[str, str]:
        """The embedding spaces that each trained encoder reads, by its version, the oldest first. Versions begin with
        their UTC time."""
        return dict(sorted(self.lake.scan("encoder").select("encoder_version", "space").unique().collect().rows()))

    @cached_property
    def newest_encoder(self) -> str | None:
        """The newest encoder that reads the configured embedding spaces; None when none was trained on them yet."""
        return max((version for version, space in self.encoders.items() if space == self.encoder_space()), default=None)

    @cached_property
    def promotions(self) -> "list[dict[str, Any]]":
        """The decisions on encoders, each its row in `encoder_promotions`, in the order in which they were made."""
        return self.lake.read_whole(PROMOTIONS).sort("decided_at").to_dicts()

    @property
    def promoted(self) -> str | None:
        """The encoder that readers of the lake are sent to, whatever spaces are configured now."""
        return self._promoted(lambda row: True)

    @cached_property
    def encoder_version(self) -> str | None:
        """The encoder in use: of those for the configured embedding spaces, the last that was promoted."""
        return self._promoted(lambda row: row["space"] == self.encoder_space())

    def _promoted(self, among: "Callable[[Mapping[str, Any]], bool]") -> str | None:
        there = (row for row in reversed(self.promotions) if row["encoder_version"] in self.encoders)
        return next((row["encoder_version"] for row in there if row["promoted"] and among(row)), None)

    def with_encoder(self, encoder_version: str) -> "Catalogue":
        """The lake as it would be seen if that encoder were in use."""
        other = Catalogue(self.lake, self.resources, self.stages)
        other.encoder_version = encoder_version
        return other

    def supposed(self) -> "Catalogue":
        """The lake as this catalogue knows it, to say by `wrote` what it would be."""
        other = Catalogue(self.lake, self.resources, self.stages)
        other._stored = {table: dict(stored) for table, stored in self._stored.items()}
        other._titles, other._spaces = dict(self._titles), dict(self._spaces)
        return other

    @cached_property
    def unfinished(self) -> Mapping[str, Mapping[str, Any]]:
        """The titles that could not be finished the last time, each with its row in `failures`."""
        return {row["title_id"]: row for row in self.lake.read_whole("failures").iter_rows(named=True)}

    @cached_property
    def failures(self) -> Mapping[str, Mapping[str, Any]]:
        """Those of them with which something is wrong."""
        return {title_id: row for title_id, row in self.unfinished.items() if not row["waits"]}

    def attempt(self, table: str, title_id: str, fingerprint: str) -> str:
        """What an attempt at the table reads: another one may succeed where this has changed."""
        made = digest(self.stages.recipe[ROOT].code) if table == ROOT else self.made_now(table, title_id)
        return digest(fingerprint, table, made)

    def failed_before(self, title_id: str, fingerprint: str) -> bool:
        """Whether the title failed, and nothing that was read then has changed since: it is not tried again in a
        loop."""
        failure = self.unfinished.get(title_id)
        if failure is None or failure["stage"] not in self.stages.recipe:
            return False
        return bool(failure["attempt"] == self.attempt(failure["stage"], title_id, fingerprint))

    def is_registered(self, title_id: str, fingerprint: str) -> bool:
        """Whether `titles` describes the drop with that fingerprint."""
        row = self.title(title_id)
        return row is not None and row["drop_fingerprint"] == fingerprint and self.is_fresh(ROOT, title_id)

    def wrote(self, table: str, partition: Mapping[str, str], data_version: str) -> None:
        """Take note of a partition that this process has just written, without reading the log again."""
        self.stored_in(table)
        self._stored[table][tuple(partition.values())] = data_version
        if table == ROOT:
            title_id = partition["title_id"]
            self._titles.pop(title_id, None)
            self._parts = "", {}
            for made in self._made.values():
                made.pop(title_id, None)

    def stored_in(self, table: str) -> Mapping[tuple[str, ...], str]:
        """The stored versions by partition."""
        if table not in self._stored:
            stored = self.stages.by_table[table].stored
            self._stored[table] = dict(stored(self) if stored else self.lake.data_versions(table))
        return self._stored[table]

    def stored(self, table: str, title_id: str = "") -> str | None:
        """The version that the title's partition has, of a table by encoder that in use; without a title, of a table
        that is made once for all."""
        return self.stored_in(table).get(self._key(table, title_id))

    def partition(self, table: str, title_id: str = "") -> dict[str, str]:
        """The partition that holds the title's rows of the table, of those by encoder that in use."""
        return dict(zip(self.stages.partition_by[table], self._key(table, title_id), strict=True))

    def _key(self, table: str, title_id: str) -> tuple[str, ...]:
        columns = self.stages.partition_by[table]
        if columns == ("title_id",):
            return (title_id,)
        known = {"encoder_version": self.encoder_version or "", "title_id": title_id}
        return tuple(known[name] for name in columns)

    def titles_in(self, table: str) -> dict[str, str]:
        """The version of each title's partition, of tables by encoder those in use."""
        *of_encoder, _title = self.partition(table).values()
        stored = sorted(self.stored_in(table).items())
        return {title_id: version for (*before, title_id), version in stored if before == of_encoder}

    def made_now(self, table: str, title_id: str) -> str | None:
        """The version that the partition would have if everything up to it were made now; None where that cannot be
        made yet: the title is not registered, or something that is made once for all is not there."""
        made = self._made[table]
        if title_id not in made:
            version, stored = self._version_from_inputs(table, title_id), self.stored(table, title_id)
            made[title_id] = stored if version == stored else version  # not one more string that says the same
        return made[title_id]

    def inputs(self, table: str) -> list[str]:
        """What the table is made from, without what serves no title now."""
        if table not in self._inputs:
            self._inputs[table] = [name for name in self.stages.recipe[table].inputs if self.is_in_use(name)]
        return self._inputs[table]

    def is_in_use(self, name: str) -> bool:
        stage = self.stages.by_table.get(name)
        return stage is None or stage.in_use is None or self.once(stage.in_use)

    def made_from_stored(self, table: str, title_id: str) -> str | None:
        """The version that the partition gets if it is made from what is stored of its inputs, fresh or stale; None
        where one is missing. The same as `made_now` where all of them are fresh."""
        recipe = self.stages.recipe[table]
        versions = [
            self.stored(name, title_id) if self.stages.by_table[name].scope == "title" else self._of_all(name)
            for name in self.inputs(table)
        ]
        space = self.space(recipe.shaped_by) if recipe.shaped_by else None
        return None if None in versions else digest(table, recipe.code, space, *versions)

    def is_fresh(self, table: str, title_id: str) -> bool:
        stored = self.stored(table, title_id)
        return stored is not None and stored == self.made_now(table, title_id)

    def stale(self, title_id: str) -> Iterator[str]:
        """The tables of titles, in the order in which they are made, whose partition is missing or stale and could be
        made now; `titles` itself follows the drop (see `is_registered`)."""
        for table in self.stages.title_tables:
            if table != ROOT and self.made_now(table, title_id) is not None and not self.is_fresh(table, title_id):
                yield table

    def made_from(self, table: str, title_id: str | None = None) -> dict[str, str]:
        """What decides the version of the title's table, by name: the code, the resource that shapes the values, and
        the inputs that are there. Without a title, of what is not made title by title."""
        recipe = self.stages.recipe[table]
        found = {"code": recipe.code}
        if key := recipe.shaped_by:  # what decides how an encoder is trained, say, is no space
            found[key] = self.space(key) if title_id is not None else self.resources[key].config_key()
        for name in self.inputs(table):
            if title_id is not None:
                version = self._input_version(name, title_id)
            else:
                version = self._of_all(name) if name in self.stages.by_table else None
            if version is not None:
                found[name] = version
        return found

    def waits_for(self, table: str) -> str | None:
        """What is made once for all that the titles' table needs, itself or in its inputs, and that is not there."""
        for name in self.inputs(table):
            if name not in self.stages.by_table:
                continue
            of_title = self.stages.by_table[name].scope == "title"
            missing = self.waits_for(name) if of_title else None if self._of_all(name) else name
            if missing:
                return missing
        return None

    def version_of(self, stage: Stage, task: str | None = None) -> str | None:
        """The version that what is not made title by title would have now: None where it cannot be made yet, and of a
        task whose labels are gone. Raises BadInput where an input cannot be used."""
        if stage.version:
            return stage.version(self) if task is None else stage.version(self, task)
        recipe = stage.recipes[0]
        versions = [self._of_all(name) for name in recipe.inputs]
        if None in versions:
            return None
        space = self.space(recipe.shaped_by) if recipe.shaped_by else None
        return digest(recipe.table, recipe.code, space, *versions)

    def is_due(self, stage: Stage) -> bool:
        """Whether a stage that is made once for all is to be made now."""
        if stage.on_request or (stage.off and stage.off(self)):
            return False
        if stage.due:
            return stage.due(self)
        version = self.version_of(stage)
        return version is not None and version not in self.stored_in(stage.name).values()

    def space(self, resource: str) -> str:
        if resource not in self._spaces:
            self._spaces[resource] = self.resources[resource].space()
        return self._spaces[resource]

    def fused_space(self) -> str:
        """The embedding space of the fused vectors that the resources would make."""
        return " | ".join(self.space(key) for key in (*(m.encoder for m in MODALITIES), "fusion"))

    def encoder_space(self) -> str:
        """What an encoder trained now would read: fused vectors and title embeddings. One encoder serves one space."""
        return f"{self.fused_space()} | {self.space('title_encoder')}"

    def _version_from_inputs(self, table: str, title_id: str) -> str | None:
        recipe = self.stages.recipe[table]
        if table == ROOT:
            row = self.title(title_id)
            return drop_version(row, recipe.code) if row else None
        versions = [self._input_version(name, title_id) for name in self.inputs(table)]
        if None in versions:
            return None
        space = self.space(recipe.shaped_by) if recipe.shaped_by else None
        return digest(table, recipe.code, space, *versions)

    def _input_version(self, name: str, title_id: str) -> str | None:
        if name in PARTS:
            if title_id != self._parts[0]:
                row = self.title(title_id)
                self._parts = title_id, parts_of(row) if row else {}
            return self._parts[1].get(name)
        if self.stages.by_table[name].scope == "title":
            return self.made_now(name, title_id)
        return self._of_all(name)

    def _of_all(self, name: str) -> str | None:
        """The version of an input that is not one title's: None where there is nothing of it."""
        if name == PROMOTIONS:
            return self.encoder_version
        stage = self.stages.by_table[name]
        if stage.scope == "catalogue":
            return self.stored(name)
        if stage.scope == "title":
            titles = self.titles_in(name)
            return digest(*(f"{title} {version}" for title, version in titles.items())) if titles else None
        return digest(*(f"{task} {version}" for (task,), version in sorted(self.stored_in(name).items())))
