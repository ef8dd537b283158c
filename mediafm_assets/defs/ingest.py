"""From a drop in the landing zone to shots and their sampled frames, or without a picture to segments of its sound."""

import json
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from mediafm_assets.graph.materialise import TitleRun
from mediafm_assets.graph.stage import ROOT, Recipe, Stage
from mediafm_assets.graph.versions import drop_version
from mediafm_assets.settings import FrameSampler
from resources.errors import BadInput, NotYet
from resources.lake import PartitionMissing
from resources.landing import Drop, LandingZone, Part
from resources.landing.live import beginnings, parts_of_json
from resources.landing.overlaps import refuse_overlaps
from resources.media import FilmFile, Mark
from resources.shots import SampledFrame, Shot, ShotDetector
from resources.timed_text import TextTrack, choose_track

if TYPE_CHECKING:
    import polars as pl

    from mediafm_assets.graph.materialise import Rows
    from resources.timed_text import Cue

BOUNDS = ("shot_index", "start_s", "end_s", "start_frame", "end_frame")
"""The columns of `shots` that are a `Shot`'s fields, in their order."""


def title_row(landing: LandingZone, drop: Drop) -> dict[str, Any]:
    """The drop's row in `titles`. Reads its timed text and, unless it is live, all of its media once, for their hashes.

    Raises NotYet for what cannot be begun before there is more of it.
    """
    from resources.media import probe

    try:
        with landing.media(drop) as film:
            info = probe(film)
    except BadInput as error:
        raise NotYet(f"so far, {error}") if drop.live else error from None
    if drop.live and not info.has_picture:
        raise NotYet("so far it has no picture; what is only heard is cut as a whole, when it is no longer live")
    return {
        "title": drop.title,
        "type": drop.type,
        "synopsis": drop.synopsis,
        "tags": drop.tags,
        "genres": drop.genres,
        "language": drop.language,
        "series_id": drop.series_id,
        "media_uri": drop.media_uri,
        "media_sha256": landing.media_sha256(drop),
        "duration_s": info.duration_s,
        "fps": info.fps,
        "width": info.width,
        "height": info.height,
        "has_picture": info.has_picture,
        "has_audio": info.has_audio,
        "text_tracks": [
            {
                "name": track.name,
                "language": track.language,
                "kind": track.kind,
                "format": track.format,
                "sha256": landing.sha256(drop, track.name),
            }
            for track in drop.text_tracks
        ],
        "extra": json.dumps(drop.extra, ensure_ascii=False, sort_keys=True),
        "drop_fingerprint": drop.drop_fingerprint,
        "landed_at": drop.landed_at,
        "live": drop.live,
        "media_parts": json.dumps(drop.parts) if drop.parts else None,
    }


def parts_of_film(row: Mapping[str, Any] | None) -> list[Part]:
    """The parts that were taken of the film of a title that is or was live, by its row in `titles`."""
    return parts_of_json(row["media_parts"]) if row else []


def registered_drop(run: TitleRun, title_id: str) -> tuple[Drop, dict[str, Any]]:
    """The title's drop and its row in `titles`, which describes that very drop; of a live one, as far as it was taken.

    Raises BadInput when the drop was changed since: what is made of it would carry the old content's version.
    """
    drop, row = run.landing.drop(title_id), run.read("titles", title_id).row(0, named=True)
    drop = replace(drop, parts=tuple(parts_of_film(row)))
    if drop.live and row["live"]:
        return drop, row
    if drop.drop_fingerprint != row["drop_fingerprint"]:
        raise BadInput(f"its drop has changed since it was registered; materialise titles of {title_id} first")
    return drop, row


def titles(run: TitleRun, title_id: str) -> "Rows":
    """Probe the film and record what was dropped, with the content hashes that decide what changed."""
    import polars as pl

    from resources.lake import polars_schema

    drop, earlier = run.landing.drop(title_id), run.catalogue.title(title_id)
    if drop.parts:
        goes_on = earlier and (earlier["live"] or not drop.live)  # what is live once more begins anew
        before = parts_of_film(earlier) if goes_on else ()
        drop = run.landing.take(drop, before)
        refuse_overlaps(run.landing, drop, before)
    row = title_row(run.landing, drop)
    code = run.catalogue.stages.recipe[ROOT].code
    whole = {"title_id": title_id, "data_version": drop_version(row, code), **row}
    tracks = ", ".join(track["name"] for track in row["text_tracks"]) or "none"
    run.notes.update(title=row["title"], duration_s=row["duration_s"], timed_text=tracks)
    yield "titles", pl.DataFrame([whole], schema=dict(polars_schema("titles")))


def cues_of(run: TitleRun, title_id: str) -> "tuple[TextTrack | None, list[Cue]]":
    """The title's track, None where it has none, and its cues."""
    from resources.timed_text import read_cues

    drop, title = registered_drop(run, title_id)
    track = choose_track([TextTrack(**track) for track in title["text_tracks"]], title["language"])
    if track is None:
        return None, []
    with run.landing.local(drop, track.name) as path:
        return track, read_cues(path)


def shots(run: TitleRun, title_id: str) -> "Rows":
    """Cut the film into shots and keep evenly spaced frames of each, in one pass over the video stream; of a title that
    is live, as far as its shots are certain. What is only heard is cut into segments, where sound and words change."""
    from resources.lake import typed_rows
    from resources.pictures import contact_sheet

    found: list[dict[str, Any]] = []
    covers: list[bytes] = []
    drop, title = registered_drop(run, title_id)
    if not title["has_picture"]:
        yield from heard(run, title_id)
        return
    with run.landing.media(drop) as film:
        yield "shot_frames", frame_rows(run, title, film, found, covers)
    if covers:
        sheet = f"{len(covers)} of the {len(found)} shots of {title_id}"
        run.draw("contact_sheet", sheet, lambda: contact_sheet(covers))
    yield "shots", typed_rows("shots", found)


