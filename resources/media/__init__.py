"""Films, decoded on the assumption that the file is hostile."""

from resources.media.frames import Frame, MediaInfo, probe, read_frames
from resources.media.read_ahead import read_ahead
from resources.media.sound import shot_audio

__all__ = [
    "Frame",
    "MediaInfo",
    "probe",
    "read_ahead",
    "read_frames",
    "shot_audio",
]
