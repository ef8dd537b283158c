"""The store: every title's fused vectors in half precision, memory-mapped, in one folder.

Training reads windows of titles in random order, which Delta tables are not made for; so the vectors are copied
once into flat files and, when titles come, go or change, only those are written. The folder holds

    manifest.json         what is where; replaced in one rename, so that it is always a whole store, old or new
    <shard>.vectors       rows of fused_dim float16, titles one after the other; written once, never changed
    <shard>.empty         one byte per shot: 1 if it has no modality and its vector is zero
    <shard>.globals       one row of g float32 per title of the shard

A shard whose titles are all gone is deleted; one that is mostly gone is rewritten. Whatever a crash leaves half
written is named by no manifest and removed by the next update.
"""

import fcntl
import hashlib
import json
import mmap
import os
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from model.config import BEFORE
from model.files import write_atomically
from model.modalities import WIDTHS, Widths, blocks_of

FORMAT = 1
MANIFEST = "manifest.json"
MOSTLY_GONE = 0.5  # a shard with a smaller share of rows in use is rewritten


@dataclass(frozen=True)
class StoredTitle:
    """A title on its way into the store."""

    title_id: str
    series_id: str | None
    version: str  # of the vectors: another version is another title to the store
    space: str  # the embedding space of vectors and global embedding; one store holds one space
    vectors: NDArray[np.floating]  # (n, fused_dim) of unit norm, or zero where a shot has no modality; n >= 1
    global_embedding: NDArray[np.floating]  # (g,)


@dataclass(frozen=True)
class Entry:
    """Where a title lies in the store."""

    title_id: str
    series_id: str | None
    version: str
    shots: int
    shard: str
    first_shot: int  # row in the shard's vectors
    row: int  # row in the shard's globals


