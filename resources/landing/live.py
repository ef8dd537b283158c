"""Titles that come while they happen: which files are the film, in which order, and how far they are there.

    one file that grows       MPEG-TS or fragmented MP4
    segments                  by their numbers; with `init` in its name, the one that begins fragmented MP4

Playlists and manifests are not read: they may slide, and the numbers tell the order.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby, pairwise
from typing import NamedTuple

from resources.errors import BadInput, printable
from resources.landing.places import File

STOPPED_S = 1800.0
"""Seconds without anything new after which a live title is said to have stopped."""

_COUNTED = 100
"""Numbers that go on in smaller steps count segments; larger steps are times, of which none is known to be missing."""

_SEGMENT = re.compile(r"(.*?)([0-9]+)([^0-9]*\.[A-Za-z0-9]+)")


class Part(NamedTuple):
    """The next so many bytes of a film: those of a segment, or what a file has grown by. sha256: of them, once they
    were taken."""

    name: str
    bytes: int
    sha256: str = ""


def begins_segments(name: str) -> bool:
    """Whether the file is what each segment of fragmented MP4 needs before it."""
    return "init" in name.lower()


def segments(files: Sequence[File], live: bool, settled: Callable[[File], bool]) -> tuple[list[File], str]:
    """The film's files in their order, of those that may be it, and what it waits for, if that is known.

    While it is live, what comes after a missing or unsettled segment waits. Raises BadInput for segments of several
    streams, and for two with one number.
    """
    first = [file for file in files if begins_segments(file.name)]
    others = [file for file in files if file not in first]
    if len(files) == 1 and others:
        return others, ""
    matched = {file: _SEGMENT.fullmatch(file.name) for file in others}
    streams = {f"{match[1]}…{match[3]}" if match else file.name for file, match in matched.items()}
    if len(streams) > 1 or len(first) > 1 or None in matched.values():
        raise BadInput(
            f"the folder has several streams or files ({', '.join(sorted(map(printable, streams))[:4])}); a live title "
            "takes numbered segments of one, with picture and sound together, or one growing file that is named as "
            '"media" in title.json'
        )
    numbered = sorted((int(match[2]), file.name, file) for file, match in matched.items() if match)
    if not numbered:
        return [], "its first segment" if first else "its first file"
    if not first and numbered[0][1].lower().endswith((".m4s", ".cmfv")):
        return [], "the init segment, whose name has init in it"
    counted = min((after[0] - before[0] for before, after in pairwise(numbered)), default=1) < _COUNTED
    taken, waits = [numbered[0][2]], ""
    for (before, name, file), (number, other, after) in pairwise(numbered):
        if number == before and after.size != file.size:
            raise BadInput(f"{printable(name)} and {printable(other)} have the same number; remove one of them")
        if live and counted and number > before + 1:
            waits = f"the segment between {printable(name)} and {printable(other)}"
            break
        taken.append(after)
    if live:
        unsettled = next((place for place, file in enumerate(taken) if not settled(file)), len(taken))
        taken = taken[:unsettled]
    return [*first, *taken] if taken else [], waits


def parts_of_json(said: str | None) -> list[Part]:
    """The parts as `titles` keeps them: none of a title that never was live."""
    return [Part(*part) for part in json.loads(said)] if said else []


def parts_since(files: Iterable[Part], before: Sequence[Part]) -> list[Part]:
    """The parts that were taken `before`, as far as the film's files still begin with them, and what came since.

    files: all that is there now, each whole.
    """
    parts: list[Part] = []
    left = list(reversed(before))
    for file in files:
        at = 0
        while left and left[-1].name == file.name and at + left[-1].bytes <= file.bytes:
            parts.append(left.pop())
            at += parts[-1].bytes
        if at < file.bytes:
            parts.append(Part(file.name, file.bytes - at))
            left.clear()  # what was taken lies behind what was not: it is no beginning
    return parts


def files_of(parts: Iterable[Part]) -> list[Part]:
    """The files of the parts, each whole; one that holds the same bytes as the one before it is a repetition, and is
    left out."""
    files: list[Part] = []
    for name, of_file in groupby(parts, lambda part: part.name):
        held = list(of_file)
        file = Part(name, sum(part.bytes for part in held), held[0].sha256 if len(held) == 1 else "")
        if not file.sha256 or not files or file.sha256 != files[-1].sha256:
            files.append(file)
    return files


def beginnings(parts: Iterable[Part]) -> Iterator[str]:
    """SHA-256 (hex) of what was taken, after each part: of the parts' hashes, since the film is not to be read anew
    whenever it grows."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.sha256.encode())
        yield digest.hexdigest()
