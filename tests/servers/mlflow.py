"""``mlflow server``: plain, or with MLflow's own users and passwords."""

from __future__ import annotations

import secrets
import sys
from pathlib import Path
from typing import Any

import requests

from servers.process import Process, free_port, machine_free_environment


class MlflowServer:
    """A tracking server with artifact proxy, on SQLite, in ``directory``.

    With ``basic_auth=True`` it demands a user: ``username`` and ``password``
    are those of its administrator; everybody else's default permission is
    ``default_permission``. ``options`` go to the command line as they are.
    """

    username = "admin"

    def __init__(
        self,
        directory: Path,
        *,
        basic_auth: bool = False,
        default_permission: str = "READ",
        options: tuple[str, ...] = (),
    ) -> None:
        self.directory = directory
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.basic_auth = basic_auth
        self.password = f"pw-{secrets.token_urlsafe(18)}"
        self._permission = default_permission
        self._options = options
        self._process: Process | None = None

    def __enter__(self) -> MlflowServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start the server and wait until it answers."""
        self.directory.mkdir(parents=True, exist_ok=True)
        environment = machine_free_environment(
            HOME=str(self.directory),
            MLFLOW_DISABLE_TELEMETRY="true",
            DO_NOT_TRACK="true",
            # No test submits jobs; their runner alone is seven processes.
            MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false",
            # Older servers let anybody choose an artifact location on a host of his own, and so does this one.
            MLFLOW_ALLOWED_HOST_ADDRESSED_ARTIFACT_SCHEMES="http",
            PYTHONDONTWRITEBYTECODE="1",
        )
        command = [
            *(sys.executable, "-m", "mlflow", "server"),
            *("--host", "127.0.0.1", "--port", str(self.port), "--workers", "1"),
            *("--backend-store-uri", f"sqlite:///{self.directory}/mlflow.db"),
            *("--serve-artifacts", "--artifacts-destination", str(self.directory / "artifacts")),
            *self._options,
        ]
        if self.basic_auth:
            environment["MLFLOW_AUTH_CONFIG_PATH"] = str(self._write_users())
            environment["MLFLOW_FLASK_SERVER_SECRET_KEY"] = secrets.token_urlsafe(32)
            command += ["--app-name", "basic-auth"]
        log = self.directory / "server.log"
        self._process = Process(command, log=log, cwd=self.directory, env=environment)
        try:
            self._process.wait_ready(self._healthy, timeout=120)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End the server; what it has stored stays."""
        if self._process is not None:
            self._process.kill()
            self._process = None

    @property
    def admin(self) -> tuple[str, str]:
        """User name and password of the administrator."""
        return self.username, self.password

    def log(self) -> str:
        """What the server has written to its terminal."""
        return (self.directory / "server.log").read_text(errors="replace")

    def request(self, method: str, path: str, **more: object) -> requests.Response:
        """A request that sees nothing of the environment (netrc, proxies), as
        the administrator where users exist, unless ``auth=`` says otherwise."""
        if self.basic_auth:
            more.setdefault("auth", self.admin)
        with requests.Session() as session:
            session.trust_env = False
            return session.request(method, self.url + path, timeout=30, **more)  # type: ignore[arg-type]

    def api(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """A call of the REST API (``path`` from ``experiments/…`` on), which must succeed."""
        answer = self.request(method, f"/api/2.0/mlflow/{path}", json=body)
        answer.raise_for_status()
        return answer.json()

    def add_user(self, username: str, password: str | None = None) -> tuple[str, str]:
        """Create a user; the password, random unless given, has 12 characters or more."""
        password = password or f"pw-{secrets.token_urlsafe(18)}"
        self.api("POST", "users/create", {"username": username, "password": password})
        return username, password

    def change_password(self, username: str, password: str | None = None) -> str:
        """Give a user another password, random unless given. For a user of the
        test's own: other tests use the administrator's."""
        password = password or f"pw-{secrets.token_urlsafe(18)}"
        self.api("PATCH", "users/update-password", {"username": username, "password": password})
        if username == self.username:
            self.password = password
        return password

    def _write_users(self) -> Path:
        config = self.directory / "basic_auth.ini"
        config.touch(mode=0o600)
        config.write_text(
            "[mlflow]\n"
            f"default_permission = {self._permission}\n"
            f"database_uri = sqlite:///{self.directory}/users.db\n"
            f"admin_username = {self.username}\n"
            f"admin_password = {self.password}\n"
            "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
        )
        return config

    def _healthy(self) -> bool:
        try:
            return self.request("GET", "/health", auth=None).status_code == 200
        except requests.RequestException:
            return False
