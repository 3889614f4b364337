"""The real servers of the demo: MLflow, nginx, OpenBao."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from console import Failed
from stage import Child, Stage, free_port, http


def until_answering(stage: Stage, child: Child, what: str, url: str, seconds: float = 90) -> None:
    """Wait for a server's first answer; fail at once when it ends."""

    def ready() -> bool | None:
        if child.code is not None:
            raise Failed(f"{what} ended with exit code {child.code}", child.log)
        return http("GET", url)[0] != 0 or None

    stage.console.wait(f"waiting for {what}", ready, seconds=seconds, log=child.log)


class MlflowServer:
    """`mlflow server`, plain or with MLflow's own users and passwords."""

    def __init__(self, stage: Stage, *, users: bool) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.admin = ("admin", f"pw-{secrets.token_urlsafe(18)}")
        self._users = users
        self._stage = stage

    def start(self) -> None:
        """Start it and wait until it answers."""
        directory = self._stage.root / "mlflow"
        directory.mkdir(mode=0o700)
        command = [
            *(sys.executable, "-m", "mlflow", "server"),
            *("--host", "127.0.0.1", "--port", str(self.port), "--workers", "1"),
            *("--backend-store-uri", f"sqlite:///{directory}/mlflow.db"),
            *("--serve-artifacts", "--artifacts-destination", str(directory / "artifacts")),
        ]
        # Nobody submits jobs here; their runner alone is seven processes.
        settings = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        if self._users:
            config = directory / "basic_auth.ini"
            self._stage.write_private(
                config,
                "[mlflow]\n"
                "default_permission = MANAGE\n"
                f"database_uri = sqlite:///{directory}/users.db\n"
                f"admin_username = {self.admin[0]}\n"
                f"admin_password = {self.admin[1]}\n"
                "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n",
            )
            settings["MLFLOW_AUTH_CONFIG_PATH"] = str(config)
            settings["MLFLOW_FLASK_SERVER_SECRET_KEY"] = secrets.token_urlsafe(32)
            command += ["--app-name", "basic-auth"]
        child = self._stage.start("mlflow-server", command, **settings)
        until_answering(self._stage, child, "the MLflow server", f"{self.url}/health")

    def api(self, method: str, path: str, body: Mapping[str, Any] | None = None, user: Any = None) -> Any:
        """A call of MLflow's REST API, which must succeed."""
        who = (user or self.admin) if self._users else None
        status, answer = http(method, f"{self.url}/api/2.0/mlflow/{path}", body, user=who)
        if status != 200:
            raise Failed(f"{method} {path} was answered with {status}: {answer}")
        return answer

    def runs(self, user: Any = None) -> list[dict[str, Any]]:
        """The runs of the experiment `demo`, newest first."""
        found = self.api("GET", "experiments/get-by-name?experiment_name=demo", user=user)
        query = {"experiment_ids": [found["experiment"]["experiment_id"]], "max_results": 1000}
        return list(self.api("POST", "runs/search", query, user=user).get("runs", []))

    def history(self, run: str, user: Any = None) -> list[float]:
        """The values of the metric `loss` of a run."""
        path = f"metrics/get-history?run_id={run}&metric_key=loss"
        metrics = self.api("GET", path, user=user).get("metrics", [])
        return [metric["value"] for metric in sorted(metrics, key=lambda m: int(m["step"]))]


