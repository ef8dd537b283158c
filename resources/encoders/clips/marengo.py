"""TwelveLabs Marengo 3.0 on Bedrock: a clip is laid down on S3, a job is started, its vectors are read from S3.

As documented: 512 numbers, which do not compare with Marengo 2.7's 1024; 4 hours and 6 GB of video on S3; jobs by
StartAsyncInvoke, looked at by GetAsyncInvoke, which write output.json under the S3 prefix given. Assumed: a clip's
vector is the mean of the unit vectors that the answer gives of the whole clip (scope `asset`): of what is seen, heard
and said, as far as there is any.

A clip's S3 folder is named by its key. A vector that lies there, and a job that was begun, were paid for: they are
taken up again, in this process or the next.
"""

import json
import time
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resources.encoders.clips import bedrock
from resources.encoders.clips.encoder import Limits
from resources.errors import BadInput, Unavailable

if TYPE_CHECKING:
    import numpy as np

    from resources.encoders.clips.encoder import ClipEncoders

MODEL = "twelvelabs.marengo-embed-3-0-v1:0"
DOLLARS_PER_SECOND = 0.0007  # list price of video, 2026


class Marengo:
    limits = Limits(longest_s=4 * 3600, most_bytes=6e9)
    dimensions = 512
    at_once = 16

    def __init__(self, settings: "ClipEncoders") -> None:
        self._settings = settings

    def space(self) -> str:
        return f"marengo:{MODEL}:{self.dimensions}:mean-of-asset-v1"

    def dollars(self, seconds: float) -> float:
        return seconds * DOLLARS_PER_SECOND

    def embed(self, clip: Path, seconds: float, key: str) -> "np.ndarray":
        with bedrock.explained(MODEL):
            vectors = self._written(key)
            if vectors is None:
                self._wait(self._begun(key, clip))
                vectors = self._written(key)
        if vectors is None:
            raise BadInput(f"{MODEL}'s job is done, and has written no output.json to {self._settings.s3_folder}/{key}")
        return _mean(vectors)

    def _written(self, key: str) -> bytes | None:
        """What a job wrote for the clip, if one has."""
        bucket, folder = self._place(key)
        pages = self._s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=f"{folder}/")
        names = [file["Key"] for page in pages for file in page.get("Contents", [])]
        output = next((name for name in names if name.endswith("output.json")), None)
        return self._s3.get_object(Bucket=bucket, Key=output)["Body"].read() if output else None

    def _begun(self, key: str, clip: Path) -> str:
        """The clip's job: the one that was begun before, else a new one."""
        bucket, folder = self._place(key)
        try:
            return str(self._s3.get_object(Bucket=bucket, Key=f"{folder}/job")["Body"].read().decode())
        except self._s3.exceptions.NoSuchKey:
            pass
        self._s3.upload_file(str(clip), bucket, f"{folder}/clip.mp4")
        source = {"s3Location": {"uri": f"s3://{bucket}/{folder}/clip.mp4", "bucketOwner": self._account}}
        job = self._runtime.start_async_invoke(
            clientRequestToken=key,  # should this process die before the job is noted down
            modelId=MODEL,
            modelInput={"inputType": "video", "video": {"mediaSource": source, "embeddingScope": ["asset"]}},
            outputDataConfig={"s3OutputDataConfig": {"s3Uri": f"s3://{bucket}/{folder}/"}},
        )["invocationArn"]
        self._s3.put_object(Bucket=bucket, Key=f"{folder}/job", Body=job.encode())
        return str(job)

    def _wait(self, job: str) -> None:
        give_up = time.monotonic() + self._settings.job_timeout_s
        while True:
            said = self._runtime.get_async_invoke(invocationArn=job)
            if said["status"] == "Completed":
                return
            if said["status"] == "Failed":
                raise BadInput(f"{MODEL}'s job failed: {said.get('failureMessage', 'it does not say why')}")
            if time.monotonic() > give_up:
                raise Unavailable(
                    f"{MODEL}'s job has not ended after {self._settings.job_timeout_s:g} s ({job}); materialise "
                    "clip_embeddings again later: the same job is waited for, and not paid again."
                )
            time.sleep(self._settings.job_poll_s)

    def _place(self, key: str) -> tuple[str, str]:
        """The bucket, and the clip's folder in it."""
        bucket, _, prefix = self._settings.s3_folder.removeprefix("s3://").partition("/")
        if not bucket or not self._settings.s3_folder.startswith("s3://"):
            raise Unavailable(f"{MODEL} reads and writes S3: set MEDIAFM_CLIP_FOLDER to s3://bucket/prefix.")
        return bucket, f"{prefix.strip('/')}/{key}".lstrip("/")

    @cached_property
    def _runtime(self) -> Any:
        return bedrock.client("bedrock-runtime", self._settings.timeout_s)

    @cached_property
    def _s3(self) -> Any:
        return bedrock.client("s3", self._settings.timeout_s)

    @cached_property
    def _account(self) -> str:
        return str(bedrock.client("sts", self._settings.timeout_s).get_caller_identity()["Account"])


def _mean(output: bytes) -> "np.ndarray":
    import numpy as np

    try:
        found = [part for part in json.loads(output)["data"] if part.get("embeddingScope", "asset") == "asset"]
        vectors = np.stack([np.asarray(part["embedding"], np.float64) for part in found])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadInput(f"{MODEL}'s answer holds no embedding of the clip: {type(error).__name__}") from error
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray((vectors / np.where(norms > 0, norms, 1)).mean(axis=0))
