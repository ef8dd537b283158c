"""The landing zone: title folders, label files and captioned clips as people drop them, in a local folder or under an
S3 prefix.

    titles/<title_id>/title.json      written last: its arrival completes the drop
                      <one media file>
                      *.srt|.vtt|.ttml|.ass      timed text; language and kind in the name: film.en.srt, film.de.sdh.vtt
                      while it is live, a film that grows (resources/landing/live.py)
    labels/<task>.{csv,jsonl,parquet}  labelled clips: {"clip_id", "title_id", "start_s", "end_s", and "labels", "score"
                                      or "label"}; scenes.*: {"title_id", "start_s", "end_s"} of each scene
    pairs/*.jsonl                     captions of clips: {"caption", and "video", a file beside it, or "title_id",
                                      "start_s", "end_s"}

Nothing here is trusted: names never leave their folder, links out of it are refused, and a drop that cannot work is
reported in one sentence instead of failing its neighbours.
"""

import hashlib
import io
import json
import logging
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg

from model.tasks import LABELLED
from resources.errors import BadInput, printable
from resources.landing.drops import (
    FILM_PIECE,
    Drop,
    Film,
    check_timed_text,
    is_timed_text,
    may_be_segment,
    media_of,
    metadata_of,
    parse_title_json,
    track_of,
)
from resources.landing.events import ended, follow, known_folders
from resources.landing.labels import LABELS_LIMIT, Labels, label_file_of, labels_of
from resources.landing.live import STOPPED_S, Part, beginnings, files_of, parts_since, segments
from resources.landing.pairs import MOST_PAIRS_FILES, PAIRS_LIMIT, CaptionedClip, clip_of
from resources.landing.places import TITLE_JSON_LIMIT, Bucket, File, Folder, Place, local_path, sha256_of
from resources.landing.rows import rows_of
from resources.landing.untrusted import require_inside, require_title_id
from resources.media.joined import FilmFile, Joined

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Problem:
    """One sentence about one title folder."""

    title_id: str
    reason: str


@dataclass(frozen=True)
class Landing:
    """What lies in the landing zone: complete drops, folders that cannot work as they are, folders still arriving; live
    drops, among the complete ones too, that have not grown for long."""

    drops: list[Drop] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    waiting: list[Problem] = field(default_factory=list)
    stopped: list[Problem] = field(default_factory=list)


class _Waiting(BadInput):
    """The folder is not complete yet; the message says what is awaited."""


_SEEN: dict[tuple[str, str], tuple[list[File], Drop]] = {}
"""The complete drops that this process has seen, by landing zone and title, with the files that each was read from: a
sensor looks every few seconds, and of an unchanged folder opens nothing."""


