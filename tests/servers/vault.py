"""What a process needs to know to use a Vault, and what the broker says about it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from servers.openbao import AppRole, OpenBao
from servers.process import wait_until
from servers.sandbox import Sandbox

TRACKING = "https://mlflow.example.com"
"""Nobody is there: the tests that use it look at headers, not at answers."""


def variables(
    address: str,
    path: str = "secret/mlflow/auth",
    *,
    role: AppRole | None = None,
    token: str = "",
    ca_file: Path | None = None,
    **more: str,
) -> dict[str, str]:
    """Variables for the ``vault`` provider."""
    login = {"VAULT_ROLE_ID": role.role_id, "VAULT_SECRET_ID": role.secret_id} if role else {}
    if token:
        login["VAULT_TOKEN"] = token
    if ca_file:
        login["VAULT_CACERT"] = str(ca_file)
    return {
        "MLFLOW_TRACKING_URI": TRACKING,
        "MLFLOW_TRACKING_AUTH": "mlflow_secrets_auth",
        "MLFLOW_SECRETS_AUTH_ENABLE": "vault",
        "VAULT_ADDR": address,
        "MLFLOW_VAULT_SECRET_PATH": path,
        **login,
        **more,
    }


def reader(openbao: OpenBao, path: str = "mlflow/auth", mount: str = "secret", **more: Any) -> AppRole:
    """An AppRole that may read one secret, and nothing else."""
    name = f"reader-{mount}-{path}".replace("/", "-")
    openbao.allow_reading(name, path, mount)
    return openbao.create_app_role(name, [name], **more)


def header(sandbox: Sandbox, settings: dict[str, str]) -> str:
    """The header that a process with these variables gets; fails when it gets none."""
    return ask(sandbox, settings, check=True).stdout.strip()


def ask(sandbox: Sandbox, settings: dict[str, str], *, check: bool = False) -> subprocess.CompletedProcess[str]:
    """The command ``header`` in these variables."""
    return sandbox.command("header", f"{TRACKING}/x", check=check, **settings)


def ask_often(sandbox: Sandbox, settings: dict[str, str], count: int = 15, pause: float = 0) -> list[str]:
    """What a process gets that asks again and again: a header, or the name of an error.

    The commands are for people, and look anew each time; processes hear of a failure that
    the broker remembers.
    """
    done = sandbox.run_python(_OFTEN, TRACKING, str(count), str(pause), check=True, **settings)
    return done.stdout.splitlines()


_OFTEN = """
import sys, time, requests
from mlflow_secrets_auth import SecretsAuthProviderFactory
auth = SecretsAuthProviderFactory().get_auth()
for _ in range(int(sys.argv[2])):
    try:
        print(auth(requests.Request("GET", sys.argv[1] + "/x").prepare()).headers["Authorization"])
    except Exception as error:
        print(type(error).__name__)
    time.sleep(float(sys.argv[3]))
"""


def problem(sandbox: Sandbox, settings: dict[str, str]) -> tuple[str, str]:
    """The class and the words of the error that a process gets."""
    done = ask(sandbox, settings)
    assert done.returncode == 1, (done.returncode, done.stdout)
    assert not done.stdout.strip()
    words = done.stderr.strip().splitlines()[-1]
    kinds = [s["last_error"]["kind"] for s in status(sandbox)["sources"] if s["last_error"]]
    assert len(set(kinds)) <= 1, kinds
    return kinds[0] if kinds else "not configured", words


def alone(sandbox: Sandbox) -> Sandbox:
    """The same sandbox after its broker has ended: what status says is the next one's."""
    sandbox.command("stop", check=True)
    wait_until(lambda: not sandbox.brokers())
    return sandbox


def status(sandbox: Sandbox) -> Any:
    """What the broker says about itself."""
    return json.loads(sandbox.command("status", "--json").stdout)
