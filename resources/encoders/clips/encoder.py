"""Turns the media of clips into one vector each: the outside baselines, and a free one that checks the comparison."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from dagster import ConfigurableResource
from pydantic import Field, field_validator

from resources.encoders.video.encoder import VideoEncoder
from resources.registry import Registry, implementation, known

if TYPE_CHECKING:
    import numpy as np

CLIP_ENCODERS: Registry = {
    "mean_frames": "resources.encoders.clips.mean_frames:MeanFrames",
    "vertex": "resources.encoders.clips.vertex:Vertex",
    "marengo": "resources.encoders.clips.marengo:Marengo",
    "nova": "resources.encoders.clips.nova:Nova",
}
"""By name, which is also that of its rows in `probe_metrics`. Another one is a class like these (`ClipEncoder`) in a
module of its own, and a line here."""


@dataclass(frozen=True)
class Limits:
    """What a service takes. longest_s: seconds of a clip. most_bytes: of its file."""

    longest_s: float = math.inf
    most_bytes: float = math.inf


class ClipEncoder(Protocol):
    """One clip encoder, made with the settings.

    dimensions: length of its vectors, None where that is not fixed. at_once: clips that it may be asked for at once.
    """

    limits: Limits
    dimensions: int | None
    at_once: int

    def space(self) -> str:
        """The embedding space: model, dimensions, and how a clip is put to it."""

    def dollars(self, seconds: float) -> float:
        """What a clip of this length costs at list price; 0 of a free one."""

    def embed(self, clip: Path, seconds: float, key: str) -> "np.ndarray":
        """The clip's vector, (d,), as the service gave it.

        clip: a file as `resources.media.cut_clips` makes it. key: names the clip's vector, in hex; a service that knows
        the key has the clip already, and is not paid again. Raises BadInput for a clip that it refuses, Unavailable
        when it can be asked for none (a key without rights, no answer), in a sentence that says what to do.
        """


class ClipEncoders(ConfigurableResource[Any]):
    """The encoders of clips that are compared with our own representations.

    names: of `CLIP_ENCODERS`; none, the default, compares with nobody.
    video: what "mean_frames" gives its frames to.
    vertex_location: Google's region in which "vertex" is asked. Credentials and project are Google's application
        default ones (GOOGLE_APPLICATION_CREDENTIALS, GOOGLE_CLOUD_PROJECT).
    s3_folder: s3://bucket/prefix in which "marengo" lays clips down and finds their vectors, in the region that it is
        asked in. Credentials, region and addresses of "marengo" and "nova" are boto3's own.
    timeout_s: for one answer. job_timeout_s: for one of Marengo's jobs, which is looked at every job_poll_s.
    requests_per_minute: of "vertex"; its documented quota is 120 or more by region.
    """

    video: VideoEncoder
    names: list[str] = Field(default_factory=list)
    vertex_location: str = "us-central1"
    s3_folder: str = ""
    timeout_s: float = Field(default=120.0, gt=0)
    job_timeout_s: float = Field(default=1800.0, gt=0)
    job_poll_s: float = Field(default=5.0, gt=0)
    requests_per_minute: int = Field(default=120, ge=1)

    @field_validator("names")
    @classmethod
    def _known(cls, names: list[str]) -> list[str]:
        return [known(CLIP_ENCODERS, name) for name in dict.fromkeys(names)]

    def encoders(self) -> dict[str, ClipEncoder]:
        """By name, those that are asked for."""
        return {name: implementation(CLIP_ENCODERS, name)(self) for name in self.names}