class LandingZone(dg.ConfigurableResource):
    """Where titles, labels and captioned clips are dropped: `uri` is a local folder or s3://bucket/prefix.

    A local file modified within the last `settle_s` seconds may still be growing; its title waits.
    queue: URL of the SQS queue that S3 tells of changes in the bucket; a process that follows it lists all folders
    only every `relist_s` seconds, and else those in which something happened (resources/landing/events.py).
    """

    uri: str
    settle_s: float = 2.0
    queue: str = ""
    relist_s: float = 3600.0

    def follow(self, stored: str | None) -> list[str]:
        """Take what the queue says, for this process' next looks, and return sentences about what went wrong; nothing
        without a queue. Only the landing sensor does so: what one process takes, another does not hear of.

        stored: how the last tick ended that Dagster stored, in the words of `followed`.
        """
        return follow(self.uri, "titles", self.queue, self.relist_s, stored) if self.queue else []

    def followed(self, cursor: str | None) -> None:
        """Say how the tick ends; when Dagster has stored that, the messages that it took are deleted."""
        if self.queue:
            ended(self.uri, cursor)

    def look(self) -> Landing:
        """Every title folder, listed now or as events tell. Raises BadInput when the landing zone itself is not
        there."""
        place = self._place()
        landing = Landing()
        for file in place.files("labels"):
            if file.name.rpartition(".")[0] not in LABELLED:
                log.warning("labels/%s is ignored: the tasks are %s", printable(file.name), ", ".join(LABELLED))
        known = known_folders(self.uri, self.relist_s)
        for title_id, files in place.folders("titles") if known is None else known:
            try:
                require_title_id(title_id)
                if isinstance(files, BadInput):
                    raise files
                drop = self._drop(place, title_id, files)
                landing.drops.append(drop)
                if drop.live and (stopped := _stopped(drop, files)):
                    landing.stopped.append(Problem(title_id, stopped))
            except _Waiting as wait:
                landing.waiting.append(Problem(title_id, str(wait)))
            except BadInput as bad:
                landing.problems.append(Problem(printable(title_id), str(bad)))
        return landing

    def drop(self, title_id: str) -> Drop:
        """Read one title again. Raises BadInput when it is not there, not complete, or cannot work."""
        require_title_id(title_id)
        place = self._place()
        return self._drop(place, title_id, place.files(f"titles/{title_id}"))

    def land(self, folder: Path, title_id: str, title: str | None = None) -> list[str]:
        """Copy a title folder to the landing zone, in the place of an earlier drop of that id, if it passes the graph's
        own checks: the film is probed, and every timed-text file read. title: for a folder without title.json.

        The earlier title.json goes first and the new one comes last, so that nobody ever sees a mixture as a complete
        drop; a call that was interrupted is repeated. Returns the names of what was copied; other files of the folder
        are left out. Raises BadInput when the folder cannot work, having changed nothing, and Unavailable when the
        landing zone takes no files.
        """
        from resources.media import probe
        from resources.timed_text.reading import read_cues

        require_title_id(title_id)
        place, source = self._place(), _source(folder)
        target = f"titles/{title_id}"
        there = place.files(target)
        if isinstance(place, Folder) and there and folder.samefile(place.uri(target)):
            raise BadInput("the folder lies in the landing zone already, where it needs no copy")
        files = {file.name: file for file in source.files(".")}
        if title is None and "title.json" not in files:
            raise BadInput('the folder has no title.json; write one ({"title": "..."}), or give the title with --title')
        if title is not None and "title.json" in files:
            raise BadInput("the folder has a title.json, which says the title; leave --title out, or the file")
        if title is None:
            said = metadata_of(source, ".", files)
            if said["live"] is not None:
                raise BadInput("title.json says live; such a title's folder is written in the landing zone itself")
            media = media_of(said["media"], files)
            title_json = source.read(".", files["title.json"], TITLE_JSON_LIMIT)
        else:
            media = media_of(None, files)
            title_json = json.dumps({"title": title, "media": media}).encode()
            parse_title_json(title_json)
        check_timed_text(files)
        probe(folder / media)
        tracks = [name for name in files if is_timed_text(name)]
        for name in tracks:
            read_cues(folder / name)

        place.remove(f"{target}/title.json")
        for name in (media, *tracks):
            with source.open(name) as stream:
                place.put(f"{target}/{name}", stream)
        for file in there:
            if file.name not in (media, *tracks):
                place.remove(f"{target}/{file.name}")
        place.put(f"{target}/title.json", io.BytesIO(title_json))
        return [media, *tracks, "title.json"]

    @contextmanager
    def local(self, drop: Drop, name: str) -> Iterator[Path]:
        """A local path to the drop's file `name`, valid inside the `with` block (on S3: a download, deleted after).

        Raises BadInput when the name leaves the drop's folder or the file is gone.
        """
        place = self._place()
        with local_path(place, self._path(place, drop, name)) as path:
            yield path

    @contextmanager
    def media(self, drop: Drop) -> Iterator[FilmFile]:
        """The drop's film, to be read inside the `with` block; of one that is or was live, its parts. Raises BadInput
        as `local` does, and where a part is not there any more."""
        if not drop.parts:
            with self.local(drop, drop.media) as path:
                yield path
            return
        place, files = self._place(), files_of(drop.parts)
        self._require_whole(files, {file.name: file for file in place.files(f"titles/{drop.title_id}")})
        with ExitStack() as held:
            joined = []
            for file in files:
                path = held.enter_context(local_path(place, f"titles/{drop.title_id}/{file.name}"))
                joined.append((str(path), file.bytes))
            yield Joined(printable(files[-1].name), joined)

    def take(self, drop: Drop, before: Sequence[Part]) -> Drop:
        """The drop of a title that is or was live, with the hashes of its film's parts: of those that were taken
        `before`, and of what came since. While it is live only the latter is read.

        Raises BadInput when it is live and what was taken before is not its beginning any more.
        """
        parts = parts_since(drop.parts, before)
        if drop.live and parts[: len(before)] != list(before):
            raise BadInput(
                "segments that were taken have changed or are gone, and what is live may only grow; bring them back, "
                'or say "live": false in title.json, and it is made again of what is there'
            )
        hashed, read = [], Counter[str]()
        for part in parts:
            known = part.sha256 if drop.live else ""
            hashed.append(part._replace(sha256=known or self._sha256_of(drop, [part], read[part.name])))
            read[part.name] += part.bytes
        return replace(drop, parts=tuple(hashed))

    def media_sha256(self, drop: Drop) -> str:
        """SHA-256 (hex) of the drop's film. While it is live, of its parts' hashes (`beginnings`)."""
        if drop.live:
            return list(beginnings(drop.parts))[-1]
        if drop.parts:
            return self._sha256_of(drop, files_of(drop.parts))
        return self.sha256(drop, drop.media)

    def _sha256_of(self, drop: Drop, parts: Iterable[Part], start: int = 0) -> str:
        """Of the parts' bytes, one part after the other, each from byte `start` of its file on."""
        digest, place = hashlib.sha256(), self._place()
        for name, left, _ in parts:
            with place.open(f"titles/{drop.title_id}/{name}", start) as stream:
                while piece := stream.read(min(left, 1 << 20)):
                    digest.update(piece)
                    left -= len(piece)
            if left:
                raise BadInput(f"{printable(name)} has become shorter while it was read; what is live may only grow")
        return digest.hexdigest()

    def film(self, title_id: str, taken: Sequence[Part]) -> Film:
        """The title's film, to be read from anywhere without a copy; of one that is or was live, the parts that were
        `taken`. Raises BadInput as `drop` and `media` do."""
        drop, place = self.drop(title_id), self._place()
        there = {file.name: file for file in place.files(f"titles/{title_id}")}
        if taken:
            parts, version = files_of(taken), list(beginnings(taken))[-1]
            self._require_whole(parts, there)
        else:
            require_inside(drop.media, there.get(drop.media))
            file = there[drop.media]
            parts, version = [Part(file.name, file.size)], file.version

        def pieces(start: int, end: int) -> Iterator[bytes]:
            first = 0
            for name, size, _ in parts:
                at, left = max(start - first, 0), min(end - first, size)
                first += size
                if at >= left:
                    continue
                with place.open(f"titles/{title_id}/{name}", at) as stream:
                    while at < left and (piece := stream.read(min(FILM_PIECE, left - at))):
                        at += len(piece)
                        yield piece

        return Film(parts[0].name, sum(part.bytes for part in parts), version, pieces)

    def _require_whole(self, parts: Iterable[Part], there: Mapping[str, File]) -> None:
        """Raises BadInput where a part of a film is not in its folder any more."""
        for part in parts:
            require_inside(part.name, there.get(part.name))
            if there[part.name].size < part.bytes:
                raise BadInput(f"{printable(part.name)} has become shorter; what is live may only grow")

    def sha256(self, drop: Drop, name: str) -> str:
        """SHA-256 (hex) of the drop's file `name`, read in pieces. Raises BadInput as `local` does."""
        place = self._place()
        return sha256_of(place, self._path(place, drop, name))

    def captioned_clips(self) -> list[CaptionedClip] | None:
        """The lines of all pairs files, file by file, or None when nobody dropped any.

        Title ids are legal, though nobody may know them, and videos are files in the folder of pairs. Raises BadInput
        naming the file and its first bad line.
        """
        place = self._place()
        files = {file.name: file for file in place.files("pairs", MOST_PAIRS_FILES)}
        listed = [file for file in files.values() if file.name.lower().endswith(".jsonl")]
        if sum(file.size for file in listed) > PAIRS_LIMIT:
            raise BadInput(f"the files pairs/*.jsonl are together larger than {PAIRS_LIMIT >> 20} MiB, their limit")
        clips = []
        for file in listed:
            require_inside(file.name, file, "the folder of pairs")
            with place.open(f"pairs/{file.name}") as stream:
                data = stream.read(PAIRS_LIMIT)
            for number, said in rows_of(file.name, data, ()):
                where = f"pairs/{printable(file.name)}, line {number}"
                try:
                    if isinstance(said, BadInput):
                        raise said
                    clips.append(clip_of(said, files, where))
                except (BadInput, ValueError) as error:
                    raise BadInput(f"{where}: {error}") from None
        return clips if listed else None

    @contextmanager
    def local_video(self, clip: CaptionedClip) -> Iterator[Path]:
        """A local path to the clip's video, valid inside the `with` block (on S3: a download, deleted after)."""
        with local_path(self._place(), f"pairs/{clip.video}") as path:
            yield path

    def video_sha256(self, clip: CaptionedClip) -> str:
        """SHA-256 (hex) of the clip's video, read in pieces."""
        return sha256_of(self._place(), f"pairs/{clip.video}")

    def labels(self, task: str) -> Labels | None:
        """The labelled clips of `task`, or None when nobody dropped any.

        Columns: clip_id, title_id (strings), start_s, end_s (float64 seconds, 0 <= start_s < end_s), and by task
        `labels` (list of strings), `score` (finite float64), `label` (int32, 0 or 1) or, of scenes, none of them; their
        clip_id is made here. Titles need not be known. A row that cannot be used is refused alone. Raises BadInput when
        the file as a whole, or each of its rows, cannot be used, or when the task has two files.
        """
        place = self._place()
        file = label_file_of(place, task)
        if file is None:
            return None
        if file.size > LABELS_LIMIT:
            raise BadInput(f"{file.name} is larger than {LABELS_LIMIT >> 20} MiB, the limit for a label file")
        with place.open(f"labels/{file.name}") as stream:
            return labels_of(task, file.name, stream.read(LABELS_LIMIT))

    def label_fingerprint(self, task: str) -> str | None:
        """32 hex digits over the content of the task's label file, or None when there is none. Raises BadInput when the
        task has two files, or one that cannot be read."""
        place = self._place()
        file = label_file_of(place, task)
        if file is None:
            return None
        digest = hashlib.blake2b(file.name.encode(), digest_size=16)
        with place.open(f"labels/{file.name}") as stream:
            while piece := stream.read(1 << 20):
                digest.update(piece)
        return digest.hexdigest()

    def _place(self) -> Folder | Bucket:
        return Bucket(self.uri) if self.uri.startswith("s3://") else Folder(Path(self.uri).expanduser())

    def _path(self, place: Place, drop: Drop, name: str) -> str:
        require_title_id(drop.title_id)
        require_inside(name, next((f for f in place.files(f"titles/{drop.title_id}") if f.name == name), None))
        return f"titles/{drop.title_id}/{name}"

    def _drop(self, place: Place, title_id: str, files: list[File]) -> Drop:
        seen = _SEEN.get((self.uri, title_id))
        if seen and seen[0] == files:
            return seen[1]
        drop = self._read_drop(place, title_id, files)
        if drop.live:  # segments settle, and are then taken, without a change of the files
            return drop
        if len(_SEEN) >= 200_000:
            _SEEN.clear()
        _SEEN[self.uri, title_id] = files, drop
        return drop

    def _read_drop(self, place: Place, title_id: str, files: list[File]) -> Drop:
        by_name = {file.name: file for file in files}
        if "title.json" not in by_name:
            raise _Waiting("there is no title.json yet; it completes the drop and is written last")
        self._require_settled(place, by_name["title.json"])
        said = metadata_of(place, f"titles/{title_id}", by_name)
        live, waits = said.pop("live"), ""
        parts: tuple[Part, ...] = ()
        if not live:
            self._require_settled(place, max(files, key=lambda file: file.modified))
        if live is None:
            said["media"] = media_of(said["media"], by_name)
        else:
            found, waits = self._segments(place, said["media"], by_name, live)
            said["media"], parts = found[0].name, tuple(Part(file.name, file.size) for file in found)
            if live:  # of segments it is enough that they are there: as they are, they stay
                there = {file.name: file._replace(version="") for file in found}
                told = [file for file in files if file.name == "title.json" or is_timed_text(file.name)]
                files = sorted([*told, *there.values()])
        check_timed_text(by_name)
        digest = hashlib.blake2b(digest_size=16)
        for file in files:
            digest.update(f"{file.name}\0{file.size}\0{file.version}\n".encode("utf-8", "surrogateescape"))
        return Drop(
            title_id=title_id,
            **said,
            media_uri=place.uri(f"titles/{title_id}/{said['media']}"),
            text_tracks=[track_of(file.name, said["media"]) for file in files if is_timed_text(file.name)],
            drop_fingerprint=digest.hexdigest(),
            files={file.name: f"{file.size} {file.version}" for file in files},
            landed_at=datetime.fromtimestamp(by_name["title.json"].modified, UTC),
            live=bool(live),
            parts=parts,
            waits=waits,
        )

    def _segments(
        self, place: Place, media: str | None, files: Mapping[str, File], live: bool
    ) -> tuple[list[File], str]:
        """The files of the film of a title that is or was live, and what the rest waits for. Raises as `_drop`."""
        names = [name for name in files if may_be_segment(name)] if media is None else [media]
        for name in names:
            if name in files or not live:
                require_inside(name, files.get(name))
        there = [files[name] for name in names if name in files]
        found, waits = segments(there, live, lambda file: self._settled(place, file))
        if not sum(file.size for file in found):
            raise (_Waiting if live else BadInput)(f"the film waits for {waits or 'its first bytes'}")
        return found, waits

    def _require_settled(self, place: Place, file: File) -> None:
        if not self._settled(place, file):
            name = printable(file.name)
            raise _Waiting(f"{name} changed less than {self.settle_s:g} s ago and may still be growing")

    def _settled(self, place: Place, file: File) -> bool:
        # The absolute value: a clock that is ahead must not make a title wait for ever.
        return not place.settles or abs(time.time() - file.modified) >= self.settle_s


def _stopped(drop: Drop, files: Sequence[File]) -> str | None:
    """What is to be said of a live drop that has not grown for long."""
    newest = max(file.modified for file in files)
    if time.time() - newest < STOPPED_S:
        return None
    waits = f"; it waits for {drop.waits}" if drop.waits else ""
    since = datetime.fromtimestamp(newest, UTC)
    return (
        f"nothing has come since {since:%Y-%m-%d %H:%M} UTC, though it is live{waits}. "
        'If it is over, say "live": false in title.json'
    )


def _source(folder: Path) -> Folder:
    if not folder.is_dir():
        raise BadInput("there is no such folder; name the folder that holds the film and its title.json")
    return Folder(folder)
