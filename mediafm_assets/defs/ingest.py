"""From a drop in the landing zone to shots and their sampled frames, or without a picture to segments of its sound."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mediafm_assets.graph.materialise import TitleRun
from mediafm_assets.graph.stage import ROOT, Recipe, Stage
from mediafm_assets.graph.versions import drop_version
from mediafm_assets.settings import FrameSampler
from resources.errors import BadInput
from resources.landing import Drop, LandingZone
from resources.shots import Shot, ShotDetector
from resources.timed_text import TextTrack, choose_track

if TYPE_CHECKING:
    import polars as pl

    from mediafm_assets.graph.materialise import Rows
    from resources.timed_text import Cue


def title_row(landing: LandingZone, drop: Drop) -> dict[str, Any]:
    """The drop's row in `titles`. Reads all of its media and timed text once, for their hashes."""
    from resources.media import probe

    with landing.local(drop, drop.media) as film:
        info = probe(film)
    return {
        "title": drop.title,
        "type": drop.type,
        "synopsis": drop.synopsis,
        "tags": drop.tags,
        "genres": drop.genres,
        "language": drop.language,
        "series_id": drop.series_id,
        "media_uri": drop.media_uri,
        "media_sha256": landing.sha256(drop, drop.media),
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
    }


def registered_drop(run: TitleRun, title_id: str) -> tuple[Drop, dict[str, Any]]:
    """The title's drop and its row in `titles`, which describes that very drop.

    Raises BadInput when the drop was changed since: what is made of it would carry the old content's version.
    """
    drop, row = run.landing.drop(title_id), run.read("titles", title_id).row(0, named=True)
    if drop.drop_fingerprint != row["drop_fingerprint"]:
        raise BadInput(f"its drop has changed since it was registered; materialise titles of {title_id} first")
    return drop, row


def titles(run: TitleRun, title_id: str) -> "Rows":
    """Probe the film and record what was dropped, with the content hashes that decide what changed."""
    import polars as pl

    from resources.lake import polars_schema

    row = title_row(run.landing, run.landing.drop(title_id))
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
    """Cut the film into shots and keep evenly spaced frames of each, in one pass over the video stream. What is only
    heard is cut into segments, where sound and words change."""
    import polars as pl

    from resources.pictures import contact_sheet

    detector: ShotDetector = run.resources.shot_detector
    found: list[Shot] = []
    covers: list[bytes] = []
    drop, title = registered_drop(run, title_id)
    if not title["has_picture"]:
        yield from heard(run, title_id)
        return
    with run.landing.local(drop, drop.media) as film:
        yield "shot_frames", frame_rows(film, detector, run.resources.frame_sampler, found, covers)
    if covers:
        run.draw("contact_sheet", f"the {len(found)} shots of {title_id}", lambda: contact_sheet(covers))
    rows = [(shot.index, shot.start_s, shot.end_s, shot.start_frame, shot.end_frame) for shot in found]
    columns = ["shot_index", "start_s", "end_s", "start_frame", "end_frame"]
    yield "shots", pl.DataFrame(rows, schema=columns, orient="row").with_columns(detector=pl.lit(detector.name))


def heard(run: TitleRun, title_id: str) -> "Rows":
    """Shots of a title without a picture, and a row for each that says so in the place of its frames."""
    import polars as pl

    from resources.shots import SEGMENTS, sound_segments

    drop, title = registered_drop(run, title_id)
    _, cues = cues_of(run, title_id)
    with run.landing.local(drop, drop.media) as media:
        spans = sound_segments(media, cues, title["language"])
    found = pl.DataFrame(spans, schema=["start_s", "end_s"], orient="row").with_row_index("shot_index")
    middle = (pl.col("start_s") + pl.col("end_s")) / 2
    none = found.select("shot_index", frame_index="shot_index", time_s=middle, jpeg=pl.lit(None, pl.Binary))
    yield "shot_frames", none
    no_frame = pl.lit(None, pl.Int64)
    yield "shots", found.with_columns(start_frame=no_frame, end_frame=no_frame, detector=pl.lit(SEGMENTS))


def frame_rows(
    film: Path, detector: ShotDetector, sampler: FrameSampler, found: list[Shot], covers: list[bytes]
) -> "Iterator[pl.DataFrame]":
    """The sampled frames of each shot as it is found; the shots are added to `found`, a picture of each to `covers`."""
    import polars as pl

    from resources.shots import detect_shots

    for shot, frames in detect_shots(film, detector, sampler.frames_per_shot, sampler.short_side):
        found.append(shot)
        covers.extend(frame.jpeg for frame in frames[len(frames) // 2 :][:1])
        yield pl.DataFrame(
            {
                "shot_index": [shot.index] * len(frames),
                "frame_index": [frame.frame_index for frame in frames],
                "time_s": [frame.time_s for frame in frames],
                "jpeg": [frame.jpeg for frame in frames],
            }
        )


STAGES = (
    Stage((Recipe("titles", ("drops",)),), "ingest", titles),
    Stage(
        (Recipe("shots", ("media",), "shot_detector"), Recipe("shot_frames", ("shots",), "frame_sampler")),
        "ingest",
        shots,
        kinds=frozenset({"pytorch"}),
    ),
)
