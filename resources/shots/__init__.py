"""Shots and their sampled frames."""

from resources.media.sampling import SampledFrame, Shot
from resources.shots.detection import (
    SHOT_DETECTORS,
    CutDetector,
    ShotDetector,
    detect_shots,
    sample_frames,
)

__all__ = [
    "SHOT_DETECTORS",
    "CutDetector",
    "SampledFrame",
    "Shot",
    "ShotDetector",
    "detect_shots",
    "sample_frames",
]
