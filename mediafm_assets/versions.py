"""Which version every table's partition has, and which it would have if it were made now.

A version is a hash of what a partition is made from: the versions of its inputs, the code version of its step and the
identity of the resource that shapes its values (an encoder and its weights, a detector and its threshold). Versions are
stored in the Delta tables themselves, so comparing the stored one with the one that would be made now says what is
missing, fresh or stale without Dagster's database, and a step that finds its partition fresh does no work.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

from resources.lake import TABLES, DeltaLake
from resources.timed_text import TextTrack, choose_track


class Shaping(Protocol):
    """A resource that decides the values in a table."""

    def space(self) -> str:
        """Everything that can change the values: model, weights by content, preprocessing, dimensions."""
        ...

    def config_key(self) -> str:
        """The part of `space` that is known without opening weights: Dagster's code version at load time."""
        ...


@dataclass(frozen=True)
class Recipe:
    """How a per-title table's version comes about.

    code:      raised by hand when the step's code changes what it writes.
    inputs:    tables of the same title, or parts of its drop (`PARTS`), that the step reads.
    shaped_by: key of the resource that decides the values, if any.
    """

    code: str
    inputs: tuple[str, ...]
    shaped_by: str | None = None


PARTS = ("media", "sound", "timed_text", "metadata")
"""The parts of a drop that change independently: a new subtitle line must not make the video stale."""

RECIPES: Mapping[str, Recipe] = {
    "shots": Recipe("1", ("media",), "shot_detector"),
    "shot_frames": Recipe("1", ("shots",), "frame_sampler"),
    "video_embeddings": Recipe("1", ("shot_frames",), "video_encoder"),
    "audio_embeddings": Recipe("1", ("shots", "sound"), "audio_encoder"),
    "text_embeddings": Recipe("1", ("shots", "timed_text"), "text_encoder"),
    "global_embeddings": Recipe("1", ("metadata",), "title_encoder"),
    "fused_embeddings": Recipe("1", ("shots", "video_embeddings", "audio_embeddings", "text_embeddings"), "fusion"),
    "contextual_embeddings": Recipe("1", ("fused_embeddings", "global_embeddings", "encoder"), "contextualiser"),
}
"""Per-title tables in the order in which they are made. `titles` itself is the drop's content (see `drop_version`)."""


def dependencies(table: str) -> list[str]:
    """The assets that a per-title table is made from; the parts of a drop stand in `titles`."""
    if table == "titles":
        return ["drops"]
    return sorted({"titles" if name in PARTS else name for name in RECIPES[table].inputs})


TITLES_CODE = "1"
ENCODER_CODE = "1"
SEQCLIP_CODE = "1"
PROBES_CODE = "2"
LABELS_CODE = "1"


def digest(*parts: str | None) -> str:
    """128 bits of BLAKE2b over the parts, as 32 hex characters; no two different lists of parts share their bytes."""
    hasher = hashlib.blake2b(digest_size=16)
    for part in parts:
        data = b"" if part is None else part.encode()
        hasher.update(f"{'-' if part is None else len(data)}:".encode())
        hasher.update(data)
    return hasher.hexdigest()


def title_text(row: Mapping[str, Any]) -> str:
    """What is embedded of a title as a whole: its name, kind, synopsis, tags and genres, a line each."""
    lines = [row["title"], row["type"], row["synopsis"], ", ".join(row["tags"]), ", ".join(row["genres"])]
    return "\n".join(line for line in lines if line)


def drop_version(row: Mapping[str, Any]) -> str:
    """The content fingerprint of a drop: its media, timed text and metadata; not where it lies or when it came."""
    tracks = [f"{track['name']} {track['sha256']}" for track in row["text_tracks"]]
    names = ("title", "type", "synopsis", "tags", "genres", "language", "series_id", "extra", "media_sha256")
    return digest(TITLES_CODE, *(str(row[name]) for name in names), *tracks)


def parts_of(row: Mapping[str, Any]) -> dict[str, str]:
    """The versions of a drop's parts, from its row in `titles`."""
    track = choose_track([TextTrack(**track) for track in row["text_tracks"]], row["language"])
    return {
        "media": row["media_sha256"],
        "sound": digest(row["media_sha256"], row["language"]),
        "timed_text": digest(track.name, track.sha256) if track else digest("no timed text"),
        "metadata": digest(title_text(row)),
    }


