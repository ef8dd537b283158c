"""Where a landing zone lies: a local folder or an S3 prefix, listed, read and written alike."""

import hashlib
import itertools
import os
import re
import shutil
import stat
import uuid
from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from sys import intern
from typing import IO, NamedTuple, Protocol

from resources.errors import BadInput, Unavailable, printable
from resources.scratch import scratch_folder

TITLE_JSON_LIMIT = 1 << 20
MOST_FILES = 10_000
"""Files in a title's folder; a film's subtitles in every language are some hundred, hours of segments thousands."""
_UNFINISHED = ".unfinished-"  # hidden, so that no listing shows it


class File(NamedTuple):
    """A file of a folder, of which a large landing zone has hundreds of thousands at each look. link_out: a link that
    leads out of the folder."""

    name: str
    size: int  # bytes
    version: str  # modification time in ns, or ETag
    modified: float  # seconds since the epoch
    link_out: bool = False

    @property
    def visible(self) -> bool:
        return bool(self.name) and not self.name.startswith(".")

    @property
    def small_json(self) -> bool:
        return self.name == "title.json" and self.size <= TITLE_JSON_LIMIT


class Place(Protocol):
    """Where a landing zone lies. Paths are relative to its root, with / between the parts.

    What cannot be listed, read or written raises BadInput where that is the one file's or folder's fault, and
    Unavailable where the place does not answer.
    """

    settles: bool  # whether a file can be seen half written

    def folders(self, path: str) -> Iterable[tuple[str, list[File] | BadInput]]:
        """The folders in `path` but hidden ones, by name, and their files, or why they cannot be had."""

    def files(self, path: str, most: int = MOST_FILES) -> list[File]:
        """The files in `path`; none if there is no such folder. BadInput for a link that leads out of the place, and
        for a folder of more than `most` entries, of which no more are listed."""

    def read(self, path: str, file: File, limit: int) -> bytes:
        """The file's first `limit` bytes."""

    def open(self, path: str, start: int = 0) -> IO[bytes]:
        """The file from byte `start` on, which must lie in it."""

    def put(self, path: str, source: IO[bytes]) -> None:
        """Write a file, or write it anew: readers see it as it was or whole. What an earlier `put` into the same folder
        left when it was killed goes."""

    def remove(self, path: str) -> None:
        """Remove a file, if it is there."""

    def uri(self, path: str) -> str: ...


class Folder:
    """A local folder. Raises BadInput when it is not there."""

    settles = True

    def __init__(self, root: Path) -> None:
        self.root = root
        if not root.is_dir():
            raise BadInput(f"the landing zone {root} is not a folder; create it or set MEDIAFM_LANDING")

    def folders(self, path: str) -> Iterator[tuple[str, list[File] | BadInput]]:
        inside = self._inside(path)
        for entry in _entries(inside):
            if not entry.name.startswith(".") and entry.is_dir():
                try:
                    # Resolving each of 100,000 paths from the root on would take most of a look.
                    linked = entry.is_symlink()
                    yield entry.name, _files(self._inside(f"{path}/{entry.name}") if linked else entry.path)
                except BadInput as bad:
                    yield entry.name, bad

    def files(self, path: str, most: int = MOST_FILES) -> list[File]:
        return _files(self._inside(path), most)

    def _inside(self, path: str) -> str:
        """Where `path` really is; BadInput if not in this place."""
        root, folder = os.path.realpath(self.root), os.path.realpath(self.root / path)
        if os.path.commonpath([root, folder]) != root:
            raise BadInput("the folder is a link that leads out of the landing zone; copy the folder instead")
        return folder

    def read(self, path: str, file: File, limit: int) -> bytes:
        with self.open(f"{path}/{file.name}") as stream:
            # What is asked for is allocated first: a megabyte for each of a hundred thousand small files.
            return stream.read(min(limit, os.fstat(stream.fileno()).st_size))

    def open(self, path: str, start: int = 0) -> IO[bytes]:
        try:
            file = open(os.path.join(self.root, path), "rb")  # noqa: SIM115 - whoever asked closes it
            file.seek(start)
            return file
        except OSError as error:
            name = printable(os.path.basename(path))
            raise BadInput(
                f"{name} cannot be read ({error.strerror}); see to its permissions or drop it again"
            ) from None

    def put(self, path: str, source: IO[bytes]) -> None:
        target = self.root / path
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            for left in target.parent.glob(f"{_UNFINISHED}*"):
                left.unlink(missing_ok=True)
            unfinished = target.with_name(f"{_UNFINISHED}{uuid.uuid4()}")
            try:
                with open(unfinished, "xb") as copy:
                    shutil.copyfileobj(source, copy, 1 << 20)
                    copy.flush()
                    os.fsync(copy.fileno())
                os.replace(unfinished, target)
            finally:
                unfinished.unlink(missing_ok=True)
        except OSError as error:
            raise Unavailable(
                f"{printable(target.name)} cannot be written to the landing zone ({error.strerror})"
            ) from None

    def remove(self, path: str) -> None:
        try:
            (self.root / path).unlink(missing_ok=True)
        except OSError as error:
            name = printable(os.path.basename(path))
            raise Unavailable(
                f"{name} cannot be removed from the landing zone ({error.strerror}); see to that and repeat the call"
            ) from None

    def uri(self, path: str) -> str:
        return str((self.root / path).absolute())


