"""The provider ``vault`` when Vault fails: each failure with its class and words, in time,
and without hammering."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from servers.certificates import Authority
from servers.openbao import OpenBao
from servers.process import free_port, wait_until
from servers.recorder import CLOSE, GARBAGE, RESET, Answer, Recorder, drip, half, redirect
from servers.sandbox import Sandbox
from servers.vault import alone, ask, ask_often, header, problem, reader, status, variables

BEARER = "Authorization: Bearer sesame"
TOKEN = "s.stand-in-token"
LOGIN = "/v1/auth/approle/login"
MOUNT = "/v1/sys/internal/ui/mounts/secret/mlflow/auth"
READ = "/v1/secret/data/mlflow/auth"
SECRET = {"data": {"data": {"token": "sesame"}, "metadata": {"version": 1}}}

DENIED = {"errors": ["1 error occurred:\n\t* permission denied\n\n"]}
FAULTS = {
    "403": (Answer(403, DENIED), "not permitted", "capabilities"),
    "404": (Answer(404, {"errors": []}), "not found", "there is no secret"),
    "429": (Answer(429, {"errors": ["slowly"]}), "throttled", "429"),
    "500": (Answer(500, {"errors": ["oh"]}), "cannot reach", "500"),
    "502": (Answer(502, "<html>Bad gateway</html>"), "cannot reach", "502"),
    "503": (Answer(503, {"errors": ["Vault is sealed"]}), "sealed", "unseal"),
    "page": (Answer(200, "<html>Welcome</html>"), "cannot reach", "does not look like Vault"),
    "json": (Answer(200, {"hello": "world"}), "cannot reach", "does not look like Vault"),
    "garbage": (GARBAGE, "cannot reach", "cannot be reached"),
    "half": (half(SECRET), "cannot reach", "half-way"),
    "reset": (RESET, "cannot reach", "cannot be reached"),
    "close": (CLOSE, "cannot reach", "cannot be reached"),
    "endless": (Answer(200, b"x" * (1024 * 1024 + 1)), "cannot reach", "does not end"),
    "sign-in": (redirect("https://sso.example.com/?next=1"), "cannot reach", "login page"),
}
each_fault = pytest.mark.parametrize("fault", FAULTS)


def stand_in(recorder: Recorder) -> dict[str, str]:
    """A Vault that works; returns the variables of a process that uses it."""
    auth = {"client_token": TOKEN, "lease_duration": 3600, "renewable": True}
    recorder.on(LOGIN, Answer(body={"auth": auth}))
    info = {"path": "secret/", "type": "kv", "options": {"version": "2"}}
    recorder.on(MOUNT, Answer(body={"data": info}))
    recorder.on(READ, Answer(body=SECRET))
    secret = {"VAULT_ROLE_ID": "role-7", "VAULT_SECRET_ID": "stand-in-secret-id"}
    return variables(recorder.url, **secret)


def test_the_stand_in_works(recorder: Recorder, sandbox: Sandbox) -> None:
    settings = stand_in(recorder)
    assert [header(sandbox, settings) for _ in range(3)] == [BEARER] * 3
    assert [request.path for request in recorder.requests] == [LOGIN, MOUNT, READ]
    assert recorder.values("X-Vault-Token") == [None, TOKEN, TOKEN]


@each_fault
def test_a_reading_that_fails(recorder: Recorder, sandbox: Sandbox, fault: str) -> None:
    answer, kind, text = FAULTS[fault]
    settings = stand_in(recorder)
    recorder.on(READ, answer)
    begun = time.monotonic()
    got, words = problem(sandbox, settings)
    assert time.monotonic() - begun < 15
    assert got == kind, words
    assert text in words
    assert TOKEN not in words
    assert "stand-in-secret-id" not in words
    assert "sesame" not in words
    first = len(recorder.requests)
    # Login, mount and reading, with at most three retries; or all of it again with a new login.
    assert first <= 6, [request.path for request in recorder.requests]
    assert "sesame" not in str(ask_often(sandbox, settings))
    assert len(recorder.requests) <= first + 6
    recorder.on(READ, Answer(body=SECRET))
    wait_until(lambda: ask(sandbox, settings).returncode == 0, timeout=30)


@each_fault
def test_a_login_that_fails(recorder: Recorder, sandbox: Sandbox, fault: str) -> None:
    answer, kind, text = FAULTS[fault]
    settings = stand_in(recorder)
    recorder.on(LOGIN, answer)
    got, words = problem(sandbox, settings)
    if fault in ("403", "404"):
        kind, text = "not authenticated", "role-7"
    assert got == kind, words
    assert text in words
    assert "stand-in-secret-id" not in words
    assert "stand-in-secret-id" not in str(status(sandbox))
    assert "sesame" not in str(ask_often(sandbox, settings))
    assert len(recorder.requests) <= 8
    assert {request.path for request in recorder.requests} == {LOGIN}
    stand_in(recorder)
    wait_until(lambda: ask(sandbox, settings).returncode == 0, timeout=30)


def test_a_wish_to_be_left_alone_is_heard(recorder: Recorder, sandbox: Sandbox) -> None:
    settings = stand_in(recorder)
    recorder.on(LOGIN, Answer(429, {"errors": []}, headers={"Retry-After": "4"}))
    assert "sesame" not in str(ask_often(sandbox, settings, 80, 0.1))
    assert [s["last_error"]["kind"] for s in status(sandbox)["sources"]] == ["throttled"]
    moments = [request.at for request in recorder.to(LOGIN)]
    assert len(moments) >= 2
    assert all(later - earlier > 3.9 for earlier, later in zip(moments, moments[1:]))


@pytest.mark.parametrize("where", [LOGIN, MOUNT, READ])
def test_a_stall_ends_within_the_caller_s_time(recorder: Recorder, sandbox: Sandbox, where: str) -> None:
    settings = stand_in(recorder)
    go = threading.Event()
    recorder.on(where, Answer(wait=go))
    begun = time.monotonic()
    done = ask(sandbox, {**settings, "MLFLOW_SECRETS_AUTH_TIMEOUT": "3"})
    assert done.returncode == 1
    assert 2 < time.monotonic() - begun < 5
    kind, words = problem(sandbox, settings)
    assert kind == "cannot reach", words
    assert "in time" in words
    assert time.monotonic() - begun < 30
    begun = time.monotonic()
    assert sandbox.command("status").returncode is not None
    assert time.monotonic() - begun < 1
    go.set()


def test_slow_drips_end_too(recorder: Recorder, sandbox: Sandbox) -> None:
    settings = stand_in(recorder)
    recorder.on(READ, drip(SECRET, pause=1))
    begun = time.monotonic()
    kind, words = problem(sandbox, settings)
    assert kind == "cannot reach", words
    assert "in time" in words
    assert time.monotonic() - begun < 16


def test_nobody_there(sandbox: Sandbox) -> None:
    settings = variables(f"http://127.0.0.1:{free_port()}", token="s.x")
    begun = time.monotonic()
    kind, words = problem(sandbox, settings)
    assert kind == "cannot reach"
    assert "refused" in words
    assert "VAULT_ADDR" in words
    assert time.monotonic() - begun < 5


def test_wrong_certificates(new_recorder: Callable[..., Recorder], authority: Authority, sandbox: Sandbox) -> None:
    expired = new_recorder(certificate=authority.server(expired=True))
    settings = {**stand_in(expired), "VAULT_CACERT": str(authority.file)}
    kind, words = problem(sandbox, settings)
    assert kind == "TLS", words
    assert "expired" in words
    assert "clock" in words
    assert "sesame" not in str(ask_often(sandbox, settings))
    assert len(expired.failed_handshakes) <= 4
    assert not expired.requests


def test_plain_http_where_https_is_spoken_and_the_reverse(
    openbao_tls: OpenBao, recorder: Recorder, sandbox: Sandbox
) -> None:
    kind, words = problem(sandbox, variables(openbao_tls.address.replace("https", "http"), token="s.x"))
    assert kind == "TLS"
    assert "https://" in words
    kind, words = problem(alone(sandbox), variables(recorder.url.replace("http", "https"), token="s.x"))
    assert kind == "TLS"
    assert "may speak http" in words


# Redirects


def test_a_redirect_to_another_host_does_not_get_the_token(
    recorder: Recorder, new_recorder: Callable[..., Recorder], sandbox: Sandbox
) -> None:
    settings, other = stand_in(recorder), new_recorder()
    recorder.on("/v1/sys/leader", Answer(body={"ha_enabled": True, "leader_address": "http://127.0.0.9:1"}))
    recorder.on(READ, redirect(f"{other.url}{READ}", 307))
    kind, words = problem(sandbox, settings)
    assert kind == "cannot reach", words
    assert "no token was sent there" in words
    recorder.on(LOGIN, redirect(f"{other.url}{LOGIN}", 307))
    ask(sandbox, {**settings, "VAULT_ROLE_ID": "another"})
    assert not other.requests


def test_a_standby_s_leader_is_followed(
    recorder: Recorder, new_recorder: Callable[..., Recorder], sandbox: Sandbox
) -> None:
    leader = new_recorder()
    stand_in(leader)
    settings = stand_in(recorder)
    recorder.on("/v1/sys/leader", Answer(body={"ha_enabled": True, "leader_address": leader.url}))
    for path in (LOGIN, MOUNT, READ):
        recorder.on(path, redirect(f"{leader.url}{path}", 307))
    assert header(sandbox, settings) == BEARER
    assert [request.path for request in leader.requests] == [LOGIN, MOUNT, READ]
    assert len(recorder.to("/v1/sys/leader")) == 1
    assert leader.to(LOGIN)[0].json()["role_id"] == "role-7"


# Outages of the real one


def test_an_outage_and_a_seal_are_survived(new_openbao: Callable[..., OpenBao], sandbox: Sandbox) -> None:
    openbao = new_openbao(storage="file")
    openbao.enable_kv()
    openbao.write_secret("mlflow/auth", {"token": "sesame"})
    settings = variables(openbao.address, role=reader(openbao), MLFLOW_VAULT_TTL_SEC="1")
    assert header(sandbox, settings) == BEARER

    def serves_stale(kind: str) -> None:
        end = time.monotonic() + 4
        while time.monotonic() < end:
            begun = time.monotonic()
            assert header(sandbox, settings) == BEARER
            assert time.monotonic() - begun < 3
        (source,) = status(sandbox)["sources"]
        assert source["state"] == "stale"
        assert source["last_error"]["kind"] == kind

    openbao.seal()
    serves_stale("sealed")
    openbao.unseal()
    wait_until(lambda: ask_state(sandbox, settings) == "fresh", timeout=30)
    openbao.stall()
    serves_stale_or_waits = [header(sandbox, settings) for _ in range(3)]
    assert serves_stale_or_waits == [BEARER] * 3
    openbao.resume()
    wait_until(lambda: ask_state(sandbox, settings) == "fresh", timeout=40)
    openbao.stop()
    serves_stale("cannot reach")
    openbao.start()
    wait_until(lambda: ask_state(sandbox, settings) == "fresh", timeout=40)


def ask_state(sandbox: Sandbox, settings: dict[str, str]) -> str:
    assert header(sandbox, settings) == BEARER
    (source,) = status(sandbox)["sources"]
    return str(source["state"])


def test_doctor_stops_at_the_first_break(openbao: OpenBao, sandbox: Sandbox) -> None:
    openbao.write_secret("mlflow/auth", {"token": "sesame"})
    role = reader(openbao)

    def doctor(**more: str) -> tuple[int, list[str]]:
        settings = {**variables(openbao.address, role=role), **more}
        done = sandbox.command("doctor", **settings)
        return done.returncode, [line for line in done.stdout.splitlines() if not line.startswith(" ")]

    code, lines = doctor()
    assert code == 0
    assert any("header: Authorization" in line for line in lines)
    for more, step in [
        ({"VAULT_ADDR": f"http://127.0.0.1:{free_port()}"}, "address and connection"),
        ({"VAULT_ADDR": openbao.address.replace("http", "https")}, "TLS"),
        ({"VAULT_SECRET_ID": "wrong"}, "login"),
        ({"MLFLOW_VAULT_SECRET_PATH": "secret/other"}, "permission"),
        ({"MLFLOW_VAULT_SECRET_PATH": "secret/mlflow/auth#x"}, "secret"),
        ({"VAULT_ADDR": "vault.example.com"}, "settings"),
    ]:
        code, lines = doctor(**more)
        failed = [line for line in lines if line.startswith("FAIL")]
        assert code == 1
        assert [line.startswith(f"FAIL  {step}:") for line in failed] == [True], (more, lines)
