"""An HTTP stand-in that records every request and answers, or fails, as told.

It serves as a tracking server that notes what it was sent, and as a secret
manager with every fault that a real one cannot be made to have on demand.
"""

from __future__ import annotations

import json
import os
import socket
import ssl
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Union
from urllib.parse import urlsplit

from servers.certificates import Certificate
from servers.process import wait_until


@dataclass(frozen=True)
class Recorded:
    """One request. ``target`` is the path with its query, ``path`` without;
    ``headers`` look up without regard to case; ``connection`` tells which
    requests came over the same one (the client's port)."""

    method: str
    target: str
    headers: Message
    body: bytes
    connection: int
    at: float

    @property
    def path(self) -> str:
        """The path without its query."""
        return urlsplit(self.target).path

    def json(self) -> Any:
        """The body, parsed."""
        return json.loads(self.body)


@dataclass(frozen=True)
class Answer:
    """What to answer; a ``body`` that is no text or bytes is sent as JSON.

    ``wait`` (an event, or seconds) comes before the first byte. ``fault``:

    - ``reset``: the connection is reset, ``close``: closed, both without an answer
    - ``half``: full headers, half the body, then the connection is closed
    - ``drip``: the body byte by byte, ``pause`` seconds apart
    - ``garbage``: bytes that are no HTTP
    """

    status: int = 200
    body: Any = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    wait: threading.Event | float | None = None
    fault: str = ""
    pause: float = 0.1

    def payload(self) -> tuple[bytes, dict[str, str]]:
        """Body and headers as they go out."""
        if isinstance(self.body, bytes):
            body, kind = self.body, "application/octet-stream"
        elif isinstance(self.body, str):
            body, kind = self.body.encode(), "text/plain; charset=utf-8"
        else:
            body, kind = json.dumps(self.body).encode(), "application/json"
        return body, {"Content-Type": kind, "Content-Length": str(len(body)), **self.headers}


POLL_STOP = 0.05
"""Seconds within which a stopped stand-in notices."""

Script = Union[Answer, Callable[[Recorded], Answer]]

RESET = Answer(fault="reset")
CLOSE = Answer(fault="close")
GARBAGE = Answer(fault="garbage")


def half(body: Any, **more: Any) -> Answer:
    """Half an answer."""
    return Answer(body=body, fault="half", **more)


def drip(body: Any, pause: float = 0.1) -> Answer:
    """An answer that comes byte by byte."""
    return Answer(body=body, fault="drip", pause=pause)


def redirect(target: str, status: int = 302) -> Answer:
    """A redirect."""
    return Answer(status, headers={"Location": target})


