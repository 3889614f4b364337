"""The provider ``vault`` against a real OpenBao: logins, engines, TLS, who gets what."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from servers.certificates import Authority
from servers.openbao import OpenBao
from servers.process import wait_until
from servers.sandbox import Sandbox
from servers.vault import ask, header, problem, reader, status, variables

SECRET = {"token": "sesame"}
BEARER = "Authorization: Bearer sesame"


# Logins


def test_app_role_logs_in_once_reads_once_and_gives_its_token_back(
    openbao: OpenBao, sandbox: Sandbox
) -> None:
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
    assert "VAULT_ROLE_ID" in words and ".vault-token does not exist" in words
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
        assert 3 <= logins <= 8 and renewals >= 4, (logins, renewals)
    else:
        assert 7 <= logins <= 14 and renewals == 0, (logins, renewals)


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
    assert role.role_id in words and "VAULT_SECRET_ID" in words and role.secret_id not in words
    for _ in range(10):
        assert ask(sandbox, settings).returncode == 1
    assert openbao.audit.logins(good=False) <= 3


# Engines and paths


@pytest.mark.parametrize(
    ("mount", "version", "path"),
    [
        ("secret", 2, "secret/mlflow/auth"),
        ("secret", 2, "/secret/data/mlflow/auth"),
        ("plain", 1, "plain/mlflow/auth"),
        ("plain", 1, "plain/data/mlflow/auth"),
        ("team/deep/kv", 1, "team/deep/kv/mlflow/auth"),
        ("team/deep/kv", 2, "team/deep/kv/mlflow/auth"),
        ("team/deep/kv", 2, "team/deep/kv/data/mlflow/auth"),
    ],
)
@pytest.mark.parametrize("asking", ["asked", "denied"])
def test_every_engine_and_spelling(
    openbao: OpenBao, sandbox: Sandbox, mount: str, version: int, path: str, asking: str
) -> None:
    if mount != "secret":
        openbao.enable_kv(mount, version)
    openbao.write_secret("mlflow/auth", SECRET, mount)
    role = reader(openbao, mount=mount)
    if asking == "denied":
        # Nobody may ask what is mounted there.
        openbao.write_policy("mute", 'path "sys/internal/ui/mounts/*" { capabilities = ["deny"] }')
        role = openbao.create_app_role("mute", [f"reader-{mount}-mlflow-auth".replace("/", "-"), "mute"])
    openbao.audit.forget()
    settings = variables(openbao.address, path, role=role, MLFLOW_VAULT_TTL_SEC="1")
    assert header(sandbox, settings) == BEARER
    first = openbao.audit.reads("mlflow/auth", mount)
    assert first == 1 or version == 1, "version 2's spelling of version 1 is looked for, too"
    time.sleep(1.2)
    assert header(sandbox, settings) == BEARER
    assert openbao.audit.reads("mlflow/auth", mount) == first + 1
    assert openbao.audit.logins() == 1
    asked = [one for one in openbao.audit.paths() if "internal/ui/mounts" in one]
    assert len(asked) == 1, "the place is remembered"


def test_fields_numbers_and_pairs(openbao: OpenBao, sandbox: Sandbox) -> None:
    openbao.write_secret("a", {"api": "k-1", "nested": {"username": "u", "password": "p"}, "pin": 42})
    role = reader(openbao, "a")

    def of(path: str, **more: str) -> str:
        return header(sandbox, variables(openbao.address, path, role=role, **more))

    assert of("secret/a#api", MLFLOW_AUTH_HEADER_NAME="X-Api-Key") == "X-Api-Key: k-1"
    assert of("secret/a#pin") == "Authorization: Bearer 42"
    assert of("secret/a#nested", MLFLOW_VAULT_AUTH_MODE="basic") == "Authorization: Basic dTpw"
    assert openbao.audit.logins() == 1
    kind, words = problem(alone(sandbox), variables(openbao.address, "secret/a#nothing", role=role))
    assert kind == "bad secret" and "has no field nothing" in words


def alone(sandbox: Sandbox) -> Sandbox:
    """The same sandbox after its broker has ended: what status says is the next one's."""
    sandbox.command("stop", check=True)
    wait_until(lambda: not sandbox.brokers())
    return sandbox


def test_secrets_that_are_not_there(openbao: OpenBao, sandbox: Sandbox) -> None:
    openbao.write_secret("gone", SECRET)
    openbao.write_policy("all", 'path "secret/*" { capabilities = ["read"] }')
    role = openbao.create_app_role("all", ["all"])
    openbao.delete_secret("gone")
    kind, words = problem(sandbox, variables(openbao.address, "secret/gone", role=role))
    assert kind == "not found" and "version 1 of the secret secret/gone" in words and "was deleted at" in words
    openbao.call("PUT", "secret/destroy/gone", {"versions": [1]})
    kind, words = problem(alone(sandbox), variables(openbao.address, "secret/gone", role=role))
    assert kind == "not found" and "was destroyed" in words
    kind, words = problem(alone(sandbox), variables(openbao.address, "secret/never", role=role))
    assert kind == "not found" and "there is no secret secret/never" in words


