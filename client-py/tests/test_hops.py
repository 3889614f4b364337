"""Redirects: what each hop carries."""

from __future__ import annotations

import pickle
from urllib.parse import urlsplit

import pytest
import requests
from fakes import answer, bearer, failing
from loopback import Reply, redirect, session_of

from mlflow_secrets_auth.auth import SecretsAuth
from mlflow_secrets_auth.errors import SecretsAuthError
from mlflow_secrets_auth.hops import Hop

A, B, C = "https://a.example", "https://b.example", "https://c.example"
ALL_STATUSES = (301, 302, 303, 307, 308)


def chain(server, **replies: Reply) -> None:
    """Answer `/name` with the reply of that name."""
    server.script = lambda seen: replies.get(urlsplit(seen.path).path.strip("/"), Reply())


@pytest.mark.parametrize("status", ALL_STATUSES)
def test_every_hop_carries_its_own_origin_s_header(server, broker, auth, status):
    broker.answers = {A: bearer("for-a"), B: answer(("X-Api-Key", "for-b"))}
    chain(
        server,
        one=redirect(f"{A}/two", status),
        two=redirect(f"{B}/three", status),
        three=redirect(f"{C}/end", status),
    )
    session, world = session_of(server)

    response = session.get(f"{A}/one", auth=auth)

    assert response.status_code == 200
    assert world.origins == [A, A, B, C]
    assert server.sent() == ["Bearer for-a", "Bearer for-a", None, None]
    assert server.sent("X-Api-Key") == [None, None, "for-b", None]


@pytest.mark.parametrize("status", ALL_STATUSES)
@pytest.mark.parametrize("method", ["POST", "PUT"])
def test_bodies_follow_as_requests_has_it(server, broker, auth, status, method):
    broker.answers = {A: bearer("for-a"), B: bearer("for-b")}
    chain(server, one=redirect(f"{B}/two", status))
    session, _ = session_of(server)

    session.request(method, f"{A}/one", auth=auth, json={"x": 1})

    kept = status in (307, 308)
    assert [seen.body for seen in server.seen] == [b'{"x": 1}', b'{"x": 1}' if kept else b""]
    assert server.seen[1].method == (method if kept or (status == 301 and method == "PUT") else "GET")
    assert server.sent() == ["Bearer for-a", "Bearer for-b"]


@pytest.mark.parametrize(
    "other",
    [
        B,
        "https://a.example:8443",
        "http://a.example",
        "https://a.example.evil.net",
        "https://xa.example",
        "http://a.example:443",
    ],
)
def test_header_of_ours_never_reaches_another_origin(server, broker, auth, other):
    broker.answers = {A: answer(("Authorization", "Bearer s3cret"), ("X-Api-Key", "s3cret"))}
    chain(server, one=redirect(f"{other}/two"))
    session, world = session_of(server)

    session.get(f"{A}/one", auth=auth)

    assert world.origins == [A, other]
    assert "s3cret" not in str(server.seen[1].headers)


def test_never_down_from_https(server, broker, auth, caplog):
    """Even where the plain origin has a credential of its own, and not by a detour either."""
    broker.answers = {
        A: bearer("for-a"),
        "http://a.example": bearer("plain"),
        "http://b.example": bearer("plain"),
    }
    chain(server, one=redirect("http://a.example/two"), two=redirect("http://b.example/three"))
    session, _ = session_of(server)

    session.get(f"{A}/one", auth=auth)

    assert server.sent() == ["Bearer for-a", None, None]
    assert "from https to http://a.example" in caplog.text


def test_up_to_https_when_it_is_allowed(server, broker, auth):
    broker.answers = {"http://a.example": bearer("plain"), A: bearer("for-a")}
    chain(server, one=redirect(f"{A}/two"))
    session, _ = session_of(server)

    session.get("http://a.example/one", auth=auth)

    assert server.sent() == ["Bearer plain", "Bearer for-a"]


def test_foreign_server_cannot_direct_an_authenticated_request(server, broker, auth, caplog):
    """Where no credential may go, nobody decides where one goes next (a confused deputy)."""
    broker.answers = {A: bearer("for-a")}
    chain(server, one=redirect(f"{A}/two", 307), two=redirect(f"{A}/three", 307))
    session, _ = session_of(server)

    session.put(f"{B}/one", auth=auth, data=b"upload")

    assert server.sent() == [None, None, None]
    assert f"led to {A} from {B}" in caplog.text


def test_loop_ends_as_requests_ends_it(server, broker, auth):
    broker.answers = {A: bearer("for-a"), B: bearer("for-b")}
    chain(server, one=redirect(f"{B}/two"), two=redirect(f"{A}/one"))
    session, _ = session_of(server)
    session.max_redirects = 6

    with pytest.raises(requests.TooManyRedirects):
        session.get(f"{A}/one", auth=auth)

    assert server.sent() == ["Bearer for-a", "Bearer for-b"] * 3 + ["Bearer for-a"]


