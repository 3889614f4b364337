"""Rejections: when a request is sent a second time, and with what."""

from __future__ import annotations

import io

import pytest
import requests
from fakes import answer, bearer, failing
from loopback import Reply, redirect, session_of

A, B = "https://a.example", "https://b.example"


def accepts(token: str, status: int = 401, then: Reply | None = None):
    """A server that knows one token."""

    def script(seen):
        if seen.headers.get("Authorization") == f"Bearer {token}":
            return then or Reply(body=b'"welcome"')
        return Reply(status, body=b'"who are you"', headers={"Set-Cookie": "seen=1"})

    return script


@pytest.fixture
def rotated(server, broker):
    """The server knows a newer credential than the one that is sent first."""
    broker.answers = {A: bearer("old")}
    broker.newer = bearer("new", revision=2)
    server.script = accepts("new")
    return server


@pytest.mark.parametrize("status", [401, 403])
def test_repeated_once_with_the_newer_credential(rotated, broker, auth, status):
    rotated.script = accepts("new", status)
    session, world = session_of(rotated)

    response = session.post(f"{A}/x", auth=auth, json={"x": 1}, timeout=(3, 7), stream=True, cert="me.pem")

    assert response.content == b'"welcome"'
    assert [r.status_code for r in response.history] == [status]
    assert rotated.sent() == ["Bearer old", "Bearer new"]
    assert rotated.sent("X-MLFSA-Retried") == [None, "true"]
    assert rotated.sent("Cookie") == [None, "seen=1"]
    assert [seen.body for seen in rotated.seen] == [b'{"x": 1}'] * 2
    assert broker.rejections == [(A, 1, status)]
    assert f"{A}/x" in broker.kept
    assert world.kwargs[0] == world.kwargs[1]
    assert world.kwargs[1]["timeout"] == (3, 7)


def test_next_request_has_the_newer_one_at_once(rotated, broker, auth):
    session, _ = session_of(rotated)
    session.get(f"{A}/x", auth=auth)
    session.get(f"{A}/x", auth=auth)
    assert rotated.sent() == ["Bearer old", "Bearer new", "Bearer new"]


def test_second_answer_is_returned_whatever_it_is(rotated, broker, auth, caplog):
    rotated.script = accepts("neither")
    session, _ = session_of(rotated)

    response = session.get(f"{A}/x", auth=auth)

    assert response.status_code == 401
    assert rotated.sent() == ["Bearer old", "Bearer new"]
    assert "header Authorization made from file:/secret (revision 2)" in caplog.text
    assert "Bearer" not in caplog.text


@pytest.mark.parametrize(
    "newer",
    [
        bearer("old"),  # nothing new
        bearer("old", revision=2),  # a new number for the same secret
        bearer("new", revision=1),  # what the broker does not call newer
        answer(declined="no longer allowed", revision=2),
        answer(revision=2),
        failing(),
    ],
)
def test_otherwise_the_server_s_answer_is_untouched(rotated, broker, auth, newer, caplog):
    broker.newer = newer
    session, _ = session_of(rotated)

    response = session.get(f"{A}/x", auth=auth, stream=True)

    assert response.raw.read() == b'"who are you"'
    assert len(rotated.seen) == 1
    assert response.history == []
    session.get(f"{A}/x", auth=auth)
    said = [record.getMessage() for record in caplog.records]
    assert said
    assert len(said) == len(set(said))
    assert "Bearer" not in caplog.text


def test_401_without_a_credential_says_why(server, broker, auth, caplog):
    server.script = accepts("x")
    session, _ = session_of(server)

    for _ in range(3):
        assert session.get(f"{B}/x", auth=auth).status_code == 401

    assert broker.rejections == []
    said = [r.getMessage() for r in caplog.records]
    assert said == [
        f"no credential is sent: {B} is not allowed",
        f"{B} answered 401 to a request without a credential: {B} is not allowed",
    ]


@pytest.mark.parametrize("status", [401, 403])
def test_a_401_that_stays_is_logged_once_and_a_403_quietly(rotated, broker, auth, caplog, status):
    broker.newer = None
    rotated.script = accepts("neither", status)
    session, _ = session_of(rotated)
    for _ in range(3):
        session.get(f"{A}/x", auth=auth)
    assert len([r for r in caplog.records if r.levelname == "WARNING"]) == (1 if status == 401 else 0)


# === Bodies ===


class Unseekable(io.RawIOBase):
    def __init__(self, content: bytes) -> None:
        self._inner = io.BytesIO(content)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        return self._inner.readinto(buffer)


def test_file_is_read_again_from_where_it_was(rotated, broker, auth, tmp_path):
    file = tmp_path / "upload"
    file.write_bytes(b"skipped" + b"x" * 300_000)
    session, _ = session_of(rotated)
    with file.open("rb") as body:
        body.seek(7)
        response = session.put(f"{A}/x", auth=auth, data=body)
    assert response.status_code == 200
    assert [seen.body == b"x" * 300_000 for seen in rotated.seen] == [True, True]
    assert rotated.sent("Content-Length") == ["300000"] * 2


