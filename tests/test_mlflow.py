"""Unmodified MLflow scripts against a tracking server that demands a user."""

from __future__ import annotations

import subprocess
import sys

import pytest

from servers.mlflow import MlflowServer
from servers.plugin import basic_auth
from servers.sandbox import Sandbox

TRAINING = """
import mlflow
mlflow.set_experiment("training")
with mlflow.start_run() as run:
    mlflow.log_params({"depth": 3, "rate": 0.1})
    for step in range(5):
        mlflow.log_metric("loss", 1 / (step + 1), step=step)
    mlflow.set_tag("kind", "test")
print(run.info.run_id)
"""


def test_a_run_is_logged_and_fails_without_the_plugin(sandbox: Sandbox, mlflow_basic_auth: MlflowServer) -> None:
    variables = basic_auth(sandbox, mlflow_basic_auth)
    bare = sandbox.run_python(TRAINING, MLFLOW_TRACKING_URI=mlflow_basic_auth.url)
    assert bare.returncode != 0
    assert "401" in bare.stderr

    run_id = sandbox.run_python(TRAINING, check=True, **variables).stdout.split()[-1]
    run = mlflow_basic_auth.api("GET", f"runs/get?run_id={run_id}")["run"]["data"]
    assert {p["key"]: p["value"] for p in run["params"]} == {"depth": "3", "rate": "0.1"}
    assert run["metrics"][0]["value"] == pytest.approx(0.2)


ARTIFACTS = """
import os, mlflow
mlflow.set_experiment("artifacts")
big = os.urandom(1 << 20) * 12
open("big.bin", "wb").write(big)
with mlflow.start_run() as run:
    mlflow.log_text("hello", "notes/small.txt")
    mlflow.log_artifact("big.bin")
uri = f"runs:/{run.info.run_id}/"
assert mlflow.artifacts.load_text(uri + "notes/small.txt") == "hello"
path = mlflow.artifacts.download_artifacts(uri + "big.bin", dst_path="down")
assert open(path, "rb").read() == big
client = mlflow.MlflowClient()
assert [a.path for a in client.list_artifacts(run.info.run_id)] == ["big.bin", "notes"]
print("same")
"""


@pytest.mark.parametrize("multipart", ["false", "true"])
def test_artifacts_go_up_and_down_through_the_proxy(
    sandbox: Sandbox, mlflow_basic_auth: MlflowServer, multipart: str
) -> None:
    done = sandbox.run_python(
        ARTIFACTS,
        check=True,
        **basic_auth(sandbox, mlflow_basic_auth),
        MLFLOW_ENABLE_PROXY_MULTIPART_UPLOAD=multipart,
        MLFLOW_MULTIPART_UPLOAD_MINIMUM_FILE_SIZE=str(6 << 20),
        MLFLOW_MULTIPART_UPLOAD_CHUNK_SIZE=str(5 << 20),
    )
    assert done.stdout.strip().endswith("same")


REST = """
import mlflow
mlflow.set_experiment("rest")
with mlflow.start_run() as run:
    futures = [mlflow.log_metric("m", i, step=i, synchronous=False) for i in range(40)]
    mlflow.flush_async_logging()
    for future in futures:
        future.wait()
client = mlflow.MlflowClient()
assert len(client.get_metric_history(run.info.run_id, "m")) == 40
found = mlflow.search_runs(experiment_names=["rest"], filter_string="metrics.m > 1", output_format="list")
assert run.info.run_id in [r.info.run_id for r in found]
name = "model-" + run.info.run_id[:8]
client.create_registered_model(name)
version = client.create_model_version(name, f"runs:/{run.info.run_id}/model", run.info.run_id)
client.set_registered_model_alias(name, "best", version.version)
assert client.get_model_version_by_alias(name, "best").version == version.version
client.delete_registered_model(name)
print("all")
"""


def test_async_logging_search_and_the_model_registry(sandbox: Sandbox, mlflow_basic_auth: MlflowServer) -> None:
    done = sandbox.run_python(REST, check=True, **basic_auth(sandbox, mlflow_basic_auth))
    assert done.stdout.strip().endswith("all")


def test_a_new_password_reaches_a_running_process(sandbox: Sandbox, mlflow_basic_auth: MlflowServer) -> None:
    """The server's own 401 is what makes a process look again; no request is lost."""
    name, password = mlflow_basic_auth.add_user("rotated")
    secret = sandbox.write_secret(f"{name}:{password}")
    variables = basic_auth(sandbox, mlflow_basic_auth) | {"MLFLOW_FILE_SECRET_PATH": str(secret)}
    script = """
import sys, mlflow
client = mlflow.MlflowClient()
client.search_experiments()
print("first", flush=True)
sys.stdin.readline()
client.search_experiments()
print("second")
"""
    with subprocess.Popen(
        [sys.executable, sandbox.script(script)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=sandbox.environment | variables,
        cwd=sandbox.work,
    ) as process:
        assert process.stdin
        assert process.stdout
        assert process.stdout.readline() == "first\n"
        password = mlflow_basic_auth.change_password(name)
        sandbox.write_secret(f"{name}:{password}")
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline() == "second\n"
    assert process.returncode == 0
