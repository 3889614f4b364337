"""Brokers come and go under load, and no request is lost."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from servers.plugin import ASK, file_provider
from servers.process import wait_until
from servers.recorder import Recorder
from servers.sandbox import COMMAND, Sandbox
from servers.vault import status

LOAD = """
import itertools, os, sys, threading, requests
from mlflow_secrets_auth import SecretsAuthProviderFactory
auth, results, done, ttl = SecretsAuthProviderFactory().get_auth(), [], threading.Event(), itertools.count(100)
def work():
    session = requests.Session()
    while not done.is_set():
        # Another caller each time: a question that the process cannot answer from memory.
        os.environ["MLFLOW_FILE_TTL_SEC"] = str(next(ttl))
        try:
            results.append(session.get(sys.argv[1], auth=auth, timeout=30).status_code)
        except Exception as error:
            results.append(str(error))
threads = [threading.Thread(target=work) for _ in range(3)]
[t.start() for t in threads]
print("running", flush=True)
for _ in sys.stdin:
    seen = len(results)
    while len(results) < seen + 20:
        pass
    print("more", flush=True)
done.set()
[t.join() for t in threads]
print(set(results))
"""


@contextmanager
def load(sandbox: Sandbox, url: str, variables: dict[str, str]) -> Iterator[Any]:
    """Threads that ask all the time; calling what it yields waits for twenty answers more."""
    with subprocess.Popen(
        [sys.executable, sandbox.script(LOAD), url],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=sandbox.environment | variables,
    ) as process:
        assert process.stdin
        assert process.stdout
        assert process.stdout.readline() == "running\n"

        def more() -> None:
            assert process.stdin
            assert process.stdout
            process.stdin.write("more\n")
            process.stdin.flush()
            assert process.stdout.readline() == "more\n"

        try:
            more()
            yield more
            process.stdin.close()
            assert process.stdout.read() == "{200}\n"
        finally:
            process.kill()


def test_restarts_with_auto_start_lose_nothing(sandbox: Sandbox, recorder: Recorder) -> None:
    variables = file_provider(recorder.url, sandbox.write_secret("token"))
    with load(sandbox, recorder.url, variables) as more:
        pids = set()
        for _ in range(10):
            pids.add(status(sandbox)["pid"])
            sandbox.command("stop", check=True)
            more()
    assert len(pids) == 10
    assert {r.headers["Authorization"] for r in recorder.requests} == {"Bearer token"}


def test_restarts_under_socket_activation_lose_nothing(sandbox: Sandbox, recorder: Recorder) -> None:
    """As systemd does it: it holds the socket, and starts a new broker when the old one has ended."""
    variables = file_provider(recorder.url, sandbox.write_secret("token")) | {"MLFLOW_SECRETS_AUTH_AUTOSTART": "no"}
    directory = sandbox.runtime / "mlflow-secrets-auth"
    directory.mkdir(mode=0o700)
    path = directory / "broker.v1.sock"
    held = socket.socket(socket.AF_UNIX)
    old = os.umask(0o177)
    held.bind(str(path))
    os.umask(old)
    held.listen(64)

    def start() -> subprocess.Popen[bytes]:
        script = f'LISTEN_PID=$$ LISTEN_FDS=1 exec "{COMMAND}" serve 3<&{held.fileno()}'
        return subprocess.Popen(
            ["bash", "-c", script],
            env=sandbox.environment,
            pass_fds=[held.fileno()],
            stderr=subprocess.DEVNULL,
        )

    broker = start()
    try:
        with load(sandbox, recorder.url, variables) as more:
            assert status(sandbox)["started_by"] == "socket activation"
            for _ in range(5):
                broker.terminate()
                assert broker.wait(timeout=10) == 0
                assert path.exists(), "the socket is the manager's"
                broker = start()
                more()
    finally:
        broker.kill()
        broker.wait()
        held.close()


# Two versions


def field(number: int, value: bytes | str | int) -> bytes:
    """One field of a protobuf message; short ones only."""
    if isinstance(value, int):
        return bytes([number << 3, value])
    data = value.encode() if isinstance(value, str) else value
    return bytes([number << 3 | 2, len(data)]) + data


class OtherVersion:
    """A broker of another version: enough of one to be asked, and asked to stop."""

    def __init__(self, path: Path, version: str) -> None:
        import grpc

        self.calls: list[str] = []
        self.stopped = threading.Event()
        answers = {
            "Present": field(1, b"0123456789abcdef") + field(2, version) + field(3, 1),
            "GetHeaders": field(1, field(1, "Authorization") + field(2, "Bearer other")) + field(2, 7) + field(3, 100),
            "Stop": field(1, 1),
        }

        def handler(name: str) -> Any:
            def answer(_request: bytes, _context: Any) -> bytes:
                self.calls.append(name)
                if name == "Stop":
                    path.unlink()
                    self.stopped.set()
                return answers[name]

            return grpc.unary_unary_rpc_method_handler(answer)

        self.server = grpc.server(futures.ThreadPoolExecutor(4))
        service = "mlflow_secrets_auth.broker.v1.Broker"
        handlers = {name: handler(name) for name in answers}
        self.server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
        path.parent.mkdir(mode=0o700)
        # Under another name first: grpcio removes the name that it knows when it ends, whoever's it is.
        own = path.with_name("other.sock")
        self.server.add_insecure_port(f"unix:{own}")
        self.server.start()
        own.chmod(0o600)
        own.rename(path)


@pytest.mark.parametrize(("version", "header"), [("0.0.1", "Bearer token"), ("99.0.0", "Bearer other")])
def test_a_newer_client_replaces_an_older_broker_and_never_the_reverse(
    sandbox: Sandbox, recorder: Recorder, version: str, header: str
) -> None:
    other = OtherVersion(sandbox.runtime / "mlflow-secrets-auth" / "broker.v1.sock", version)
    try:
        variables = file_provider(recorder.url, sandbox.write_secret("token"))
        assert sandbox.run_python(ASK, recorder.url, check=True, **variables).stdout == "200\n"
        assert recorder.values("Authorization") == [header]
        assert other.stopped.is_set() == (version == "0.0.1")
        assert len(sandbox.brokers()) == (1 if version == "0.0.1" else 0)
    finally:
        other.server.stop(None).wait()


# Many callers


CALLERS = """
import sys, threading
from mlflow_secrets_auth import _client
import os, requests
from mlflow_secrets_auth import SecretsAuthProviderFactory
answers = SecretsAuthProviderFactory().get_auth()
prepared = requests.Request("GET", sys.argv[1]).prepare()
for number in range(int(sys.argv[2])):
    os.environ["MLFLOW_AUTH_HEADER_NAME"] = f"X-Changing-Caller-{number}"
    answers(prepared.copy())
"""


def test_changing_callers_leave_neither_memory_nor_names(sandbox: Sandbox, recorder: Recorder) -> None:
    variables = file_provider(recorder.url, sandbox.write_secret("token"))
    sandbox.run_python(CALLERS, recorder.url, "200", check=True, **variables)
    pid = status(sandbox)["pid"]

    def resident() -> int:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    before = resident()
    sandbox.run_python(CALLERS, recorder.url, "5000", check=True, **variables)
    assert status(sandbox)["callers"] <= 1000, "those that were used longest ago are gone"
    sandbox.command("flush", check=True)
    assert status(sandbox)["callers"] == 0
    wait_until(lambda: resident() < before + (5 << 20), timeout=40)
