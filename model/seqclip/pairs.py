"""Pairs of a clip, as its frames, and a sentence about it: the file that they are kept in, and which are held out."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from model.splits import group_of, held_out


@dataclass(frozen=True)
class Pair:
    """A clip of a title, as the files of its frames (JPEG, in order), and a sentence about it."""

    title_id: str
    series_id: str | None
    caption: str
    frames: tuple[Path, ...]


def write_pairs(folder: Path, pairs: Iterable[tuple[str, str | None, str, Sequence[bytes]]]) -> Path:
    """Lay out (title id, series id, caption, JPEG frames) as files; returns the pairs.jsonl that `read_pairs` reads.

    Pairs with a blank caption or without frames are left out: they say nothing. Equal frames are one file, so that a
    clip with many captions is stored, and known, as one clip.
    """
    (folder / "frames").mkdir(parents=True, exist_ok=True)
    with open(folder / "pairs.jsonl", "w", encoding="utf-8") as lines:
        for title_id, series_id, caption, jpegs in pairs:
            if not caption.strip() or not jpegs:
                continue
            names = [f"frames/{hashlib.blake2b(jpeg, digest_size=16).hexdigest()}.jpg" for jpeg in jpegs]
            for name, jpeg in zip(names, jpegs, strict=True):
                if not (folder / name).exists():
                    (folder / name).write_bytes(jpeg)
            row = {"title_id": title_id, "series_id": series_id, "caption": caption, "frames": names}
            lines.write(json.dumps(row) + "\n")
    return folder / "pairs.jsonl"


def read_pairs(path: Path) -> list[Pair]:
    """The pairs of a file of JSON lines: `title_id`, `series_id` (or none), `caption`, `frames` (names relative to the
    file)."""
    pairs = []
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        frames = tuple(path.parent / name for name in row["frames"])
        pairs.append(Pair(row["title_id"], row.get("series_id"), row["caption"], frames))
    return pairs


def hold_out(pairs: Sequence[Pair], share: float, seed: int) -> tuple[list[Pair], list[Pair]]:
    """(training, held-out) pairs, split by series, else by title (`model.splits`).

    Raises ValueError for fewer than two of those.
    """
    groups = [group_of(pair.title_id, pair.series_id) for pair in pairs]
    held = held_out(groups, share, seed)
    parts: tuple[list[Pair], list[Pair]] = ([], [])
    for group, pair in zip(groups, pairs, strict=True):
        parts[group in held].append(pair)
    return parts


def evenly(n: int, most: int) -> list[int]:
    """The middles of min(n, most) equal parts of n things in a row."""
    parts = min(n, most)
    return [int((part + 0.5) * n / parts) for part in range(parts)]