class Nginx:
    """nginx in front of MLflow; lets through who brings one of its tokens."""

    def __init__(self, stage: Stage, upstream: str) -> None:
        self.url = f"http://127.0.0.1:{free_port()}"
        self._stage = stage
        self._upstream = upstream
        self._directory = stage.root / "nginx"
        self._generation = 0
        self._child: Child | None = None

    @staticmethod
    def program() -> str:
        """Where nginx is."""
        folders = ("/usr/sbin", "/usr/local/sbin", "/usr/local/bin", "/opt/homebrew/bin")
        found = shutil.which("nginx") or shutil.which("nginx", path=os.pathsep.join(folders))
        if found is None:
            raise Failed("nginx is not installed. Install it: apt-get install nginx-light (macOS: brew install nginx)")
        return found

    def start(self, *tokens: str) -> None:
        """Start it and wait until it answers."""
        self._directory.mkdir(mode=0o700)
        self._write(tokens)
        config = str(self._directory / "nginx.conf")
        command = [self.program(), "-p", f"{self._directory}/", "-e", "error.log", "-c", config]
        self._child = self._stage.start("nginx", command)
        until_answering(self._stage, self._child, "nginx", f"{self.url}/.generation", 20)

    def demand(self, *tokens: str) -> None:
        """Let other tokens through from now on; in force when this returns."""
        assert self._child is not None
        self._write(tokens)
        self._child.reload()

        def in_force() -> bool | None:
            # Several in a row: the old worker may still accept one.
            seen = {http("GET", f"{self.url}/.generation")[1] for _ in range(5)}
            return seen == {self._generation} or None

        self._stage.console.wait("waiting for nginx", in_force, seconds=20, log=self._child.log)

    def _write(self, tokens: tuple[str, ...]) -> None:
        self._generation += 1
        # nginx compares plain strings in a map without regard to case; a regular expression is exact.
        allowed = "".join(f'        "~^Bearer {re.escape(token)}$" 1;\n' for token in tokens)
        temporary = "".join(
            f"    {kind}_temp_path {self._directory}/{kind};\n"
            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        text = f"""\
{"user root;" if os.geteuid() == 0 else ""}
daemon off;
worker_processes 1;
pid {self._directory}/nginx.pid;
error_log {self._directory}/error.log info;
events {{ worker_connections 1024; }}
http {{
{temporary}    access_log off;
    client_max_body_size 0;
    map $http_authorization $let_through {{
        default 0;
{allowed}    }}
    server {{
        listen 127.0.0.1:{self.url.rsplit(":", 1)[1]};
        location = /.generation {{ return 200 "{self._generation}"; }}
        location / {{
            if ($let_through = 0) {{ return 401; }}
            proxy_pass {self._upstream};
            proxy_http_version 1.1;
            proxy_set_header Host $http_host;
            proxy_set_header Connection "";
        }}
    }}
}}
"""
        self._stage.write_private(self._directory / "nginx.conf", text)


class OpenBao:
    """The secret manager, initialised and unsealed, with its audit log on."""

    POLICY = 'path "secret/data/mlflow/auth" { capabilities = ["read"] }\n'

    def __init__(self, stage: Stage) -> None:
        self.address = f"http://127.0.0.1:{free_port()}"
        self._stage = stage
        self._directory = stage.root / "openbao"
        self._root_token = ""

    @staticmethod
    def program() -> str:
        """Where `bao` is."""
        target = Path(os.environ.get("CARGO_TARGET_DIR") or Path(__file__).resolve().parents[2] / "target")
        built = sorted(target.glob("openbao/*/bao"))
        if not built:
            raise Failed(
                "OpenBao is not there. `make demo DEMO=vault` builds it, which needs Go 1.24.6 or newer:"
                " https://go.dev/dl"
            )
        return str(built[-1])

    def start(self) -> None:
        """Start it; initialise and unseal it."""
        self._directory.mkdir(mode=0o700)
        config = self._directory / "config.hcl"
        config.write_text(
            f'listener "tcp" {{\n  address = "{self.address[7:]}"\n  tls_disable = true\n}}\n'
            'storage "inmem" {}\n'
            f'audit "file" "main" {{\n  options {{\n    file_path = "{self._directory}/audit.log"\n  }}\n}}\n'
            f'api_addr = "{self.address}"\ndisable_clustering = true\nui = false\n'
        )
        child = self._stage.start("openbao", [self.program(), "server", f"-config={config}"])
        until_answering(self._stage, child, "OpenBao", f"{self.address}/v1/sys/health", 60)
        made = self.call("PUT", "sys/init", {"secret_shares": 1, "secret_threshold": 1})
        self._root_token = made["root_token"]
        self.call("PUT", "sys/unseal", {"key": made["keys_base64"][0]})

        def active() -> bool | None:
            return http("GET", f"{self.address}/v1/sys/health")[0] == 200 or None

        self._stage.console.wait("waiting for OpenBao", active, seconds=30, log=child.log)

    def call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """A request as root, which must succeed."""
        status, answer = self._try(method, path, body)
        if status not in (200, 204):
            raise Failed(
                f"OpenBao answered {method} {path} with {status}: {answer}",
                self._stage.root / "log/openbao.log",
            )
        return answer

    def set_up(self, token: str) -> tuple[str, str]:
        """Store the token, and make a role that may read it and nothing else; return its ids."""
        self.call("POST", "sys/mounts/secret", {"type": "kv", "options": {"version": "2"}})

        def upgraded() -> bool | None:
            # It says 400 for a moment.
            return self._try("GET", "secret/config")[0] == 200 or None

        self._stage.console.wait("waiting for the KV engine", upgraded, seconds=30)
        self.store(token)
        self.call("PUT", "sys/policies/acl/mlflow", {"policy": self.POLICY})
        self.call("POST", "sys/auth/approle", {"type": "approle"})
        self.call("POST", "auth/approle/role/mlflow", {"token_policies": ["mlflow"], "token_ttl": "1h"})
        role = self.call("GET", "auth/approle/role/mlflow/role-id")["data"]["role_id"]
        secret = self.call("POST", "auth/approle/role/mlflow/secret-id", {})["data"]["secret_id"]
        return role, secret

    def store(self, token: str) -> None:
        """Store the token, as the secret's next version."""
        self.call("POST", "secret/data/mlflow/auth", {"data": {"token": token}})

    def audited(self) -> Counter[str]:
        """How often each operation succeeded for anybody but root, by its own audit log."""
        text = (self._directory / "audit.log").read_text()
        entries = [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]
        return Counter(
            f"{entry['request']['operation']} {entry['request']['path']}"
            for entry in entries
            if entry["type"] == "response"
            and "error" not in entry
            and entry["request"]["path"].startswith(("auth/approle/login", "auth/token", "secret/", "sys/internal"))
            and "root" not in (entry.get("auth") or {}).get("token_policies", [])
        )

    def _try(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> tuple[int, Any]:
        headers = {"X-Vault-Token": self._root_token} if self._root_token else {}
        return http(method, f"{self.address}/v1/{path}", body, headers=headers)
