"""Many processes and threads at once: one broker, one read."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from servers.nginx import Demand, Nginx
from servers.plugin import ASK, file_provider
from servers.process import wait_until
from servers.recorder import Recorder
from servers.sandbox import Sandbox


def status(sandbox: Sandbox) -> Any:
    return json.loads(sandbox.command("status", "--json").stdout)


def test_a_hundred_processes_at_once_with_no_broker_running(
    sandbox: Sandbox, recorder: Recorder, nginx: Callable[..., Nginx]
) -> None:
    proxy = nginx(recorder.url, Demand.bearer("fleet-token"))
    variables = file_provider(proxy.url, sandbox.write_secret("fleet-token"))
    children = [sandbox.start_python(ASK, proxy.url + f"/{number}", **variables) for number in range(100)]
    results = [child.communicate(timeout=120) for child in children]
    assert [out for out, _ in results] == ["200\n"] * 100, next(err for out, err in results if out != "200\n")
    assert len(sandbox.brokers()) == 1
    state = status(sandbox)
    assert [source["fetches"] for source in state["sources"]] == [1]
    assert state["callers"] == 1


def test_sixteen_threads_of_a_cold_process_are_one_read(
    sandbox: Sandbox, recorder: Recorder, nginx: Callable[..., Nginx]
) -> None:
    proxy = nginx(recorder.url, Demand.bearer("thread-token"))
    variables = file_provider(proxy.url, sandbox.write_secret("thread-token"))
    code = """
import sys, threading, requests
from mlflow_secrets_auth import SecretsAuthProviderFactory
auth, gate, codes = SecretsAuthProviderFactory().get_auth(), threading.Barrier(16), []
def work():
    gate.wait()
    codes.append(requests.get(sys.argv[1], auth=auth, timeout=30).status_code)
threads = [threading.Thread(target=work) for _ in range(16)]
[t.start() for t in threads]
[t.join() for t in threads]
print(codes == [200] * 16)
"""
    assert sandbox.run_python(code, proxy.url, check=True, **variables).stdout == "True\n"
    assert [source["fetches"] for source in status(sandbox)["sources"]] == [1]


def test_a_broker_that_is_killed_twenty_times_loses_no_request(
    sandbox: Sandbox, recorder: Recorder, nginx: Callable[..., Nginx]
) -> None:
    """Three threads ask all the time; kills fall between and into their requests."""
    proxy = nginx(recorder.url, Demand.bearer("loop-token"))
    variables = file_provider(proxy.url, sandbox.write_secret("loop-token"))
    code = """
import itertools, json, os, signal, subprocess, sys, threading, requests
from mlflow_secrets_auth import SecretsAuthProviderFactory
auth, codes, done = SecretsAuthProviderFactory().get_auth(), [], threading.Event()
ttl = itertools.count(100)
def work():
    session = requests.Session()
    while not done.is_set():
        # Another caller each time: a question that the process cannot answer from memory.
        os.environ["MLFLOW_FILE_TTL_SEC"] = str(next(ttl))
        try:
            codes.append(session.get(sys.argv[1], auth=auth, timeout=30).status_code)
        except Exception as error:
            codes.append(str(error))
threads = [threading.Thread(target=work) for _ in range(3)]
[t.start() for t in threads]
killed, enough = set(), 0
while len(killed) < 20 and set(codes) <= {200}:
    out = subprocess.run(["mlflow-secrets-auth", "status", "--json"], capture_output=True, text=True).stdout
    pid = json.loads(out).get("pid") if out else None
    if pid and pid not in killed and len(codes) >= enough:
        os.kill(pid, signal.SIGKILL)
        killed.add(pid)
        enough = len(codes) + 5
done.set()
[t.join() for t in threads]
print(len(killed), len(codes) > 100, set(codes))
"""
    done = sandbox.run_python(code, proxy.url, timeout=180, **variables)
    assert done.stdout == "20 True {200}\n", done.stderr[-2000:]
    wait_until(lambda: len(sandbox.brokers()) <= 1, timeout=5)
