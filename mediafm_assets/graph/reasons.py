"""Why something is not what it would be if it were made now, in words: what it was made from, against now; and each
reason once, with all that it holds of."""

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from mediafm_assets.graph.stage import PARTS, Recipe, Stages
from mediafm_assets.graph.versions import PROMOTIONS, Catalogue, title_text
from resources.errors import one_line, printable
from resources.landing import Drop
from resources.timed_text import TextTrack, choose_track

MadeFrom = Mapping[str, str]
"""What decided a version, by name: code, the resource that shapes the values, inputs; of `titles`, the drop's files."""

NONE = "none"
NAMED = 3
"""Titles or tables that are named of those with the same reason."""
STATES = ("fresh", "stale", "missing", "failed", "waiting")
BETWEEN = "its {} are {}: "
"""What stands between a table and the reason why what it is made from is not fresh."""
IN_BETWEEN = re.compile("^" + BETWEEN.format("[a-z_]+", f"(?:{'|'.join(STATES)})"))


class Reason(NamedTuple):
    """Why some are not fresh."""

    state: str
    reason: str
    tables: tuple[str, ...]
    titles: list[str]


def made_from(catalogue: Catalogue, table: str, title_id: str) -> dict[str, str]:
    """What decides the version of a title's table that is not `titles`; parts of the drop as people know them."""
    found = catalogue.made_from(table, title_id)
    row = catalogue.title(title_id)
    parts = [part for part in PARTS if part in found]
    return {**found, **{part: _part(part, row, found[part]) for part in parts}} if row else found


def _part(part: str, row: Mapping[str, Any], version: str) -> str:
    track = _track([TextTrack(**track) for track in row["text_tracks"]], row["language"])
    if part == "timed_text":
        return f"{version} {track}"
    if part == "sound":
        return f"{version} {row['language'] or NONE}"
    name = os.path.basename(row["media_uri"])
    return f"{version} {name}" if row["has_picture"] or track == NONE else f"{version} {name} with {track}"


def _track(tracks: list[TextTrack], language: str | None) -> str:
    track = choose_track(tracks, language)
    return track.name if track else NONE


def differences(recipe: Recipe, stages: Stages, before: MadeFrom, now: MadeFrom) -> Iterator[str]:
    """A phrase for each thing that decides the table's version and is another one now than before."""
    for name in dict.fromkeys((*before, *now)):
        was, new = before.get(name), now.get(name)
        if was == new:
            continue
        if name in PARTS:
            if (phrase := _part_changed(name, was or "", new or "")) is not None:
                yield phrase
        elif name == "code":
            yield f"the code version is now {new}, was {was}"
        elif name == PROMOTIONS:
            yield f"the encoder in use is now {new or NONE}, was {was or NONE}"
        elif name == recipe.shaped_by:
            yield f"{name.replace('_', ' ')} is now {one_line(new or NONE, 300)}, was {one_line(was or NONE, 300)}"
        elif name in stages.by_table:
            yield f"its {name} changed"


def _part_changed(part: str, was: str, new: str) -> str | None:
    """None: only a name differs, which decides nothing."""
    (old_version, _, old_name), (version, _, name) = was.partition(" "), new.partition(" ")
    if old_version == version:
        return None
    name, old_name = printable(name), printable(old_name)
    if part == "media":
        return f"the film {name} changed"
    if part == "metadata":
        return "what title.json says of the title changed"
    if part == "sound":
        return "the film changed" if name == old_name else f"the language is now {name}, was {old_name}"
    if name == old_name:
        return f"subtitle {name} changed"
    if old_name in (NONE, ""):
        return f"subtitle {name} is new"
    return f"subtitle {old_name} is gone" if name == NONE else f"the subtitle is now {name}, was {old_name}"


def changed_files(drop: Drop, before: MadeFrom) -> list[str]:
    """A phrase for each file of the drop that is new, gone or another than before."""
    found = []
    for name in sorted(drop.files.keys() | (before.keys() - {"code"})):
        was, now = before.get(name), drop.files.get(name)
        if was != now:
            how = "changed" if was and now else "is new" if now else "is gone"
            found.append(f"{_kind_of(name, drop)}{printable(name)} {how}")
    return found


def _kind_of(name: str, drop: Drop) -> str:
    if name == "title.json":
        return ""
    if name == drop.media or name in {part.name for part in drop.parts}:
        return "film "
    return "subtitle " if any(track.name == name for track in drop.text_tracks) else "file "


def changed_parts(drop: Drop, row: Mapping[str, Any], before: MadeFrom) -> frozenset[str]:
    """The parts of a registered drop that may be others now. Where its files were never seen, that is all of them.

    row: as registered, in `titles`. before: its files, then.
    """
    if before.keys() <= {"code"}:
        return frozenset(PARTS)
    found = set()
    film = {drop.media, *(part.name for part in drop.parts)}
    if drop.media != os.path.basename(row["media_uri"]) or any(before.get(name) != drop.files[name] for name in film):
        found |= {"media", "sound"}
    tracks = [TextTrack(**track) for track in row["text_tracks"]]
    name, old_name = _track(drop.text_tracks, drop.language), _track(tracks, row["language"])
    if name != old_name or before.get(name) != drop.files.get(name):
        found.add("timed_text")
    if drop.language != row["language"]:
        found.add("sound")
    if not row["has_picture"] and found:  # they are cut by sound and words
        found.add("media")
    if title_text(vars(drop)) != title_text(row):
        found.add("metadata")
    return frozenset(found)


def root_of(reason: str) -> str:
    """The reason without what lies between the table and it."""
    return IN_BETWEEN.sub("", reason)


def by_reason(states: Iterable[tuple[str, str, str, str]]) -> list[Reason]:
    """Each reason once, of what is not fresh, with the tables and titles that it holds of, what failed first.

    states: (table, title_id, state, reason), title by title.
    """
    tables: dict[tuple[str, str, str], list[str]] = {}
    roots: dict[str, str] = {}  # each is kept once
    for table, title_id, state, reason in states:
        if state != "fresh":
            root = root_of(reason)
            tables.setdefault((state, roots.setdefault(root, root), title_id), []).append(table)
    titles: dict[tuple[str, str, tuple[str, ...]], list[str]] = {}
    for (state, reason, title_id), of_title in tables.items():
        titles.setdefault((state, reason, tuple(of_title)), []).append(title_id)
    order = ("failed", "stale", "missing", "waiting")
    found = [Reason(*key, of_reason) for key, of_reason in titles.items()]
    return sorted(found, key=lambda one: order.index(one.state))


def some_of(names: Sequence[str]) -> str:
    """Such as "a, b, c and 5 more"."""
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more
