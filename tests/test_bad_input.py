"""Each bad input is one clear error that names the fix: in the exception, in doctor and in status alike."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from servers.plugin import ASK, file_provider
from servers.recorder import Recorder
from servers.sandbox import Sandbox


def words(text: str) -> str:
    return " ".join(text.split())


def check(
    sandbox: Sandbox, recorder: Recorder, variables: dict[str, str], said: str, *, in_status: bool = True
) -> None:
    plugin = sandbox.run_python(ASK, recorder.url, **variables)
    assert plugin.returncode == 1
    last = plugin.stderr.strip().splitlines()[-1]
    assert said in last and "SecretsAuthError" in last, plugin.stderr
    assert not recorder.requests, "nothing goes out without a header"
    doctor = sandbox.command("doctor", **variables)
    assert said in words(doctor.stdout) and doctor.returncode == 1, doctor.stdout
    if in_status:
        status = sandbox.command("status")
        assert said in words(status.stdout), status.stdout
        assert status.returncode == 1


def world_readable(sandbox: Sandbox) -> Path:
    return sandbox.write_secret("token", mode=0o644)


def missing(sandbox: Sandbox) -> Path:
    return sandbox.home / "nowhere"


def two_lines(sandbox: Sandbox) -> Path:
    return sandbox.write_secret("token\ntoken")


def blank(sandbox: Sandbox) -> Path:
    return sandbox.write_secret(" \n")


def wrong_json(sandbox: Sandbox) -> Path:
    return sandbox.write_secret('{"tokn": "x"}')


def pair(sandbox: Sandbox) -> Path:
    return sandbox.write_secret('{"username": "u", "password": "p"}')


@pytest.mark.parametrize(
    ("secret", "said"),
    [
        (world_readable, "Run `chmod 600"),
        (missing, "does not exist"),
        (two_lines, "characters that HTTP forbids"),
        (blank, "blank"),
        (wrong_json, "without `token`"),
        (pair, "Set the auth mode to basic"),
    ],
)
def test_a_bad_secret(sandbox: Sandbox, recorder: Recorder, secret: Callable[[Sandbox], Path], said: str) -> None:
    check(sandbox, recorder, file_provider(recorder.url, secret(sandbox)), said)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"MLFLOW_SECRETS_AUTH_ENABLE": "vualt"}, "unknown provider `vualt`"),
        ({"MLFLOW_FILE_SECRET_PATH": ""}, "MLFLOW_FILE_SECRET_PATH is not set"),
        ({"MLFLOW_FILE_AUTH_MODE": "digest"}, "MLFLOW_FILE_AUTH_MODE is neither `bearer` nor `basic`"),
        ({"MLFLOW_AUTH_HEADER_NAME": "Content-Length"}, "MLFLOW_AUTH_HEADER_NAME is not the name of a header"),
        ({"MLFLOW_SECRETS_ALLOWED_HOSTS": "http://a/b"}, "MLFLOW_SECRETS_ALLOWED_HOSTS"),
        ({"MLFLOW_SECRETS_AUTH_TIMEOUT": "soon"}, "MLFLOW_SECRETS_AUTH_TIMEOUT"),
        ({"MLFLOW_SECRETS_AUTH_ENABLE": ""}, "no provider is enabled"),
    ],
)
def test_bad_variables(sandbox: Sandbox, recorder: Recorder, change: dict[str, str], said: str) -> None:
    variables = file_provider(recorder.url, sandbox.write_secret("token")) | change
    check(sandbox, recorder, variables, said, in_status=False)


def test_a_malformed_configuration_is_named_with_its_line(sandbox: Sandbox, recorder: Recorder) -> None:
    secret = sandbox.write_secret("token")
    good = f'[[route]]\nhosts = ["127.0.0.1"]\nprovider = "file"\npath = "{secret}"\n'
    config = sandbox.write_config(good + 'hedaer = "X-Api-Key"\n')
    variables = {"MLFLOW_TRACKING_URI": recorder.url, "MLFLOW_TRACKING_AUTH": "mlflow_secrets_auth"}
    check(sandbox, recorder, variables, f"{config}:5: unknown key `hedaer`; did you mean `header`?")

    sandbox.write_config(good + 'header = "X-Api-Key"\n')
    sandbox.command("reload", check=True)
    assert sandbox.run_python(ASK, recorder.url, check=True, **variables).stdout == "200\n"
    assert recorder.values("X-Api-Key") == ["token"]

    # A bad new file leaves the good old one in force.
    sandbox.write_config("[[route]\n")
    reload = sandbox.command("reload")
    assert reload.returncode == 1
    assert f"{config}:1:" in reload.stderr
    assert sandbox.run_python(ASK, recorder.url, check=True, **variables).stdout == "200\n"
    assert f"{config}:1:" in json.loads(sandbox.command("status", "--json").stdout)["warnings"][0]


def test_a_broken_native_part_is_an_error_and_not_an_open_door(sandbox: Sandbox, recorder: Recorder) -> None:
    variables = file_provider(recorder.url, sandbox.write_secret("token"))
    broken = "import sys; sys.modules['mlflow_secrets_auth._client'] = None\n"
    done = sandbox.run_python(broken + ASK, recorder.url, **variables)
    assert done.returncode == 1
    assert "Install it again" in done.stderr
    assert not recorder.requests
    mlflow = "import mlflow\nmlflow.MlflowClient().search_experiments()\n"
    done = sandbox.run_python(broken + mlflow, **variables, MLFLOW_HTTP_REQUEST_MAX_RETRIES="0")
    assert done.returncode == 1
    assert "Install it again" in done.stderr
    assert not recorder.requests
