"""OpenBao, the secret manager that speaks Vault's API, and its audit log."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

from servers import tools
from servers.certificates import Certificate
from servers.process import Process, free_port, wait_until

SOURCES = Path(__file__).resolve().parent.parent / "openbao"


def binary() -> Path:
    """The ``bao`` program; built once per version, which takes minutes."""
    go = tools.find("go", "/usr/local/go/bin", install="install Go 1.24.6 or newer (https://go.dev/dl)")
    path = os.pathsep.join([str(Path(go).parent), os.environ.get("PATH", os.defpath)])
    target = Path(os.environ.get("CARGO_TARGET_DIR") or SOURCES.parent.parent / "target") / "openbao"
    target.mkdir(parents=True, exist_ok=True)
    with (target / ".lock").open("w") as lock:  # parallel test workers build once
        fcntl.flock(lock, fcntl.LOCK_EX)
        built = subprocess.run(
            [SOURCES / "build.sh"], stdout=subprocess.PIPE, text=True, env={**os.environ, "PATH": path}
        )
    if built.returncode:
        raise RuntimeError("tests/openbao/build.sh failed; see its output above")
    return Path(built.stdout.strip())


class Refused(Exception):
    """OpenBao answered with an error."""

    def __init__(self, status: int, errors: list[str]) -> None:
        super().__init__(f"{status}: {'; '.join(errors)}")
        self.status = status
        self.errors = errors


@dataclass(frozen=True)
class AppRole:
    """What a program needs to log in."""

    name: str
    role_id: str
    secret_id: str
    mount: str = "approle"


class AuditLog:
    """OpenBao's audit log: one entry for each request and one for its response.

    OpenBao writes an entry before it goes on, so what a client has been
    answered is in the log. All counts start at the last ``forget``.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self._start = 0

    def entries(self, kind: str = "response") -> list[dict[str, Any]]:
        """Entries of one kind, ``request`` or ``response``, oldest first."""
        if not self.file.exists():
            return []
        text = self.file.read_bytes()[self._start :]
        lines = text[: text.rfind(b"\n") + 1].splitlines()
        return [entry for entry in map(json.loads, lines) if entry["type"] == kind]

    def forget(self) -> None:
        """Count from here on."""
        self._start = self.file.stat().st_size if self.file.exists() else 0

    def count(self, path: str, operation: str | None = None, *, good: bool | None = True) -> int:
        """How often ``path`` (no leading slash) was answered: with success, with
        an error (``good=False``), or either way (``good=None``)."""
        return sum(
            entry["request"].get("path") == path
            and operation in (None, entry["request"].get("operation"))
            and good in (None, "error" not in entry)
            for entry in self.entries()
        )

    def logins(self, mount: str = "approle", *, good: bool | None = True) -> int:
        """Logins under ``auth/MOUNT/`` (``login`` or ``login/NAME``)."""
        prefix = f"auth/{mount}/login"
        paths = {entry["request"].get("path", "") for entry in self.entries()}
        return sum(self.count(path, good=good) for path in paths if path == prefix or path.startswith(prefix + "/"))

    def reads(self, secret: str, mount: str = "secret", *, good: bool | None = True) -> int:
        """Reads of one secret, whichever version of KV the mount has."""
        paths = (f"{mount}/data/{secret}", f"{mount}/{secret}")
        return sum(self.count(path, "read", good=good) for path in paths)

    def renewals(self, *, good: bool | None = True) -> int:
        """Renewals of tokens by those who hold them."""
        return self.count("auth/token/renew-self", good=good)

    def revocations(self, *, good: bool | None = True) -> int:
        """Revocations of tokens by those who hold them."""
        return self.count("auth/token/revoke-self", good=good)

    def paths(self) -> list[str]:
        """``operation path`` of every response, for a look at what happened."""
        return [f"{e['request'].get('operation')} {e['request'].get('path')}" for e in self.entries()]