@pytest.mark.parametrize("declined", [False, True])
def test_netrc_neither_replaces_nor_fills_in(server, broker, auth, monkeypatch, tmp_path, declined):
    netrc = tmp_path / "netrc"
    netrc.write_text("machine a.example login me password netrc\nmachine b.example login me password netrc\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    broker.answers = {} if declined else {A: bearer("for-a")}
    chain(server, one=redirect(f"{A}/two"), two=redirect(f"{B}/three"))
    session, _ = session_of(server)

    session.get(f"{A}/one", auth=auth)

    assert server.sent() == ([None] * 3 if declined else ["Bearer for-a", "Bearer for-a", None])


def test_header_of_the_user_s_own_keeps_the_rules_of_requests(server, broker, auth):
    broker.answers = {A: answer(("X-Api-Key", "ours"))}
    chain(server, one=redirect(f"{A}/two"), two=redirect(f"{B}/three"))
    session, _ = session_of(server)

    session.get(f"{A}/one", auth=auth, headers={"Authorization": "Basic own", "X-Own": "1"})

    assert server.sent() == ["Basic own", "Basic own", None]
    assert server.sent("X-Own") == ["1", "1", "1"]
    assert server.sent("X-Api-Key") == ["ours", "ours", None]


def test_redirects_that_nobody_follows_cost_nothing(server, broker, auth):
    """MLFLOW_ALLOW_HTTP_REDIRECTS=false: requests looks ahead all the same."""
    broker.answers = {A: bearer("for-a"), B: failing()}
    chain(server, one=redirect(f"{B}/two"))
    session, _ = session_of(server)

    response = session.get(f"{A}/one", auth=auth, allow_redirects=False)

    assert response.status_code == 302
    assert broker.asked == [A]
    assert response.next is not None
    assert response.next.url == f"{B}/two"
    with pytest.raises(SecretsAuthError, match=f"requests to {B}: the secret manager"):
        session.send(response.next)
    broker.answers[B] = bearer("for-b")
    session.send(response.next)
    assert server.sent() == ["Bearer for-a", "Bearer for-b"]


def test_failure_for_a_hop_is_raised_where_it_would_go_out(server, broker, auth):
    broker.answers = {A: bearer("for-a"), B: failing()}
    chain(server, one=redirect(f"{A}/two"), two=redirect(f"{B}/three"))
    session, _ = session_of(server)

    with pytest.raises(SecretsAuthError, match=f"requests to {B}"):
        session.get(f"{A}/one", auth=auth)

    assert len(server.seen) == 2


def test_each_hop_asks_once(server, broker, auth):
    broker.answers = {A: bearer("for-a"), B: bearer("for-b")}
    chain(server, one=redirect(f"{A}/two"), two=redirect(f"{B}/three"))
    session, _ = session_of(server)

    session.get(f"{A}/one", auth=auth)

    assert broker.asked == [A, A, B]


def test_streamed_answer_after_a_redirect_is_whole(server, broker, auth):
    broker.answers = {A: bearer("for-a")}
    body = bytes(range(256)) * 4096
    chain(server, one=redirect(f"{A}/two"), two=Reply(body=body))
    session, _ = session_of(server)

    response = session.get(f"{A}/one", auth=auth, stream=True)

    assert b"".join(response.iter_content(10_000)) == body


def test_hop_and_its_response_can_be_pickled(server, broker, monkeypatch):
    auth = SecretsAuth(broker.native)
    monkeypatch.setattr("mlflow_secrets_auth.auth._made", {"auth": auth})
    broker.answers = {A: bearer("for-a")}
    chain(server, one=redirect(f"{A}/two"))
    session, _ = session_of(server)
    response = session.get(f"{A}/one", auth=auth.answers)
    copy = pickle.loads(pickle.dumps(response))
    assert isinstance(response.request, Hop)
    assert copy.request.url == f"{A}/two"
    assert copy.request.headers["Authorization"] == "Bearer for-a"


def test_real_sockets(server, other, broker, auth):
    """The same without any adapter of ours: another port, then another name."""
    here, there = server.url, other.url
    broker.answers = {here: bearer("here"), there: bearer("there")}
    chain(server, one=redirect(f"{there}/two"))
    chain(other, two=redirect(f"{server.named}/three"))

    response = requests.get(f"{here}/one", auth=auth)

    assert response.status_code == 200
    assert [r.status_code for r in response.history] == [302, 302]
    assert server.sent() == ["Bearer here", None]
    assert other.sent() == ["Bearer there"]
