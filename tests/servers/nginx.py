"""nginx as the proxy that demands a header before it lets a request through."""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import subprocess
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import requests

from servers import tools
from servers.certificates import Certificate
from servers.process import Process, free_port, wait_until

GENERATION = "/.generation"
"""Path that answers with the number of the configuration in force."""


@dataclass(frozen=True)
class Demand:
    """What a request must carry: one of ``values`` (whole, exact) in ``header``.

    An empty header name demands nothing; ``status`` is the refusal.
    """

    header: str = ""
    values: tuple[str, ...] = ()
    status: int = 401

    @classmethod
    def bearer(cls, *tokens: str, status: int = 401) -> Demand:
        """One of these bearer tokens."""
        return cls("Authorization", tuple(f"Bearer {token}" for token in tokens), status)

    @classmethod
    def basic(cls, *users: tuple[str, str], status: int = 401) -> Demand:
        """One of these users and passwords."""
        pairs = (base64.b64encode(f"{user}:{password}".encode()) for user, password in users)
        return cls("Authorization", tuple(f"Basic {pair.decode()}" for pair in pairs), status)

    @classmethod
    def custom(cls, header: str, *values: str, status: int = 401) -> Demand:
        """One of these values in a header of another name."""
        return cls(header, values, status)


@dataclass(frozen=True)
class Logged:
    """One request as nginx saw it.

    ``value`` is what came in the demanded header, ``authorization`` what came
    in that one, ``retried`` in ``X-MLFSA-Retried``; empty where none came.
    """

    method: str
    path: str
    status: int
    value: str
    authorization: str
    retried: str
    host: str