def _entries(folder: str, most: int | None = None) -> list[os.DirEntry[str]]:
    """What is in the folder, by name; nothing if there is no such folder. BadInput when it is more than `most`."""
    try:
        with os.scandir(folder) as listed:
            entries = list(listed if most is None else itertools.islice(listed, most + 1))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise BadInput(f"the folder cannot be listed ({error.strerror}); see to its permissions") from None
    if most is not None and len(entries) > most:
        raise _too_many(most)
    return sorted(entries, key=lambda entry: entry.name)


def _too_many(most: int) -> BadInput:
    return BadInput(f"the folder has more than {most:,} files, the limit; take out what is none of the title's")


def _files(folder: str, most: int = MOST_FILES) -> list[File]:
    """The files in the folder, whose path holds no links."""
    files = []
    for entry in _entries(folder, most):
        try:
            info = entry.stat()
        except OSError:  # a broken link, or deleted since it was listed
            continue
        if stat.S_ISREG(info.st_mode) and not entry.name.startswith("."):
            out = entry.is_symlink() and not os.path.realpath(entry.path).startswith(folder + os.sep)
            files.append(File(intern(entry.name), info.st_size, str(info.st_mtime_ns), info.st_mtime, out))
    return files


# A sensor looks every few seconds: an unchanged title.json (bucket, key, ETag) is not paid for again.
_OBJECTS_READ: dict[tuple[str, str, str], bytes] = {}


