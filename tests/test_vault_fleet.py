"""The case that the broker exists for: many processes, one AppRole, one login, one read."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

from servers.nginx import Demand, Nginx
from servers.openbao import OpenBao
from servers.plugin import ASK
from servers.process import wait_until
from servers.recorder import Answer, Recorder, redirect
from servers.sandbox import Sandbox
from servers.vault import reader, status, variables

PATH = "mlflow/auth"


def at(tracking_uri: str, settings: dict[str, str]) -> dict[str, str]:
    return settings | {"MLFLOW_TRACKING_URI": tracking_uri}


def test_a_hundred_processes_are_one_login_and_one_read(
    sandbox: Sandbox, openbao: OpenBao, recorder: Recorder, nginx: Callable[..., Nginx]
) -> None:
    openbao.write_secret(PATH, {"token": "fleet-token"})
    proxy = nginx(recorder.url, Demand.bearer("fleet-token"))
    settings = at(proxy.url, variables(openbao.address, role=reader(openbao)))
    openbao.audit.forget()
    children = [sandbox.start_python(ASK, proxy.url, **settings) for _ in range(100)]
    results = [child.communicate(timeout=120) for child in children]
    assert [out for out, _ in results] == ["200\n"] * 100, next(err for out, err in results if out != "200\n")
    assert (openbao.audit.logins(), openbao.audit.reads(PATH)) == (1, 1)
    assert proxy.statuses(at_least=100) == [200] * 100


FIFTY = """
import os, sys, threading, requests
from mlflow_secrets_auth import SecretsAuthProviderFactory
auth = SecretsAuthProviderFactory().get_auth()
def ask():
    return requests.get(sys.argv[1], auth=auth, timeout=30).status_code
assert ask() == 200
# Fifty processes that know the old credential, and one moment at which they all go on.
gate_in, gate_out = os.pipe()
children = []
for _ in range(50):
    pid = os.fork()
    if not pid:
        os.close(gate_out)
        ok = ask() == 200
        os.read(gate_in, 1)
        os._exit(0 if ok and ask() == 200 else 1)
    children.append(pid)
os.close(gate_in)
print("ready", flush=True)
sys.stdin.readline()
os.close(gate_out)
print([os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children] == [0] * 50)
"""


def test_a_rotation_that_fifty_processes_meet_at_once_is_one_read(
    sandbox: Sandbox, openbao: OpenBao, recorder: Recorder, nginx: Callable[..., Nginx]
) -> None:
    openbao.write_secret(PATH, {"token": "old-token"})
    proxy = nginx(recorder.url, Demand.bearer("old-token"))
    settings = at(proxy.url, variables(openbao.address, role=reader(openbao)))
    with subprocess.Popen(
        [sys.executable, sandbox.script(FIFTY), proxy.url],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=sandbox.environment | settings,
    ) as process:
        assert process.stdin
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        proxy.statuses(at_least=51)
        openbao.audit.forget()
        openbao.write_secret(PATH, {"token": "new-token"})
        proxy.demand(Demand.bearer("new-token"))
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline() == "True\n"
    assert (openbao.audit.logins(), openbao.audit.reads(PATH)) == (0, 1)


def test_a_permanent_403_is_twenty_requests_and_two_reads(
    sandbox: Sandbox, openbao: OpenBao, recorder: Recorder
) -> None:
    openbao.write_secret(PATH, {"token": "weak-token"})
    settings = at(recorder.url, variables(openbao.address, role=reader(openbao)))
    recorder.default = Answer(status=403)
    openbao.audit.forget()
    code = """
