"""Configuration: two profiles of defaults, and every part settable on its own through the environment.

| variable | default | means |
|---|---|---|
| MEDIAFM_PROFILE | embedded | `embedded` (no key, no download, CPU) or `reference` (as published) |
| MEDIAFM_LANDING | data/landing in the project | landing zone: a folder or `s3://bucket/prefix` |
| MEDIAFM_LAKE | data/lake in the project | Delta tables: a folder or `s3://bucket/prefix` |
| MEDIAFM_DETECTOR | transnetv2 | `transnetv2` or `adaptive` (PySceneDetect's AdaptiveDetector) |
| MEDIAFM_FRAMES_PER_SHOT | 8 | sampled frames of a shot |
| MEDIAFM_VIDEO_ENCODER | efficientnet / clip | `efficientnet`, `descriptors` (no weights at all) or `clip` |
| MEDIAFM_VIDEO_MODEL | openai/clip-vit-large-patch14 | hub name or folder of the CLIP checkpoint |
| MEDIAFM_AUDIO_ENCODER | aisfx / wav2vec2 | `aisfx`, `logmel` (no weights at all) or `wav2vec2` |
| MEDIAFM_AUDIO_MODEL | facebook/wav2vec2-base | hub name or folder of the wav2vec 2.0 checkpoint |
| MEDIAFM_TEXT_ENCODER | minilm / openai | `minilm`, `hashed` or `openai` (any compatible server: OPENAI_BASE_URL) |
| MEDIAFM_TEXT_MODEL | text-embedding-3-large | the API's model |
| MEDIAFM_FUSION | balanced | `balanced` or `as_published` |
| MEDIAFM_ENCODER | embedded / reference | size and recipe of the contextual encoder |
| MEDIAFM_ENCODER_OVERRIDES | {} | fields of `model.config.Config` that differ, as JSON |
| MEDIAFM_TITLES_PER_RUN | 200 | titles in one run of a backlog or backfill |
| MEDIAFM_TRAINING_PROCESSES | 1 | ranks of a training, one per GPU |
| MEDIAFM_SEQCLIP_BASE | the video encoder's, if it is `clip` | hub name or folder of the CLIP checkpoint to fine-tune |
| MEDIAFM_SEQCLIP_OVERRIDES | {} | fields of `model.seqclip.FineTuning` that differ, as JSON |
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mediafm_assets.embeddings import Fusion
from mediafm_assets.ingest import FrameSampler
from mediafm_assets.seqclip import SeqClipConfig
from mediafm_assets.training import Contextualiser, EncoderConfig
from resources.audio_encoders import AudioEncoder
from resources.lake import DeltaLake
from resources.landing import LandingZone
from resources.shots import ShotDetector
from resources.text_encoders import TextEncoder
from resources.training import TrainingJob
from resources.video_encoders import VideoEncoder

PROJECT = Path(__file__).resolve().parents[1]
"""The checkout: the default landing zone, lake and Dagster instance lie in it."""

PROFILES: Mapping[str, Mapping[str, str]] = {
    "embedded": {"video": "efficientnet", "audio": "aisfx", "text": "minilm", "encoder": "embedded"},
    "reference": {"video": "clip", "audio": "wav2vec2", "text": "openai", "encoder": "reference"},
}


class ConfigurationError(Exception):
    """The environment or the command line asks for something that cannot be had; the message names the variable."""


def dagster_home() -> Path:
    """The Dagster instance's folder: DAGSTER_HOME, else the project's own."""
    return Path(os.environ.get("DAGSTER_HOME") or PROJECT / ".dagster")


def resources(env: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """The graph's resources by key, as the environment configures them.

    Raises ConfigurationError for a value that is not one of those allowed.
    """

    def choice(variable: str, default: str, *allowed: str) -> str:
        value = env.get(variable) or default
        if value not in allowed:
            raise ConfigurationError(f"{variable} is {value!r}; it must be one of {', '.join(allowed)}")
        return value

    def number(variable: str, default: int) -> int:
        value = env.get(variable) or str(default)
        if not value.isdigit() or int(value) < 1:
            raise ConfigurationError(f"{variable} is {value!r}; it must be a whole number above zero")
        return int(value)

    profile = PROFILES[choice("MEDIAFM_PROFILE", "embedded", *PROFILES)]
    video = choice("MEDIAFM_VIDEO_ENCODER", profile["video"], "efficientnet", "descriptors", "clip")
    video_model = env.get("MEDIAFM_VIDEO_MODEL") or "openai/clip-vit-large-patch14"
    text = choice("MEDIAFM_TEXT_ENCODER", profile["text"], "minilm", "hashed", "openai")
    text_model = env.get("MEDIAFM_TEXT_MODEL") or "text-embedding-3-large"
    lake = env.get("MEDIAFM_LAKE") or str(PROJECT / "data" / "lake")
    paid_for = f"{lake.rstrip('/')}/text_cache"
    return {
        "titles_per_run": number("MEDIAFM_TITLES_PER_RUN", 200),
        "landing": LandingZone(uri=env.get("MEDIAFM_LANDING") or str(PROJECT / "data" / "landing")),
        "lake": DeltaLake(uri=lake),
        "shot_detector": ShotDetector(detector=choice("MEDIAFM_DETECTOR", "transnetv2", "transnetv2", "adaptive")),
        "frame_sampler": FrameSampler(frames_per_shot=number("MEDIAFM_FRAMES_PER_SHOT", 8)),
        "video_encoder": VideoEncoder(kind=video, model=video_model),
        "audio_encoder": AudioEncoder(
            kind=choice("MEDIAFM_AUDIO_ENCODER", profile["audio"], "aisfx", "logmel", "wav2vec2"),
            model=env.get("MEDIAFM_AUDIO_MODEL") or "facebook/wav2vec2-base",
        ),
        "text_encoder": TextEncoder(kind=text, model=text_model, dimensions=768, cache=paid_for),
        "title_encoder": TextEncoder(
            kind=text,
            model=text_model,
            dimensions=3072 if (text, text_model) == ("openai", "text-embedding-3-large") else 768,  # as published
            cache=paid_for,
        ),
        "fusion": Fusion(kind=choice("MEDIAFM_FUSION", "balanced", "balanced", "as_published")),
        "encoder_config": EncoderConfig(
            preset=choice("MEDIAFM_ENCODER", profile["encoder"], "embedded", "reference"),
            overrides=env.get("MEDIAFM_ENCODER_OVERRIDES") or "{}",
        ),
        "contextualiser": Contextualiser(),
        "training": TrainingJob(
            folder=str(dagster_home() / "training"), processes=number("MEDIAFM_TRAINING_PROCESSES", 1)
        ),
        "seqclip_config": SeqClipConfig(
            base=env.get("MEDIAFM_SEQCLIP_BASE") or (video_model if video == "clip" else ""),
            overrides=env.get("MEDIAFM_SEQCLIP_OVERRIDES") or "{}",
            folder=str(dagster_home() / "seqclip"),
        ),
    }


def shaping(resources: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the resources that decide values."""
    return {key: value for key, value in resources.items() if hasattr(value, "config_key")}