def heard(run: TitleRun, title_id: str) -> "Rows":
    """Shots of a title without a picture, and a row for each that says so in the place of its frames."""
    import polars as pl

    from resources.shots import SEGMENTS, sound_segments

    drop, title = registered_drop(run, title_id)
    _, cues = cues_of(run, title_id)
    with run.landing.media(drop) as media:
        spans = sound_segments(media, cues, title["language"])
    found = pl.DataFrame(spans, schema=["start_s", "end_s"], orient="row").with_row_index("shot_index")
    middle = (pl.col("start_s") + pl.col("end_s")) / 2
    none = found.select("shot_index", frame_index="shot_index", time_s=middle, jpeg=pl.lit(None, pl.Binary))
    yield "shot_frames", none
    no_frame = pl.lit(None, pl.Int64)
    columns = {"start_frame": no_frame, "end_frame": no_frame, "detector": pl.lit(SEGMENTS)}
    yield "shots", found.with_columns(mark=pl.lit(None, pl.String), **columns)


def frame_rows(
    run: TitleRun, title: Mapping[str, Any], film: FilmFile, found: list[dict[str, Any]], covers: list[bytes]
) -> "Iterator[pl.DataFrame]":
    """The sampled frames of each shot as it is found; the shots' rows are added to `found`, a picture of each new one
    to `covers`. What is stored of a live film's beginning is taken over. Raises NotYet when no shot is certain."""
    from resources.shots import detect_shots

    sampler: FrameSampler = run.resources.frame_sampler
    detector: ShotDetector = run.resources.shot_detector
    code = run.catalogue.stages.recipe["shots"].code

    def detected(known: Shot | None = None) -> Generator[tuple[Shot, list[SampledFrame]]]:
        return detect_shots(film, detector, sampler.frames_per_shot, sampler.short_side, title["live"], known)

    new = detected()
    if (known := known_shots(run, title)) and (after := those_after(known, detected)):
        new = after
        found.extend(known.rows if title["live"] else [{**row, "mark": None} for row in known.rows])
        yield known.frames
    for shot, frames in new:
        bounds = shot.index, shot.start_s, shot.end_s, shot.start_frame, shot.end_frame
        mark = json.dumps([code, title["media_sha256"], shot.mark]) if title["live"] else None
        found.append({**dict(zip(BOUNDS, bounds, strict=True)), "detector": detector.name, "mark": mark})
        covers.extend(frame.jpeg for frame in frames[len(frames) // 2 :][:1])
        yield rows_of_frames(shot, frames)
    if not found:
        raise NotYet("no shot is certain yet; it waits for more of its film")


def rows_of_frames(shot: Shot, frames: Sequence[SampledFrame]) -> "pl.DataFrame":
    """A shot's rows in `shot_frames`."""
    from resources.lake import typed_rows

    return typed_rows("shot_frames", [{"shot_index": shot.index, **vars(frame)} for frame in frames])


class Known(NamedTuple):
    """Rows of `shots` and `shot_frames` that are stored, and the last shot."""

    rows: list[dict[str, Any]]
    frames: "pl.DataFrame"
    last: Shot


def known_shots(run: TitleRun, title: Mapping[str, Any]) -> Known | None:
    """What is stored of what the film of a title that is or was live still begins with, if it was found as it would be
    now."""
    title_id, catalogue = title["title_id"], run.catalogue
    of_these_shots = catalogue.stored("shot_frames", title_id) == catalogue.made_from_stored("shot_frames", title_id)
    if not title["media_parts"] or not of_these_shots or run.forced & {"shots", "shot_frames"}:
        return None
    try:
        rows, frames = (run.read(table, title_id) for table in ("shots", "shot_frames"))
    except PartitionMissing:
        return None
    last = rows.row(-1, named=True)
    if last["mark"] is None or last["detector"] != run.resources.shot_detector.name:
        return None
    code, begins_with, mark = json.loads(last["mark"])
    if code != catalogue.stages.recipe["shots"].code or begins_with not in beginnings(parts_of_film(title)):
        return None
    shot = Shot(*(last[name] for name in BOUNDS))
    shot = replace(shot, mark=Mark(*mark) if mark else None)
    filled_in = ("title_id", "data_version")
    return Known(rows.drop(filled_in).to_dicts(), frames.drop(filled_in), shot)


def those_after(
    known: Known, detected: "Callable[[Shot], Generator[tuple[Shot, list[SampledFrame]]]]"
) -> "Generator[tuple[Shot, list[SampledFrame]]] | None":
    """What is found after the last shot that is known; None when that one is not found again, frame by frame."""
    import polars as pl

    from resources.media import MarkNotFound

    shots = detected(known.last)
    try:
        again = rows_of_frames(*next(shots))
    except (MarkNotFound, StopIteration):
        return None
    if again.equals(known.frames.filter(pl.col("shot_index") == known.last.index)):
        return shots
    shots.close()
    return None


STAGES = (
    Stage((Recipe("titles", ("drops",)),), "ingest", titles),
    Stage(
        (Recipe("shots", ("media",), "shot_detector"), Recipe("shot_frames", ("shots",), "frame_sampler")),
        "ingest",
        shots,
        kinds=frozenset({"pytorch"}),
    ),
)
