"""How a client starts the broker, and what the broker takes over from it: nothing."""

from __future__ import annotations

import json
import os
import signal
import stat
from pathlib import Path

from servers.broker import Broker
from servers.plugin import ASK, file_provider
from servers.recorder import Recorder
from servers.sandbox import Sandbox

SECRET = "hunter2-launch-token"


def broker_pid(sandbox: Sandbox) -> int:
    return int(json.loads(sandbox.command("status", "--json", check=True).stdout)["pid"])


def test_command_substitution_returns_at_the_script_s_end(sandbox: Sandbox, recorder: Recorder) -> None:
    variables = file_provider(recorder.url, sandbox.write_secret(SECRET))
    script = sandbox.script(ASK)
    shell = f'out=$(python {script} {recorder.url}); echo "got $out"'
    done = sandbox.run("bash", "-c", shell, timeout=30, env=variables)
    assert done.stdout == "got 200\n", done.stderr
    assert len(sandbox.brokers()) == 1


def test_nothing_of_the_client_is_in_the_broker(sandbox: Sandbox, recorder: Recorder, tmp_path: Path) -> None:
    """Environment, descriptors, directory, terminal, signals, umask."""
    variables = file_provider(recorder.url, sandbox.write_secret(SECRET))
    code = (
        f"""
import os, signal, sys
held = open({str(tmp_path / "held")!r}, "w")
os.set_inheritable(held.fileno(), True)
os.umask(0)
signal.signal(signal.SIGHUP, signal.SIG_IGN)
signal.signal(signal.SIGINT, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
"""
        + ASK
    )
    assert sandbox.run_python(code, recorder.url, check=True, **variables).stdout == "200\n"
    process = Path("/proc") / str(broker_pid(sandbox))
    if not process.exists():
        return  # no /proc on this system
    assert (process / "environ").read_bytes() == b""
    targets = {os.readlink(fd) for fd in (process / "fd").iterdir()}
    assert not any("held" in target or "pipe" in target for target in targets), targets
    assert {os.readlink(process / "fd" / n) for n in "012"} == {"/dev/null"}
    assert os.readlink(process / "cwd") == "/"
    facts = dict(line.split(":\t", 1) for line in (process / "status").read_text().splitlines() if ":\t" in line)
    assert facts["Umask"].strip() == "0077"
    assert int(facts["SigIgn"], 16) & (1 << (signal.SIGHUP - 1) | 1 << (signal.SIGINT - 1)) == 0
    assert int(facts["SigBlk"], 16) == 0
    session = (process / "stat").read_text().rsplit(")", 1)[1].split()[3]
    assert session == process.name, "a session of its own"
    limits = (process / "limits").read_text()
    assert "Max core file size        0                    0" in limits


def test_the_socket_is_for_its_owner_only(sandbox: Sandbox, recorder: Recorder) -> None:
    variables = file_provider(recorder.url, sandbox.write_secret(SECRET))
    sandbox.run_python(ASK, recorder.url, check=True, **variables)
    (socket,) = sandbox.sockets()
    assert socket == sandbox.runtime / "mlflow-secrets-auth" / "broker.v1.sock"
    assert stat.S_IMODE(socket.stat().st_mode) == 0o600
    assert stat.S_IMODE(socket.parent.stat().st_mode) == 0o700


def test_no_broker_is_started_where_that_is_turned_off(sandbox: Sandbox, recorder: Recorder) -> None:
    variables = file_provider(recorder.url, sandbox.write_secret(SECRET)) | {"MLFLOW_SECRETS_AUTH_AUTOSTART": "0"}
    done = sandbox.run_python(ASK, recorder.url, **variables)
    assert "mlflow-secrets-auth serve" in done.stderr
    assert not sandbox.brokers()
    assert not recorder.requests, "nothing goes out without a header"


def test_a_stale_socket_is_in_nobody_s_way(sandbox: Sandbox, recorder: Recorder) -> None:
    variables = file_provider(recorder.url, sandbox.write_secret(SECRET))
    sandbox.run_python(ASK, recorder.url, check=True, **variables)
    os.kill(broker_pid(sandbox), signal.SIGKILL)
    assert sandbox.sockets()
    assert sandbox.run_python(ASK, recorder.url, check=True, **variables).stdout == "200\n"


def test_without_a_runtime_directory_the_temporary_one_serves(sandbox: Sandbox, recorder: Recorder) -> None:
    variables = file_provider(recorder.url, sandbox.write_secret(SECRET))
    # Not this user's alone: not to be used.
    sandbox.runtime.chmod(0o777)
    sandbox.run_python(ASK, recorder.url, check=True, **variables)
    (socket,) = sandbox.sockets()
    assert socket.parent == sandbox.tmp / f"mlflow-secrets-auth-{os.getuid()}" or str(socket).startswith("/run/user")


def test_an_idle_broker_ends_by_itself(sandbox: Sandbox) -> None:
    with Broker(sandbox, "--idle-timeout", "1") as broker:
        assert broker.process.wait(timeout=20) == 0
    assert not sandbox.sockets()


def test_a_broker_whose_socket_was_removed_ends(sandbox: Sandbox) -> None:
    # It looks at least as often as it would have to for its idle time.
    with Broker(sandbox, "--idle-timeout", "2") as broker:
        broker.socket.unlink()
        broker.process.wait(timeout=20)
    assert "removed" in broker.log()