def test_multipart_form_is_repeated(rotated, broker, auth):
    session, _ = session_of(rotated)
    assert session.post(f"{A}/x", auth=auth, files={"f": b"content"}).status_code == 200
    assert rotated.seen[0].body == rotated.seen[1].body


@pytest.mark.parametrize(
    "body",
    [lambda: (part for part in [b"a", b"b"]), lambda: Unseekable(b"ab")],
    ids=["generator", "unseekable"],
)
def test_body_that_is_gone_is_not_repeated(rotated, broker, auth, body):
    session, _ = session_of(rotated)

    response = session.post(f"{A}/x", auth=auth, data=body())

    assert response.status_code == 401
    assert response.content == b'"who are you"'
    assert [seen.body for seen in rotated.seen] == [b"ab"]
    # What was learnt is not lost.
    assert session.post(f"{A}/x", auth=auth, data=b"ab").status_code == 200


class Closing(io.BytesIO):
    """A file that somebody closes while its request is on the way."""

    closing = False

    def seek(self, *where: int) -> int:
        if self.closing:
            raise ValueError("I/O operation on closed file")
        return super().seek(*where)


def test_file_that_was_closed_is_not_repeated(rotated, broker, auth):
    body, known = Closing(b"content"), accepts("new")

    def script(seen):
        body.closing = True
        return known(seen)

    rotated.script = script
    session, _ = session_of(rotated)
    response = session.put(f"{A}/x", auth=auth, data=body)
    assert response.status_code == 401
    assert len(rotated.seen) == 1


# === With redirects ===


def test_redirect_after_a_replay_carries_the_newer_credential(rotated, broker, auth):
    rotated.script = accepts("new", then=redirect(f"{A}/two", 307))
    done = {"/two": Reply(body=b'"done"')}
    first = rotated.script
    rotated.script = lambda seen: done.get(seen.path) or first(seen)
    session, _ = session_of(rotated)

    response = session.post(f"{A}/one", auth=auth, data=io.BytesIO(b"content"))

    assert response.content == b'"done"'
    assert rotated.sent() == ["Bearer old", "Bearer new", "Bearer new"]
    assert rotated.sent("X-MLFSA-Retried") == [None, "true", None]
    assert [seen.body for seen in rotated.seen] == [b"content"] * 3


def test_redirect_after_a_replay_leads_elsewhere_without_it(rotated, broker, auth):
    first = accepts("new", then=redirect(f"{B}/two"))
    rotated.script = lambda seen: Reply() if seen.path == "/two" else first(seen)
    session, world = session_of(rotated)
    session.get(f"{A}/one", auth=auth)
    assert world.origins == [A, A, B]
    assert rotated.sent() == ["Bearer old", "Bearer new", None]


def test_target_s_401_is_its_own(server, broker, auth):
    broker.answers = {A: bearer("a"), B: bearer("b")}
    replies = {"/one": redirect(f"{B}/two"), "/two": Reply(401)}
    server.script = lambda seen: replies[seen.path]
    session, _ = session_of(server)
    session.get(f"{A}/one", auth=auth)
    assert broker.rejections == [(B, 1, 401)]


def test_declined_target_s_401_reports_and_repeats_nothing(server, broker, auth):
    broker.answers = {A: bearer("a")}
    broker.newer = bearer("new", revision=2)
    replies = {"/one": redirect(f"{B}/two"), "/two": Reply(401)}
    server.script = lambda seen: replies[seen.path]
    session, _ = session_of(server)
    assert session.get(f"{A}/one", auth=auth).status_code == 401
    assert broker.rejections == []
    assert server.sent() == ["Bearer a", None]


def test_replay_on_a_hop(server, broker, auth):
    broker.answers = {A: bearer("old")}
    broker.newer = bearer("new", revision=2)
    known = accepts("new")
    server.script = lambda seen: redirect(f"{A}/two") if seen.path == "/one" else known(seen)
    session, _ = session_of(server)
    assert session.get(f"{A}/one", auth=auth).status_code == 200
    assert server.sent() == ["Bearer old", "Bearer old", "Bearer new"]


# === Connections ===


def test_no_connection_leaks(rotated, broker, auth):
    """One connection serves a rejected request, its repetition and those after it."""
    broker.answers = {rotated.url: bearer("old")}
    with requests.Session() as session:
        for _ in range(20):
            broker.answers = {rotated.url: bearer("old")}
            broker.newer = bearer("new", revision=2)
            assert session.get(f"{rotated.url}/x", auth=auth).status_code == 200
    assert len({seen.connection for seen in rotated.seen}) == 1
