"""Somebody's own vectors, from a folder without a lake: docs/own_vectors.md.

    vectors.json    {"modalities": [["clip", 512], ["speech", 384]],
                     "titles": [{"title_id": "a", "vectors": "a.npy", "title_vector": "a.title.npy", "group": "s"}]}
    a.npy           (n, sum of widths): a row per shot, the modalities' vectors one after the other; zeros where absent
    a.title.npy     (g,), the title's own vector; of every title or of none

title_vector and group are optional. Titles of a group (a series, say) are held out together.
"""

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.config import Config
from model.fusion import fuse
from model.modalities import Widths, blocks_of
from model.store import Store, StoredTitle

INDEX = "vectors.json"
SPACE = "own vectors"


@dataclass(frozen=True)
class OwnTitle:
    title_id: str
    vectors: Path
    title_vector: Path | None = None
    group: str | None = None

    @property
    def version(self) -> str:
        """Of what its files hold."""
        digest = hashlib.blake2b(repr(self.group).encode(), digest_size=16)
        for file in (self.vectors, self.title_vector):
            digest.update(file.read_bytes() if file else b"")
        return digest.hexdigest()


@dataclass(frozen=True)
class OwnVectors:
    path: Path
    modalities: Widths
    titles: tuple[OwnTitle, ...]

    @classmethod
    def open(cls, path: Path) -> "OwnVectors":
        """Raises ValueError when vectors.json is missing or is not as it has to be, or a file that it names is not
        there.
        """
        try:
            index = json.loads((path / INDEX).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ValueError(f"{path} has no {INDEX}, which says what its vectors are.") from None
        except ValueError as error:
            raise ValueError(f"{path / INDEX} is not JSON: {error}.") from None
        if not isinstance(index, dict) or not isinstance(index.get("titles"), list) or not index["titles"]:
            raise ValueError(f"{path / INDEX} must be an object with modalities and a list of titles.")
        # The configuration says which names and widths can be used.
        modalities = Config.from_json(json.dumps({"modalities": index.get("modalities", [])})).modalities
        titles = tuple(_title(path, row) for row in index["titles"])
        for what in ("title_id", "vectors"):
            if len({getattr(title, what) for title in titles}) < len(titles):
                raise ValueError(f"{path / INDEX} gives two titles the same {what}.")
        if len({title.title_vector is None for title in titles}) > 1:
            raise ValueError(f"{path / INDEX} gives a title_vector to some titles; either all have one, or none has.")
        return cls(path, modalities, titles)

    def read(self, title: OwnTitle) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        """A title's fused vectors (n, D), each modality's of unit norm first, and its own vector (g,), if it has one.

        Raises ValueError, which names the title, for arrays of another shape, NaN and infinity.
        """
        blocks = blocks_of(self.modalities)
        width = sum(width for _, width in self.modalities)
        try:
            vectors = _array(title.vectors, 2)
            if vectors.shape[1] != width or not len(vectors):
                raise ValueError(f"{title.vectors.name} has shape {vectors.shape}; (n, {width}), n >= 1, is needed.")
            parts = {name: vectors[:, block] for name, block in blocks.items()}
            given = {name: (part, np.asarray(part.any(axis=1))) for name, part in parts.items()}
            fused = fuse(given, widths=self.modalities)
            about = _array(title.title_vector, 1).astype(np.float32) if title.title_vector else None
            if about is not None and not np.isfinite(about).all():
                raise ValueError(f"{title.title_vector} holds NaN or infinity.")
        except ValueError as error:
            raise ValueError(f"Title {title.title_id}: {error}") from None
        return fused, about

    def fitted(self, config: Config) -> Config:
        """The configuration with the widths of these vectors. Without titles' own vectors the encoder reads one
        number, zero, in their place.
        """
        about = self.titles[0].title_vector
        return dataclasses.replace(config, modalities=self.modalities, global_dim=_array(about, 1).size if about else 1)

    def update_store(self, path: Path) -> Store:
        """Makes the trainer's store hold these titles; only those that it lacks are read. Raises ValueError as `read`
        and `Store.update` do.
        """
        versions = {title: title.version for title in self.titles}
        held = Store.versions(path) if self._fits(path) else set()
        keep = held & {(title.title_id, version) for title, version in versions.items()}

        def missing(title: OwnTitle) -> StoredTitle:
            vectors, about = self.read(title)
            about = np.zeros(1, dtype=np.float32) if about is None else about
            return StoredTitle(title.title_id, title.group, versions[title], SPACE, vectors, about)

        new = (missing(title) for title in self.titles if (title.title_id, versions[title]) not in keep)
        return Store.update(path, new, keep, str(self.path), self.modalities)

    def _fits(self, path: Path) -> bool:
        try:
            return Store.open(path).modalities == self.modalities
        except ValueError:  # none yet, or a damaged one, which is written anew
            return False


def _title(folder: Path, row: Any) -> OwnTitle:
    known = {field.name for field in dataclasses.fields(OwnTitle)}
    if not isinstance(row, dict) or not {"title_id", "vectors"} <= set(row) <= known:
        raise ValueError(f"{folder / INDEX}: a title has title_id and vectors, perhaps title_vector and group: {row!r}")
    if any(not isinstance(value, str) or not value for name, value in row.items()):
        raise ValueError(f"{folder / INDEX}: what a title has is text: {row!r}")
    files = {name: folder / row[name] for name in ("vectors", "title_vector") if name in row}
    for file in files.values():
        if file.parent != folder or file.suffix != ".npy" or not file.is_file():
            raise ValueError(f"{folder / INDEX}: {file.name} is no .npy file in this folder.")
    return OwnTitle(row["title_id"], files["vectors"], files.get("title_vector"), row.get("group"))


def _array(file: Path, dimensions: int) -> NDArray[np.floating]:
    try:
        array: NDArray[Any] = np.load(file, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(f"{file.name} is no array of numbers: {error}") from None
    if array.dtype.kind != "f" or array.ndim != dimensions:
        raise ValueError(f"{file.name} holds {array.dtype} of shape {array.shape}; {dimensions}-d floats are needed.")
    return array
