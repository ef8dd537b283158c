"""Local HTTP servers that speak the APIs of Vertex AI and of Amazon Bedrock, enforce their limits, and fail on cue."""

import base64
import hashlib
import json
import tempfile
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from resources.errors import BadInput
from resources.media import probe

PROJECT = "films-of-ours"
GOOGLE_TOKEN = "ya29.a-token-that-nobody-sees"
AWS_KEY = "AKIAGOODGOODGOODGOOD"
VERTEX = "multimodalembedding@001"
NOVA, MARENGO = "amazon.nova-2-multimodal-embeddings-v1:0", "twelvelabs.marengo-embed-3-0-v1:0"


def vector_of(video: bytes, dimensions: int) -> np.ndarray:
    """The vector that these servers give a video, always the same."""
    seed = int.from_bytes(hashlib.sha256(video).digest()[:8])
    return np.random.default_rng(seed).standard_normal(dimensions)


class Service:
    """What both servers have in common.

    faults: played one per paid request, in order, before it answers properly: "429", "500", "403", "413", "dimension",
    "nan", "zero", "empty". paid: the videos that were embedded.
    """

    def __init__(self) -> None:
        self.faults: list[str] = []
        self.paid: list[bytes] = []
        self.attempts = 0
        self.turn = threading.Lock()
        self.url = ""

    def next_fault(self) -> str:
        with self.turn:
            self.attempts += 1
            return self.faults.pop(0) if self.faults else ""

    def embedding(self, video: bytes, dimensions: int, fault: str) -> list[float]:
        """What the video is given, and paid for, be it right or wrong."""
        with self.turn:
            self.paid.append(video)
        vector = vector_of(video, 77 if fault == "dimension" else dimensions)
        if fault == "nan":
            vector[3] = np.nan
        return (vector * (fault != "zero")).tolist()


def seconds_of(video: bytes) -> float:
    """How long the video is; raises BadInput for what is none."""
    with tempfile.NamedTemporaryFile(suffix=".mp4") as file:
        file.write(video)
        file.flush()
        return probe(Path(file.name)).duration_s


class VertexServer(Service):
    """Google's token endpoint, and `multimodalembedding@001:predict` of one project. longest_s: of a video."""

    longest_s = 120.0

    def answer(self, body: dict[str, Any], size: int) -> tuple[int, dict[str, Any]]:
        fault = self.next_fault()
        if fault in ("429", "500", "403"):
            said = {"429": "Quota exceeded", "500": "Internal error", "403": "Permission denied on the endpoint"}[fault]
            return int(fault), google_error(said)
        if fault == "413" or size > 28_000_000:
            return 413, google_error("Request payload size exceeds the limit")
        if fault == "empty":
            return 200, {"predictions": []}
        try:
            (instance,) = body["instances"]
            video, config = instance["video"], instance["video"]["videoSegmentConfig"]
            content = base64.b64decode(video["bytesBase64Encoded"], validate=True)
            start, end, interval = (config[name] for name in ("startOffsetSec", "endOffsetSec", "intervalSec"))
            seconds = seconds_of(content)
        except (KeyError, ValueError, BadInput) as error:
            return 400, google_error(f"Invalid argument: {type(error).__name__}")
        if not all(isinstance(value, int) for value in (start, end, interval)) or interval < 4 or end > 120:
            return 400, google_error("Invalid videoSegmentConfig")
        if seconds > self.longest_s + 1:
            return 400, google_error("The video is too long")
        parts = [
            {"startOffsetSec": at, "endOffsetSec": min(at + interval, end), "embedding": None}
            for at in range(start, end, interval)
        ]
        return 200, {
            "predictions": [
                {"videoEmbeddings": [{**p, "embedding": self.embedding(content, 1408, fault)} for p in parts]}
            ]
        }


def google_error(message: str) -> dict[str, Any]:
    return {"error": {"code": 0, "message": message, "status": ""}}


