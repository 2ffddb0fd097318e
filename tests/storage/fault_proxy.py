"""An HTTP server in front of an S3 server that hands requests through, and spoils some of them as a real one may."""

import http.client
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal
from urllib.parse import urlsplit

# 503: before anything is done; lost: done, but the answer never comes; reset: in the middle of the request; cut: half
# of the answer's body comes; slow: the answer comes late; stall: when nobody waits for it any more.
Fault = Literal["503", "403", "501", "expired", "lost", "reset", "cut", "slow", "stall"]
REFUSALS = {
    "503": (503, "SlowDown"),
    "403": (403, "AccessDenied"),
    "501": (501, "NotImplemented"),
    "expired": (403, "ExpiredToken"),
}
SLOW_S, STALL_S = 0.3, 4.0
PASSED_ON = (
    "content-length",
    "etag",
    "last-modified",
    "content-type",
    "content-range",
    "accept-ranges",
    "x-amz-error-code",
)


class FaultProxy:
    """`faults` are taken one for each request, in order; `always` is what happens once they are used up."""

    def __init__(self, endpoint: str):
        self._target = urlsplit(endpoint)
        self.faults: deque[Fault | None] = deque()
        self.always: Fault | None = None
        self.num_requests = 0
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                proxy.answer(self)

            do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = handle_any

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.endpoint = "http://{}:{}".format(*self._server.server_address)

    @contextmanager
    def running(self) -> Iterator["FaultProxy"]:
        thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._server.server_close()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        self.num_requests += 1
        fault = self.faults.popleft() if self.faults else self.always
        body = _body(request, half=fault == "reset")
        if fault == "reset":
            _reset(request)
            return
        if fault in REFUSALS:
            status, code = REFUSALS[fault]
            _send(request, status, [], f"<Error><Code>{code}</Code><Message>{code}</Message></Error>".encode())
            return
        status, headers, data = self._forward(request, body)
        if fault == "lost":
            _reset(request)
        elif fault == "cut" and data:
            _send(request, status, headers, data, sent=len(data) // 2)
        elif fault in ("slow", "stall"):
            time.sleep(STALL_S if fault == "stall" else SLOW_S)
            _send(request, status, headers, data)
        else:
            _send(request, status, headers, data)

    def _forward(self, request: BaseHTTPRequestHandler, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        connection = http.client.HTTPConnection(self._target.hostname, self._target.port, timeout=30)
        headers = {name: value for name, value in request.headers.items() if name.lower() != "transfer-encoding"}
        connection.request(request.command, request.path, body or None, headers)
        response = connection.getresponse()
        data = response.read()
        kept = [(name, value) for name, value in response.getheaders() if name.lower() in PASSED_ON]
        connection.close()
        return response.status, kept, data


def _body(request: BaseHTTPRequestHandler, half: bool) -> bytes:
    if request.headers.get("Expect", "").lower() == "100-continue":
        request.send_response_only(100)
        request.end_headers()
    return request.rfile.read(int(request.headers.get("Content-Length") or 0) // (2 if half else 1))


def _send(
    request: BaseHTTPRequestHandler, status: int, headers: list[tuple[str, str]], data: bytes, sent: int | None = None
) -> None:
    request.send_response_only(status)
    for name, value in headers:
        if name.lower() != "content-length" or request.command == "HEAD":
            request.send_header(name, value)
    if request.command != "HEAD":
        request.send_header("Content-Length", str(len(data)))
    request.end_headers()
    if request.command != "HEAD":
        request.wfile.write(data[:sent])
    if sent is not None:
        _reset(request)


def _reset(request: BaseHTTPRequestHandler) -> None:
    """Closes the connection as a crashed server does, without a goodbye."""
    request.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    request.wfile.flush()
    request.connection.close()
    request.close_connection = True
