"""The landing zone: title folders, label files and captioned clips as people drop them, in a local folder or under an
S3 prefix.

    titles/<title_id>/title.json      written last: its arrival completes the drop
                      <one media file>
                      *.srt|.vtt|.ttml|.ass      timed text; language and kind in the name: film.en.srt, film.de.sdh.vtt
    labels/<task>.{csv,jsonl,parquet}
    pairs/*.jsonl                     captions of clips: {"caption", and "video", a file beside it, or "title_id",
                                      "start_s", "end_s"}

Nothing here is trusted: names never leave their folder, links out of it are refused, and a drop that cannot work is
reported in one sentence instead of failing its neighbours.
"""

import csv
import hashlib
import io
import json
import logging
import math
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import dagster as dg

from resources.errors import BadInput, one_line, printable
from resources.places import TITLE_JSON_LIMIT, Bucket, File, Folder, Place, local_path, sha256_of

if TYPE_CHECKING:
    import polars as pl

log = logging.getLogger(__name__)

TITLE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
JSON_DEPTH = 100  # of lists and objects in each other
LABELS_LIMIT = 256 << 20
PARQUET_ROWS_LIMIT = 5_000_000
REFUSED_SHOWN = 50  # rows of a label file
PAIRS_LIMIT = 256 << 20  # of all pairs files together
CAPTION_LIMIT = 4096  # characters
TEXT_FORMATS = {".srt": "srt", ".vtt": "vtt", ".ttml": "ttml", ".dfxp": "ttml", ".ass": "ass", ".ssa": "ssa"}
MEDIA_EXTENSIONS = (
    *(".3gp", ".asf", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg"),
    *(".mts", ".mxf", ".ogm", ".ogv", ".ts", ".vob", ".webm", ".wmv"),
)
# What a label row carries besides clip_id, title_id, start_s and end_s.
LABEL_COLUMN = {
    "ad_relevancy": "labels",
    "clip_popularity": "score",
    "clip_tone": "labels",
    "clip_genre": "labels",
    "clip_retrieval": "label",
}
_CONTROL = re.compile(r"[\0-\x1f\x7f-\x9f\ud800-\udfff]")  # the last: bytes of a name that is not UTF-8
_MARK = b"\xef\xbb\xbf"  # of byte order, which some editors put before UTF-8
_LANGUAGE = re.compile(r"([a-z]{2,3})(-[a-z]{4})?(-(?:[a-z]{2}|[0-9]{3}))?(?:[-_]([a-z]{3,}))?", re.IGNORECASE)
_KIND = re.compile(r"ad|cc|hi|sdh|forced|full|dialog(?:ue)?|commentary|lyrics|descriptions?|captions?|subtitles?", re.I)


@dataclass(frozen=True)
class TextTrack:
    """A timed-text file of a drop. format: srt, vtt, ttml, ass or ssa; language (pt-BR) and kind (sdh, ad) or None."""

    name: str
    format: str
    language: str | None
    kind: str | None


@dataclass(frozen=True)
class Drop:
    """A complete title folder.

    `drop_fingerprint` is cheap (32 hex digits over names, sizes and modification times or ETags): a changed value
    means "look again", not "the content changed". `extra` keeps what title.json said besides the known keys.
    `landed_at` is title.json's modification time, UTC.
    """

    title_id: str
    title: str
    type: str
    synopsis: str
    tags: list[str]
    genres: list[str]
    language: str | None
    series_id: str | None
    media: str
    media_uri: str
    text_tracks: list[TextTrack]
    extra: dict[str, Any]
    drop_fingerprint: str
    landed_at: datetime


@dataclass(frozen=True)
class Refused:
    """A row of a label file that cannot be used. line: counted from 1 (in Parquet: row)."""

    file: str
    line: int
    reason: str

    def __str__(self) -> str:
        return f"{self.file}, line {self.line}: {self.reason}"


@dataclass(frozen=True)
class Labels:
    """A task's label file: the rows that can be used; of the `refused_rows` that cannot, the first `REFUSED_SHOWN`."""

    rows: "pl.DataFrame"
    refused: list[Refused]
    refused_rows: int


@dataclass(frozen=True)
class CaptionedClip:
    """A clip and a sentence about it. The clip is the film `video` in the folder of pairs, or, where that is None, the
    seconds [start_s, end_s) of the title `title_id`. `where` says to people where this was read.
    """

    caption: str
    where: str
    video: str | None = None
    title_id: str = ""
    start_s: float = 0.0
    end_s: float = 0.0


@dataclass(frozen=True)
class Film:
    """A title's film where it lies. version: changes with its bytes. open: the bytes from an offset on."""

    name: str
    size: int  # bytes
    version: str
    open: Callable[[int], IO[bytes]]


@dataclass(frozen=True)
class Problem:
    """One sentence about one title folder."""

    title_id: str
    reason: str


@dataclass(frozen=True)
class Landing:
    """What lies in the landing zone: complete drops, folders that cannot work as they are, folders still arriving."""

    drops: list[Drop] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    waiting: list[Problem] = field(default_factory=list)


class _Waiting(BadInput):
    """The folder is not complete yet; the message says what is awaited."""


class LandingZone(dg.ConfigurableResource):
    """Where titles, labels and captioned clips are dropped: `uri` is a local folder or s3://bucket/prefix.

    A local file modified within the last `settle_s` seconds may still be growing; its title waits.
    """

    uri: str
    settle_s: float = 2.0

    def look(self) -> Landing:
        """List every title folder. Raises BadInput when the landing zone itself is not there."""
        place = self._place()
        landing = Landing()
        for file in place.files("labels"):
            if file.name.rpartition(".")[0] not in LABEL_COLUMN:
                log.warning("labels/%s is ignored: the tasks are %s", printable(file.name), ", ".join(LABEL_COLUMN))
        for title_id, files in place.folders("titles"):
            try:
                _require_title_id(title_id)
                if isinstance(files, BadInput):
                    raise files
                landing.drops.append(self._drop(place, title_id, files))
            except _Waiting as wait:
                landing.waiting.append(Problem(title_id, str(wait)))
            except BadInput as bad:
                landing.problems.append(Problem(printable(title_id), str(bad)))
        return landing

    def drop(self, title_id: str) -> Drop:
        """Read one title again. Raises BadInput when it is not there, not complete, or cannot work."""
        _require_title_id(title_id)
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
        from resources.timed_text import read_cues

        _require_title_id(title_id)
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
            media = _said(source, ".", files)["media"]
            title_json = source.read(".", files["title.json"], TITLE_JSON_LIMIT)
        else:
            media = _only_media(files)
            _check_files(media, files)
            title_json = json.dumps({"title": title, "media": media}).encode()
            _parse_title_json(title_json)
        probe(folder / media)
        tracks = [name for name in files if _is_text(name)]
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

    def film(self, title_id: str) -> Film:
        """The title's film, to be read in parts without a copy. Raises BadInput as `drop` and `local` do."""
        drop, place = self.drop(title_id), self._place()
        path = self._path(place, drop, drop.media)
        file = next(file for file in place.files(f"titles/{title_id}") if file.name == drop.media)
        return Film(file.name, file.size, file.version, lambda start: place.open(path, start))

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
        files = {file.name: file for file in place.files("pairs")}
        listed = [file for file in files.values() if file.name.lower().endswith(".jsonl")]
        if sum(file.size for file in listed) > PAIRS_LIMIT:
            raise BadInput(f"the files pairs/*.jsonl are together larger than {PAIRS_LIMIT >> 20} MiB, their limit")
        clips = []
        for file in listed:
            _require_inside(file.name, file, "the folder of pairs")
            with place.open(f"pairs/{file.name}") as stream:
                data = stream.read(PAIRS_LIMIT)
            for number, said in _rows(file.name, data):
                where = f"pairs/{printable(file.name)}, line {number}"
                try:
                    if isinstance(said, BadInput):
                        raise said
                    clips.append(_captioned_clip(said, files, where))
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
        `labels` (list of strings), `score` (finite float64) or `label` (int32, 0 or 1). Titles need not be known. A row
        that cannot be used is refused alone. Raises BadInput when the file as a whole, or each of its rows, cannot be
        used, or when the task has two files.
        """
        place = self._place()
        file = _label_file(place, task)
        if file is None:
            return None
        if file.size > LABELS_LIMIT:
            raise BadInput(f"{file.name} is larger than {LABELS_LIMIT >> 20} MiB, the limit for a label file")
        with place.open(f"labels/{file.name}") as stream:
            return _labels(task, file.name, stream.read(LABELS_LIMIT))

    def label_fingerprint(self, task: str) -> str | None:
        """32 hex digits over the content of the task's label file, or None when there is none. Raises BadInput when the
        task has two files, or one that cannot be read."""
        place = self._place()
        file = _label_file(place, task)
        if file is None:
            return None
        digest = hashlib.blake2b(file.name.encode(), digest_size=16)
        with place.open(f"labels/{file.name}") as stream:
            while piece := stream.read(1 << 20):
                digest.update(piece)
        return digest.hexdigest()

    def _place(self) -> Place:
        return Bucket(self.uri) if self.uri.startswith("s3://") else Folder(Path(self.uri).expanduser())

    def _path(self, place: Place, drop: Drop, name: str) -> str:
        _require_title_id(drop.title_id)
        _require_inside(name, next((f for f in place.files(f"titles/{drop.title_id}") if f.name == name), None))
        return f"titles/{drop.title_id}/{name}"

    def _drop(self, place: Place, title_id: str, files: list[File]) -> Drop:
        by_name = {file.name: file for file in files}
        if "title.json" not in by_name:
            raise _Waiting("there is no title.json yet; it completes the drop and is written last")
        if place.settles:
            newest = max(files, key=lambda file: file.modified)
            # The absolute value: a clock that is ahead must not make a title wait for ever.
            if abs(time.time() - newest.modified) < self.settle_s:
                name = printable(newest.name)
                raise _Waiting(f"{name} changed less than {self.settle_s:g} s ago and may still be growing")
        said = _said(place, f"titles/{title_id}", by_name)
        digest = hashlib.blake2b(digest_size=16)
        for file in files:
            digest.update(f"{file.name}\0{file.size}\0{file.version}\n".encode("utf-8", "surrogateescape"))
        return Drop(
            title_id=title_id,
            **said,
            media_uri=place.uri(f"titles/{title_id}/{said['media']}"),
            text_tracks=[_text_track(file.name, said["media"]) for file in files if _is_text(file.name)],
            drop_fingerprint=digest.hexdigest(),
            landed_at=datetime.fromtimestamp(by_name["title.json"].modified, UTC),
        )


def _said(place: Place, path: str, files: Mapping[str, File]) -> dict[str, Any]:
    """What the title.json in the folder `path` says, with the name of the film in any case. Raises BadInput when it, or
    a file that the title needs, cannot be used."""
    title_json = files["title.json"]
    _require_inside("title.json", title_json)
    if not title_json.small_json:
        raise BadInput(f"title.json is larger than {TITLE_JSON_LIMIT >> 10} KiB; it should hold metadata only")
    said = _parse_title_json(place.read(path, title_json, TITLE_JSON_LIMIT))
    media = said["media"] if said["media"] is not None else _only_media(files)
    _check_files(media, files)
    return {**said, "media": media}


def _check_files(media: str, files: Mapping[str, File]) -> None:
    """Raise BadInput when the film, or a timed-text file beside it, cannot be used."""
    _require_inside(media, files.get(media))
    for name, file in files.items():
        if _is_text(name):
            _require_inside(name, file)


def _source(folder: Path) -> Folder:
    if not folder.is_dir():
        raise BadInput("there is no such folder; name the folder that holds the film and its title.json")
    return Folder(folder)


def _label_file(place: Place, task: str) -> File | None:
    files = [
        file
        for file in place.files("labels")
        if file.name.rpartition(".")[0] == task and file.name.lower().endswith((".csv", ".jsonl", ".parquet"))
    ]
    if len(files) > 1:
        raise BadInput(f"labels has both {files[0].name} and {files[1].name}; keep one file for a task")
    for file in files:
        _require_inside(file.name, file, "the folder of labels")
    return files[0] if files else None


def _require_title_id(title_id: str) -> None:
    if not TITLE_ID.fullmatch(title_id):
        raise BadInput(
            f'"{printable(title_id)}" is not a title id; use 1 to 128 ASCII letters, digits, dots, '
            "hyphens and underscores, beginning with a letter or digit"
        )


def _require_inside(name: str, file: File | None, folder: str = "the title's folder") -> None:
    if not name or name in (".", "..") or "/" in name or "\0" in name:
        raise BadInput(f'"{printable(name)}" is not a plain file name; files must lie in {folder} itself')
    if file is None:
        raise BadInput(f"{printable(name)} is not in {folder}")
    if file.link_out:
        raise BadInput(f"{printable(name)} is a link that leads out of {folder}; copy the file instead")
    if _CONTROL.search(name):
        raise BadInput(f'the file name "{printable(name)}" has control characters or is not UTF-8; rename it')


def _json(text: str) -> Any:
    """What the JSON text says. ValueError for what another reader of JSON, or of text, could not read: NaN and
    infinities in any spelling, lone surrogates, and more than `JSON_DEPTH` levels."""

    def finite(number: str) -> float:
        if not math.isfinite(value := float(number)):
            raise ValueError(f"{number[:40]} is not a finite number")
        return value

    def depth(value: Any) -> int:
        inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        return 1 + max(map(depth, inner), default=0)

    try:
        said = json.loads(text, parse_float=finite, parse_constant=finite)
        levels = depth(said)
    except RecursionError:
        levels = JSON_DEPTH + 1
    if levels > JSON_DEPTH:
        raise ValueError(f"it is nested more than {JSON_DEPTH} levels deep")
    json.dumps(said, ensure_ascii=False).encode()
    return said


def _parse_title_json(data: bytes) -> dict[str, Any]:
    try:
        said = _json(data.decode("utf-8-sig"))
    except ValueError as error:
        raise BadInput(f"title.json is not JSON in UTF-8 ({one_line(error, 160)}); correct the file") from None
    if not isinstance(said, dict):
        raise BadInput('title.json is not a JSON object; write {"title": "..."}')

    def take(key: str, fits: Callable[[Any], bool], what: str, default: Any) -> Any:
        value = said.pop(key, None)
        if value is None:
            return default
        if not fits(value):
            raise BadInput(f'the "{key}" of title.json is not {what}')
        return value

    def is_text(value: Any) -> bool:
        return isinstance(value, str)

    def is_texts(value: Any) -> bool:
        return isinstance(value, list) and all(isinstance(item, str) for item in value)

    title = take("title", is_text, "a text", None)
    if title is None or not title.strip():
        raise BadInput('title.json has no "title"; it is the one thing that it must say')
    return {
        "title": title,
        "type": take("type", is_text, "a text", "movie"),
        "synopsis": take("synopsis", is_text, "a text", ""),
        "tags": take("tags", is_texts, "a list of texts", []),
        "genres": take("genres", is_texts, "a list of texts", []),
        "language": take("language", is_text, "a text", None),
        "series_id": take("series_id", is_text, "a text", None),
        "media": take("media", is_text, "a file name", None),
        "extra": said,
    }


def _is_text(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in TEXT_FORMATS


def _only_media(files: Iterable[str]) -> str:
    candidates = [name for name in files if not _is_text(name) and not name.lower().endswith(".json")]
    if len(candidates) > 1:
        known = [name for name in candidates if os.path.splitext(name)[1].lower() in MEDIA_EXTENSIONS]
        candidates = known or candidates
    if not candidates:
        raise BadInput("the folder has no media file; put the film beside title.json")
    if len(candidates) > 1:
        names = ", ".join(printable(name) for name in candidates[:4])
        raise BadInput(
            f'the folder has several files that could be the film ({names}); name one as "media" in title.json'
        )
    return candidates[0]


def _text_track(name: str, media: str) -> TextTrack:
    """Read language and kind out of a name: film.en.srt, film.de.sdh.vtt, film.pt-BR.ttml, en.srt."""
    stem, extension = os.path.splitext(name)
    film = os.path.splitext(media)[0]
    if stem.lower() == film.lower():
        words = []
    elif stem.lower().startswith(film.lower() + "."):
        words = stem[len(film) + 1 :].split(".")
    else:
        words = stem.split(".")
        words = words[1:] if len(words) > 1 else words
    language = kind = None
    for word in reversed(words):
        if kind is None and _KIND.fullmatch(word):
            kind = word.lower()
        elif language is None and (parts := _LANGUAGE.fullmatch(word)):
            primary, script, region, suffix = parts.groups(default="")
            language = primary.lower() + script.title() + region.upper()
            kind = kind or suffix.lower() or None
        else:
            break
    return TextTrack(name, TEXT_FORMATS[extension.lower()], language, kind)


def _labels(task: str, name: str, data: bytes) -> Labels:
    import polars as pl

    column = LABEL_COLUMN[task]
    types: dict[str, Any] = {"labels": pl.List(pl.String), "score": pl.Float64, "label": pl.Int32}
    schema: dict[str, Any] = {
        "clip_id": pl.String,
        "title_id": pl.String,
        "start_s": pl.Float64,
        "end_s": pl.Float64,
        column: types[column],
    }
    rows: list[tuple[Any, ...]] = []
    seen: dict[str, int] = {}
    refused: list[Refused] = []
    refused_rows = 0
    for number, said in _rows(name, data):
        try:
            if isinstance(said, BadInput):
                raise said
            row = _label_row(said, column)
            if row[0] in seen:
                raise ValueError(f'clip_id "{printable(row[0])}" is already in line {seen[row[0]]}')
        except (BadInput, ValueError) as error:
            refused_rows += 1
            if len(refused) < REFUSED_SHOWN:
                refused.append(Refused(name, number, one_line(error)))
            continue
        seen[row[0]] = number
        rows.append(row)
    if not rows:
        why = f"none of its {refused_rows} rows can be used; the first, {refused[0]}" if refused else "it has no rows"
        raise BadInput(f"{name}: {why}; mend the file or remove it")
    return Labels(pl.DataFrame(rows, schema=schema, orient="row"), refused, refused_rows)


def _rows(name: str, data: bytes) -> Iterator[tuple[int, dict[str, Any] | BadInput]]:
    """The rows of a CSV, JSON lines or Parquet file, each with its line (in Parquet: row, counted from 1), or what is
    wrong with that line. Raises BadInput for a file that is no such file at all."""
    kind = os.path.splitext(name)[1].lower()
    if kind == ".parquet":
        yield from enumerate(_parquet_rows(name, data), 1)
    elif kind == ".csv":
        yield from _csv_rows(data)
    else:
        for number, line in enumerate(data.removeprefix(_MARK).split(b"\n"), 1):
            if line.strip():
                yield number, _json_row(line)


def _parquet_rows(name: str, data: bytes) -> Iterator[dict[str, Any]]:
    # Not polars, which prints a backtrace for each damaged page.
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(io.BytesIO(data))
        rows, groups = file.metadata.num_rows, range(file.metadata.num_row_groups)
        unpacked = sum(file.metadata.row_group(group).total_byte_size for group in groups)
        # A few bytes of Parquet may stand for any number of rows.
        if rows > PARQUET_ROWS_LIMIT or unpacked > LABELS_LIMIT:
            raise BadInput(
                f"{name} holds {rows} rows, {unpacked >> 20} MiB unpacked; the limit is {PARQUET_ROWS_LIMIT} rows and "
                f"{LABELS_LIMIT >> 20} MiB"
            )
        known = {"clip_id", "title_id", "start_s", "end_s", *LABEL_COLUMN.values()}
        for batch in file.iter_batches(1024, columns=[column for column in file.schema_arrow.names if column in known]):
            yield from batch.to_pylist()
    except (pa.ArrowException, OSError, ValueError) as error:
        raise BadInput(f"{name} cannot be read as Parquet ({one_line(error, 160)}); write it again") from None


def _csv_rows(data: bytes) -> Iterator[tuple[int, dict[str, Any] | BadInput]]:
    # What is not UTF-8 becomes surrogates, which no row may have: one bad line does not hide the others.
    text = data.removeprefix(_MARK).decode("utf-8", "surrogateescape")
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    header: list[str] | None = None
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
            "".join(cells).encode()
        except StopIteration:
            return
        except csv.Error as error:
            yield line, BadInput(f"this is not CSV ({error})")
            continue
        except UnicodeEncodeError:
            yield line, BadInput("the text is not UTF-8; save the file as UTF-8")
            continue
        if header is None:
            header = cells
        elif len(cells) > len(header):
            yield line, BadInput(f"it has {len(cells)} cells, and the header {len(header)}; quote lists and texts")
        elif cells:
            yield line, dict(zip(header, cells, strict=False))


def _json_row(line: bytes) -> dict[str, Any] | BadInput:
    try:
        said = json.loads(line.decode())
    except UnicodeDecodeError:
        return BadInput("the text is not UTF-8; save the file as UTF-8")
    except (ValueError, RecursionError):
        return BadInput("this is not JSON")
    return said if isinstance(said, dict) else BadInput("this is not a JSON object")


def _label_row(said: dict[str, Any], column: str) -> tuple[Any, ...]:
    """One checked row; ValueError says what is wrong with it."""
    clip_id = said.get("clip_id")
    if not isinstance(clip_id, str) or not 0 < len(clip_id) <= 256:
        raise ValueError("clip_id must be a text of 1 to 256 characters")
    clip_id.encode()
    title_id, start_s, end_s = _span(said)
    value: Any
    if column == "labels":
        value = _label_list(said.get("labels"))
    else:
        value = _number(said, column)
        if column == "label":
            if value not in (0, 1):
                raise ValueError(f"label is {value:g}; it must be 0 or 1")
            value = int(value)
    return clip_id, title_id, start_s, end_s, value


def _captioned_clip(said: dict[str, Any], files: dict[str, File], where: str) -> CaptionedClip:
    """One checked line of a pairs file, beside which `files` lie; ValueError or BadInput says what is wrong with it."""
    caption, video = said.get("caption"), said.get("video")
    if not isinstance(caption, str) or not caption.strip() or len(caption) > CAPTION_LIMIT:
        raise ValueError(f"caption must be a text of 1 to {CAPTION_LIMIT} characters, not all blank")
    caption.encode()
    if video is None:
        if said.get("title_id") is None:
            raise ValueError("it names neither a video nor a title_id with start_s and end_s")
        return CaptionedClip(caption, where, None, *_span(said))
    if not isinstance(video, str):
        raise ValueError("video must be the name of a file in the folder of pairs")
    if said.get("title_id") is not None:
        raise ValueError("it names both a video and a title_id; a caption is about one of them")
    _require_inside(video, files.get(video), "the folder of pairs")
    return CaptionedClip(caption, where, video)


def _span(said: dict[str, Any]) -> tuple[str, float, float]:
    """title_id, start_s and end_s of a row; ValueError says what is wrong with them."""
    title_id = said.get("title_id")
    if not isinstance(title_id, str) or not TITLE_ID.fullmatch(title_id):
        raise ValueError(f'title_id "{printable(title_id)}" is not a legal title id')
    start_s, end_s = _number(said, "start_s"), _number(said, "end_s")
    if not 0 <= start_s < end_s:
        raise ValueError(f"start_s {start_s:g} and end_s {end_s:g} are not 0 <= start_s < end_s")
    return title_id, start_s, end_s


def _number(said: dict[str, Any], key: str) -> float:
    try:
        number = float(said[key])
    except (KeyError, TypeError, ValueError, OverflowError):
        raise ValueError(f"{key} must be a number") from None
    if not math.isfinite(number):
        raise ValueError(f"{key} is not finite")
    return number


def _label_list(said: Any) -> list[str]:
    """A list of labels; in CSV a JSON list or labels between semicolons."""
    if isinstance(said, str):
        if said.lstrip().startswith("["):
            try:
                said = json.loads(said)
            except (ValueError, RecursionError):
                raise ValueError("labels begins with [ and is not a JSON list") from None
        else:
            said = [label for label in (part.strip() for part in said.split(";")) if label]
    if not isinstance(said, list) or not all(isinstance(label, str) and 0 < len(label) <= 256 for label in said):
        raise ValueError("labels must be a list of texts of 1 to 256 characters (in CSV: a JSON list, or a;b;c)")
    if len(said) > 1000:
        raise ValueError("labels has more than 1000 entries")
    "".join(said).encode()
    return list(dict.fromkeys(said))
