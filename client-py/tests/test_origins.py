"""Where the bytes go, against what we say where they go."""

from __future__ import annotations

import itertools
import random
from urllib.parse import urlsplit

import pytest
import requests
from fakes import bearer
from loopback import Loopback, Reply, redirect, session_of
from requests import PreparedRequest
from urllib3.util import connection

from mlflow_secrets_auth.origins import is_loopback, origin_of, origin_of_uri


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("https://mlflow.example.com/api", "https://mlflow.example.com"),
        ("https://mlflow.example.com:443/api", "https://mlflow.example.com"),
        ("http://mlflow.example.com:443/api", "http://mlflow.example.com:443"),
        ("HTTPS://MLflow.Example.COM/api", "https://mlflow.example.com"),
        ("http://user:pw@mlflow.example.com/", "http://mlflow.example.com"),
        ("http://user@evil@mlflow.example.com/", "http://mlflow.example.com"),
        ("http://mlflow.example.com./", "http://mlflow.example.com."),
        ("http://[::1]:5000/", "http://[::1]:5000"),
        ("http://[fe80::1%eth0]/", None),
        ("http://[fe80::1%25eth0]/", None),
        ("http://[::::]/", None),
        ("http://[::1]x/", None),
        ("http://[::1]@mlflow.example.com/", None),
        ("http://mlflow.example.com#@evil.net/", "http://mlflow.example.com"),
        ("http://mlflow.example.com?@evil.net/", "http://mlflow.example.com"),
        ("http://127.1/", "http://127.1"),
        ("http://0x7f.0.0.1/", "http://0x7f.0.0.1"),
        ("http://mlflow_1:5000?x=1", "http://mlflow_1:5000"),
        ("http://evil\\@mlflow.example.com/", None),
        ("http://mlflow.example.com\\.evil.net/", None),
        ("http://mlflow%2eexample.com/", None),
        ("http://mlflow.example.com%00.evil.net/", None),
        ("http://ml\tflow.example.com/", None),
        ("http://mlflow.example.com\n.evil.net/", None),
        ("http://bücher.example/", None),
        ("http://mlflow。example.com/", None),
        ("http://mlflow.example.com:0/", None),
        ("http://mlflow.example.com:99999/", None),
        ("http://mlflow.example.com:+80/", None),
        ("http://mlflow.example.com:\uff18\uff10/", None),
        ("http:///path", None),
        ("http://", None),
        ("http://*/", None),
        ("http://[::1/", None),
        ("http://[v1.x]/", None),
        ("http+unix://mlflow/", None),
        ("ftp://mlflow.example.com/", None),
        ("//mlflow.example.com/", None),
        ("mlflow.example.com", None),
        ("http://" + "a" * 300 + "/", None),
        ("", None),
        (None, None),
        (b"http://mlflow.example.com/", None),
    ],
)
def test_origin_of(url, origin):
    assert origin_of(url) == origin


@pytest.mark.parametrize(
    ("uri", "origin"),
    [
        ("http://user:pw@MLFLOW.example.com:5000/sub/path/", "http://mlflow.example.com:5000"),
        (" https://mlflow.example.com", "https://mlflow.example.com"),
        ("https://bücher.example", "https://xn--bcher-kva.example"),
        ("file:///tmp/mlruns", None),
        ("sqlite:///mlflow.db", None),
        ("databricks", None),
        ("http://", None),
        ("", None),
        (None, None),
    ],
)
def test_origin_of_uri(uri, origin):
    assert origin_of_uri(uri) == origin


def test_loopback():
    for origin in (
        "http://localhost:5000",
        "http://127.0.0.1",
        "http://127.8.9.1:1",
        "http://[::1]",
        "http://a.localhost",
    ):
        assert is_loopback(origin), origin
    for origin in (
        "http://127.evil.net",
        "http://localhost.evil.net",
        "http://10.0.0.1",
        "http://127.0.0.1.nip.io",
    ):
        assert not is_loopback(origin), origin


# === Against the real HTTP library ===

