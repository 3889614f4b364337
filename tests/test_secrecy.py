"""No secret is where it could be seen: a search everywhere it could be."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path

import pytest

from servers.broker import Broker
from servers.plugin import ASK, file_provider
from servers.process import wait_until
from servers.recorder import Answer, Recorder
from servers.sandbox import Sandbox

PASSWORD = "hunter2-9f8e7d6c5b4a"
NEXT = "hunter3-1a2b3c4d5e6f"
SHAPES = [shape for word in (PASSWORD, NEXT) for shape in (word, base64.b64encode(f"user:{word}".encode()).decode())]


def seen(text: str | bytes) -> list[str]:
    data = text.encode() if isinstance(text, str) else text
    return [shape for shape in SHAPES if shape.encode() in data]


def test_no_secret_is_seen_anywhere(sandbox: Sandbox, recorder: Recorder) -> None:
    """Logs at every level, status in every form, doctor, info, argv, environment, files."""
    variables = file_provider(recorder.url, sandbox.write_secret(f"user:{PASSWORD}"), "basic")
    # As careless as can be: everything in the broker's own environment, too.
    careless = {**variables, "RUST_LOG": "trace", "VAULT_TOKEN": PASSWORD}
    with Broker(sandbox, "--log-level", "trace", **careless) as broker:
        shown = [sandbox.run_python(ASK, recorder.url, check=True, **variables, MLFLOW_SECRETS_LOG_LEVEL="DEBUG")]
        assert recorder.values("Authorization") == [f"Basic {SHAPES[1]}"], "it is used at all"
        # A rotation met by a 401, and a server that never accepts it.
        sandbox.write_secret(f"user:{NEXT}")
        recorder.default = Answer(status=401)
        shown.append(sandbox.run_python(ASK, recorder.url, **variables, MLFLOW_SECRETS_LOG_LEVEL="DEBUG"))
        # A secret that cannot be sent.
        for text in [NEXT, json.dumps({"key": NEXT}), f'["{NEXT}"]']:
            sandbox.write_secret(text)
            sandbox.command("flush", check=True)
            done = sandbox.run_python(ASK, recorder.url, **variables, MLFLOW_SECRETS_LOG_LEVEL="DEBUG")
            assert done.returncode == 1
            assert "SecretsAuthError" in done.stderr
            shown += [done, sandbox.command("doctor", **variables)]
        shown += [sandbox.command("status"), sandbox.command("status", "--json"), sandbox.command("info", **variables)]
        for done in shown:
            assert not seen(done.stdout + done.stderr), done.args
        process = Path("/proc") / str(broker.pid)
        if process.exists():
            assert not seen((process / "cmdline").read_bytes())
    assert not seen(broker.log())
    assert "rejected" in broker.log(), "the log says something"
    for file in sandbox.root.rglob("*"):
        if file.is_file() and file != sandbox.home / "secret":
            assert not seen(file.read_bytes()), file


@pytest.mark.skipif(not Path("/proc/self/coredump_filter").exists(), reason="needs Linux")
def test_a_broker_that_crashes_leaves_no_core(sandbox: Sandbox, recorder: Recorder) -> None:
    variables = file_provider(recorder.url, sandbox.write_secret(PASSWORD))
    sandbox.run_python(ASK, recorder.url, check=True, **variables)
    pid = json.loads(sandbox.command("status", "--json", check=True).stdout)["pid"]
    # Not dumpable: its files in /proc belong to root, and nobody of this uid can trace it.
    assert (Path("/proc") / str(pid) / "mem").stat().st_uid == 0
    before = set(Path("/").glob("core*")) | set(sandbox.work.glob("core*"))
    os.kill(pid, 11)
    wait_until(lambda: not sandbox.brokers(), timeout=10)
    assert set(Path("/").glob("core*")) | set(sandbox.work.glob("core*")) == before


@pytest.mark.skipif(os.getuid() != 0, reason="only root may read the memory of a process that forbids it")
def test_a_flush_leaves_nothing_in_the_broker_s_memory(sandbox: Sandbox, recorder: Recorder) -> None:
    variables = file_provider(recorder.url, sandbox.write_secret(PASSWORD))
    sandbox.run_python(ASK, recorder.url, check=True, **variables)
    pid = json.loads(sandbox.command("status", "--json", check=True).stdout)["pid"]
    assert found_in_memory(pid, PASSWORD.encode()) > 0, "it is there while it is in use"
    (sandbox.home / "secret").unlink()
    sandbox.command("flush", check=True)
    # The connection that carried it is noticed to be gone, and its buffers are given back.
    wait_until(lambda: found_in_memory(pid, PASSWORD.encode()) == 0, timeout=10)


def found_in_memory(pid: int, needle: bytes) -> int:
    count = 0
    with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        for line in maps:
            area, rights, *_ = line.split()
            if not rights.startswith("rw"):
                continue
            start, end = (int(part, 16) for part in area.split("-"))
            try:
                memory.seek(start)
                count += memory.read(end - start).count(needle)
            except OSError:
                continue
    return count