class Store:
    """A store opened for reading: one version of the catalogue, unchanged by later updates."""

    def __init__(self, path: Path, manifest: dict) -> None:
        self.path = path
        self.space: str = manifest["space"]
        self.source: str = manifest["source"]
        self.global_dim: int = manifest["global_dim"]
        self.modalities = _modalities(manifest)
        self.blocks = blocks_of(self.modalities)
        self.fused_dim = sum(width for _, width in self.modalities)
        self.entries = [Entry(**entry) for entry in manifest["titles"]]
        self._vectors: dict[str, mmap.mmap] = {}
        self._globals: dict[str, NDArray[np.float32]] = {}
        self._empty: dict[str, NDArray[np.bool_]] = {}
        for shard in sorted({entry.shard for entry in self.entries}):
            with open(path / f"{shard}.vectors", "rb") as file:
                self._vectors[shard] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            self._globals[shard] = np.fromfile(path / f"{shard}.globals", dtype=np.float32).reshape(-1, self.global_dim)
            if (path / f"{shard}.empty").exists():  # shards of earlier stores have no empty shots
                self._empty[shard] = np.fromfile(path / f"{shard}.empty", dtype=np.bool_)

    @classmethod
    def open(cls, path: str | Path) -> "Store":
        """Raises ValueError when there is no store at path or its files do not fit its manifest."""
        path = Path(path)
        manifest = _read_manifest(path)
        if manifest is None:
            raise ValueError(f"There is no store of fused vectors at {path}.")
        store = cls(path, manifest)
        for entry in store.entries:
            if len(store._vectors[entry.shard]) < (entry.first_shot + entry.shots) * store.fused_dim * 2:
                raise ValueError(
                    f"The store at {path} is damaged: {entry.shard}.vectors is too short for {entry.title_id}."
                )
        return store

    def __len__(self) -> int:
        return len(self.entries)

    @property
    def shots(self) -> int:
        return sum(entry.shots for entry in self.entries)

    @property
    def fingerprint(self) -> str:
        """Identity of the content, whatever the shards: equal stores train equal encoders."""
        content = [self.space, *sorted((e.title_id, e.series_id or "", e.version, e.shots) for e in self.entries)]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def read(self, entry: Entry, start: int, stop: int, out: NDArray[np.float16] | None = None) -> NDArray[np.float16]:
        """Shots [start, stop) of a title: (stop - start, fused_dim) float16, copied into out when it is given.

        The pages that were read are handed back to the kernel at once, so that a process that reads the whole store
        keeps none of it resident: the page cache does the caching.
        """
        shard = self._vectors[entry.shard]
        width = self.fused_dim
        first, last = (entry.first_shot + start) * width * 2, (entry.first_shot + stop) * width * 2
        rows = np.frombuffer(shard, dtype=np.float16, count=(last - first) // 2, offset=first).reshape(-1, width)
        if out is None:
            out = np.empty_like(rows)
        np.copyto(out, rows)
        page = first // mmap.PAGESIZE * mmap.PAGESIZE
        shard.madvise(mmap.MADV_DONTNEED, page, last - page)
        return out

    def empty(self, entry: Entry, start: int, stop: int) -> NDArray[np.bool_]:
        """Which of the shots [start, stop) have no modality: (stop - start,)"""
        if entry.shard not in self._empty:
            return np.zeros(stop - start, dtype=np.bool_)
        return self._empty[entry.shard][entry.first_shot + start : entry.first_shot + stop]

    def global_embedding(self, entry: Entry) -> NDArray[np.float32]:
        """(g,)"""
        return self._globals[entry.shard][entry.row]

    @staticmethod
    def versions(path: str | Path) -> set[tuple[str, str]]:
        """(title_id, version) of what the store at path holds; empty when there is none."""
        manifest = _read_manifest(Path(path))
        return {(entry["title_id"], entry["version"]) for entry in manifest["titles"]} if manifest else set()

    @staticmethod
    def update(
        path: str | Path,
        titles: Iterable[StoredTitle],
        keep: Iterable[tuple[str, str]] = (),
        source: str = "",
        modalities: Widths = WIDTHS,
    ) -> "Store":
        """Makes the store hold exactly the titles given and the (title_id, version) pairs kept, and opens it.

        titles is consumed one by one, so a catalogue need not fit into memory. source says where the vectors were
        read from (a table and its version) and is recorded. modalities are the vectors' blocks. Until the last moment
        readers see the old store; a failure leaves it.
        Raises ValueError for vectors of the wrong shape, NaN or infinity, a title without shots, no titles at all,
        a title given twice, a kept pair that the store does not hold, and titles of different embedding spaces or
        modalities.
        """
        path = Path(path)
        path.mkdir(parents=True, exist_ok=True)
        with _locked(path):
            old = _read_manifest(path)
            _remove_unnamed_files(path, old)
            held = {(entry.title_id, entry.version): entry for entry in (Store(path, old).entries if old else [])}
            keep = set(keep)
            missing = sorted(title_id for title_id, version in keep - set(held))
            if missing:
                raise ValueError(f"The store at {path} does not hold the version to keep of: {_names(missing)}.")
            entries = [entry for pair, entry in held.items() if pair in keep]
            if old and entries and _modalities(old) != modalities:
                raise ValueError(f"The store at {path} holds vectors of other modalities; keep none of them.")
            new: list[Entry] = []
            try:
                new, space, global_dim = _write_shard(path, titles, entries, old if entries else None, modalities)
                if not entries and not new:
                    raise ValueError("A store needs at least one title, and none was given.")
                manifest = {
                    "format": FORMAT,
                    "space": space,
                    "source": source,
                    "global_dim": global_dim,
                    "modalities": modalities,
                }
                entries = _compacted(path, entries, manifest) + new
                manifest["titles"] = [asdict(entry) for entry in sorted(entries, key=lambda entry: entry.title_id)]
                write_atomically(path / MANIFEST, json.dumps(manifest, indent=1).encode())
            except BaseException:
                _remove_unnamed_files(path, old)
                raise
            _remove_unnamed_files(path, manifest)
            return Store(path, manifest)


def _read_manifest(path: Path) -> dict | None:
    try:
        manifest = json.loads((path / MANIFEST).read_bytes())
    except FileNotFoundError:
        return None
    except ValueError:
        raise ValueError(
            f"The store's manifest at {path / MANIFEST} is not JSON; delete the folder to build it anew."
        ) from None
    if manifest.get("format") != FORMAT:
        raise ValueError(
            f"The store at {path} has format {manifest.get('format')}, and this code reads {FORMAT}; delete it."
        )
    return manifest


def _modalities(manifest: dict) -> Widths:
    return tuple((name, width) for name, width in manifest.get("modalities", BEFORE["modalities"]))


def _write_shard(
    path: Path, titles: Iterable[StoredTitle], kept: list[Entry], old: dict | None, modalities: Widths
) -> tuple[list[Entry], str, int]:
    """Writes the titles into one new shard. Returns their entries, the store's space and its width of global
    embeddings.
    """
    shard = uuid.uuid4().hex[:12]
    space, global_dim = (old["space"], old["global_dim"]) if old else (None, None)
    taken = {entry.title_id for entry in kept}
    others: list[str] = []
    entries: list[Entry] = []
    shots = 0
    fused_dim = sum(width for _, width in modalities)
    with (
        open(path / f"{shard}.vectors", "wb") as vectors_file,
        open(path / f"{shard}.empty", "wb") as empty_file,
        open(path / f"{shard}.globals", "wb") as globals_file,
    ):
        for title in titles:
            space = title.space if space is None else space
            if title.space != space:
                others.append(title.title_id)
                continue
            global_dim = title.global_embedding.size if global_dim is None else global_dim
            if title.title_id in taken:
                raise ValueError(f"Title {title.title_id} was given to the store twice.")
            _check(title, fused_dim, global_dim)
            taken.add(title.title_id)
            n = len(title.vectors)
            entries.append(Entry(title.title_id, title.series_id, title.version, n, shard, shots, len(entries)))
            vectors_file.write(np.ascontiguousarray(title.vectors, dtype=np.float16).data)
            empty_file.write((~title.vectors.any(axis=1)).tobytes())
            globals_file.write(np.ascontiguousarray(title.global_embedding, dtype=np.float32).data)
            shots += n
        if others:
            raise ValueError(
                f"Vectors of two embedding spaces cannot meet in one store: it has {space!r}, and these titles have "
                f"another: {_names(others)}. Rematerialise their embeddings, or those of every other title."
            )
        for file in (vectors_file, empty_file, globals_file):
            file.flush()
            os.fsync(file.fileno())
    return entries, space or "", global_dim or 0


def _check(title: StoredTitle, fused_dim: int, global_dim: int) -> None:
    shape = title.vectors.shape
    if len(shape) != 2 or shape[1] != fused_dim or shape[0] == 0:
        raise ValueError(
            f"Title {title.title_id} has fused vectors of shape {shape}; (n, {fused_dim}), n >= 1, is needed."
        )
    if title.global_embedding.shape != (global_dim,):
        raise ValueError(
            f"Title {title.title_id} has a global embedding of shape {title.global_embedding.shape}; "
            f"{(global_dim,)} is needed."
        )
    if not np.isfinite(title.vectors).all():
        shot = np.flatnonzero(~np.isfinite(title.vectors).all(axis=1))[0]
        raise ValueError(f"Title {title.title_id} holds NaN or infinity in the fused vector of shot {shot}.")
    if not np.isfinite(title.global_embedding).all():
        raise ValueError(f"Title {title.title_id} holds NaN or infinity in its global embedding.")
    norms = np.linalg.norm(title.vectors, axis=1)
    off = np.where(title.vectors.any(axis=1), np.abs(norms - 1), 0.0)
    if off.max() > 1e-2:
        shot = int(off.argmax())
        raise ValueError(
            f"Title {title.title_id} has a fused vector of norm {norms[shot]:.3g} at shot {shot}; 1 is needed, or 0 "
            "of a shot without any modality."
        )


def _compacted(path: Path, entries: list[Entry], manifest: dict) -> list[Entry]:
    """The entries, those of shards that are mostly gone copied into one new shard."""
    modalities = _modalities(manifest)
    row_bytes = 2 * sum(width for _, width in modalities)
    wasteful = {
        shard
        for shard in {entry.shard for entry in entries}
        if sum(entry.shots for entry in entries if entry.shard == shard) * row_bytes
        < MOSTLY_GONE * (path / f"{shard}.vectors").stat().st_size
    }
    moving = [entry for entry in entries if entry.shard in wasteful]
    if not moving:
        return entries
    reader = Store(path, {**manifest, "titles": [asdict(entry) for entry in moving]})
    titles = (
        StoredTitle(
            e.title_id,
            e.series_id,
            e.version,
            manifest["space"],
            reader.read(e, 0, e.shots),
            reader.global_embedding(e),
        )
        for e in moving
    )
    moved, _, _ = _write_shard(path, titles, [], None, modalities)
    return [entry for entry in entries if entry.shard not in wasteful] + moved


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One update at a time; the kernel releases the lock of a process that dies."""
    with open(path / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _remove_unnamed_files(path: Path, manifest: dict | None) -> None:
    named = {entry["shard"] for entry in manifest["titles"]} if manifest else set()
    for pattern in ("*.vectors", "*.empty", "*.globals", "*.partial"):
        for file in path.glob(pattern):
            if file.stem not in named:
                file.unlink()


def _names(titles: list[str]) -> str:
    return ", ".join(titles[:10]) + (f" and {len(titles) - 10} more" if len(titles) > 10 else "")
