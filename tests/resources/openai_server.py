"""A local HTTP server that speaks OpenAI's embeddings API, enforces its limits, and fails on cue."""

import base64
import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np

GOOD_KEY = "sk-good-0123456789"


def tokens_of(text: str) -> int:
    """A stand-in for the service's tokens: a quarter of the bytes, as in English prose."""
    return max(1, len(text.encode()) // 4)


def vector_of(text: str, dimensions: int) -> np.ndarray:
    """The unit vector that this server gives a text, always the same."""
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8])
    vector = np.random.default_rng(seed).standard_normal(dimensions).astype(np.float32)
    return vector / np.linalg.norm(vector)


class OpenAIServer:
    """Plays the faults in `faults` one per request, in order, then answers properly.

    A fault: "429" (retry-after 0.2 s), "500", "hang" (longer than a client waits), "truncated" (a body cut short of its
    length), "cut_json" (a whole body whose JSON ends early), "dimension", "shuffled", "missing" (one vector short).
    `count` gives a text's tokens.
    """

    def __init__(self) -> None:
        self.faults: list[str] = []
        self.requests: list[list[str]] = []  # the inputs of every request that was answered with vectors
        self.attempts: list[float] = []  # when each request came
        self.widest = 0  # most requests at one moment
        self.answer_takes_s = 0.0
        self.count: Callable[[str], int] = tokens_of
        self._now = 0
        self._turn = threading.Lock()
        self.url = ""

    def embeddings(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        inputs = body["input"]
        if not isinstance(inputs, list) or not 1 <= len(inputs) <= 2048:
            return 400, refusal("'input' must have 1 to 2048 items")
        if any(not text for text in inputs):
            return 400, refusal("'input' cannot be an empty string")
        if any(self.count(text) > 8192 for text in inputs):
            return 400, refusal("maximum context length is 8192 tokens")
        if sum(map(self.count, inputs)) > 300_000:
            return 400, refusal("max 300000 tokens per request")
        if body["model"] != "text-embedding-3-large":
            return 404, refusal(f"The model {body['model']} does not exist")
        dimensions = body.get("dimensions", 3072)
        if dimensions > 3072:
            return 400, refusal("dimensions must be at most 3072")
        data = []
        for index, text in enumerate(inputs):
            vector = vector_of(text, dimensions)
            as_text = base64.b64encode(vector.tobytes()).decode()
            embedding = as_text if body.get("encoding_format") == "base64" else vector.tolist()
            data.append({"object": "embedding", "index": index, "embedding": embedding})
        n = sum(map(self.count, inputs))
        return 200, {
            "object": "list",
            "data": data,
            "model": body["model"],
            "usage": {"prompt_tokens": n, "total_tokens": n},
        }


def refusal(message: str, code: str = "invalid_request_error") -> dict[str, Any]:
    return {"error": {"message": message, "type": code, "param": None, "code": code}}


def _handler(server: OpenAIServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def reply(
            self, status: int, body: Any, headers: dict[str, str] | None = None, length: int | None = None
        ) -> None:
            content = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(content) if length is None else length))
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def allowed(self) -> bool:
            if self.headers.get("authorization") == f"Bearer {GOOD_KEY}":
                return True
            key = self.headers.get("authorization", "").removeprefix("Bearer ")
            self.reply(401, refusal(f"Incorrect API key provided: {key}.", "invalid_api_key"))
            return False

        def do_POST(self) -> None:
            content = self.rfile.read(int(self.headers["content-length"]))
            if not self.allowed():
                return
            if self.path == "/v1/embeddings":
                with server._turn:
                    server.attempts.append(time.monotonic())
                    fault = server.faults.pop(0) if server.faults else ""
                    server._now += 1
                    server.widest = max(server.widest, server._now)
                try:
                    time.sleep(server.answer_takes_s)
                    self.embed(json.loads(content), fault)
                finally:
                    with server._turn:
                        server._now -= 1

        def embed(self, asked: dict[str, Any], fault: str) -> None:
            if fault == "429":
                return self.reply(429, refusal("Rate limit reached", "rate_limit_exceeded"), {"retry-after": "0.2"})
            if fault == "500":
                return self.reply(500, refusal("The server had an error", "server_error"), {"retry-after-ms": "10"})
            if fault == "hang":
                time.sleep(2)
                self.close_connection = True
                return None
            if fault == "dimension":
                asked = {**asked, "dimensions": 512}
            status, answer = server.embeddings(asked)
            if status != 200:
                return self.reply(status, answer)
            content = json.dumps(answer).encode()
            if fault == "truncated":
                self.close_connection = True
                return self.reply(200, content[: len(content) // 2], length=len(content))
            if fault == "cut_json":
                return self.reply(200, content[: len(content) // 2])
            if fault == "shuffled":
                answer["data"].reverse()
            if fault == "missing":
                answer["data"].pop()
            if fault not in ("dimension", "missing"):
                with server._turn:
                    server.requests.append(asked["input"])
            return self.reply(200, answer)

    return Handler


@contextmanager
def openai_server() -> Iterator[OpenAIServer]:
    server = OpenAIServer()
    http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(server))
    http.daemon_threads = True
    server.url = f"http://127.0.0.1:{http.server_port}/v1"
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()