class OpenBao:
    """A server, initialised and unsealed, with its audit log on.

    Storage is in memory, unless ``storage="file"``: then ``stop`` and ``start``
    keep what is stored. With ``certificate`` the listener speaks TLS, and
    ``ca_file`` is what clients (this helper too) verify it with; with
    ``client_ca`` it demands a client's certificate from that authority, or only
    looks at one when ``client_certificates`` is ``"optional"`` (auth by
    certificate wants that); the helper then shows ``client``.
    """

    def __init__(
        self,
        program: Path,
        directory: Path,
        *,
        certificate: Certificate | None = None,
        ca_file: Path | None = None,
        client_ca: Path | None = None,
        client_certificates: str = "required",
        client: Certificate | None = None,
        storage: str = "inmem",
    ) -> None:
        self.directory = directory
        self.ca_file = ca_file
        self.port = free_port()
        self.address = f"{'https' if certificate else 'http'}://127.0.0.1:{self.port}"
        self.audit = AuditLog(directory / "audit.log")
        self.root_token = ""
        self.unseal_key = ""
        self._program = program
        self._certificate = certificate
        self._client_ca = client_ca
        self._client_required = client_certificates == "required"
        self._storage = storage
        self._process: Process | None = None
        self._session = requests.Session()
        self._session.trust_env = False
        self._session.verify = str(ca_file) if ca_file else True
        if client is not None:
            self._session.cert = (str(client.chain), str(client.key))

    def __enter__(self) -> OpenBao:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._session.close()

    # The server

    def start(self) -> None:
        """Start the server; initialise it the first time; unseal it."""
        self.directory.mkdir(parents=True, exist_ok=True)
        config = self.directory / "config.hcl"
        config.write_text(self._config())
        command = [str(self._program), "server", f"-config={config}"]
        self._process = Process(command, log=self.directory / "server.log", cwd=self.directory)
        try:
            self._process.wait_ready(self._answers, timeout=60)
            if not self.root_token:
                made = self.call("PUT", "sys/init", {"secret_shares": 1, "secret_threshold": 1}, token="")
                self.root_token, self.unseal_key = made["root_token"], made["keys_base64"][0]
            self.unseal()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End the server: connections to it are refused."""
        if self._process is not None:
            self._process.kill()
            self._process = None

    def stall(self) -> None:
        """Accept connections from now on, but answer nothing."""
        assert self._process is not None
        self._process.pause()

    def resume(self) -> None:
        """Go on after ``stall``."""
        assert self._process is not None
        self._process.resume()

    def seal(self) -> None:
        """Seal it: everything but its state is answered with 503."""
        self.call("PUT", "sys/seal")

    def unseal(self) -> None:
        """Unseal it and wait until it works."""
        self.call("PUT", "sys/unseal", {"key": self.unseal_key}, token="")
        wait_until(self._active, timeout=30, what="OpenBao to be active")

    def log(self) -> str:
        """What the server has written to its terminal."""
        return (self.directory / "server.log").read_text(errors="replace")

    # Requests

    def call(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        token: str | None = None,
        namespace: str = "",
        wrap_ttl: str = "",
    ) -> Any:
        """One request to ``/v1/PATH``, as root unless ``token`` says otherwise.

        Returns the parsed answer; raises ``Refused`` for errors.
        """
        headers = {"X-Vault-Token": self.root_token if token is None else token}
        if namespace:
            headers["X-Vault-Namespace"] = namespace
        if wrap_ttl:
            headers["X-Vault-Wrap-TTL"] = wrap_ttl
        headers = {name: value for name, value in headers.items() if value}
        url = f"{self.address}/v1/{path}"
        answer = self._session.request(method, url, json=body, headers=headers, timeout=30)
        try:
            parsed = answer.json() if answer.content else {}
        except ValueError:
            parsed = {"errors": [answer.text]}
        if not answer.ok:
            raise Refused(answer.status_code, list(map(str, parsed.get("errors") or [])))
        return parsed

    # Secrets

    def enable_kv(self, mount: str = "secret", version: int = 2, *, namespace: str = "") -> None:
        """Mount a KV engine; ``mount`` may have several segments."""
        body = {"type": "kv", "options": {"version": str(version)}}
        self.call("POST", f"sys/mounts/{mount}", body, namespace=namespace)
        if version == 2:
            # It says 400 for a moment, until it is done with its upgrade.
            wait_until(lambda: self._works("GET", f"{mount}/config", namespace), what=f"KV version 2 at {mount}")

    def kv_version(self, mount: str = "secret", *, namespace: str = "") -> int:
        """Version of the engine at ``mount``."""
        options = self.call("GET", f"sys/mounts/{mount}", namespace=namespace)["data"].get("options") or {}
        return int(options.get("version", 1))

    def write_secret(self, path: str, data: Mapping[str, Any], mount: str = "secret", *, namespace: str = "") -> None:
        """Store a secret, or its next version."""
        if self.kv_version(mount, namespace=namespace) == 2:
            self.call("POST", f"{mount}/data/{path}", {"data": dict(data)}, namespace=namespace)
        else:
            self.call("POST", f"{mount}/{path}", data, namespace=namespace)

    def read_secret(self, path: str, mount: str = "secret", *, token: str | None = None, namespace: str = "") -> Any:
        """What is stored."""
        if self.kv_version(mount, namespace=namespace) == 2:
            return self.call("GET", f"{mount}/data/{path}", token=token, namespace=namespace)["data"]["data"]
        return self.call("GET", f"{mount}/{path}", token=token, namespace=namespace)["data"]

    def delete_secret(self, path: str, mount: str = "secret", *, forever: bool = False) -> None:
        """Delete a secret: in version 2 its newest version, or all of it for ever."""
        kind = ("metadata/" if forever else "data/") if self.kv_version(mount) == 2 else ""
        self.call("DELETE", f"{mount}/{kind}{path}")

    # Who may what

    def write_policy(self, name: str, text: str, *, namespace: str = "") -> None:
        """Store a policy (HCL or JSON)."""
        self.call("PUT", f"sys/policies/acl/{name}", {"policy": text}, namespace=namespace)

    def allow_reading(
        self, name: str, path: str, mount: str = "secret", *, also: Iterable[str] = (), namespace: str = ""
    ) -> str:
        """Store a policy ``name`` that permits to read one secret, and the paths
        in ``also``; returns its name."""
        paths = (f"{mount}/data/{path}", f"{mount}/{path}", *also)
        text = "".join(f'path "{one}" {{ capabilities = ["read"] }}\n' for one in paths)
        self.write_policy(name, text, namespace=namespace)
        return name

    def enable_auth(self, kind: str, mount: str = "", *, namespace: str = "") -> None:
        """Enable an auth method, if it is not there yet."""
        mount = mount or kind
        if f"{mount}/" not in self.call("GET", "sys/auth", namespace=namespace)["data"]:
            self.call("POST", f"sys/auth/{mount}", {"type": kind}, namespace=namespace)

    def create_app_role(
        self,
        name: str,
        policies: Iterable[str],
        *,
        ttl: str = "1h",
        max_ttl: str = "4h",
        renewable: bool = True,
        secret_id_num_uses: int = 0,
        secret_id_ttl: str = "0",
        token_num_uses: int = 0,
        mount: str = "approle",
        namespace: str = "",
    ) -> AppRole:
        """Create a role and a secret id for it. The lives are those of its tokens.

        AppRole knows no other tokens without renewal than batch tokens, so
        ``renewable=False`` makes those; they cannot be revoked either.
        """
        self.enable_auth("approle", mount, namespace=namespace)
        role = {
            "token_policies": list(policies),
            "token_ttl": ttl,
            "token_max_ttl": max_ttl,
            "token_type": "service" if renewable else "batch",
            "token_num_uses": token_num_uses,
            "secret_id_num_uses": secret_id_num_uses,
            "secret_id_ttl": secret_id_ttl,
        }
        path = f"auth/{mount}/role/{name}"
        self.call("POST", path, role, namespace=namespace)
        role_id = self.call("GET", f"{path}/role-id", namespace=namespace)["data"]["role_id"]
        return AppRole(name, role_id, self.new_secret_id(name, mount=mount, namespace=namespace), mount)

    def new_secret_id(self, role: str, *, mount: str = "approle", namespace: str = "") -> str:
        """Another secret id."""
        path = f"auth/{mount}/role/{role}/secret-id"
        return str(self.call("POST", path, namespace=namespace)["data"]["secret_id"])

    def wrapped_secret_id(self, role: str, ttl: str = "5m", *, mount: str = "approle") -> str:
        """Another secret id, as a wrapping token that yields it once."""
        path = f"auth/{mount}/role/{role}/secret-id"
        return str(self.call("POST", path, wrap_ttl=ttl)["wrap_info"]["token"])

    def destroy_secret_id(self, role: AppRole) -> None:
        """Let a role's secret id log nobody in any more."""
        path = f"auth/{role.mount}/role/{role.name}/secret-id/destroy"
        self.call("POST", path, {"secret_id": role.secret_id})

    def login(self, role: AppRole, *, namespace: str = "") -> str:
        """Log in as a role; returns the token."""
        body = {"role_id": role.role_id, "secret_id": role.secret_id}
        path = f"auth/{role.mount}/login"
        return str(self.call("POST", path, body, token="", namespace=namespace)["auth"]["client_token"])

    def create_token(
        self,
        policies: Iterable[str],
        *,
        ttl: str = "1h",
        max_ttl: str = "",
        renewable: bool = True,
        num_uses: int = 0,
        namespace: str = "",
    ) -> str:
        """A token that nobody logged in for."""
        body = {
            "policies": list(policies),
            "ttl": ttl,
            "explicit_max_ttl": max_ttl,
            "renewable": renewable,
            "num_uses": num_uses,
            "no_parent": True,
        }
        return str(self.call("POST", "auth/token/create", body, namespace=namespace)["auth"]["client_token"])

    def create_user(self, name: str, password: str, policies: Iterable[str]) -> None:
        """A user of the ``userpass`` method."""
        self.enable_auth("userpass")
        body = {"password": password, "token_policies": list(policies)}
        self.call("POST", f"auth/userpass/users/{name}", body)

    def allow_certificate(self, name: str, ca: Path, policies: Iterable[str]) -> None:
        """Let clients with a certificate of this authority log in as ``name``."""
        self.enable_auth("cert")
        body = {"certificate": ca.read_text(), "token_policies": list(policies)}
        self.call("POST", f"auth/cert/certs/{name}", body)

    def lookup(self, token: str) -> Any:
        """What OpenBao knows of a token; ``Refused`` with 403 when it is none."""
        return self.call("POST", "auth/token/lookup", {"token": token})["data"]

    def valid(self, token: str) -> bool:
        """Whether a token is still good for anything."""
        try:
            self.call("GET", "auth/token/lookup-self", token=token)
        except Refused:
            return False
        return True

    def revoke(self, token: str) -> None:
        """Make a token worthless."""
        self.call("POST", "auth/token/revoke", {"token": token})

    def revoke_logins(self, mount: str = "approle") -> None:
        """Revoke every token that a login under ``auth/MOUNT/`` gave."""
        self.call("PUT", f"sys/leases/revoke-prefix/auth/{mount}/login", {"sync": True})

    def tokens(self) -> int:
        """How many service tokens there are, besides root's and wrapped answers."""
        accessors = self.call("LIST", "auth/token/accessors")["data"]["keys"]
        found = 0
        for accessor in accessors:
            try:
                data = self.call("POST", "auth/token/lookup-accessor", {"accessor": accessor})["data"]
            except Refused:
                continue  # has ended since
            found += not {"root", "response-wrapping"} & set(data["policies"])
        return found

    def create_namespace(self, name: str) -> str:
        """A namespace below the root; returns its name."""
        self.call("POST", f"sys/namespaces/{name}")
        wait_until(lambda: self._works("GET", "sys/auth", name), what=f"namespace {name}")
        return name

    # Inside

    def _config(self) -> str:
        listener = {"address": f"127.0.0.1:{self.port}", "tls_disable": self._certificate is None}
        if self._certificate is not None:
            listener["tls_cert_file"] = str(self._certificate.chain)
            listener["tls_key_file"] = str(self._certificate.key)
        if self._client_ca is not None:
            listener["tls_client_ca_file"] = str(self._client_ca)
            listener["tls_require_and_verify_client_cert"] = self._client_required
        storage = {"path": str(self.directory / "storage")} if self._storage == "file" else {}
        audit = {"file_path": str(self.audit.file)}
        return f"""\
listener "tcp" {_block(listener)}
storage "{self._storage}" {_block(storage)}
audit "file" "main" {{
options {_block(audit)}
}}
api_addr = "{self.address}"
disable_clustering = true
ui = false
"""

    def _health(self, timeout: float = 5) -> int:
        """Status of the health path; 0 when there is no answer."""
        try:
            return self._session.get(f"{self.address}/v1/sys/health", timeout=timeout).status_code
        except requests.RequestException:
            return 0

    def _answers(self) -> bool:
        return self._health() in (200, 429, 501, 503)

    def _active(self) -> bool:
        return self._health() == 200

    def _works(self, method: str, path: str, namespace: str) -> bool:
        try:
            self.call(method, path, namespace=namespace)
        except Refused:
            return False
        return True


def _block(settings: Mapping[str, Any]) -> str:
    """A block of HCL."""
    return "{\n" + "".join(f"{name} = {json.dumps(value)}\n" for name, value in settings.items()) + "}"
