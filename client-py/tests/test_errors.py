"""What the user sees when no credential can be had, and what is logged."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import requests
from fakes import answer, bearer, failing
from loopback import session_of

from mlflow_secrets_auth import notices
from mlflow_secrets_auth.errors import SecretsAuthError

A = "https://a.example"


def test_raised_with_origin_cause_and_next_step(server, broker, auth):
    broker.answers = {A: failing("vault:secret/x is away. Check VAULT_ADDR")}
    session, _ = session_of(server)
    with pytest.raises(SecretsAuthError) as caught:
        session.get(f"{A}/x?password=hunter2", auth=auth)
    assert str(caught.value) == (
        "cannot authenticate requests to https://a.example: vault:secret/x is away. Check VAULT_ADDR"
    )
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__
    assert server.seen == []


def test_skip_restores_the_old_way_and_says_so_once(server, broker, auth, monkeypatch, caplog):
    monkeypatch.setenv("MLFLOW_SECRETS_AUTH_ON_ERROR", "Skip")
    broker.answers = {A: failing()}
    session, _ = session_of(server)
    for _ in range(3):
        session.get(f"{A}/x", auth=auth)
    assert server.sent() == [None] * 3
    assert len(caplog.records) == 1
    assert "secret manager is on fire" in caplog.text
    assert "MLFLOW_SECRETS_AUTH_ON_ERROR=skip" in caplog.text


@pytest.mark.parametrize("value", ["", "raise", "ignore", "0"])
def test_nothing_but_skip_skips(server, broker, auth, monkeypatch, value):
    monkeypatch.setenv("MLFLOW_SECRETS_AUTH_ON_ERROR", value)
    broker.answers = {A: failing()}
    session, _ = session_of(server)
    with pytest.raises(SecretsAuthError):
        session.get(A, auth=auth)


def test_declined_origin_is_logged_once(server, broker, auth, caplog):
    session, _ = session_of(server)
    for _ in range(3):
        session.get(f"{A}/x", auth=auth)
    assert [r.getMessage() for r in caplog.records] == [f"no credential is sent: {A} is not allowed"]


def test_declined_request_keeps_the_user_s_own_header(server, broker, auth):
    session, _ = session_of(server)
    session.get(f"{A}/x", auth=auth, headers={"Authorization": "Basic own"})
    assert server.sent() == ["Basic own"]


@pytest.mark.parametrize(
    ("origin", "warned"),
    [
        ("http://mlflow.example", True),
        ("http://127.0.0.1:5000", False),
        ("http://localhost", False),
        (A, False),
    ],
)
def test_plain_text_across_a_network_is_warned_of_once(server, broker, auth, caplog, origin, warned):
    broker.answers = {origin: bearer("x")}
    session, _ = session_of(server)
    for _ in range(2):
        session.get(f"{origin}/x", auth=auth)
    assert len(caplog.records) == int(warned)


def test_several_headers_of_one_answer(server, broker, auth):
    broker.answers = {A: answer(("CF-Access-Client-Id", "id"), ("CF-Access-Client-Secret", "s"))}
    session, _ = session_of(server)
    session.get(f"{A}/x", auth=auth)
    assert server.sent("CF-Access-Client-Id") == ["id"]
    assert server.sent("CF-Access-Client-Secret") == ["s"]


def test_log_level_governs_this_log_alone(monkeypatch):
    log, root = logging.getLogger("mlflow_secrets_auth"), logging.getLogger()
    level = root.level
    try:
        monkeypatch.setenv("MLFLOW_SECRETS_LOG_LEVEL", "debug")
        notices.set_level()
        assert log.level == logging.DEBUG
        assert root.level == level
        monkeypatch.setenv("MLFLOW_SECRETS_LOG_LEVEL", "loud")
        notices.set_level()
        assert log.level == logging.NOTSET
    finally:
        monkeypatch.delenv("MLFLOW_SECRETS_LOG_LEVEL")
        notices.set_level()


def test_authenticated_twice_is_looked_at_once(broker, auth):
    broker.answers = {A: bearer("x")}
    request = requests.Request("GET", f"{A}/x").prepare()
    auth(auth(request))
    assert request.hooks["response"] == [auth.hook]


SHOW = """
import logging, os, sys
from mlflow_secrets_auth import notices
if "root" in sys.argv:
    logging.basicConfig(format="root %(message)s")
notices.set_level()
notices.declined("this reason")
notices.asked("https://a.example", "file:/secret", 3)
"""


@pytest.mark.parametrize(
    ("level", "argument", "shown"),
    [
        ("", "", ["WARNING mlflow_secrets_auth: no credential is sent: this reason"]),
        ("ERROR", "", []),
        ("", "root", ["root no credential is sent: this reason"]),
        (
            "DEBUG",
            "",
            [
                "WARNING mlflow_secrets_auth: no credential is sent: this reason",
                "DEBUG mlflow_secrets_auth: the credential for https://a.example is made"
                " from file:/secret (revision 3)",
            ],
        ),
    ],
)
def test_warnings_are_seen_without_any_set_up(monkeypatch, level, argument, shown):
    monkeypatch.setenv("MLFLOW_SECRETS_LOG_LEVEL", level)
    package = Path(notices.__file__).parent.parent
    done = subprocess.run(
        [sys.executable, "-c", SHOW, argument],
        env={**os.environ, "PYTHONPATH": str(package)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr.splitlines() == shown
