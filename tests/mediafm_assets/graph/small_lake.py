"""A lake of one title with an encoder, without any film: what versions are computed from."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl

from resources.encoders import VideoEncoder
from resources.encoders.clips.encoder import ClipEncoders
from resources.lake import DeltaLake
from resources.landing import LandingZone

KEYS = (
    *("shot_detector", "frame_sampler", "video_encoder", "audio_encoder", "text_encoder", "title_encoder"),
    "fusion",
)
ENCODER = "20260101T000000Z-aaaaaaaa"
FUSED_SPACE = " | ".join(f"space of {key}" for key in ("video_encoder", "audio_encoder", "text_encoder", "fusion"))
ENCODER_SPACE = f"{FUSED_SPACE} | space of title_encoder"
LONG_AGO = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Named:
    """A resource that decides values, of which only the name counts."""

    key: str

    def space(self) -> str:
        return f"space of {self.key}"

    def config_key(self) -> str:
        return f"config of {self.key}"


def named_resources(landing: Path) -> dict[str, Any]:
    config = SimpleNamespace(
        to_json=lambda: '{"layers": 1}', identity=lambda: '{"layers": 1}'
    )  # what the version says of it
    encoder_config = SimpleNamespace(config=lambda: config, config_key=lambda: "tiny")
    found = {key: Named(key) for key in KEYS}
    compared = ClipEncoders(video=VideoEncoder())
    landing_zone = LandingZone(uri=str(landing))
    return {**found, "clip_encoders": compared, "encoder_config": encoder_config, "landing": landing_zone}


def title_row(name: str) -> dict[str, Any]:
    return {
        "title": f"Title of {name}",
        "type": "movie",
        "synopsis": "Somebody lives.",
        "tags": ["calm", "long"],
        "genres": ["Drama"],
        "language": "en",
        "series_id": None,
        "media_uri": "/films/film.mp4",
        "media_sha256": "ab" * 32,
        "duration_s": 10.0,
        "fps": 25.0,
        "width": 320,
        "height": 240,
        "has_picture": True,
        "has_audio": True,
        "text_tracks": [
            {"name": "film.en.srt", "language": "en", "kind": "full", "format": "srt", "sha256": "cd" * 32},
            {"name": "film.de.srt", "language": "de", "kind": "full", "format": "srt", "sha256": "ef" * 32},
        ],
        "extra": "{}",
        "drop_fingerprint": "0" * 32,
        "landed_at": LONG_AGO,
        "live": False,
        "media_parts": None,
    }


def write_encoder(lake: DeltaLake, version: str = ENCODER, titles: int = 1, space: str = ENCODER_SPACE) -> None:
    """An encoder, of the named resources' space by default, as if trained on so many titles, and in use."""
    row = {
        "name": "weight",
        "dtype": "F32",
        "shape": [1],
        "data": b"\0\0\0\0",
        "sha256": "df" * 32,
        "space": space,
        "config": json.dumps({"model": {}, "titles": titles}),
        "metrics": json.dumps({"warning": None}),
        "created_at": LONG_AGO,
    }
    lake.write("encoder", {"encoder_version": version}, pl.DataFrame([row]), "1" * 32)
    decided = {"promoted": True, "previous": None, "decided_at": LONG_AGO, "by": "gate", "why": "", "comparison": "[]"}
    decision = {"encoder_version": version, "space": space, **decided}
    lake.append("encoder_promotions", pl.DataFrame([decision], schema_overrides={"previous": pl.String}))


def small_lake(folder: Path, drop_version: Callable[[dict[str, Any]], str]) -> DeltaLake:
    """The title `t`, registered, with its fused and title vectors and a labelled clip, and an encoder."""
    lake = DeltaLake(uri=str(folder))
    lake.create_tables()
    row = title_row("t")
    lake.write("titles", {"title_id": "t"}, pl.DataFrame([row]), drop_version(row))
    unit = np.eye(1, 2304, dtype=np.float32)[0]
    shot = {"shot_index": 0, "start_s": 0.0, "end_s": 10.0}
    flags = {"has_video": True, "has_audio": False, "has_text": False, "input_hash": None, "space": FUSED_SPACE}
    lake.write("fused_embeddings", {"title_id": "t"}, pl.DataFrame([{**shot, "embedding": unit, **flags}]), "2" * 32)
    of_title = {"embedding": unit[:768], "text": "Title of t", "encoder": "space of title_encoder"}
    lake.write("global_embeddings", {"title_id": "t"}, pl.DataFrame([of_title]), "3" * 32)
    write_encoder(lake)
    labels = pl.DataFrame([{"clip_id": "c", "title_id": "t", "start_s": 0.0, "end_s": 5.0, "labels": ["tense"]}])
    nulls = [pl.lit(None, pl.Float64).alias("score"), pl.lit(None, pl.Int32).alias("label")]
    lake.write("clip_labels", {"task": "clip_tone"}, labels.with_columns(nulls), "4" * 32)
    return lake
