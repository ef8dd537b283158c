"""An S3 server that is not well: a proxy that answers some requests as S3 does on a bad day, and passes on the others.

    python -m tests.faulty_s3 PORT UPSTREAM_PORT

A process of its own: delta-rs waits for answers without letting go of the interpreter. What is to go wrong is told to
it as JSON, by PUT /faults: {kind: share of the requests}, and "only": a regular expression on "METHOD path". GET
/faults answers how many of each there were. Kinds:

    slow_down    503 SlowDown, not passed on          error        500 InternalError, not passed on
    lost_answer  passed on, then the connection ends  hang         passed on, then no answer for `HANG_S`
    late_error   passed on, then 500 all the same     expired      400 ExpiredToken, not passed on
"""

import http.client
import json
import random
import re
import sys
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

HANG_S = 3.0
KINDS = ("slow_down", "error", "lost_answer", "late_error", "hang", "expired")
CODES = {
    "slow_down": (503, "SlowDown"),
    "error": (500, "InternalError"),
    "late_error": (500, "InternalError"),
    "expired": (400, "ExpiredToken"),
}


class Faults:
    def __init__(self) -> None:
        self.shares: dict[str, float] = {}
        self.only = ""
        self.counts: Counter[str] = Counter()
        self.turn = threading.Lock()

    def drawn(self, request: str) -> str | None:
        with self.turn:
            kind = None
            if re.search(self.only, request):
                kind = next((kind for kind in KINDS if random.random() < self.shares.get(kind, 0)), None)
            self.counts[kind or "passed"] += 1
            return kind


FAULTS = Faults()


class Proxy(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    upstream = 0

    def serve(self) -> None:
        body = self._body()
        if self.path == "/faults":
            self._told(body)
            return
        kind = FAULTS.drawn(f"{self.command} {self.path}")
        if kind in ("slow_down", "error", "expired"):
            self._refuse(*CODES[kind])
            return
        status, headers, answer = self._passed_on(body)
        if kind == "lost_answer":
            self.close_connection = True
            self.connection.close()
        elif kind == "late_error":
            self._refuse(*CODES[kind])
        else:
            time.sleep(HANG_S if kind == "hang" else 0)
            self._answer(status, headers, answer)

    def _answer(self, status: int, headers: list[tuple[str, str]], answer: bytes) -> None:
        self.send_response(status)
        for name, value in headers:
            if name.lower() not in ("connection", "transfer-encoding", "server", "date"):
                self.send_header(name, value)
        if not any(name.lower() == "content-length" for name, _ in headers):
            self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = serve

    def _body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _told(self, body: bytes) -> None:
        if self.command == "PUT":
            told: dict[str, Any] = json.loads(body)
            FAULTS.only = told.pop("only", "")
            FAULTS.shares, FAULTS.counts = told, Counter()
        answer = json.dumps(FAULTS.counts).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def _refuse(self, status: int, code: str) -> None:
        answer = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>On purpose.</Message></Error>".encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer)

    def _passed_on(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.upstream, timeout=60)
        headers = {name: value for name, value in self.headers.items() if name.lower() != "transfer-encoding"}
        connection.request(self.command, self.path, body, {**headers, "Content-Length": str(len(body))})
        answer = connection.getresponse()
        read = answer.status, answer.getheaders(), answer.read()
        connection.close()
        return read

    def log_message(self, *_: object) -> None:
        pass


def main() -> None:
    Proxy.upstream = int(sys.argv[2])
    server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Proxy)
    server.daemon_threads = True
    server.serve_forever()


if __name__ == "__main__":
    main()
