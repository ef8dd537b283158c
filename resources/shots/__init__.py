"""Shots and their sampled frames; and segments, which stand for shots where there is no picture."""

from resources.media.sampling import SampledFrame, Shot
from resources.shots.detection import (
    SHOT_DETECTORS,
    CutDetector,
    ShotDetector,
    detect_shots,
    sample_frames,
)
from resources.shots.segments import SEGMENTS, sound_segments

__all__ = [
    "SEGMENTS",
    "SHOT_DETECTORS",
    "CutDetector",
    "SampledFrame",
    "Shot",
    "ShotDetector",
    "detect_shots",
    "sample_frames",
    "sound_segments",
]