def account_file(server: VertexServer, path: Path) -> Path:
    """The key file of a service account whose tokens the server gives."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
    account = {"type": "service_account", "project_id": PROJECT, "private_key_id": "1", "private_key": pem}
    account |= {"client_email": "a@films.example", "client_id": "1", "token_uri": f"{server.url}/token"}
    path.write_text(json.dumps(account))
    return path


class BedrockServer(Service):
    """InvokeModel of Nova, StartAsyncInvoke and GetAsyncInvoke of Marengo, whose S3 is that of the environment.

    polls: looks at a job until it is done; None for a job that never ends. longest_s, most_bytes: of Marengo's videos.
    """

    longest_s, most_bytes = 4 * 3600.0, 6_000_000_000

    def __init__(self) -> None:
        super().__init__()
        self.polls: int | None = 1
        self.jobs: dict[str, dict[str, Any]] = {}
        self.by_token: dict[str, str] = {}

    def invoke(self, model: str, body: dict[str, Any], size: int) -> tuple[int, dict[str, Any], str]:
        fault = self.next_fault()
        if refusal := aws_fault(fault):
            return refusal
        if size > 25_000_000:
            return aws_error(413, "RequestEntityTooLargeException", "Request payload is larger than 25 MB")
        if model != NOVA:
            return aws_error(400, "ValidationException", "The provided model identifier is invalid")
        if fault == "empty":
            return 200, {"embeddings": []}, ""
        try:
            asked = body["singleEmbeddingParams"]
            right = body["taskType"] == "SINGLE_EMBEDDING" and asked["embeddingDimension"] in (256, 384, 1024, 3072)
            right &= asked["embeddingPurpose"] in ("CLASSIFICATION", "CLUSTERING", "GENERIC_INDEX")
            right &= asked["video"]["embeddingMode"] == "AUDIO_VIDEO_COMBINED" and asked["video"]["format"] == "mp4"
            content = base64.b64decode(asked["video"]["source"]["bytes"], validate=True)
            right &= seconds_of(content) <= 31
        except (KeyError, ValueError, BadInput):
            right = False
        if not right:
            return aws_error(400, "ValidationException", "The request is not valid")
        vector = self.embedding(content, asked["embeddingDimension"], fault)
        return 200, {"embeddings": [{"embeddingType": "AUDIO_VIDEO_COMBINED", "embedding": vector}]}, ""

    def start(self, body: dict[str, Any]) -> tuple[int, dict[str, Any], str]:
        import boto3

        fault = self.next_fault()
        if refusal := aws_fault(fault):
            return refusal
        if body["clientRequestToken"] in self.by_token:
            return 200, {"invocationArn": self.by_token[body["clientRequestToken"]]}, ""
        video = body["modelInput"].get("video", {})
        try:
            place = video["mediaSource"]["s3Location"]
            bucket, _, key = place["uri"].removeprefix("s3://").partition("/")
            content = boto3.client("s3").get_object(Bucket=bucket, Key=key)["Body"].read()
            right = body["modelId"] == MARENGO and body["modelInput"]["inputType"] == "video"
            right &= place["bucketOwner"] == "123456789012" and video["embeddingScope"] == ["asset"]
            right &= len(content) <= self.most_bytes and seconds_of(content) <= self.longest_s
        except (KeyError, BadInput):
            right = False
        if not right:
            return aws_error(400, "ValidationException", "The video is too large, too long, or not there")
        arn = f"arn:aws:bedrock:us-east-1:123456789012:async-invoke/{uuid.uuid4().hex[:12]}"
        self.by_token[body["clientRequestToken"]] = arn
        output = body["outputDataConfig"]["s3OutputDataConfig"]["s3Uri"]
        vectors = {option: self.embedding(content + option.encode(), 512, fault) for option in ("visual", "audio")}
        self.jobs[arn] = {"output": output, "vectors": vectors, "looks": 0, "fault": fault}
        return 200, {"invocationArn": arn}, ""

    def look(self, arn: str) -> tuple[int, dict[str, Any], str]:
        import boto3

        job = self.jobs[arn]
        job["looks"] += 1
        said: dict[str, Any] = {"invocationArn": arn, "modelArn": MARENGO, "submitTime": "2026-01-01T00:00:00Z"}
        said["outputDataConfig"] = {"s3OutputDataConfig": {"s3Uri": job["output"]}}
        if job["fault"] == "failed":
            return 200, {**said, "status": "Failed", "failureMessage": "The video holds no picture"}, ""
        if self.polls is None or job["looks"] < self.polls:
            return 200, {**said, "status": "InProgress"}, ""
        bucket, _, folder = job["output"].removeprefix("s3://").partition("/")
        span = {"embeddingScope": "asset", "startSec": 0.0, "endSec": 1.0}
        data = [{**span, "embeddingOption": name, "embedding": vector} for name, vector in job["vectors"].items()]
        written = json.dumps({"data": [] if job["fault"] == "empty" else data}).encode()
        boto3.client("s3").put_object(Bucket=bucket, Key=f"{folder}{arn[-12:]}/output.json", Body=written)
        return 200, {**said, "status": "Completed"}, ""


def aws_error(status: int, code: str, message: str) -> tuple[int, dict[str, Any], str]:
    return status, {"message": message}, code


def aws_fault(fault: str) -> tuple[int, dict[str, Any], str] | None:
    return {
        "429": aws_error(429, "ThrottlingException", "Too many requests"),
        "500": aws_error(500, "InternalServerException", "Something went wrong"),
        "403": aws_error(403, "AccessDeniedException", "You are not authorized to invoke this model"),
        "413": aws_error(413, "RequestEntityTooLargeException", "Request payload is too large"),
    }.get(fault)


def _handler(server: Service) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def reply(self, status: int, body: dict[str, Any], code: str = "") -> None:
            content = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(content)))
            if code:
                self.send_header("x-amzn-errortype", code)
            self.end_headers()
            self.wfile.write(content)

        def do_POST(self) -> None:
            content = self.rfile.read(int(self.headers["content-length"]))
            path = unquote(self.path)
            said = self.headers.get("authorization", "")
            if isinstance(server, VertexServer):
                if path == "/token":
                    return self.reply(200, {"access_token": GOOGLE_TOKEN, "expires_in": 3600, "token_type": "Bearer"})
                if path != f"/v1/projects/{PROJECT}/locations/us-central1/publishers/google/models/{VERTEX}:predict":
                    return self.reply(404, google_error("There is no such model"))
                if said != f"Bearer {GOOGLE_TOKEN}":
                    return self.reply(401, google_error("Invalid credentials"))
                return self.reply(*server.answer(json.loads(content), len(content)))
            assert isinstance(server, BedrockServer)
            if f"Credential={AWS_KEY}/" not in said:
                return self.reply(*aws_error(403, "UnrecognizedClientException", "The security token is invalid"))
            if path == "/async-invoke":
                return self.reply(*server.start(json.loads(content)))
            return self.reply(*server.invoke(path.split("/")[2], json.loads(content), len(content)))

        def do_GET(self) -> None:
            assert isinstance(server, BedrockServer)
            self.reply(*server.look(unquote(self.path).removeprefix("/async-invoke/")))

    return Handler


@contextmanager
def running(server: Service) -> Iterator[None]:
    """The server, listening at its `url`."""
    listening = ThreadingHTTPServer(("127.0.0.1", 0), _handler(server))
    server.url = f"http://127.0.0.1:{listening.server_address[1]}"
    thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield
    finally:
        listening.shutdown()
        thread.join()
        listening.server_close()
