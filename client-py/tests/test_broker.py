"""The client and a real broker: settings, answers, rotation, loss."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
import types
from pathlib import Path

import pytest
import requests
from loopback import Reply

from mlflow_secrets_auth.auth import SecretsAuth
from mlflow_secrets_auth.errors import SecretsAuthError

API = "http://127.0.0.1:5000/api"


@pytest.fixture
def call(real):
    """What `requests` calls, in this process."""
    return SecretsAuth().answers


def header(call, url: str = API) -> str | None:
    return call(requests.Request("GET", url).prepare()).headers.get("Authorization")


def test_starts_a_broker_and_asks_it_once(real, call):
    assert [header(call) for _ in range(5)] == ["Bearer one"] * 5
    status = real.status()
    assert status["started_by"] == "auto-start"
    assert status["answers"] == 1


def test_kept_answer_is_for_its_own_start_of_a_url_alone(real, call):
    assert header(call) == "Bearer one"
    for url in (
        "http://127.0.0.1:5001/",
        "https://127.0.0.1:5000/",
        "http://127.0.0.10:5000/",
        "http://localhost:5000/",
    ):
        assert header(call, url) is None, url
        assert header(call, url) is None, url
    assert header(call, "http://user:pw@127.0.0.1:5000/x") == "Bearer one"
    assert header(call, "http://127.0.0.1:5000/@evil.example/") == "Bearer one"
    assert header(call, "http://127.0.0.1:5000?x") == "Bearer one"


def test_change_of_the_environment_counts_at_once(real, call, monkeypatch, tmp_path):
    assert header(call) == "Bearer one"
    other = real.root / "other"
    other.touch(0o600)
    other.write_text("two")
    monkeypatch.setenv("MLFLOW_FILE_SECRET_PATH", str(other))
    assert header(call) == "Bearer two"
    monkeypatch.chdir(real.root)
    os.environ["MLFLOW_FILE_SECRET_PATH"] = "secret"
    assert header(call) == "Bearer one"
    monkeypatch.setenv("MLFLOW_SECRETS_ALLOWED_HOSTS", "mlflow.example.com")
    assert header(call) is None
    monkeypatch.setenv("MLFLOW_SECRETS_ALLOWED_HOSTS", "127.0.0.*")
    assert header(call) == "Bearer one"
    monkeypatch.setenv("MLFLOW_AUTH_HEADER_NAME", "X-Api-Key")
    assert call(requests.Request("GET", API).prepare()).headers["X-Api-Key"] == "one"
    assert header(call) is None


def test_environment_that_is_another_object(real, call, monkeypatch):
    assert header(call) == "Bearer one"
    monkeypatch.setattr(os, "environ", {**os.environ, "MLFLOW_SECRETS_ALLOWED_HOSTS": "mlflow.example.com"})
    assert header(call) is None
    os.environ["MLFLOW_SECRETS_ALLOWED_HOSTS"] = "127.0.0.1"
    assert header(call) == "Bearer one"


@pytest.mark.parametrize("allowed", [None, "127.0.0.1"])
def test_uris_in_effect(real, call, monkeypatch, allowed):
    """What `mlflow.set_tracking_uri` sets counts, not the environment that it replaces."""
    if allowed:
        monkeypatch.setenv("MLFLOW_SECRETS_ALLOWED_HOSTS", allowed)
    names = ("mlflow.tracking._tracking_service.utils", "mlflow.tracking._model_registry.utils")
    for name in names:
        monkeypatch.delitem(sys.modules, name, raising=False)
    assert header(call) == "Bearer one"
    tracking, registry = types.ModuleType("t"), types.ModuleType("r")
    tracking._tracking_uri = registry._registry_uri = None  # type: ignore[attr-defined]
    for name, module in zip(names, (tracking, registry)):
        monkeypatch.setitem(sys.modules, name, module)
    assert header(call) == "Bearer one"
    tracking._tracking_uri = "http://127.0.0.1:5001/sub/"  # type: ignore[attr-defined]
    assert header(call) == ("Bearer one" if allowed else None)
    assert header(call, "http://127.0.0.1:5001/sub/api") == "Bearer one"
    registry._registry_uri = "http://127.0.0.1:5002"  # type: ignore[attr-defined]
    assert header(call, "http://127.0.0.1:5002/") == "Bearer one"
    assert header(call, "http://localhost:5002/") is None


def test_rotation_is_met_by_one_replay(real, call, server, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
    assert header(call, f"{server.url}/") == "Bearer one"
    real.write("two")
    server.script = lambda seen: Reply(200 if seen.headers["Authorization"] == "Bearer two" else 401)

    response = requests.post(f"{server.url}/x", auth=call, data=b"body")

    assert response.status_code == 200
    assert server.sent() == ["Bearer one", "Bearer two"]
    assert [seen.body for seen in server.seen] == [b"body"] * 2
    assert header(call, f"{server.url}/") == "Bearer two"


def test_permanent_rejection_costs_one_request_each(real, call, server, monkeypatch, caplog):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
    server.script = lambda seen: Reply(403 if seen.path == "/403" else 401)
    for path in ("/401", "/403") * 10:
        requests.get(server.url + path, auth=call)
    assert len(server.seen) == 20
    assert len([r for r in caplog.records if r.levelname == "WARNING"]) == 1


def test_broker_that_dies_is_replaced_within_the_request(real, call, monkeypatch):
    for number in range(5):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{6000 + number}")
        assert header(call, f"http://127.0.0.1:{6000 + number}/") == "Bearer one"
        os.kill(real.pid(), signal.SIGKILL)
    assert header(call, "http://127.0.0.1:6004/") == "Bearer one"


# === What goes wrong ===


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"MLFLOW_SECRETS_AUTH_AUTOSTART": "Off"}, "no broker runs at .*mlflow-secrets-auth serve"),
        ({"MLFLOW_SECRETS_AUTH_TIMEOUT": "soon"}, "MLFLOW_SECRETS_AUTH_TIMEOUT is not a number"),
        ({"MLFLOW_SECRETS_AUTH_TIMEOUT": "0"}, "MLFLOW_SECRETS_AUTH_TIMEOUT is not a number"),
        ({"MLFLOW_SECRETS_AUTH_TIMEOUT": "nan"}, "MLFLOW_SECRETS_AUTH_TIMEOUT is not a number"),
        ({"MLFLOW_SECRETS_AUTH_ENABLE": "vualt"}, "unknown provider `vualt`"),
        (
            {"MLFLOW_SECRETS_ALLOWED_HOSTS": "a b"},
            "MLFLOW_SECRETS_ALLOWED_HOSTS: `a b` is not a host pattern",
        ),
        ({"MLFLOW_SECRETS_AUTH_SOCKET": "run/b.sock"}, "no absolute path"),
        (
            {"MLFLOW_SECRETS_AUTH_SOCKET": "/tmp/" + "x" * 200},
            "Set MLFLOW_SECRETS_AUTH_SOCKET to a shorter path",
        ),
        ({"MLFLOW_FILE_SECRET_PATH": "/nonexistent/secret"}, "file /nonexistent/secret does not exist"),
        ({"MLFLOW_FILE_SECRET_PATH": "/etc/hosts"}, "/etc/hosts is open to others"),
        ({"MLFLOW_FILE_AUTH_MODE": "digest"}, "MLFLOW_FILE_AUTH_MODE"),
    ],
)
def test_one_clear_error(real, call, monkeypatch, variables, said):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SecretsAuthError, match=said) as caught:
        header(call)
    assert str(caught.value).startswith("cannot authenticate requests to http://127.0.0.1:5000: ")
    for name in variables:
        monkeypatch.delenv(name)
    for name in ("MLFLOW_SECRETS_AUTH_SOCKET", "MLFLOW_SECRETS_AUTH_ENABLE", "MLFLOW_FILE_SECRET_PATH"):
        monkeypatch.setenv(name, real.environment[name])
    monkeypatch.setenv("MLFLOW_FILE_AUTH_MODE", "bearer")
    assert header(call) == "Bearer one"


def test_value_that_is_no_text_is_named(real, call):
    os.environb[b"MLFLOW_FILE_SECRET_PATH"] = b"/tmp/\xff"
    with pytest.raises(SecretsAuthError, match="MLFLOW_FILE_SECRET_PATH holds bytes"):
        header(call)


def test_directory_that_others_can_enter_is_refused(real, call):
    header(call)
    real.socket.parent.chmod(0o755)
    with pytest.raises(SecretsAuthError, match="chmod 700"):
        header(SecretsAuth().answers)


def test_line_break_in_a_secret_reaches_no_header_and_no_error(real, call):
    real.write("hunter2\nX-Evil: 1")
    with pytest.raises(SecretsAuthError) as caught:
        header(call)
    assert "hunter2" not in str(caught.value)


@pytest.fixture
def stalled(real):
    """A socket at which somebody listens who never says a word."""
    real.socket.parent.mkdir(mode=0o700)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(real.socket))
    real.socket.chmod(0o600)
    listener.listen(16)
    yield real
    listener.close()
    real.socket.unlink()


def test_timeout_is_kept_and_named(stalled, call, monkeypatch):
    monkeypatch.setenv("MLFLOW_SECRETS_AUTH_TIMEOUT", "0.3")
    started = time.monotonic()
    with pytest.raises(SecretsAuthError, match="MLFLOW_SECRETS_AUTH_TIMEOUT"):
        header(call)
    assert 0.25 < time.monotonic() - started < 3


def test_waiting_holds_no_other_thread_up(stalled, call, monkeypatch):
    monkeypatch.setenv("MLFLOW_SECRETS_AUTH_TIMEOUT", "1")
    failed = []

    def ask():
        with pytest.raises(SecretsAuthError):
            header(call)
        failed.append(1)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    started = time.monotonic()
    for thread in threads:
        thread.start()
    ticks = 0
    while any(thread.is_alive() for thread in threads):
        ticks += 1
        time.sleep(0.01)
    assert len(failed) == 8
    assert ticks > 20
    assert time.monotonic() - started < 4


def test_interrupt_ends_a_wait_at_once(stalled):
    done = stalled.run(
        "import signal, threading, _thread\n"
        "threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGINT)).start()\n"
        "started = time.monotonic()\n"
        "try:\n    header()\n"
        "except KeyboardInterrupt:\n    print('interrupted', time.monotonic() - started < 1)\n",
    )
    assert done.stdout.strip() == "interrupted True"


def test_broker_inherits_nothing(real):
    """Neither the environment nor a pipe: `out=$(python train.py)` returns at the script's end."""
    done = real.run("print(header())", timeout=20, SECRET_OF_MINE="hunter2")
    assert done.stdout.strip() == "Bearer one"
    environ = Path(f"/proc/{real.pid()}/environ")
    if environ.exists() and os.geteuid() == 0:
        assert environ.read_bytes() == b""
