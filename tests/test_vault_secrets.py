"""The provider ``vault`` against a real OpenBao: engines, paths, namespaces, TLS."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from servers.certificates import Authority
from servers.openbao import OpenBao
from servers.sandbox import Sandbox
from servers.vault import alone, header, problem, reader, status, variables

SECRET = {"token": "sesame"}
BEARER = "Authorization: Bearer sesame"


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
    assert kind == "bad secret"
    assert "has no field nothing" in words


def test_secrets_that_are_not_there(openbao: OpenBao, sandbox: Sandbox) -> None:
    openbao.write_secret("gone", SECRET)
    openbao.write_policy("all", 'path "secret/*" { capabilities = ["read"] }')
    role = openbao.create_app_role("all", ["all"])
    openbao.delete_secret("gone")
    kind, words = problem(sandbox, variables(openbao.address, "secret/gone", role=role))
    assert kind == "not found"
    assert "version 1 of the secret secret/gone" in words
    assert "was deleted at" in words
    openbao.call("PUT", "secret/destroy/gone", {"versions": [1]})
    kind, words = problem(alone(sandbox), variables(openbao.address, "secret/gone", role=role))
    assert kind == "not found"
    assert "was destroyed" in words
    kind, words = problem(alone(sandbox), variables(openbao.address, "secret/never", role=role))
    assert kind == "not found"
    assert "there is no secret secret/never" in words


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
    assert len(identities) == 2
    assert all("namespace" in identity for identity in identities)
    sandbox = alone(sandbox)
    kind, words = problem(sandbox, variables(openbao.address, "kv/a", role=role, VAULT_NAMESPACE="green"))
    assert "VAULT_NAMESPACE" in words, (kind, words)


# TLS


def test_an_authority_by_file_and_by_folder(openbao_tls: OpenBao, authority: Authority, sandbox: Sandbox) -> None:
    openbao_tls.write_secret("mlflow/auth", SECRET)
    role = reader(openbao_tls)
    at = openbao_tls.address
    assert header(sandbox, variables(at, role=role, VAULT_CACERT=str(authority.file))) == BEARER
    assert header(sandbox, variables(at, role=role, VAULT_CAPATH=str(authority.folder))) == BEARER
    kind, words = problem(alone(sandbox), variables(at, role=role))
    assert kind == "TLS"
    assert "UnknownIssuer" in words
    assert "VAULT_CACERT" in words


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
    assert kind == "TLS"
    assert "VAULT_TLS_SERVER_NAME" in words
    named = variables(at, role=role, ca_file=authority.file, VAULT_TLS_SERVER_NAME="vault.test")
    assert header(sandbox, named) == BEARER


def test_a_client_s_certificate(new_openbao: Callable[..., OpenBao], authority: Authority, sandbox: Sandbox) -> None:
    client = authority.client("trainer")
    server = new_openbao(
        certificate=authority.server(), ca_file=authority.file, client_ca=authority.file, client=client
    )
    server.enable_kv()
    server.write_secret("mlflow/auth", SECRET)
    role = reader(server)
    kind, words = problem(sandbox, variables(server.address, role=role, ca_file=authority.file))
    assert kind == "TLS"
    assert "VAULT_CLIENT_CERT" in words
    shown = {"VAULT_CLIENT_CERT": str(client.chain), "VAULT_CLIENT_KEY": str(client.key)}
    assert header(sandbox, variables(server.address, role=role, ca_file=authority.file, **shown)) == BEARER
