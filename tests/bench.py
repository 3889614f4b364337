"""The plugin beside its Python predecessor (mlflow-secrets-auth 0.2.0 from PyPI), in one run.

``make bench`` runs it. Both contenders read the same secret from the same stand-in for Vault on
loopback, in fresh processes that take turns, so that noise hits both. Times are the plugin's own:
what MLflow itself costs to import is paid by neither. Nothing is asserted; the table goes to the
terminal and, with every number, to ``target/bench/``.
"""

from __future__ import annotations

import argparse
import http.server
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "target" / "bench"
REFERENCE = ROOT / "target" / "reference"
COMMAND = Path(sys.executable).parent / "mlflow-secrets-auth"

PROCESS = """
import json, sys, time, types
# What MLflow has imported long before it loads a plugin.
import contextlib, importlib.metadata, logging, os, re, threading, typing, urllib.parse, requests
name = "mlflow.tracking.request_auth.abstract_request_auth_provider"
parts = name.split(".")
for n in range(1, len(parts) + 1):
    sys.modules[".".join(parts[:n])] = types.ModuleType(".".join(parts[:n]))
sys.modules[name].RequestAuthProvider = type("RequestAuthProvider", (), {})
def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
url = os.environ["MLFLOW_TRACKING_URI"] + "/api/2.0/mlflow/runs/get"
prepared = requests.Request("GET", url).prepare()
before = resident() if os.path.exists("/proc/self/statm") else 0
start = time.perf_counter()
import mlflow_secrets_auth
imported = time.perf_counter()
provider = mlflow_secrets_auth.SecretsAuthProviderFactory()
request = provider.get_auth()(prepared.copy())
first = time.perf_counter()
assert request.headers["Authorization"] == "Bearer bench-token", "not authenticated"
after = resident() if os.path.exists("/proc/self/statm") else 0
requests_ = [prepared.copy() for _ in range(4000)]
warm = []
for batch in range(20):
    some = requests_[batch * 200:(batch + 1) * 200]
    t = time.perf_counter()
    for r in some:
        provider.get_auth()(r)
    warm.append((time.perf_counter() - t) / len(some))
print(json.dumps({
    "import": imported - start, "first header": first - start,
    "warm call": min(warm), "memory": after - before,
}))
"""

CASES = {
    "import": ("import of the plugin", 1e3, "ms"),
    "first header": ("import to first header, in a fresh process", 1e3, "ms"),
    "warm call": ("warm call: get_auth() and its object on a request", 1e6, "us"),
    "memory": ("resident memory that it adds", 1 / 2**20, "MiB"),
}


class Vault(http.server.BaseHTTPRequestHandler):
    """As much of Vault as both contenders ask for: a token, and one secret in KV version 2."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = self.path.split("?")[0].removeprefix("/v1/")
        answers: dict[str, Any] = {
            "sys/internal/ui/mounts/secret/bench": {"path": "secret/", "type": "kv", "options": {"version": "2"}},
            "auth/token/lookup-self": {"id": "x", "ttl": 0, "renewable": False, "policies": ["default"]},
            "secret/data/bench": {"data": {"token": "bench-token"}, "metadata": {"version": 1}},
        }
        answer = answers.get(path)
        body = json.dumps({"data": answer} if answer else {"errors": []}).encode()
        self.send_response(200 if answer else 404)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def vault() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Vault)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()


def fetch_reference() -> None:
    """The predecessor and its Vault client, without MLflow, in a folder of their own."""
    if (REFERENCE / "hvac").exists():
        return
    packages = ["mlflow-secrets-auth==0.2.0", "hvac==2.4.0"]
    options = ["install", "--quiet", "--no-deps", "--target", str(REFERENCE)]
    subprocess.run([sys.executable, "-m", "pip", *options, *packages], check=True)


def run(script: Path, environment: dict[str, str]) -> dict[str, float]:
    done = subprocess.run([sys.executable, str(script)], env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"a contender failed:\n{done.stderr}")
    result: dict[str, float] = json.loads(done.stdout)
    return result


def table(results: dict[str, list[dict[str, float]]]) -> str:
    lines = ["| case | reference: median (min) | ours: median (min) | ratio |", "|---|---|---|---|"]
    for case, (title, factor, unit) in CASES.items():
        medians, cells = [], []
        for contender in ("reference", "ours"):
            values = [run[case] * factor for run in results[contender]]
            medians.append(statistics.median(values))
            cells.append(f"{medians[-1]:.2f} ({min(values):.2f}) {unit}")
        ratio = f"{medians[0] / medians[1]:.1f}" if medians[1] > 0 else "-"
        lines.append(f"| {title} | {cells[0]} | {cells[1]} | {ratio} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15, help="processes for each contender")
    rounds = parser.parse_args().rounds
    fetch_reference()
    results: dict[str, list[dict[str, float]]] = {"reference": [], "ours": []}
    with vault() as address, tempfile.TemporaryDirectory(prefix="b", dir="/tmp") as place:
        script = Path(place) / "process.py"
        script.write_text(PROCESS)
        common = {
            "PATH": os.environ["PATH"],
            "HOME": place,
            "XDG_RUNTIME_DIR": place,
            "MLFLOW_TRACKING_URI": "http://127.0.0.1:5000",
            "MLFLOW_SECRETS_AUTH_ENABLE": "vault",
            "MLFLOW_SECRETS_ALLOWED_HOSTS": "127.0.0.1",
            "MLFLOW_SECRETS_LOG_LEVEL": "ERROR",
            "VAULT_ADDR": address,
            "VAULT_TOKEN": "bench",
            "MLFLOW_VAULT_SECRET_PATH": "secret/bench",
        }
        environments = {"reference": common | {"PYTHONPATH": str(REFERENCE)}, "ours": common}
        try:
            for contender in environments:
                run(script, environments[contender])  # byte code, page cache, a running broker
            for _ in range(rounds):
                for contender, environment in environments.items():
                    results[contender].append(run(script, environment))
        finally:
            subprocess.run([str(COMMAND), "stop"], env=common, capture_output=True)
    machine = f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}, Python {platform.python_version()}"
    text = f"{machine}; {rounds} processes each\n\n{table(results)}\n"
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / "plugin.md").write_text(text)
    (OUT / "plugin.json").write_text(json.dumps({"machine": machine, "runs": results}, indent=1))
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