# fmt: off
HOSTS = [
    "good.example", "evil.example", "GOOD.Example", "good.example.", "127.0.0.1", "127.1", "2130706433",
    "0x7f000001", "[::1]", "[0:0::1]", "[fe80::1%25lo]", "[fe80::1%lo]", "bücher.example", "a_b", "-", "*",
    "", "xn--bcher-kva.example", "\uff47ood.example", "good。example", "good%2eexample", "%67ood.example",
    "good.example%00", "a" * 64 + ".example",
]
GLUE = [
    "", "@", ":", "\\", "/", "?", "#", "%40", "%5c", "%2f", ";", ",", "&", " ", "\t", "\r\n", "\x00", "[",
    "]", "\\@", "/@", "#@", "?@", ":@", "@:", ":80", ":443", ":8080@", ":0", ":65536", ":08080", ": 80",
    "%0a", "\u2044", "\uff20",
]
SCHEMES = [
    "http://", "https://", "HTTP://", "http:/", "http:///", "http:\\\\", "//", "http:", "https:/\\", " http://",
    "\thttp://",
]
TAILS = ["", "/", "/p?q#f", "\\", "?x", "#x", "/../@evil.example"]
# fmt: on


def corpus(count: int) -> list[str]:
    """URLs as people, proxies and attackers write them; always the same ones."""
    random_ = random.Random(20)  # noqa: S311
    some = [s + h + t for s, h, t in itertools.product(SCHEMES[:3], HOSTS, TAILS)]
    while len(some) < count:
        middle = "".join(random_.choice(pool) for pool in (HOSTS, GLUE, HOSTS, GLUE, random_.choice([HOSTS, GLUE])))
        some.append(random_.choices(SCHEMES, [20, 10] + [1] * (len(SCHEMES) - 2))[0] + middle + random_.choice(TAILS))
    return some


@pytest.fixture
def dialled(monkeypatch):
    """Where the library connects to: recorded, and refused."""
    calls: list[tuple[str, int]] = []

    def refuse(address, *_args, **_kwargs):
        calls.append((address[0], address[1]))
        raise ConnectionRefusedError

    monkeypatch.setattr(connection, "create_connection", refuse)
    return calls


def agrees(origin: str, scheme: str, address: tuple[str, int]) -> bool:
    """Whether an origin names an address that was dialled, to the letter."""
    parts = urlsplit(origin)
    port = parts.port or {"http": 80, "https": 443}[parts.scheme]
    return parts.scheme == scheme and address == (parts.hostname, port)


def test_what_is_decided_is_what_is_dialled(dialled):
    session = requests.Session()
    session.trust_env = False
    decided = 0
    for url in corpus(6000):
        seen: list[PreparedRequest] = []
        del dialled[:]
        try:
            session.get(url, auth=lambda request, seen=seen: seen.append(request) or request, timeout=1)
        except Exception:  # noqa: S110 (most of these are no URLs at all)
            pass
        if not dialled:
            continue
        origin = origin_of(seen[0].url)
        if origin is not None:
            decided += 1
            scheme = str(seen[0].url).partition(":")[0].lower()
            assert agrees(origin, scheme, dialled[0]), (url, seen[0].url, origin, dialled)
    # The corpus does reach the network, and is not all refused.
    assert decided > 1000


def test_what_is_decided_for_a_hop_is_what_is_dialled(server: Loopback, broker, auth, dialled, monkeypatch):
    """The same for `Location`, which goes another way through the library."""
    session, world = session_of(server)
    monkeypatch.undo()
    start = "http://start.example"
    broker.answers = {start: bearer("start")}
    sent: list[tuple[PreparedRequest, list[tuple[str, int]]]] = []
    real = requests.adapters.HTTPAdapter()
    calls: list[tuple[str, int]] = []

    class Fork(type(world)):  # type: ignore[misc]
        def send(self, request, **kwargs):
            if str(request.url).startswith(start + "/"):
                return super().send(request, **kwargs)
            del calls[:]

            def refuse(address, *_args, **_kwargs):
                calls.append((address[0], address[1]))
                raise ConnectionRefusedError

            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(connection, "create_connection", refuse)
                try:
                    return real.send(request, **kwargs)
                finally:
                    sent.append((request, list(calls)))

    fork = Fork(server)
    session.mount("http://", fork)
    session.mount("https://", fork)
    session.trust_env = False
    for location in corpus(2500):
        if any(c in location for c in "\r\n\x00"):
            continue
        server.script = lambda seen, to=location: (
            redirect(to.encode().decode("latin1")) if seen.path == "/" else Reply()
        )
        broker.asked.clear()
        try:
            session.get(f"{start}/", auth=auth, timeout=1)
        except Exception:  # noqa: S110
            pass
    reached = [(request, where) for request, where in sent if where]
    assert len(reached) > 500
    for request, where in reached:
        origin = request._mlflow_secrets_auth.origin
        assert "Authorization" not in request.headers
        if origin is not None:
            assert agrees(origin, str(request.url).partition(":")[0].lower(), where[0]), (
                request.url,
                origin,
                where,
            )
