"""Where the demo plays: directories of its own, processes that all end with it."""

from __future__ import annotations

import base64
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from console import Console, Failed

HERE = Path(__file__).resolve().parent
COMMAND = Path(sys.executable).parent / "mlflow-secrets-auth"

# Nothing of the machine's proxies, whatever its environment says.
_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Child:
    """A program in a process group of its own; its output goes to a file."""

    def __init__(self, command: list[str], log: Path, env: Mapping[str, str], cwd: Path) -> None:
        self.log = log
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=dict(env),
                cwd=cwd,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """Process id, and the id of the group."""
        return self._process.pid

    @property
    def code(self) -> int | None:
        """The exit code; None while it runs."""
        return self._process.poll()

    def output(self) -> str:
        """What it has written so far."""
        return self.log.read_text(errors="replace")

    def reload(self) -> None:
        """Ask it to read its configuration again."""
        self._process.send_signal(signal.SIGHUP)

    def end(self) -> None:
        """End the whole group: politely, then for sure."""
        for number, patience in ((signal.SIGTERM, 3.0), (signal.SIGKILL, 3.0)):
            try:
                os.killpg(self.pid, number)
            except (ProcessLookupError, PermissionError):
                pass  # macOS answers EPERM for a group of zombies
            try:
                self._process.wait(patience)
            except subprocess.TimeoutExpired:
                continue
            if not self.group():
                return

    def group(self) -> list[int]:
        """The living processes of the group."""
        return [pid for pid, group, _ in _processes() if group == self.pid]


class Stage:
    """The demo's own home, runtime directory and processes. Nothing of the user's is touched."""

    def __init__(self, console: Console) -> None:
        self.console = console
        # Short: the name of a Unix socket may have 107 bytes (macOS: 103).
        self.root = Path(tempfile.mkdtemp(prefix="mlsa-", dir="/tmp")).resolve()
        for name in ("home", "run", "config", "tmp", "log"):
            (self.root / name).mkdir(mode=0o700)
        self._children: list[Child] = []
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
        self.environment = {
            "PATH": path,
            "LANG": "C.UTF-8",
            "HOME": str(self.root / "home"),
            "XDG_RUNTIME_DIR": str(self.root / "run"),
            "XDG_CONFIG_HOME": str(self.root / "config"),
            "TMPDIR": str(self.root / "tmp"),
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "DO_NOT_TRACK": "true",
        }

    def start(self, name: str, command: list[str], **env: str) -> Child:
        """Start a program; `name` is that of its log."""
        log = self.root / "log" / f"{name}.log"
        try:
            child = Child(command, log, {**self.environment, **env}, self.root / "home")
        except OSError as error:
            raise Failed(f"{command[0]} cannot be run: {error.strerror}") from None
        self._children.append(child)
        return child

    def train(self, name: str, epochs: int, settings: Mapping[str, str]) -> Child:
        """Start the training script."""
        return self.start(name, [sys.executable, str(HERE / "train.py"), str(epochs)], **settings)

    def finish(self, child: Child, what: str, seconds: float = 120) -> int:
        """Wait for a program's end; return its exit code."""
        return self.console.wait(what, lambda: child.code, seconds=seconds, log=child.log)

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run `mlflow-secrets-auth` as a user of this stage would."""
        return subprocess.run(
            [str(COMMAND), *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=30,
            env=self.environment,
            cwd=self.root / "home",
        )

    def write_private(self, path: Path, text: str) -> None:
        """Replace a file at once by one that only its owner can read."""
        draft = path.with_name(path.name + ".new")
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(descriptor, "w") as file:
            file.write(text)
        draft.replace(path)

    def close(self) -> list[str]:
        """Stop the broker, end every process, remove the directories; return what had to be killed."""
        left = []
        if COMMAND.exists() and any(self.root.glob("run/mlflow-secrets-auth/*.sock")):
            try:
                self.command("stop")
            except subprocess.TimeoutExpired:
                left.append("the broker did not obey `mlflow-secrets-auth stop`")
        for child in reversed(self._children):
            child.end()
        # Asked of the system, not of our own records.
        deadline = time.monotonic() + 3
        while self._strays() and time.monotonic() < deadline:
            time.sleep(0.05)
        for pid, arguments in self._strays():
            left.append(f"{pid} {arguments}")
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        shutil.rmtree(self.root, ignore_errors=True)
        return left

    def _strays(self) -> list[tuple[int, str]]:
        """Processes whose arguments name the demo's directory, or of a group that it started."""
        groups = {child.pid for child in self._children}
        return [
            (pid, arguments)
            for pid, group, arguments in _processes()
            if pid != os.getpid() and (group in groups or f"{self.root}/" in arguments)
        ]


def _processes() -> list[tuple[int, int, str]]:
    """Id, group and arguments of every living process."""
    listing = subprocess.run(
        ["ps", "-A", "-ww", "-o", "pid=,pgid=,stat=,args="], capture_output=True, text=True, check=True
    ).stdout
    rows = (line.split(None, 3) for line in listing.splitlines())
    return [(int(row[0]), int(row[1]), row[3]) for row in rows if len(row) == 4 and not row[2].startswith("Z")]


def free_port() -> int:
    """A loopback port that nothing listens on, below those of outgoing connections."""
    for _ in range(200):
        port = random.randint(15000, 32000)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise Failed("this machine has no free loopback port")


def http(
    method: str,
    url: str,
    body: Mapping[str, Any] | None = None,
    *,
    user: tuple[str, str] | None = None,
    headers: Mapping[str, str] | None = None,
) -> tuple[int, Any]:
    """One request; return its status (0: no answer) and its JSON."""
    request = urllib.request.Request(url, method=method)
    if body is not None:
        request.data = json.dumps(body).encode()
        request.add_header("Content-Type", "application/json")
    if user is not None:
        pair = base64.b64encode(":".join(user).encode()).decode()
        request.add_header("Authorization", f"Basic {pair}")
    for name, value in (headers or {}).items():
        request.add_header(name, value)
    try:
        with _opener.open(request, timeout=30) as response:
            status, content = response.status, response.read()
    except urllib.error.HTTPError as error:
        status, content = error.code, error.read()
    except OSError:
        return 0, None
    try:
        return status, json.loads(content) if content else {}
    except ValueError:
        return status, content.decode(errors="replace")
