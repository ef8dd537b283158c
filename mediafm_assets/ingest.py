"""From a drop in the landing zone to shots and their sampled frames."""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

from mediafm_assets.graph import TITLE_RESOURCES, title_spec
from mediafm_assets.materialise import SHAPING, Results, for_each_title, materialise_titles, preflight
from mediafm_assets.partitions import titles_partitions
from mediafm_assets.versions import TITLES_CODE, Shaping, digest
from resources.errors import BadInput
from resources.lake import DeltaLake
from resources.landing import Drop, LandingZone
from resources.shots import Shot, ShotDetector

if TYPE_CHECKING:
    import polars as pl

drops = dg.AssetSpec(
    "drops",
    group_name="landing",
    partitions_def=titles_partitions,
    owners=["team:media-ml"],
    kinds={"video"},
    description="Complete drops in the landing zone, as the landing sensor saw them; a changed drop is seen again.",
)


class FrameSampler(dg.ConfigurableResource[Any]):
    """Which frames of a shot are kept.

    frames_per_shot: evenly spaced over the shot; a shorter shot gives all it has.
    short_side:      of the kept pictures, in pixels; smaller films are not enlarged.
    """

    frames_per_shot: int = 8
    short_side: int = 224

    def config_key(self) -> str:
        return f"{self.frames_per_shot} frames of {self.short_side} pixels"

    def space(self) -> str:
        return self.config_key()


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


def drop_version(row: Mapping[str, Any]) -> str:
    """The content fingerprint of a drop: its media, timed text and metadata; not where it lies or when it came."""
    tracks = [f"{track['name']} {track['sha256']}" for track in row["text_tracks"]]
    names = ("title", "type", "synopsis", "tags", "genres", "language", "series_id", "extra", "media_sha256")
    return digest(TITLES_CODE, *(str(row[name]) for name in names), *tracks)


def registered_drop(lake: DeltaLake, landing: LandingZone, title_id: str) -> tuple[Drop, dict[str, Any]]:
    """The title's drop and its row in `titles`, which describes that very drop.

    Raises BadInput when the drop was changed since: what is made of it would carry the old content's version.
    """
    drop, row = landing.drop(title_id), lake.read("titles", title_id=title_id).row(0, named=True)
    if drop.drop_fingerprint != row["drop_fingerprint"]:
        raise BadInput(f"its drop has changed since it was registered; materialise titles of {title_id} first")
    return drop, row


def build(shaping: Mapping[str, Shaping]) -> list[dg.AssetsDefinition]:
    """The assets of this file, for resources that shape their values."""

    @dg.multi_asset(
        name="titles",
        specs=[title_spec("titles", group="ingest", deps=["drops"], shaping=shaping)],
        required_resource_keys=TITLE_RESOURCES | {"landing"},
    )
    def titles(context: dg.AssetExecutionContext) -> Results:
        """Probe the film and record what was dropped, with the content hashes that decide what changed."""
        import polars as pl

        lake: DeltaLake = context.resources.lake
        landing: LandingZone = context.resources.landing
        if missing := preflight({key: getattr(context.resources, key) for key in SHAPING}):
            raise dg.Failure(f"titles: {' '.join(missing)}", allow_retries=False)

        def register(title_id: str) -> Results:
            from resources.tables import polars_schema

            row = title_row(landing, landing.drop(title_id))
            version = drop_version(row)
            whole = {"title_id": title_id, "data_version": version, **row}
            rows = pl.DataFrame([whole], schema=dict(polars_schema("titles")))
            lake.write("titles", {"title_id": title_id}, rows, version)
            yield dg.MaterializeResult(
                "titles",
                metadata={
                    **lake.write_metadata("titles", {"title_id": title_id}),
                    "title": row["title"],
                    "duration_s": row["duration_s"],
                    "timed_text": ", ".join(track["name"] for track in row["text_tracks"]) or "none",
                },
                data_version=dg.DataVersion(version),
            )

        yield from for_each_title(context, register)

    @dg.multi_asset(
        name="shots",
        specs=[
            title_spec("shots", group="ingest", deps=["titles"], shaping=shaping, kinds={"pytorch"}),
            title_spec("shot_frames", group="ingest", deps=["shots"], shaping=shaping),
        ],
        required_resource_keys=TITLE_RESOURCES | {"landing"},
        pool="gpu",
    )
    def shots(context: dg.AssetExecutionContext) -> Results:
        """Cut the film into shots and keep evenly spaced frames of each, in one pass over the video stream."""
        landing: LandingZone = context.resources.landing
        detector: ShotDetector = context.resources.shot_detector
        sampler: FrameSampler = context.resources.frame_sampler

        def cut(title_id: str) -> "Iterator[tuple[str, Iterable[pl.DataFrame]]]":
            import polars as pl

            from resources.shots import detect_shots

            found: list[Shot] = []

            def frame_rows(film: Path) -> Iterator[pl.DataFrame]:
                for shot, frames in detect_shots(film, detector, sampler.frames_per_shot, sampler.short_side):
                    found.append(shot)
                    yield pl.DataFrame(
                        {
                            "shot_index": [shot.index] * len(frames),
                            "frame_index": [frame.frame_index for frame in frames],
                            "time_s": [frame.time_s for frame in frames],
                            "jpeg": [frame.jpeg for frame in frames],
                        }
                    )

            drop, _ = registered_drop(context.resources.lake, landing, title_id)
            with landing.local(drop, drop.media) as film:
                yield "shot_frames", frame_rows(film)
            rows = [(shot.index, shot.start_s, shot.end_s, shot.start_frame, shot.end_frame) for shot in found]
            columns = ["shot_index", "start_s", "end_s", "start_frame", "end_frame"]
            shots = pl.DataFrame(rows, schema=columns, orient="row").with_columns(detector=pl.lit(detector.name))
            yield "shots", [shots]

        yield from materialise_titles(context, ("shots", "shot_frames"), cut)

    return [titles, shots]
