"""Vertex AI's multimodal embeddings, asked over REST with Google's application default credentials.

As documented (model reference of `multimodalembedding@001`): 1408 numbers; a video inline in base64 or in Cloud
Storage; `videoSegmentConfig` of whole seconds, `intervalSec` 4 or more; of a video at most 120 s are read, its sound is
not; the price is that of the interval. Assumed: that inline videos may have the 20 MB of images, and that an interval
which is as long as the clip gives one vector. Where there are several, their mean counts.
"""

import base64
import json
import math
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resources.encoders.clips.encoder import Limits
from resources.encoders.pace import Pace
from resources.errors import BadInput, Unavailable

if TYPE_CHECKING:
    import numpy as np
    from google.auth.transport.requests import AuthorizedSession

    from resources.encoders.clips.encoder import ClipEncoders

MODEL = "multimodalembedding@001"
SHORTEST_INTERVAL_S = 4
RETRIES = 6  # of the HTTP client, for 408, 429, 5xx and broken connections, at the server's own pace
AGAIN = (408, 429, 500, 502, 503, 504)
ADDRESS = "https://{location}-aiplatform.googleapis.com"
SCOPE = "https://www.googleapis.com/auth/cloud-platform"
DOLLARS_PER_SECOND = ((15, 0.0005), (8, 0.001), (SHORTEST_INTERVAL_S, 0.002))  # by least interval; list prices, 2026


class Vertex:
    limits = Limits(longest_s=120, most_bytes=20e6)
    dimensions = 1408
    at_once = 4

    def __init__(self, settings: "ClipEncoders") -> None:
        self._settings = settings
        self._pace = Pace(settings.requests_per_minute)

    def space(self) -> str:
        return f"vertex:{MODEL}:{self.dimensions}:one-interval-v1"

    def dollars(self, seconds: float) -> float:
        interval = _interval(seconds)
        return math.ceil(seconds) * next(price for least, price in DOLLARS_PER_SECOND if interval >= least)

    def embed(self, clip: Path, seconds: float, key: str) -> "np.ndarray":
        import numpy as np

        segment = {"startOffsetSec": 0, "endOffsetSec": math.ceil(seconds), "intervalSec": _interval(seconds)}
        video = {"bytesBase64Encoded": base64.b64encode(clip.read_bytes()).decode(), "videoSegmentConfig": segment}
        parts = self._ask({"instances": [{"video": video}]})
        try:
            vectors = [np.asarray(part["embedding"], np.float64) for part in parts]
            weights = [float(part["endOffsetSec"]) - float(part["startOffsetSec"]) for part in parts]
            return np.average(vectors, axis=0, weights=weights)
        except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
            raise BadInput(f"Vertex AI's answer holds no embedding of the clip: {type(error).__name__}") from error

    def _ask(self, body: dict[str, Any]) -> list[dict[str, Any]]:
        import google.auth.exceptions
        import requests

        session, address = self._session
        self._pace.take()
        try:
            answer = session.post(address, json=body, timeout=self._settings.timeout_s)
        except google.auth.exceptions.GoogleAuthError as error:
            raise Unavailable(
                f"Google gives no token ({type(error).__name__}): set GOOGLE_APPLICATION_CREDENTIALS to the key file "
                "of an account that may use Vertex AI, or log in."
            ) from error
        except requests.RequestException as error:
            raise Unavailable(
                f"Vertex AI did not answer in {RETRIES + 1} attempts ({type(error).__name__}); check the network and "
                "try again later."
            ) from error
        if answer.status_code != 200:
            raise _explained(answer)
        try:
            (prediction,) = answer.json()["predictions"]
            return list(prediction["videoEmbeddings"])
        except (ValueError, KeyError, TypeError) as error:
            raise BadInput(f"Vertex AI's answer holds no embedding of the clip: {type(error).__name__}") from error

    @cached_property
    def _session(self) -> "tuple[AuthorizedSession, str]":
        """What adds the token to each request, and the model's address."""
        import google.auth
        import google.auth.exceptions
        from google.auth.transport.requests import AuthorizedSession
        from requests.adapters import HTTPAdapter
        from urllib3.util import Retry

        try:
            credentials, project = google.auth.default(scopes=[SCOPE])
        except google.auth.exceptions.DefaultCredentialsError as error:
            raise Unavailable(
                "There are no Google credentials: set GOOGLE_APPLICATION_CREDENTIALS to the key file of an account "
                "that may use Vertex AI, or log in."
            ) from error
        if project is None:
            raise Unavailable("The Google credentials name no project: set GOOGLE_CLOUD_PROJECT.")
        session = AuthorizedSession(credentials)
        retry = Retry(RETRIES, status_forcelist=AGAIN, allowed_methods=None, backoff_factor=1, raise_on_status=False)
        session.mount("https://", HTTPAdapter(max_retries=retry))
        session.mount("http://", HTTPAdapter(max_retries=retry))
        location = self._settings.vertex_location
        server = ADDRESS.format(location=location)
        model = f"projects/{project}/locations/{location}/publishers/google/models/{MODEL}"
        return session, f"{server}/v1/{model}:predict"


def _interval(seconds: float) -> int:
    return max(SHORTEST_INTERVAL_S, math.ceil(seconds))


def _explained(answer: Any) -> Exception:
    """What the service refused as a sentence for the person on call."""
    try:
        said = str(answer.json()["error"]["message"])
    except (ValueError, KeyError, TypeError, json.JSONDecodeError):
        said = answer.reason
    match answer.status_code:
        case 401 | 403:
            return Unavailable(
                f"Vertex AI refuses the account ({answer.status_code}: {said}): give it the role Vertex AI User in the "
                "project, and enable the API."
            )
        case 404:
            return Unavailable(f"Vertex AI has no {MODEL} there ({said}); check MEDIAFM_VERTEX_LOCATION.")
        case 400 | 413:
            return BadInput(f"Vertex AI refuses the clip ({answer.status_code}: {said})")
    return Unavailable(
        f"Vertex AI still answers {answer.status_code} after {RETRIES} retries ({said}); try again later, or ask for a "
        "larger quota."
    )
