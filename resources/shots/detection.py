"""Which detector finds a film's cuts, and the shots that it finds."""

import importlib.metadata
from collections.abc import Generator
from contextlib import closing
from dataclasses import replace
from typing import Any, ClassVar, Protocol

import dagster as dg
from pydantic import field_validator

from resources.media.apart import cut_apart, sample_apart
from resources.media.frames import MarkNotFound
from resources.media.joined import FilmFile
from resources.media.sampling import Cuts, SampledFrame, Shot
from resources.registry import Registry, implementation, known


class CutDetector(Cuts, Protocol):
    """It is made with the threshold, the device, and the number of the frame that it is given first.

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

    def cuts(self, begin: int = 0) -> CutDetector:
        """A detector for one film, from a frame on."""
        make: Any = self._cuts
        made: CutDetector = make(self._threshold, self.device, begin)
        return made


def detect_shots(
    path: FilmFile,
    detector: ShotDetector,
    frames_per_shot: int = 8,
    short_side: int = 224,
    growing: bool = False,
    known: Shot | None = None,
) -> Generator[tuple[Shot, list[SampledFrame]]]:
    """Decode the film once and yield each shot, as soon as its end is known, with its sampled frames.

    A shot of n frames gives min(n, frames_per_shot) frames, in the middles of as many equal parts of it. Pictures are
    upright with square pixels, `short_side` pixels on the shorter side and never enlarged. growing: the film may go on:
    only the shots that it has whatever follows are yielded. known: a shot with a mark, of this film or of what was its
    beginning: this shot once more and those after it are yielded, and it is decoded from the mark only.
    Raises BadInput as `probe` does, and for a film that ends early; shots that were yielded before are then void.
    MarkNotFound, before anything is yielded, when the film does not have the known shot where it was.
    """
    begin = known.mark if known else None
    number = known.index if known else 0
    cuts = detector.cuts(begin.frame if begin else 0)
    with closing(cut_apart(path, cuts, frames_per_shot, short_side, growing, begin)) as found:
        for cut, frames in found:
            if known and cut.end_frame <= known.start_frame:
                continue
            shot = replace(cut, index=number)
            if known and number == known.index and shot != known:
                raise MarkNotFound
            yield shot, frames
            number += 1


def sample_frames(path: FilmFile, frames: int, short_side: int = 224) -> list[SampledFrame]:
    """Evenly spaced frames of the whole film, as `detect_shots` would take them of one shot, and with its errors."""
    return sample_apart(path, frames, short_side)
