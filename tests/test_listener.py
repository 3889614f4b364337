"""Who gets in at the socket, and what a foreign client can do there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from servers.broker import Broker
from servers.plugin import file_provider
from servers.sandbox import Sandbox


@pytest.fixture
def broker(sandbox: Sandbox) -> Iterator[Path]:
    """A broker in the foreground; its socket."""
    with Broker(sandbox) as running:
        yield running.socket


@pytest.mark.skipif(os.getuid() != 0, reason="needs root, to be somebody else")
def test_another_user_gets_nothing(sandbox: Sandbox, broker: Path) -> None:
    # Even with every door open: the peer's uid is what counts.
    for path in [sandbox.root, sandbox.runtime, broker.parent]:
        path.chmod(0o755)
    broker.chmod(0o666)
    code = """
import os, socket, sys
os.setgid(65534); os.setuid(65534)
s = socket.socket(socket.AF_UNIX)
s.settimeout(10)
s.connect(sys.argv[1])
try:
    s.sendall(b"PRI * HTTP/2.0\\r\\n\\r\\nSM\\r\\n\\r\\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]))
    print(s.recv(100))
except OSError:
    print(b"")
"""
    done = subprocess.run([sys.executable, "-c", code, str(broker)], capture_output=True, text=True, cwd="/")
    assert done.stdout == "b''\n", done


@pytest.mark.skipif(os.getuid() != 0, reason="needs root, to be somebody else")
def test_a_client_refuses_another_user_s_broker(sandbox: Sandbox) -> None:
    directory = sandbox.root / "theirs"
    directory.mkdir(mode=0o700)
    os.chown(directory, 65534, 65534)
    done = sandbox.command("status", MLFLOW_SECRETS_AUTH_SOCKET=str(directory / "b.sock"))
    assert done.returncode == 1
    assert "belongs to uid 65534" in done.stderr


def test_a_foreign_grpc_client(sandbox: Sandbox, broker: Path) -> None:
    """grpcio: health, reflection, and the service itself through the reflected contract."""
    import grpc
    from google.protobuf import message_factory
    from google.protobuf.descriptor_pool import DescriptorPool
    from grpc_health.v1 import health_pb2, health_pb2_grpc
    from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

    secret = sandbox.write_secret("foreign-token")
    with grpc.insecure_channel(f"unix:{broker}", options=[("grpc.default_authority", "localhost")]) as channel:
        health = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=10)
        assert health.status == health_pb2.HealthCheckResponse.SERVING
        database = ProtoReflectionDescriptorDatabase(channel)
        service = "mlflow_secrets_auth.broker.v1.Broker"
        assert service in database.get_services()
        methods = DescriptorPool(database).FindServiceByName(service).methods_by_name

        def call(name: str, **fields: object) -> object:
            method = methods[name]
            request = message_factory.GetMessageClass(method.input_type)
            response = message_factory.GetMessageClass(method.output_type)
            rpc = channel.unary_unary(
                f"/{service}/{name}",
                request_serializer=request.SerializeToString,
                response_deserializer=response.FromString,
            )
            return rpc(request(**fields), timeout=10)

        variables = file_provider("unused", secret)
        settings = [
            {"name": name, "value": variables[name].encode()}
            for name in ("MLFLOW_SECRETS_AUTH_ENABLE", "MLFLOW_FILE_SECRET_PATH", "MLFLOW_FILE_AUTH_MODE")
        ]
        handle = call("Present", settings=settings).handle  # type: ignore[attr-defined]
        assert len(handle) == 16
        origin = "http://127.0.0.1:5000"
        answer = call("GetHeaders", handle=handle, origin=origin, uri_origins=[origin], wait_ms=5000)
        (header,) = answer.headers  # type: ignore[attr-defined]
        assert (header.name, header.value) == ("Authorization", b"Bearer foreign-token")

        with pytest.raises(grpc.RpcError) as error:
            call("GetHeaders", handle=b"x" * 16, origin=origin, wait_ms=0)
        assert error.value.code() == grpc.StatusCode.UNAUTHENTICATED
        with pytest.raises(grpc.RpcError) as error:
            call("Present", settings=[{"name": "LD_PRELOAD", "value": b"x"}])
        assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert "LD_PRELOAD" in error.value.details()


@pytest.mark.parametrize(
    ("socket", "said"),
    [
        ("/" + "x" * 120, "this system allows 107"),
        ("{root}/open/b.sock", "chmod 700"),
        ("{root}/file/b.sock", "is not a socket"),
        ("{root}/link/b.sock", "is not a directory"),
    ],
)
def test_a_place_that_cannot_serve_is_one_clear_error(sandbox: Sandbox, socket: str, said: str) -> None:
    (sandbox.root / "open").mkdir(mode=0o755)
    (sandbox.root / "open").chmod(0o755)
    (sandbox.root / "file").mkdir(mode=0o700)
    (sandbox.root / "file" / "b.sock").write_text("")
    (sandbox.root / "link").symlink_to(sandbox.root / "file")
    path = socket.format(root=sandbox.root)
    variables = file_provider("http://127.0.0.1:9", sandbox.write_secret("token"))
    code = """
from mlflow_secrets_auth import SecretsAuthProviderFactory
import requests
requests.get("http://127.0.0.1:9", auth=SecretsAuthProviderFactory().get_auth())
"""
    plugin = sandbox.run_python(code, MLFLOW_SECRETS_AUTH_SOCKET=path, **variables)
    assert said in plugin.stderr.splitlines()[-1], plugin.stderr
    for command in ["status", "doctor"]:
        done = sandbox.command(command, MLFLOW_SECRETS_AUTH_SOCKET=path, **variables)
        shown = " ".join((done.stdout + done.stderr).split())
        assert said in shown and done.returncode == 1, shown


def test_a_second_broker_in_the_same_place_says_who_is_there(sandbox: Sandbox, broker: Path) -> None:
    done = sandbox.command("serve")
    assert done.returncode == 1
    assert "another broker already serves" in done.stderr
    state = json.loads(sandbox.command("status", "--json").stdout)
    assert state["started_by"] == "foreground"