class Recorder:
    """The stand-in; ``url`` is where it listens, ``requests`` what it was sent.

    What answers: first the queue (``enqueue``, each once), then the script for
    the method and path (``on``), then ``default``. ``host`` is the name by which
    ``url`` calls it (it listens on 127.0.0.1 always). With ``certificate`` it
    speaks TLS, and demands a client's certificate where ``client_ca`` is given.
    """

    def __init__(
        self,
        *,
        certificate: Certificate | None = None,
        client_ca: Path | None = None,
        default: Script = Answer(body={}),  # noqa: B008 (immutable)
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        self.default = default
        self.requests: list[Recorded] = []
        self.connections = 0
        self.failed_handshakes: list[str] = []
        self._scripts: dict[tuple[str, str], Script] = {}
        self._queue: deque[Script] = deque()
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._stopping = threading.Event()
        self._context = _context(certificate, client_ca)
        self._server = _Server(self, port)
        self.port: int = self._server.server_address[1]
        self.url = f"{'https' if certificate else 'http'}://{host}:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(POLL_STOP,), daemon=True)

    def __enter__(self) -> Recorder:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Close the connections there are, and refuse more from now on."""
        if self._stopping.is_set():
            return
        self._stopping.set()
        if self._thread.is_alive():
            self._server.shutdown()
        self._server.server_close()
        with self._lock:
            for connection in self._open:
                try:
                    connection.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass  # closed by the other side, or by a fault

    def on(self, path: str, script: Script, *, method: str = "*") -> None:
        """Answer every request for ``path`` (of ``method``) with ``script``: an
        ``Answer``, or a function from the request to one."""
        with self._lock:
            self._scripts[method, path] = script

    def enqueue(self, *scripts: Script) -> None:
        """Answer the next requests with these, one each, whatever they ask for."""
        with self._lock:
            self._queue.extend(scripts)

    def to(self, path: str, *, method: str = "*") -> list[Recorded]:
        """The requests for ``path`` so far."""
        return [seen for seen in self._seen() if seen.path == path and method in ("*", seen.method)]

    def values(self, header: str) -> list[str | None]:
        """What each request carried in ``header``; ``None`` where it had none."""
        return [seen.headers.get(header) for seen in self._seen()]

    def wait_for(self, count: int, *, timeout: float = 10) -> list[Recorded]:
        """Wait until there are ``count`` requests, and return them."""
        wait_until(lambda: len(self.requests) >= count, timeout=timeout, what=f"{count} requests")
        return self._seen()

    def forget(self) -> None:
        """Forget the requests so far; the scripts stay."""
        with self._lock:
            self.requests.clear()

    def holds(self, secret: str) -> bool:
        """Whether a secret is anywhere in what was sent."""
        sought = secret.encode()
        return any(
            sought in seen.body or sought in seen.target.encode() or sought in str(seen.headers).encode()
            for seen in self._seen()
        )

    def _seen(self) -> list[Recorded]:
        with self._lock:
            return list(self.requests)

    def _answer_to(self, request: Recorded) -> Answer:
        with self._lock:
            self.requests.append(request)
            if self._queue:
                script = self._queue.popleft()
            else:
                places: Iterable[tuple[str, str]] = ((request.method, request.path), ("*", request.path))
                found = [self._scripts[place] for place in places if place in self._scripts]
                script = found[0] if found else self.default
        return script(request) if callable(script) else script

    def _wait(self, wait: threading.Event | float | None) -> None:
        if wait is None:
            return
        if isinstance(wait, threading.Event):
            while not wait.wait(POLL_STOP) and not self._stopping.is_set():
                pass
        else:
            self._stopping.wait(wait)


def _context(certificate: Certificate | None, client_ca: Path | None) -> ssl.SSLContext | None:
    if certificate is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate.chain, certificate.key)
    if client_ca is not None:
        context.load_verify_locations(client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 512

    def __init__(self, recorder: Recorder, port: int) -> None:
        self.recorder = recorder
        super().__init__(("127.0.0.1", port), _Handler)

    def finish_request(self, request: Any, client_address: Any) -> None:
        """In the connection's own thread: a stalled handshake stalls nobody else."""
        recorder = self.recorder
        with recorder._lock:
            recorder.connections += 1
        if recorder._context is not None:
            request.settimeout(30)
            try:
                request = recorder._context.wrap_socket(request, server_side=True)
            except OSError as error:
                with recorder._lock:
                    recorder.failed_handshakes.append(str(error))
                return
        with recorder._lock:
            recorder._open.add(request)
        try:
            super().finish_request(request, client_address)
        finally:
            with recorder._lock:
                recorder._open.discard(request)
            if recorder._context is not None:
                self.shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that go away in the middle are part of the tests."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def handle_one_request(self) -> None:
        self.raw_requestline = self.rfile.readline(65537)
        if not self.raw_requestline or not self.parse_request():
            self.close_connection = True
            return
        recorder = self.server.recorder
        request = Recorded(
            method=self.command,
            target=self.path,
            headers=self.headers,
            body=self._body(),
            connection=self.client_address[1],
            at=time.monotonic(),
        )
        answer = recorder._answer_to(request)
        recorder._wait(answer.wait)
        if recorder._stopping.is_set():
            self.close_connection = True
        else:
            self._send(answer)

    def _body(self) -> bytes:
        if "chunked" in self.headers.get("Transfer-Encoding", "").lower():
            parts = []
            while True:
                size = int(self.rfile.readline().split(b";")[0], 16)
                parts.append(self.rfile.read(size))
                self.rfile.readline()
                if size == 0:
                    return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _send(self, answer: Answer) -> None:
        if answer.fault in ("reset", "close"):
            self._hang_up(reset=answer.fault == "reset")
            return
        if answer.fault == "garbage":
            self.wfile.write(b"\x00\x01 this is no HTTP \xff\xfe\r\n\r\n")
            self._hang_up()
            return
        body, headers = answer.payload()
        self.send_response_only(answer.status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if answer.fault == "half":
            self.wfile.write(body[: len(body) // 2])
            self._hang_up()
        elif answer.fault == "drip":
            for index in range(len(body)):
                self.wfile.write(body[index : index + 1])
                if self.server.recorder._stopping.wait(answer.pause):
                    return
        else:
            self.wfile.write(body)

    def _hang_up(self, *, reset: bool = False) -> None:
        """Close the connection now, with TCP's RST or its FIN."""
        self.close_connection = True
        if reset:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        os.close(self.connection.detach())

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing goes to the terminal."""