def test_another_engine_s_leased_answer_ends_with_its_lease(openbao: OpenBao, sandbox: Sandbox) -> None:
    """OpenBao itself issues JSON web tokens, whose expiry counts."""
    openbao.call("POST", "identity/oidc/key/k", {"allowed_client_ids": ["*"], "verification_ttl": "1h"})
    openbao.call("POST", "identity/oidc/role/mlflow", {"key": "k", "ttl": "10m"})
    openbao.write_policy("oidc", 'path "identity/oidc/token/mlflow" { capabilities = ["read"] }')
    role = openbao.create_app_role("oidc", ["oidc"])
    settings = variables(openbao.address, "identity/oidc/token/mlflow", role=role)
    assert header(sandbox, settings).startswith("Authorization: Bearer eyJ")
    (source,) = status(sandbox)["sources"]
    assert 500_000 < source["expires_in_ms"] <= 600_000


def test_namespaces(openbao: OpenBao, sandbox: Sandbox) -> None:
    for name in ("red", "blue"):
        openbao.create_namespace(name)
        openbao.enable_kv("kv", namespace=name)
        openbao.write_secret("a", {"token": name}, "kv", namespace=name)
        openbao.allow_reading("reader", "a", "kv", namespace=name)
        role = openbao.create_app_role("trainer", ["reader"], namespace=name)
        settings = variables(openbao.address, "kv/a", role=role, VAULT_NAMESPACE=f"{name}/")
        assert header(sandbox, settings) == f"Authorization: Bearer {name}"
    identities = [login["identity"] for login in status(sandbox)["logins"]]
    assert len(identities) == 2 and all("namespace" in identity for identity in identities)
    sandbox = alone(sandbox)
    kind, words = problem(sandbox, variables(openbao.address, "kv/a", role=role, VAULT_NAMESPACE="green"))
    assert "VAULT_NAMESPACE" in words, (kind, words)


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


def test_a_token_without_rights_never_gets_what_a_neighbour_s_has_read(
    openbao: OpenBao, sandbox: Sandbox
) -> None:
    openbao.write_secret("mlflow/auth", SECRET)
    role, poor = reader(openbao), openbao.create_app_role("poor", ["default"])
    assert header(sandbox, variables(openbao.address, role=role)) == BEARER
    openbao.audit.forget()
    settings = variables(openbao.address, role=poor)
    kind, words = problem(sandbox, settings)
    assert kind == "not permitted"
    assert 'path "secret/data/mlflow/auth" { capabilities = ["read"] }' in words
    for _ in range(20):
        assert ask(sandbox, settings).returncode == 1
    # One new login for the denied token, not one for each question.
    assert openbao.audit.logins() == 2
    assert openbao.audit.reads("mlflow/auth", good=False) <= 8
    assert header(sandbox, variables(openbao.address, role=role)) == BEARER


# TLS


def test_an_authority_by_file_and_by_folder(
    openbao_tls: OpenBao, authority: Authority, sandbox: Sandbox
) -> None:
    openbao_tls.write_secret("mlflow/auth", SECRET)
    role = reader(openbao_tls)
    at = openbao_tls.address
    assert header(sandbox, variables(at, role=role, VAULT_CACERT=str(authority.file))) == BEARER
    assert header(sandbox, variables(at, role=role, VAULT_CAPATH=str(authority.folder))) == BEARER
    kind, words = problem(alone(sandbox), variables(at, role=role))
    assert kind == "TLS" and "UnknownIssuer" in words and "VAULT_CACERT" in words


def test_skip_verify_is_loud(openbao_tls: OpenBao, sandbox: Sandbox) -> None:
    openbao_tls.write_secret("mlflow/auth", SECRET)
    settings = variables(openbao_tls.address, role=reader(openbao_tls), VAULT_SKIP_VERIFY="true")
    assert header(sandbox, settings) == BEARER
    assert any("VAULT_SKIP_VERIFY" in warning for warning in status(sandbox)["warnings"])
    assert "VAULT_SKIP_VERIFY" in sandbox.command("doctor", **settings).stdout


def test_a_certificate_for_another_name(
    new_openbao: Callable[..., OpenBao], authority: Authority, sandbox: Sandbox
) -> None:
    server = new_openbao(certificate=authority.server("vault.test", "127.0.0.1"), ca_file=authority.file)
    server.enable_kv()
    server.write_secret("mlflow/auth", SECRET)
    role = reader(server)
    at = server.address.replace("127.0.0.1", "localhost")
    kind, words = problem(sandbox, variables(at, role=role, ca_file=authority.file))
    assert kind == "TLS" and "VAULT_TLS_SERVER_NAME" in words
    named = variables(at, role=role, ca_file=authority.file, VAULT_TLS_SERVER_NAME="vault.test")
    assert header(sandbox, named) == BEARER


def test_a_client_s_certificate(
    new_openbao: Callable[..., OpenBao], authority: Authority, sandbox: Sandbox
) -> None:
    client = authority.client("trainer")
    server = new_openbao(
        certificate=authority.server(), ca_file=authority.file, client_ca=authority.file, client=client
    )
    server.enable_kv()
    server.write_secret("mlflow/auth", SECRET)
    role = reader(server)
    kind, words = problem(sandbox, variables(server.address, role=role, ca_file=authority.file))
    assert kind == "TLS" and "VAULT_CLIENT_CERT" in words
    shown = {"VAULT_CLIENT_CERT": str(client.chain), "VAULT_CLIENT_KEY": str(client.key)}
    assert header(sandbox, variables(server.address, role=role, ca_file=authority.file, **shown)) == BEARER
