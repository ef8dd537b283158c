"""Amazon Nova's multimodal embeddings on Bedrock, one synchronous call for each clip.

As documented (embeddings schema `nova-multimodal-embed-v1`): one vector of 3072 numbers of picture and sound together;
30 s of video at most in a single embedding, 25 MB of payload with base64. Longer films are divided by the service into
several vectors, which is another thing than a vector of the clip: such clips are not asked for.
"""

import base64
import json
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resources.encoders.clips import bedrock
from resources.encoders.clips.encoder import Limits
from resources.errors import BadInput

if TYPE_CHECKING:
    import numpy as np

    from resources.encoders.clips.encoder import ClipEncoders

MODEL = "amazon.nova-2-multimodal-embeddings-v1:0"
DOLLARS_PER_SECOND = 0.0007  # list price of video, 2026


class Nova:
    limits = Limits(longest_s=30, most_bytes=18e6)  # in base64, with the rest of the request, 25 MB
    dimensions = 3072
    at_once = 4

    def __init__(self, settings: "ClipEncoders") -> None:
        self._settings = settings

    def space(self) -> str:
        return f"nova:{MODEL}:{self.dimensions}:classification-v1"

    def dollars(self, seconds: float) -> float:
        return seconds * DOLLARS_PER_SECOND

    def embed(self, clip: Path, seconds: float, key: str) -> "np.ndarray":
        import numpy as np

        video = {
            "format": "mp4",
            "source": {"bytes": base64.b64encode(clip.read_bytes()).decode()},
            "embeddingMode": "AUDIO_VIDEO_COMBINED",
        }
        asked = {"embeddingPurpose": "CLASSIFICATION", "embeddingDimension": self.dimensions, "video": video}
        body = {
            "schemaVersion": "nova-multimodal-embed-v1",
            "taskType": "SINGLE_EMBEDDING",
            "singleEmbeddingParams": asked,
        }
        with bedrock.explained(MODEL):
            answer = self._client.invoke_model(modelId=MODEL, body=json.dumps(body), contentType="application/json")
            said = answer["body"].read()
        try:
            (found,) = json.loads(said)["embeddings"]
            return np.asarray(found["embedding"], np.float64)
        except (ValueError, KeyError, TypeError) as error:
            raise BadInput(f"{MODEL}'s answer holds no embedding of the clip: {type(error).__name__}") from error

    @cached_property
    def _client(self) -> Any:
        return bedrock.client("bedrock-runtime", self._settings.timeout_s)