class Bucket:
    """An S3 prefix. Endpoint, region and credentials come from boto3's own environment variables and files."""

    settles = False  # S3 shows an object only once it is whole

    def __init__(self, uri: str) -> None:
        import boto3

        self.bucket, _, prefix = uri.removeprefix("s3://").partition("/")
        if not self.bucket:
            raise BadInput(f"the landing zone {uri} names no bucket; write s3://bucket/prefix")
        self.prefix = prefix.strip("/") + "/" if prefix.strip("/") else ""
        self.s3 = boto3.client("s3")

    def _objects(self, path: str, after: str = "", only: str = "") -> Iterator[tuple[str, File]]:
        """Every object below `path`, as (folder below `path` or "", file), in key order: one request per 1000. after:
        begins behind this key, only: those whose keys begin so; both are told from `path` on."""
        root = f"{self.prefix}{path}/"
        with _s3_answers(f"the landing zone s3://{self.bucket}/{self.prefix}"):
            pages = self.s3.get_paginator("list_objects_v2")
            for page in pages.paginate(Bucket=self.bucket, Prefix=root + only, StartAfter=root + after):
                for found in page.get("Contents", []):
                    folder, _, name = found["Key"].removeprefix(root).rpartition("/")
                    etag = found["ETag"].strip('"')
                    yield folder, File(name, found["Size"], etag, found["LastModified"].timestamp())

    def folders(self, path: str, names: Collection[str] | None = None) -> list[tuple[str, list[File] | BadInput]]:
        """names: of these only, a request for each, those that are there."""
        folders: dict[str, list[File] | BadInput] = {}
        if names is None:
            after: str | None = ""
            while after is not None:
                after = self._list_folders(path, after, folders)
        else:
            with ThreadPoolExecutor(16) as listers:
                list(listers.map(lambda name: self._list_folders(path, "", folders, f"{name}/"), names))
        # A first look at a large catalogue would outlast a sensor's patience if it read one title.json at a time.
        whole = [(name, files) for name, files in folders.items() if not isinstance(files, BadInput)]
        wanted = [(f"{path}/{name}", file) for name, files in whole for file in files if file.small_json]
        with ThreadPoolExecutor(16) as readers:
            list(readers.map(lambda one: self._read_ahead(*one), wanted))
        return sorted(folders.items())

    def _list_folders(
        self, path: str, after: str, folders: dict[str, list[File] | BadInput], only: str = ""
    ) -> str | None:
        """Add the folders behind `after`, and of these `only` one. Where one has too many files the listing ends, to go
        on behind the key that is returned: so no folder can make every look list a million objects."""
        in_folder, listed = "", 0
        files: list[File] = []
        for folder, file in self._objects(path, after, only):
            title_id, _, below = folder.partition("/")
            if title_id != in_folder:
                in_folder, files, listed = title_id, [], 0
                if title_id and not title_id.startswith("."):
                    folders[title_id] = files
            listed += 1
            if title_id and listed > MOST_FILES:
                if title_id in folders:
                    folders[title_id] = _too_many(MOST_FILES)
                return f"{title_id}0"  # 0 is the character behind /
            if not below and file.visible:
                files.append(file)
        return None

    def files(self, path: str, most: int = MOST_FILES) -> list[File]:
        objects = list(itertools.islice(self._objects(path), most + 1))
        if len(objects) > most:
            raise _too_many(most)
        return [file for folder, file in objects if not folder and file.visible]

    def _read_ahead(self, path: str, file: File) -> None:
        with suppress(BadInput):  # said when its own title is read
            self.read(path, file, TITLE_JSON_LIMIT)

    def read(self, path: str, file: File, limit: int) -> bytes:
        key = self.bucket, f"{self.prefix}{path}/{file.name}", file.version
        if key not in _OBJECTS_READ:
            with self.open(f"{path}/{file.name}") as body, _s3_answers(file.name):
                data = body.read(limit)
            if len(_OBJECTS_READ) >= 100_000:
                _OBJECTS_READ.clear()
            _OBJECTS_READ[key] = data
        return _OBJECTS_READ[key]

    def open(self, path: str, start: int = 0) -> IO[bytes]:
        asked = {"Range": f"bytes={start}-"} if start else {}
        with _s3_answers(path.rpartition("/")[2]):
            body: IO[bytes] = self.s3.get_object(Bucket=self.bucket, Key=self.prefix + path, **asked)["Body"]
            return body

    def download(self, path: str, target: Path) -> None:
        """Copy the file to `target`. Raises Unavailable when the disk there has not the room."""
        with _s3_answers(path.rpartition("/")[2]):
            answer = self.s3.get_object(Bucket=self.bucket, Key=self.prefix + path)
            needed, free = answer["ContentLength"], shutil.disk_usage(target.parent).free
            if needed > free:
                raise Unavailable(
                    f"a copy of {printable(path.rpartition('/')[2])} takes {needed / 1e9:.1f} GB and the folder for "
                    f"temporary files has {free / 1e9:.1f}; make room there, or set TMPDIR"
                )
            with open(target, "wb") as copy:
                shutil.copyfileobj(answer["Body"], copy, 1 << 20)

    def put(self, path: str, source: IO[bytes]) -> None:
        with _s3_answers(path.rpartition("/")[2]):
            self.s3.upload_fileobj(source, self.bucket, self.prefix + path)

    def remove(self, path: str) -> None:
        with _s3_answers(path.rpartition("/")[2]):
            self.s3.delete_object(Bucket=self.bucket, Key=self.prefix + path)

    def uri(self, path: str) -> str:
        return f"s3://{self.bucket}/{self.prefix}{path}"


@contextmanager
def _s3_answers(what: str) -> Iterator[None]:
    """Says what could not be had, and why, where S3 refuses (BadInput) or does not answer (Unavailable)."""
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except ClientError as error:
        about, status = error.response.get("Error", {}), error.response.get("ResponseMetadata", {})
        why = f"{printable(what)}: S3 says {about.get('Code')} ({about.get('Message')})"
        if int(status.get("HTTPStatusCode", 0)) >= 500 or about.get("Code") in ("SlowDown", "RequestTimeout"):
            raise Unavailable(f"{why}; try again later") from None
        raise BadInput(f"{why}; see to its permissions or drop it again") from None
    except (BotoCoreError, Boto3Error) as error:
        raise Unavailable(
            f"{printable(what)}: S3 was not reached ({error}); check its address, the network and the credentials"
        ) from None


@contextmanager
def local_path(place: "Folder | Bucket", path: str) -> Iterator[Path]:
    """The file itself, or a download that is deleted after the `with` block."""
    if isinstance(place, Folder):
        yield Path(place.uri(path))
        return
    # The name is kept out of the path (it is from outside), the extension helps people who look.
    with scratch_folder() as folder:
        target = folder / ("file" + re.sub(r"[^.A-Za-z0-9]", "", Path(path).suffix)[:16])
        place.download(path, target)
        yield target


def sha256_of(place: Place, path: str) -> str:
    """Hex, read in pieces."""
    digest = hashlib.sha256()
    with place.open(path) as stream:
        while piece := stream.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()