class Catalogue:
    """The versions of one lake at one moment: what is stored, and what the given resources would make.

    Reads each table's Delta log and each title's row in `titles` once, when first asked. `resources` maps a resource
    key to the resource.
    """

    def __init__(self, lake: DeltaLake, resources: Mapping[str, Shaping]) -> None:
        self._lake = lake
        self.resources = resources
        self._stored: dict[str, dict[tuple[str, ...], str]] = {}
        self._spaces: dict[str, str] = {}
        self._made: dict[tuple[str, str], str | None] = {}
        self._titles: dict[str, Mapping[str, Any] | None] = {}

    def read_all_titles(self) -> None:
        """Read the whole table `titles` at once, before many titles are asked for one by one."""
        self._titles |= {row["title_id"]: row for row in self._lake.read_whole("titles").iter_rows(named=True)}

    def title(self, title_id: str) -> Mapping[str, Any] | None:
        """The title's row in `titles`; None when it is not registered."""
        if title_id not in self._titles:
            registered = (title_id,) in self.stored_in("titles")
            rows = self._lake.read("titles", title_id=title_id).rows(named=True) if registered else []
            self._titles[title_id] = rows[0] if rows else None
        return self._titles[title_id]

    @cached_property
    def encoder_version(self) -> str | None:
        """The version of the newest encoder that reads the configured embedding spaces; None when none was trained on
        them yet. Versions begin with their UTC time."""
        spaces = self._lake.scan("encoder").select("encoder_version", "space").unique().collect()
        return max((version for version, space in spaces.rows() if space == self.encoder_space()), default=None)

    @cached_property
    def failures(self) -> Mapping[str, Mapping[str, Any]]:
        """The titles that could not be finished the last time, each with its row in `failures`."""
        return {row["title_id"]: row for row in self._lake.read_whole("failures").iter_rows(named=True)}

    @cached_property
    def labelled_titles(self) -> frozenset[str]:
        """The titles that label files name."""
        return frozenset(self._lake.scan("clip_labels").select("title_id").unique().collect()["title_id"])

    def attempt(self, stage: str, title_id: str, fingerprint: str) -> str:
        """What an attempt at the stage reads: another one may succeed where this has changed."""
        made = digest(TITLES_CODE) if stage == "titles" else self.made_now(stage, title_id)
        return digest(fingerprint, stage, made)

    def failed_before(self, title_id: str, fingerprint: str) -> bool:
        """Whether the title failed, and nothing that was read then has changed since: it is not tried again in a
        loop."""
        failure = self.failures.get(title_id)
        return failure is not None and failure["attempt"] == self.attempt(failure["stage"], title_id, fingerprint)

    def is_registered(self, title_id: str, fingerprint: str) -> bool:
        """Whether `titles` describes the drop with that fingerprint."""
        row = self.title(title_id)
        if row is None or row["drop_fingerprint"] != fingerprint:
            return False
        return self.stored("titles", title_id) == drop_version(row)

    def wrote(self, table: str, partition: Mapping[str, str], data_version: str) -> None:
        """Take note of a partition that this process has just written, without reading the log again."""
        self.stored_in(table)
        self._stored[table][tuple(partition.values())] = data_version
        if table == "titles":
            title_id = partition["title_id"]
            self._titles.pop(title_id, None)
            for name in RECIPES:
                self._made.pop((name, title_id), None)

    def stored_in(self, table: str) -> Mapping[tuple[str, ...], str]:
        if table not in self._stored:
            self._stored[table] = dict(self._lake.data_versions(table))
        return self._stored[table]

    def stored(self, table: str, title_id: str) -> str | None:
        """The version that the title's partition has; of contextual embeddings, the partition of the newest encoder."""
        return self.stored_in(table).get(tuple(self.partition(table, title_id).values()))

    def partition(self, table: str, title_id: str) -> dict[str, str]:
        """The Delta partition that holds the title's rows of the table, of those by encoder the newest one's."""
        known = {"encoder_version": self.encoder_version or "", "title_id": title_id}
        return {name: known[name] for name in TABLES[table].partition_by}

    def made_now(self, table: str, title_id: str) -> str | None:
        """The version that the partition would have if everything up to it were made now; None where that cannot be
        made yet: the title is not registered, or no encoder exists."""
        key = (table, title_id)
        if key not in self._made:
            self._made[key] = self._version_from_inputs(table, title_id)
        return self._made[key]

    def is_fresh(self, table: str, title_id: str) -> bool:
        stored = self.stored(table, title_id)
        return stored is not None and stored == self.made_now(table, title_id)

    def stale(self, title_id: str) -> Iterator[str]:
        """The per-title tables, in the order in which they are made, whose partition is missing or stale and could be
        made now."""
        for table in RECIPES:
            if self.made_now(table, title_id) is not None and not self.is_fresh(table, title_id):
                yield table

    def space(self, resource: str) -> str:
        if resource not in self._spaces:
            self._spaces[resource] = self.resources[resource].space()
        return self._spaces[resource]

    def fused_space(self) -> str:
        """The embedding space of the fused vectors that the resources would make."""
        return " | ".join(self.space(key) for key in ("video_encoder", "audio_encoder", "text_encoder", "fusion"))

    def encoder_space(self) -> str:
        """What an encoder trained now would read: fused vectors and title embeddings. One encoder serves one space."""
        return f"{self.fused_space()} | {self.space('title_encoder')}"

    def _version_from_inputs(self, table: str, title_id: str) -> str | None:
        recipe = RECIPES[table]
        versions = [self._input_version(name, title_id) for name in recipe.inputs]
        if None in versions:
            return None
        space = self.space(recipe.shaped_by) if recipe.shaped_by else None
        return digest(table, recipe.code, space, *versions)

    def _input_version(self, name: str, title_id: str) -> str | None:
        if name == "encoder":
            return self.encoder_version
        if name in PARTS:
            row = self.title(title_id)
            return parts_of(row)[name] if row else None
        return self.made_now(name, title_id)
