"""The provider ``vault`` against a real OpenBao: logins and their tokens, who gets what."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from servers.openbao import OpenBao
from servers.process import wait_until
from servers.sandbox import Sandbox
from servers.vault import ask, ask_often, header, problem, reader, status, variables

SECRET = {"token": "sesame"}
BEARER = "Authorization: Bearer sesame"


# Logins


def test_app_role_logs_in_once_reads_once_and_gives_its_token_back(openbao: OpenBao, sandbox: Sandbox) -> None:
    openbao.write_secret("mlflow/auth", SECRET)
    settings = variables(openbao.address, role=reader(openbao))
    openbao.audit.forget()

    assert [header(sandbox, settings) for _ in range(5)] == [BEARER] * 5

    assert (openbao.audit.logins(), openbao.audit.reads("mlflow/auth")) == (1, 1)
    assert openbao.tokens() == 1
    assert sandbox.command("stop").returncode == 0
    wait_until(lambda: not sandbox.brokers())
    assert openbao.audit.revocations() == 1
    assert openbao.tokens() == 0
    assert not [path for path in openbao.audit.paths() if "sys/mounts" in path]


def test_many_processes_and_sources_share_one_login(openbao: OpenBao, sandbox: Sandbox) -> None:
    paths = [f"team/{number}" for number in range(4)]
    for path in paths:
        openbao.write_secret(path, {"token": path})
    openbao.write_policy("all", 'path "secret/data/team/*" { capabilities = ["read"] }')
    role = openbao.create_app_role("all", ["all"])
    openbao.audit.forget()

    def one(number: int) -> str:
        return header(sandbox, variables(openbao.address, f"secret/{paths[number % 4]}", role=role))

    with ThreadPoolExecutor(20) as pool:
        got = list(pool.map(one, range(40)))

    assert got == [f"Authorization: Bearer {paths[number % 4]}" for number in range(40)]
    assert openbao.audit.logins() == 1
    assert [openbao.audit.reads(path) for path in paths] == [1] * 4
    assert [login["logins"] for login in status(sandbox)["logins"]] == [1]


def test_a_token_wins_over_app_role_and_is_not_revoked(openbao: OpenBao, sandbox: Sandbox) -> None:
    openbao.write_secret("mlflow/auth", SECRET)
    role = reader(openbao)
    token = openbao.create_token(["reader-secret-mlflow-auth", "default"])
    openbao.audit.forget()
    assert header(sandbox, variables(openbao.address, role=role, token=token)) == BEARER
    assert openbao.audit.logins() == 0
    sandbox.command("stop", check=True)
    wait_until(lambda: not sandbox.brokers())
    assert openbao.valid(token)
    assert openbao.audit.revocations(good=None) == 0


def test_a_token_that_may_not_look_at_itself_does(openbao: OpenBao, sandbox: Sandbox) -> None:
    openbao.write_secret("mlflow/auth", SECRET)
    openbao.allow_reading("bare", "mlflow/auth")
    body = {"policies": ["bare"], "no_default_policy": True, "ttl": "1h"}
    token = openbao.call("POST", "auth/token/create", body)["auth"]["client_token"]
    assert header(sandbox, variables(openbao.address, token=token)) == BEARER


def test_the_token_of_vault_login(openbao: OpenBao, sandbox: Sandbox) -> None:
    openbao.write_secret("mlflow/auth", SECRET)
    openbao.allow_reading("reader", "mlflow/auth")
    settings = variables(openbao.address, MLFLOW_VAULT_TTL_SEC="1")
    kind, words = problem(sandbox, settings)
    assert kind == "not configured"
    assert "VAULT_ROLE_ID" in words
    assert ".vault-token does not exist" in words
    first, second = (openbao.create_token(["reader", "default"]) for _ in range(2))
    file = sandbox.write_secret(f"{first}\n", ".vault-token")
    wait_until(lambda: ask(sandbox, settings).returncode == 0)
    # Logged in anew: the file counts, not what was in it once.
    openbao.revoke(first)
    file.write_text(second)
    time.sleep(1.2)
    assert header(sandbox, settings) == BEARER


def test_secret_id_and_token_from_files_for_configured_routes(openbao: OpenBao, sandbox: Sandbox) -> None:
    openbao.write_secret("mlflow/auth", SECRET)
    role = reader(openbao)
    file = sandbox.write_secret(role.secret_id)
    sandbox.write_config(
        f"""