class Nginx:
    """nginx in front of ``upstream`` (a URL), its files in ``directory``.

    Requests without what ``demand`` wants get its refusal. ``redirects`` maps
    paths to ``(status, target)``; they answer before any demand. A path that
    ends with ``/`` stands for all below it, and ``$request_uri`` in a target
    for the path and query that were asked for. Without an upstream, what is
    let through gets 200 and the text ``ok``. With ``certificate`` it speaks TLS.
    ``host`` is the name by which ``url`` calls it (it listens on 127.0.0.1 always).
    """

    def __init__(
        self,
        directory: Path,
        upstream: str | None = None,
        demand: Demand = Demand(),  # noqa: B008 (immutable)
        *,
        redirects: Mapping[str, tuple[int, str]] | None = None,
        certificate: Certificate | None = None,
        host: str = "127.0.0.1",
    ) -> None:
        self.directory = directory
        self.port = free_port()
        self._scheme = "https" if certificate else "http"
        self.url = f"{self._scheme}://{host}:{self.port}"
        self._upstream = upstream
        self._demand = demand
        self._redirects = dict(redirects or {})
        self._certificate = certificate
        self._generation = 0
        self._process: Process | None = None

    def __enter__(self) -> Nginx:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start nginx and wait until it answers with its configuration."""
        program = tools.find(
            "nginx", "/usr/sbin", "/usr/local/sbin", "/usr/local/bin", "/opt/homebrew/bin",
            install="apt-get install nginx-light (macOS: brew install nginx)",
        )  # fmt: skip
        self.directory.mkdir(parents=True, exist_ok=True)
        config = self._write()
        command: list[str | os.PathLike[str]] = [
            program,
            "-p",
            self.directory,
            "-e",
            self.directory / "error.log",
            "-c",
            config,
        ]
        self._process = Process(command, log=self.directory / "nginx.log", cwd=self.directory)
        try:
            self._process.wait_ready(self._in_force, timeout=20)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End nginx; the log stays readable."""
        if self._process is not None:
            self._process.kill()
            self._process = None

    def demand(self, demand: Demand) -> None:
        """Demand something else from now on; in force when this returns."""
        self._demand = demand
        self._reload()

    def redirect(self, path: str, status: int, target: str) -> None:
        """Add a redirect; in force when this returns."""
        self._redirects[path] = (status, target)
        self._reload()

    def log(self, at_least: int = 0) -> list[Logged]:
        """The requests so far, oldest first.

        nginx logs after it has answered: ``at_least`` waits for that many.
        """
        wait_until(lambda: len(self._logged()) >= at_least, what=f"{at_least} requests in the log")
        return self._logged()

    def statuses(self, at_least: int = 0) -> list[int]:
        """The status of each request so far."""
        return [request.status for request in self.log(at_least)]

    def forget(self) -> None:
        """Empty the log."""
        (self.directory / "access.log").write_text("")

    def _logged(self) -> list[Logged]:
        text = (self.directory / "access.log").read_text()
        lines = text[: text.rfind("\n") + 1].splitlines()  # without a half-written one
        return [Logged(**json.loads(line)) for line in lines]

    def _reload(self) -> None:
        assert self._process is not None, "nginx does not run"
        before = self._workers()
        self._write()
        self._process.signal(signal.SIGHUP)
        # The old worker accepts connections until it has heard of its end.
        wait_until(lambda: not before & self._workers(), what="the end of nginx's old worker")
        wait_until(self._in_force, what="nginx's new configuration")

    def _workers(self) -> set[int]:
        """Workers that accept connections."""
        assert self._process is not None
        listing = subprocess.run(
            ["ps", "-A", "-o", "pid=,ppid=,args="], capture_output=True, text=True, check=True
        ).stdout
        rows = (line.split(None, 2) for line in listing.splitlines())
        return {
            int(row[0])
            for row in rows
            if len(row) == 3 and row[1] == str(self._process.pid) and "shutting down" not in row[2]
        }

    def _in_force(self) -> bool:
        """Whether the configuration last written is the one that answers."""
        with requests.Session() as session, warnings.catch_warnings():
            session.trust_env = False
            warnings.simplefilter("ignore")
            # Its certificate may be a bad one on purpose.
            session.verify = False
            try:
                answer = session.get(f"{self._scheme}://127.0.0.1:{self.port}{GENERATION}", timeout=5)
            except requests.RequestException:
                return False
        return answer.text == str(self._generation)

    def _write(self) -> Path:
        self._generation += 1
        config = self.directory / "nginx.conf"
        draft = self.directory / "nginx.conf.new"
        draft.touch(mode=0o600)
        draft.write_text(self._config())
        draft.replace(config)
        return config

    def _config(self) -> str:
        variable = "$http_" + (self._demand.header or "authorization").lower().replace("-", "_")
        # nginx compares plain strings in a map without regard to case; a
        # regular expression is exact.
        allowed = "".join(f"        {_quoted('~^' + re.escape(value) + '$')} 1;\n" for value in self._demand.values)
        user = "user root;\n" if os.geteuid() == 0 else ""
        temporary = "".join(
            f"    {kind}_temp_path {_quoted(str(self.directory / kind))};\n"
            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        log = (
            '{"method":"$request_method","path":"$request_uri","status":$status,'
            f'"value":"{variable}","authorization":"$http_authorization",'
            '"retried":"$http_x_mlfsa_retried","host":"$http_host"}'
        )
        return f"""\
{user}daemon off;
worker_processes 1;
pid {_quoted(str(self.directory / "nginx.pid"))};
error_log {_quoted(str(self.directory / "error.log"))} info;
events {{ worker_connections 1024; }}
http {{
    log_format requests escape=json '{log}';
{temporary}    default_type text/plain;
    client_max_body_size 0;
    map {variable} $let_through {{
        default {0 if self._demand.header else 1};
{allowed}    }}
    server {{
        listen {self._listen()};
{self._tls()}        access_log {_quoted(str(self.directory / "access.log"))} requests;
        location = {GENERATION} {{ access_log off; return 200 "{self._generation}"; }}
{self._redirect_locations()}{self._guarded_location()}    }}
}}
"""

    def _listen(self) -> str:
        return f"127.0.0.1:{self.port}" + (" ssl" if self._certificate else "")

    def _tls(self) -> str:
        if self._certificate is None:
            return ""
        return (
            f"        ssl_certificate {_quoted(str(self._certificate.chain))};\n"
            f"        ssl_certificate_key {_quoted(str(self._certificate.key))};\n"
        )

    def _redirect_locations(self) -> str:
        return "".join(
            f"        location {'^~' if path.endswith('/') else '='} {_quoted(path)} "
            f"{{ return {status} {_quoted(target)}; }}\n"
            for path, (status, target) in self._redirects.items()
        )

    def _guarded_location(self) -> str:
        if "/" in self._redirects:
            return ""
        return f"""\
        location / {{
            if ($let_through = 0) {{ return {self._demand.status}; }}
            {self._pass()}
        }}
"""

    def _pass(self) -> str:
        if self._upstream is None:
            return 'return 200 "ok";'
        return (
            f"proxy_pass {self._upstream}; proxy_http_version 1.1; "
            "proxy_set_header Host $http_host; proxy_set_header Connection ''; "
            "proxy_read_timeout 300s;"
        )


def _quoted(text: str) -> str:
    """A string in nginx's configuration; variables in it stay variables."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
