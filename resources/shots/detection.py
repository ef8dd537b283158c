"""Which detector finds a film's cuts, and the shots that it finds."""

import importlib.metadata
from collections.abc import Generator
from pathlib import Path
from typing import Any, ClassVar, Protocol

import dagster as dg
from pydantic import field_validator

from resources.media.apart import cut_apart, sample_apart
from resources.media.sampling import Cuts, SampledFrame, Shot
from resources.registry import Registry, implementation, known


class CutDetector(Cuts, Protocol):
    """It is made with the threshold and the device.

    package:           what it comes from: the version is part of the detector's name.
    default_threshold: the published one.
    """

    package: ClassVar[str]
    default_threshold: ClassVar[float]


SHOT_DETECTORS: Registry = {
    "transnetv2": "resources.shots.transnet:TransNetCuts",
    "adaptive": "resources.shots.adaptive:AdaptiveCuts",
}
"""Another one is a `CutDetector` in a module of its own, and a line here."""


class ShotDetector(dg.ConfigurableResource):
    """Which detector finds the cuts: transnetv2 (default) or adaptive (PySceneDetect's AdaptiveDetector).

    threshold: a probability for transnetv2 (default 0.5, as published), a ratio for adaptive (default 3.0, its own).
    device: cpu, cuda, or auto (cuda where there is one); it changes the speed, not the cuts.
    """

    detector: str = "transnetv2"
    threshold: float | None = None
    device: str = "auto"

    @field_validator("detector")
    @classmethod
    def _known(cls, detector: str) -> str:
        return known(SHOT_DETECTORS, detector)

    @property
    def name(self) -> str:
        """Detector, package version and parameters: what decides the cuts."""
        package = self._cuts.package
        return f"{self.detector}:{package}-{importlib.metadata.version(package)}:threshold={self._threshold:g}"

    @property
    def _cuts(self) -> type[CutDetector]:
        cuts: type[CutDetector] = implementation(SHOT_DETECTORS, self.detector)
        return cuts

    @property
    def _threshold(self) -> float:
        return self._cuts.default_threshold if self.threshold is None else self.threshold

    def config_key(self) -> str:
        """What decides the cuts, for code versions at load time."""
        return self.name

    def space(self) -> str:
        """What decides the cuts: the weights come with the package, so its version tells them."""
        return self.name

    def cuts(self) -> CutDetector:
        """A detector for one film."""
        make: Any = self._cuts
        made: CutDetector = make(self._threshold, self.device)
        return made


def detect_shots(
    path: Path, detector: ShotDetector, frames_per_shot: int = 8, short_side: int = 224
) -> Generator[tuple[Shot, list[SampledFrame]]]:
    """Decode the film once and yield each shot, as soon as its end is known, with its sampled frames.

    A shot of n frames gives min(n, frames_per_shot) frames, in the middles of as many equal parts of it. Pictures are
    upright with square pixels, `short_side` pixels on the shorter side and never enlarged. Raises BadInput as
    `probe` does, and for a film that ends early; shots that were yielded before are then void.
    """
    return cut_apart(path, detector.cuts(), frames_per_shot, short_side)


def sample_frames(path: Path, frames: int, short_side: int = 224) -> list[SampledFrame]:
    """Evenly spaced frames of the whole film, as `detect_shots` would take them of one shot, and with its errors."""
    return sample_apart(path, frames, short_side)