import sys, requests
from mlflow_secrets_auth import SecretsAuthProviderFactory
auth = SecretsAuthProviderFactory().get_auth()
print([requests.get(sys.argv[1], auth=auth).status_code for _ in range(20)] == [403] * 20)
"""
    assert sandbox.run_python(code, recorder.url, check=True, **settings).stdout == "True\n"
    assert len(recorder.requests) == 20
    assert openbao.audit.reads(PATH) == 2


def test_a_custom_header_and_redirects_to_another_host_and_back(
    sandbox: Sandbox, openbao: OpenBao, new_recorder: Callable[..., Recorder], nginx: Callable[..., Nginx]
) -> None:
    """Every hop by its own right: the other host gets nothing, and back home the header is there again."""
    upstream, foreign = new_recorder(), new_recorder(host="localhost")
    openbao.write_secret(PATH, {"token": "key-token"})
    away = {"/away": (302, f"{foreign.url}/there")}
    proxy = nginx(upstream.url, Demand.custom("X-Api-Key", "key-token"), redirects=away)
    foreign.on("/there", redirect(f"{proxy.url}/home"))
    role = reader(openbao)
    settings = at(proxy.url, variables(openbao.address, role=role, MLFLOW_AUTH_HEADER_NAME="X-Api-Key"))
    assert sandbox.run_python(ASK, f"{proxy.url}/away", check=True, **settings).stdout == "200\n"
    assert foreign.requests
    assert not foreign.holds("key-token")
    assert [(r.path, r.headers["X-Api-Key"]) for r in upstream.requests] == [("/home", "key-token")]
    # A chain that begins at a host that may have nothing ends without a credential.
    assert sandbox.run_python(ASK, f"{foreign.url}/there", check=True, **settings).stdout == "401\n"
    # Where the other host is allowed, it gets the header too.
    allowed = settings | {"MLFLOW_SECRETS_ALLOWED_HOSTS": "127.0.0.1,localhost"}
    assert sandbox.run_python(ASK, f"{proxy.url}/away", check=True, **allowed).stdout == "200\n"
    assert foreign.values("X-Api-Key")[-1] == "key-token"


def test_basic_authentication_at_a_proxy(
    sandbox: Sandbox, openbao: OpenBao, recorder: Recorder, nginx: Callable[..., Nginx]
) -> None:
    openbao.write_secret(PATH, {"username": "trainer", "password": "pass-word"})
    proxy = nginx(recorder.url, Demand.basic(("trainer", "pass-word")))
    settings = at(proxy.url, variables(openbao.address, role=reader(openbao), MLFLOW_VAULT_AUTH_MODE="basic"))
    assert sandbox.run_python(ASK, proxy.url, check=True, **settings).stdout == "200\n"


def test_no_request_goes_out_without_a_header_while_the_secret_manager_is_down(
    sandbox: Sandbox, openbao: OpenBao, recorder: Recorder
) -> None:
    settings = at(recorder.url, variables("http://127.0.0.1:9", token="none"))
    done = sandbox.run_python(ASK, recorder.url, **settings, MLFLOW_SECRETS_AUTH_TIMEOUT="3")
    assert done.returncode == 1
    assert "127.0.0.1:9" in done.stderr.splitlines()[-1]
    assert not recorder.requests


def test_the_last_good_credential_goes_on_while_vault_is_sealed(
    sandbox: Sandbox, openbao: OpenBao, recorder: Recorder
) -> None:
    openbao.write_secret(PATH, {"token": "steady-token"})
    settings = at(recorder.url, variables(openbao.address, role=reader(openbao), MLFLOW_VAULT_TTL_SEC="1"))
    sandbox.run_python(ASK, recorder.url, check=True, **settings)
    openbao.seal()

    # Past its TTL, whatever the clock: asked until the broker has noticed.
    def stale() -> bool:
        assert sandbox.run_python(ASK, recorder.url, check=True, **settings).stdout == "200\n"
        return [source["state"] for source in status(sandbox)["sources"]] == ["stale"]

    wait_until(stale, timeout=20)
    (source,) = status(sandbox)["sources"]
    assert source["last_error"]["kind"] == "sealed"
    assert set(recorder.values("Authorization")) == {"Bearer steady-token"}
    openbao.unseal()
