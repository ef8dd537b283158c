"""What turns shots and texts into vectors."""

from resources.encoders.audio.encoder import AUDIO_ENCODERS, AudioEncoder
from resources.encoders.omni.encoder import OmniEncoder
from resources.encoders.text.encoder import TEXT_ENCODERS, TextEncoder
from resources.encoders.video.encoder import VIDEO_ENCODERS, VideoEncoder

__all__ = [
    "AUDIO_ENCODERS",
    "TEXT_ENCODERS",
    "VIDEO_ENCODERS",
    "AudioEncoder",
    "OmniEncoder",
    "TextEncoder",
    "VideoEncoder",
]
