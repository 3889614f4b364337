"""Who gets the header: the allowlist is really applied, and without one only the URIs in effect count."""

from __future__ import annotations

from collections.abc import Callable

from servers.mlflow import MlflowServer
from servers.plugin import ASK, basic_auth, file_provider
from servers.recorder import Recorder
from servers.sandbox import Sandbox


def test_no_credential_leaves_for_a_host_outside_the_allowlist(sandbox: Sandbox, recorder: Recorder) -> None:
    variables = file_provider(recorder.url, sandbox.write_secret("token"))
    done = sandbox.run_python(ASK, recorder.url, **variables, MLFLOW_SECRETS_ALLOWED_HOSTS="mlflow.example.com")
    assert recorder.requests
    assert not recorder.holds("token")
    assert "MLFLOW_SECRETS_ALLOWED_HOSTS" in done.stderr, "and the log says what would permit it"


def test_an_artifact_location_on_another_origin_gets_none(
    sandbox: Sandbox, mlflow_basic_auth: MlflowServer, recorder: Recorder
) -> None:
    """Anyone who may create an experiment can choose where its artifacts go."""
    client = """
import sys, mlflow
name = "elsewhere"
mlflow.MlflowClient().create_experiment(name, artifact_location=sys.argv[1] + "/api/2.0/mlflow-artifacts/artifacts")
mlflow.set_experiment(name)
with mlflow.start_run():
    mlflow.log_text("x", "x.txt")
"""
    variables = basic_auth(sandbox, mlflow_basic_auth)
    done = sandbox.run_python(client, recorder.url, **variables)
    assert recorder.requests, done.stderr
    assert set(recorder.values("Authorization")) == {None}


def test_set_tracking_uri_counts(sandbox: Sandbox, mlflow_basic_auth: MlflowServer) -> None:
    code = """
import sys, mlflow
mlflow.set_tracking_uri(sys.argv[1])
print(len(mlflow.MlflowClient().search_experiments()) > 0)
"""
    variables = basic_auth(sandbox, mlflow_basic_auth)
    variables["MLFLOW_TRACKING_URI"] = "http://127.0.0.1:9"
    assert sandbox.run_python(code, mlflow_basic_auth.url, check=True, **variables).stdout == "True\n"


def test_a_change_of_the_environment_takes_effect_on_the_next_request(
    sandbox: Sandbox, new_recorder: Callable[..., Recorder]
) -> None:
    first, second = new_recorder(), new_recorder()
    variables = file_provider(first.url, sandbox.write_secret("one"))
    other = sandbox.write_secret("two", "other")
    code = """
import os, sys, requests
from mlflow_secrets_auth import SecretsAuthProviderFactory
provider = SecretsAuthProviderFactory()
ask = lambda url: requests.get(url, auth=provider.get_auth())
first, second, other = sys.argv[1:]
ask(first)
os.environ["MLFLOW_FILE_SECRET_PATH"] = other
ask(first)
os.environ["MLFLOW_TRACKING_URI"] = second
ask(first); ask(second)
os.environ["MLFLOW_SECRETS_ALLOWED_HOSTS"] = "elsewhere"
ask(second)
"""
    sandbox.run_python(code, first.url, second.url, str(other), check=True, **variables)
    sent = [[r.headers.get("Authorization") for r in server.requests] for server in (first, second)]
    assert sent == [["Bearer one", "Bearer two", None], ["Bearer two", None]]


def test_routes_of_the_configuration_file(sandbox: Sandbox, new_recorder: Callable[..., Recorder]) -> None:
    named, other = new_recorder(), new_recorder(host="localhost")
    secret = sandbox.write_secret("token")
    sandbox.write_config(f'[[route]]\nhosts = ["127.0.0.1"]\nprovider = "file"\npath = "{secret}"\n')
    variables = {"MLFLOW_TRACKING_URI": other.url}
    sandbox.run_python(ASK, named.url, check=True, **variables)
    sandbox.run_python(ASK, other.url, check=True, **variables)
    assert named.values("Authorization") == ["Bearer token"]
    assert other.requests
    assert not other.holds("token")


def test_a_policy_binds_every_caller(sandbox: Sandbox, recorder: Recorder) -> None:
    variables = file_provider(recorder.url, sandbox.write_secret("token"))
    variables["MLFLOW_SECRETS_ALLOWED_HOSTS"] = "*"
    sandbox.write_config("[policy]\nrequire_https = true\n")
    done = sandbox.run_python(ASK, recorder.url, **variables)
    assert "not https" in done.stderr
    assert recorder.requests
    assert not recorder.holds("token")
    sandbox.write_config('[policy]\nproviders = ["vault"]\n')
    sandbox.command("reload", check=True)
    done = sandbox.run_python(ASK, recorder.url, **variables)
    assert "the provider file is not permitted by the [policy]" in done.stderr
    assert not recorder.holds("token")