[[route]]
hosts = ["mlflow.example.com"]
provider = "vault"
address = "{openbao.address}"
role_id = "{role.role_id}"
secret_id_file = "{file}"
path = "secret/mlflow/auth"
"""
    )
    assert header(sandbox, {}) == BEARER


@pytest.mark.parametrize("renewable", [True, False], ids=["renewable", "not renewable"])
def test_tokens_of_a_few_seconds_over_many_lives(openbao: OpenBao, sandbox: Sandbox, renewable: bool) -> None:
    openbao.write_secret("mlflow/auth", SECRET)
    role = reader(openbao, ttl="2s", max_ttl="5s", renewable=renewable)
    settings = variables(openbao.address, role=role, MLFLOW_VAULT_TTL_SEC="1")
    openbao.audit.forget()
    end = time.monotonic() + 14
    calls = 0
    while time.monotonic() < end:
        assert header(sandbox, settings) == BEARER
        calls += 1
        time.sleep(0.1)
    assert calls > 50
    logins, renewals = openbao.audit.logins(), openbao.audit.renewals()
    # Lives end on whole seconds there: a token of two seconds may live for one.
    assert openbao.audit.reads("mlflow/auth", good=False) <= (0 if renewable else 3)
    if renewable:
        assert 3 <= logins <= 8
        assert renewals >= 4
    else:
        assert 7 <= logins <= 14
        assert renewals == 0


def test_a_given_token_is_renewed(openbao: OpenBao, sandbox: Sandbox) -> None:
    openbao.write_secret("mlflow/auth", SECRET)
    openbao.allow_reading("reader", "mlflow/auth")
    token = openbao.create_token(["reader", "default"], ttl="3s")
    settings = variables(openbao.address, token=token, MLFLOW_VAULT_TTL_SEC="1")
    openbao.audit.forget()
    end = time.monotonic() + 8
    while time.monotonic() < end:
        assert header(sandbox, settings) == BEARER
        time.sleep(0.2)
    assert openbao.audit.renewals() >= 3
    assert status(sandbox)["logins"][0]["renewals"] >= 3


def test_a_given_token_that_ends_is_announced_and_then_explained(openbao: OpenBao, sandbox: Sandbox) -> None:
    openbao.write_secret("mlflow/auth", SECRET)
    openbao.allow_reading("reader", "mlflow/auth")
    token = openbao.create_token(["reader", "default"], ttl="3s", renewable=False)
    settings = variables(openbao.address, token=token, MLFLOW_VAULT_TTL_SEC="1")
    assert header(sandbox, settings) == BEARER
    assert any("cannot be renewed" in warning for warning in status(sandbox)["warnings"])
    wait_until(lambda: not openbao.valid(token))
    time.sleep(1)
    kind, words = problem(sandbox, settings)
    assert kind == "not authenticated"
    assert "the token in VAULT_TOKEN" in words
    assert token not in words


def test_a_stalled_vault_keeps_nobody_from_stopping(openbao: OpenBao, sandbox: Sandbox) -> None:
    openbao.write_secret("mlflow/auth", SECRET)
    assert header(sandbox, variables(openbao.address, role=reader(openbao))) == BEARER
    openbao.stall()
    try:
        begun = time.monotonic()
        sandbox.command("stop", check=True)
        wait_until(lambda: not sandbox.brokers())
        assert time.monotonic() - begun < 5
    finally:
        openbao.resume()


def test_a_token_that_is_revoked_outside_is_replaced(openbao: OpenBao, sandbox: Sandbox) -> None:
    openbao.write_secret("mlflow/auth", SECRET)
    settings = variables(openbao.address, role=reader(openbao), MLFLOW_VAULT_TTL_SEC="1")
    assert header(sandbox, settings) == BEARER
    openbao.audit.forget()
    openbao.revoke_logins()
    time.sleep(1.2)
    assert header(sandbox, settings) == BEARER
    assert openbao.audit.logins() == 1


def test_a_secret_id_that_is_used_up(openbao: OpenBao, sandbox: Sandbox) -> None:
    openbao.write_secret("mlflow/auth", SECRET)
    role = reader(openbao, secret_id_num_uses=1)
    settings = variables(openbao.address, role=role, MLFLOW_VAULT_TTL_SEC="1")
    assert header(sandbox, settings) == BEARER
    openbao.revoke_logins()
    openbao.audit.forget()
    time.sleep(1.2)
    kind, words = problem(sandbox, settings)
    assert kind == "not authenticated"
    assert role.role_id in words
    assert "VAULT_SECRET_ID" in words
    assert role.secret_id not in words
    assert BEARER not in ask_often(sandbox, settings)
    assert openbao.audit.logins(good=False) <= 3


# Who gets what


def test_two_environments_side_by_side_are_never_mixed(openbao: OpenBao, sandbox: Sandbox) -> None:
    roles = {}
    for name in ("red", "blue"):
        openbao.write_secret(name, {"token": f"{name}-token"})
        roles[name] = reader(openbao, name)
    wrong: list[str] = []

    def work(name: str) -> None:
        settings = variables(openbao.address, f"secret/{name}", role=roles[name], MLFLOW_VAULT_TTL_SEC="1")
        for _ in range(15):
            got = header(sandbox, settings)
            if got != f"Authorization: Bearer {name}-token":
                wrong.append(got)

    threads = [threading.Thread(target=work, args=(name,)) for name in ("red", "blue") * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert openbao.audit.logins() == 2


def test_a_token_without_rights_never_gets_what_a_neighbour_s_has_read(openbao: OpenBao, sandbox: Sandbox) -> None:
    openbao.write_secret("mlflow/auth", SECRET)
    role, poor = reader(openbao), openbao.create_app_role("poor", ["default"])
    assert header(sandbox, variables(openbao.address, role=role)) == BEARER
    openbao.audit.forget()
    settings = variables(openbao.address, role=poor)
    kind, words = problem(sandbox, settings)
    assert kind == "not permitted"
    assert 'path "secret/data/mlflow/auth" { capabilities = ["read"] }' in words
    assert len(set(ask_often(sandbox, settings, 20))) == 1
    # One new login for the denied token, not one for each question.
    assert openbao.audit.logins() == 2
    assert openbao.audit.reads("mlflow/auth", good=False) <= 8
    assert header(sandbox, variables(openbao.address, role=role)) == BEARER
