"""The servers of the other tests do what those tests rely on."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import requests

from servers import tools
from servers.mlflow import MlflowServer
from servers.nginx import Demand
from servers.openbao import Refused
from servers.process import wait_until
from servers.recorder import CLOSE, GARBAGE, RESET, Answer, drip, half, redirect
from servers.sandbox import Sandbox


@pytest.fixture
def web():
    """HTTP without netrc and proxies."""
    with requests.Session() as session:
        session.trust_env = False
        yield session


# MLflow


def test_plain_mlflow_lets_everybody_in(mlflow_server: MlflowServer):
    answer = mlflow_server.request("GET", "/api/2.0/mlflow/experiments/search?max_results=1")
    assert answer.status_code == 200


def test_basic_auth_mlflow_wants_credentials(mlflow_basic_auth: MlflowServer):
    path = "/api/2.0/mlflow/experiments/search?max_results=1"
    assert mlflow_basic_auth.request("GET", path, auth=None).status_code == 401
    assert mlflow_basic_auth.request("GET", path, auth=("admin", "wrong")).status_code == 401
    assert mlflow_basic_auth.request("GET", path).status_code == 200


def test_a_password_of_mlflow_can_be_changed(mlflow_basic_auth: MlflowServer):
    user, old = mlflow_basic_auth.add_user("rotating")
    new = mlflow_basic_auth.change_password(user)
    path = "/api/2.0/mlflow/experiments/search?max_results=1"
    assert mlflow_basic_auth.request("GET", path, auth=(user, old)).status_code == 401
    assert mlflow_basic_auth.request("GET", path, auth=(user, new)).status_code == 200


# OpenBao


def test_audit_counts_one_login_and_one_read(openbao):
    openbao.write_secret("mlflow/auth", {"token": "sesame"})
    role = openbao.create_app_role("trainer", [openbao.allow_reading("reader", "mlflow/auth")])
    openbao.audit.forget()

    token = openbao.login(role)
    read = openbao.call("GET", "secret/data/mlflow/auth", token=token)

    assert read["data"]["data"] == {"token": "sesame"}
    assert (openbao.audit.logins(), openbao.audit.reads("mlflow/auth")) == (1, 1)


def test_audit_tells_failures_from_successes(openbao):
    role = openbao.create_app_role("trainer", ["default"])
    token = openbao.login(role)
    openbao.destroy_secret_id(role)
    openbao.audit.forget()
    with pytest.raises(Refused):
        openbao.login(role)
    with pytest.raises(Refused) as refused:
        openbao.read_secret("mlflow/auth", token=token)
    assert refused.value.status == 403
    assert (openbao.audit.logins(), openbao.audit.logins(good=False)) == (0, 1)
    assert (openbao.audit.reads("mlflow/auth"), openbao.audit.reads("mlflow/auth", good=False)) == (0, 1)


@pytest.mark.parametrize(("mount", "version"), [("plain", 1), ("team/deep/kv", 1), ("team/deep/kv", 2)])
def test_kv_on_any_mount(openbao, mount, version):
    openbao.enable_kv(mount, version)
    openbao.write_secret("a/b", {"token": "x"}, mount)
    assert openbao.read_secret("a/b", mount) == {"token": "x"}
    assert openbao.audit.reads("a/b", mount) == 1


def test_namespaces_have_their_own_mounts_and_roles(openbao):
    openbao.create_namespace("team")
    openbao.enable_kv("kv", namespace="team")
    openbao.write_secret("a", {"token": "x"}, "kv", namespace="team")
    openbao.allow_reading("reader", "a", "kv", also=["sys/mounts/kv"], namespace="team")
    role = openbao.create_app_role("trainer", ["reader"], namespace="team")
    token = openbao.login(role, namespace="team")
    read = openbao.call("GET", "kv/data/a", token=token, namespace="team")
    assert read["data"]["data"] == {"token": "x"}


def test_tokens_end(openbao):
    brief = openbao.create_app_role("brief", ["default"], ttl="1s", max_ttl="1s")
    batch = openbao.login(openbao.create_app_role("batch", ["default"], renewable=False))
    once = openbao.create_app_role("once", ["default"], secret_id_num_uses=1)
    first, second = openbao.login(brief), openbao.login(openbao.create_app_role("long", ["default"]))
    assert openbao.lookup(second)["renewable"]
    assert not openbao.lookup(batch)["renewable"]
    openbao.login(once)
    with pytest.raises(Refused):
        openbao.login(once)
    wait_until(lambda: not openbao.valid(first), what="the token's end")
    assert openbao.valid(second)
    openbao.revoke_logins()
    assert not openbao.valid(second)
    assert openbao.tokens() == 0


def test_a_sealed_stalled_or_stopped_openbao_comes_back(new_openbao):
    openbao = new_openbao(storage="file")
    openbao.enable_kv()
    openbao.write_secret("a", {"token": "x"})
    openbao.seal()
    with pytest.raises(Refused) as refused:
        openbao.read_secret("a")
    assert refused.value.status == 503
    openbao.unseal()
    openbao.stall()
    with socket.create_connection(("127.0.0.1", openbao.port)) as connection:
        connection.settimeout(0.2)
        connection.sendall(b"GET /v1/sys/health HTTP/1.0\r\n\r\n")
        with pytest.raises(socket.timeout):
            connection.recv(1)
    openbao.resume()
    assert openbao.read_secret("a") == {"token": "x"}
    openbao.stop()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", openbao.port))
    openbao.start()
    assert openbao.read_secret("a") == {"token": "x"}


def test_openbao_over_tls(openbao_tls, web):
    openbao_tls.write_secret("a", {"token": "x"})
    with pytest.raises(requests.exceptions.SSLError):
        web.get(f"{openbao_tls.address}/v1/sys/health")


def test_openbao_wants_a_clients_certificate(new_openbao, authority, web):
    client = authority.client("trainer")
    server = new_openbao(
        certificate=authority.server(), ca_file=authority.file, client_ca=authority.file, client=client
    )
    server.allow_certificate("trainer", authority.file, ["default"])
    token = server.call("POST", "auth/cert/login", token="")["auth"]["client_token"]
    assert server.valid(token)
    assert server.audit.logins("cert") == 1
    with pytest.raises(requests.exceptions.RequestException):
        web.get(f"{server.address}/v1/sys/health", verify=str(authority.file))


# nginx


@pytest.mark.parametrize(
    ("demand", "header", "good", "bad"),
    [
        (Demand.bearer("s3same$1~"), "Authorization", "Bearer s3same$1~", "Bearer S3SAME$1~"),
        (Demand.basic(("u", "p:w")), "Authorization", "Basic dTpwOnc=", "Basic dTpwOnd="),
        (Demand.custom("X-Api-Key", '~a"b\\c'), "X-Api-Key", '~a"b\\c', '~a"b\\c2'),
    ],
)
def test_nginx_lets_only_the_right_header_through(nginx, recorder, web, demand, header, good, bad):
    proxy = nginx(recorder.url, demand)
    assert web.get(f"{proxy.url}/path?q=1", headers={header: good}).status_code == 200
    assert web.get(f"{proxy.url}/path", headers={header: bad}).status_code == 401
    assert web.get(f"{proxy.url}/path").status_code == 401
    log = proxy.log(at_least=3)
    assert [(one.method, one.path, one.status, one.value) for one in log] == [
        ("GET", "/path?q=1", 200, good),
        ("GET", "/path", 401, bad),
        ("GET", "/path", 401, ""),
    ]
    assert recorder.values(header) == [good]


def test_nginx_changes_its_mind_at_once(nginx, web):
    proxy = nginx(None, Demand.bearer("1"))
    for number in range(2, 6):
        old, new = {"Authorization": f"Bearer {number - 1}"}, {"Authorization": f"Bearer {number}"}
        assert web.get(proxy.url, headers=old).status_code == 200
        proxy.demand(Demand.bearer(str(number), status=403))
        assert web.get(proxy.url, headers=old).status_code == 403
        assert web.get(proxy.url, headers=new).status_code == 200


def test_nginx_redirects(nginx, recorder, web):
    targets = {"/gone": (308, f"{recorder.url}/there"), "/all/": (307, f"{recorder.url}$request_uri")}
    proxy = nginx(None, Demand.bearer("1"), redirects=targets)
    assert web.get(f"{proxy.url}/gone").status_code == 200
    assert web.post(f"{proxy.url}/all/of/it?x=1", data=b"body").status_code == 200
    assert [(one.method, one.target) for one in recorder.requests] == [
        ("GET", "/there"),
        ("POST", "/all/of/it?x=1"),
    ]
    assert recorder.requests[1].body == b"body"
    proxy.redirect("/late", 301, recorder.url)
    assert web.get(f"{proxy.url}/late", allow_redirects=False).status_code == 301
    assert proxy.statuses(at_least=3) == [308, 307, 301]


def test_nginx_in_front_of_mlflow(nginx, mlflow_server, web):
    proxy = nginx(mlflow_server.url, Demand.custom("X-Api-Key", "k"))
    path = f"{proxy.url}/api/2.0/mlflow/experiments/search?max_results=1"
    assert web.get(path).status_code == 401
    assert web.get(path, headers={"X-Api-Key": "k"}).json()["experiments"]


def test_nginx_over_tls(nginx, authority, web):
    proxy = nginx(None, certificate=authority.server())
    assert web.get(proxy.url, verify=str(authority.file)).text == "ok"


# The stand-in


def test_recorder_records_and_follows_its_script(recorder, web):
    recorder.on("/a", Answer(201, "made", headers={"X-Thing": "1"}))
    recorder.on("/a", lambda request: Answer(body={"you": request.json()}), method="POST")
    recorder.on("/r", redirect("/a"))
    recorder.enqueue(Answer(500), Answer(429, headers={"Retry-After": "1"}))
    assert [web.get(f"{recorder.url}/a").status_code for _ in range(3)] == [500, 429, 201]
    assert web.post(f"{recorder.url}/a?x", json=[1], headers={"Secret": "tell"}).json() == {"you": [1]}
    assert web.get(f"{recorder.url}/r").headers["X-Thing"] == "1"
    assert [seen.method for seen in recorder.to("/a")] == ["GET"] * 3 + ["POST", "GET"]
    assert recorder.values("secret") == [None] * 3 + ["tell"] + [None] * 2
    assert recorder.holds("tell")
    assert not recorder.holds("told")
    assert len({seen.connection for seen in recorder.requests}) == 1


@pytest.mark.parametrize("fault", [RESET, CLOSE, GARBAGE, half("0123456789")], ids=lambda one: one.fault)
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_recorder_has_faults(new_recorder, authority, web, fault, tls):
    certificate = authority.server() if tls else None
    recorder = new_recorder(certificate=certificate)
    web.verify = str(authority.file)
    recorder.enqueue(fault)
    begun = time.monotonic()
    with pytest.raises(requests.exceptions.RequestException):
        web.get(recorder.url, timeout=5)
    assert time.monotonic() - begun < 2
    assert web.get(recorder.url).json() == {}


def test_recorder_drips_and_stalls(recorder, web):
    recorder.enqueue(drip("abc", pause=0.01))
    assert web.get(recorder.url).text == "abc"
    go = threading.Event()
    recorder.enqueue(Answer(wait=go))
    with pytest.raises(requests.exceptions.ReadTimeout):
        web.get(recorder.url, timeout=0.1)
    assert len(recorder.wait_for(2)) == 2
    recorder.enqueue(Answer(body="late", wait=go))
    threading.Timer(0.1, go.set).start()
    assert web.get(recorder.url).text == "late"


def test_recorder_notes_failed_handshakes(new_recorder, authority, web):
    recorder = new_recorder(certificate=authority.server("elsewhere.test", expired=True))
    web.verify = str(authority.file)
    with pytest.raises(requests.exceptions.SSLError):
        web.get(recorder.url)
    wait_until(lambda: recorder.failed_handshakes)
    assert not recorder.requests


def test_a_stopped_recorder_answers_nobody(recorder, web):
    assert web.get(recorder.url).ok
    recorder.stop()
    with pytest.raises(requests.exceptions.ConnectionError):
        web.get(recorder.url)


# The sandbox, and what is not installed


def test_sandbox_is_clean(sandbox: Sandbox, monkeypatch):
    for name in ("MLFLOW_TRACKING_URI", "VAULT_TOKEN", "AWS_PROFILE", "AZURE_TENANT_ID", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "the machine's")
    done = sandbox.run_python("import os; print(*os.environ.items(), sep='\\n')", EXTRA="yes", check=True)
    assert "the machine's" not in done.stdout
    assert "EXTRA" in done.stdout
    assert sandbox.runtime.stat().st_mode & 0o777 == 0o700
    assert len(str(sandbox.runtime)) < 40


def test_sandbox_finds_and_ends_what_was_left():
    box = Sandbox()
    child = box.start_python("import time; time.sleep(60)")
    box.run_python(
        "import subprocess, sys\n"
        "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)', sys.argv[1]],"
        " stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)",
        str(box.runtime),
        check=True,
    )
    assert len(box.processes()) == 2
    left = box.close(grace=0.1)
    assert child.pid in left
    assert len(left) == 2
    wait_until(lambda: not box.processes())
    assert not box.root.exists()


@pytest.mark.skipif(sys.platform != "linux", reason="told by the arguments only, elsewhere")
def test_sandbox_finds_who_holds_a_socket():
    box = Sandbox()
    listen = (
        "import os, socket, sys; s = socket.socket(socket.AF_UNIX); s.bind(sys.stdin.readline().strip());"
        " print(flush=True); sys.stdin.read()"
    )
    child = subprocess.Popen([sys.executable, "-c", listen], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with child:
        assert child.stdin
        assert child.stdout
        child.stdin.write(f"{box.runtime}/s\n")
        child.stdin.flush()
        child.stdout.readline()
        assert list(box.processes()) == [child.pid]
        child.stdin.close()
    assert box.close() == {}


@pytest.mark.parametrize("ci", ["", "true"])
def test_a_missing_tool_skips_and_fails_in_ci(monkeypatch, ci):
    monkeypatch.setenv("CI", ci)
    outcome = pytest.fail.Exception if ci else pytest.skip.Exception
    with pytest.raises(outcome, match="no-such-program not found: install it"), tools.optional():
        tools.find("no-such-program", install="install it")


def test_no_machine_path_is_in_the_way(tmp_path: Path):
    assert tools.find("sh", install="-")
    with pytest.raises(tools.MissingTool):
        tools.find("sh-of-another-planet", str(tmp_path), install="-")
