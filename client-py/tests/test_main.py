"""`python -m mlflow_secrets_auth`: the command, and a doctor that sees this interpreter."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.fixture
def main(real):
    """Runs the module as a program."""
    # The plugin as pip would have registered it, whether or not it is installed here.
    info = real.root / "site/mlflow_secrets_auth-0.3.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mlflow-secrets-auth\nVersion: 0.3.0\n")
    (info / "entry_points.txt").write_text(
        "[mlflow.request_auth_provider]\nmlflow_secrets_auth = mlflow_secrets_auth:SecretsAuthProviderFactory\n"
    )
    real.environment["PYTHONPATH"] += f":{info.parent}"
    real.environment["MLFLOW_TRACKING_AUTH"] = "mlflow_secrets_auth"

    def run(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "mlflow_secrets_auth", *arguments],
            env={**real.environment, **more},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return run


def test_same_command(main, real):
    assert main("--version").stdout == real.command("--version").stdout
    assert main("status").returncode == real.command("status").returncode == 3
    assert main("--nonsense").returncode == 2


def test_doctor_finds_all_well(main):
    pytest.importorskip("mlflow")
    done = main("doctor")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "the plugin is registered" in done.stdout
    assert "header: Authorization" in done.stdout
    assert "FAIL" not in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80 or "/" in done.stdout


def test_doctor_help_is_the_command_s(main, real):
    assert main("doctor", "--help").stdout == real.command("doctor", "--help").stdout


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"MLFLOW_TRACKING_AUTH": ""}, "MLFLOW_TRACKING_AUTH is not set"),
        ({"MLFLOW_TRACKING_AUTH": "kubernetes"}, "MLFLOW_TRACKING_AUTH is kubernetes"),
        ({"MLFLOW_FILE_SECRET_PATH": "/nonexistent"}, "does not exist"),
    ],
)
def test_doctor_says_what_is_wrong(main, variables, said):
    done = main("doctor", **variables)
    assert done.returncode == 1
    assert said in " ".join(done.stdout.split())
    assert "FAIL" in done.stdout
