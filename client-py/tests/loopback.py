"""HTTP servers on loopback that record what reaches them, and a session for which they are the world."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

import requests
from requests import PreparedRequest
from requests.adapters import HTTPAdapter


@dataclass
class Seen:
    """A request that arrived."""

    method: str
    path: str
    headers: Message
    body: bytes
    #: Tells which requests came over the same connection.
    connection: int


@dataclass
class Reply:
    """What is answered."""

    status: int = 200
    body: bytes = b"{}"
    headers: dict[str, str] = field(default_factory=dict)


def redirect(location: str, status: int = 302) -> Reply:
    """A redirect."""
    return Reply(status, headers={"Location": location})


Script = Callable[[Seen], Reply]


class Loopback:
    """A server; `script` says what it answers, `seen` is what it was sent."""

    def __init__(self, script: Script | None = None) -> None:
        self.script: Script = script or (lambda seen: Reply())
        self.seen: list[Seen] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def _serve(self) -> None:
                if "chunked" in self.headers.get("Transfer-Encoding", ""):
                    body = b""
                    while size := int(self.rfile.readline(), 16):
                        body += self.rfile.read(size)
                        self.rfile.readline()
                    self.rfile.readline()
                else:
                    body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                seen = Seen(self.command, self.path, self.headers, body, self.client_address[1])
                outer.seen.append(seen)
                reply = outer.script(seen)
                self.send_response_only(reply.status)
                for name, value in reply.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(reply.body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(reply.body)

            do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = do_PATCH = _serve  # noqa: N815

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        #: The same server under another name.
        self.named = f"http://localhost:{self.port}"

    def __enter__(self) -> Loopback:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def sent(self, header: str = "Authorization") -> list[str | None]:
        """What each request carried in a header."""
        return [seen.headers.get(header) for seen in self.seen]


class World(HTTPAdapter):
    """Connects every origin, encrypted or not, to one loopback server.

    The request that goes out is the one that was prepared, but for its URL.
    """

    def __init__(self, server: Loopback) -> None:
        super().__init__()
        self.server = server
        self.origins: list[str] = []
        self.kwargs: list[dict[str, Any]] = []

    def send(self, request: PreparedRequest, **kwargs: Any) -> requests.Response:  # type: ignore[override]
        parts = urlsplit(str(request.url))
        self.origins.append(f"{parts.scheme}://{parts.netloc}")
        self.kwargs.append(kwargs)
        moved = PreparedRequest.copy(request)
        moved.url = parts._replace(scheme="http", netloc=f"127.0.0.1:{self.server.port}").geturl()
        response = super().send(moved, **{**kwargs, "verify": False, "cert": None})
        response.request, response.url, response.connection = request, str(request.url), self
        return response


def session_of(server: Loopback) -> tuple[requests.Session, World]:
    """A session for which all origins are that server."""
    session, world = requests.Session(), World(server)
    session.mount("http://", world)
    session.mount("https://", world)
    return session, world
