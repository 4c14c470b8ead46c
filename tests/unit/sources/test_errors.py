"""Refusals and exceptions of libraries become HffsErrors, with a remedy and without secrets."""

from __future__ import annotations

import errno
import http.client
import pickle
import socket
import ssl
import time
from email.utils import formatdate
from pathlib import Path

import huggingface_hub
import pytest
import requests
import urllib3
from huggingface_hub import constants, errors
from hypothesis import given
from hypothesis import strategies as st

from hffs.errors import (
    AccessDenied,
    BadResponse,
    ContentChanged,
    EntryNotFound,
    HffsError,
    HubUnreachable,
    RateLimited,
    RepoNotFound,
    RevisionNotFound,
    UsageError,
)
from hffs.model import RepoType
from hffs.sources.http.errors import MAX_WAIT, http_errors
from hffs.sources.hub.auth import Auth, Token
from hffs.sources.hub.hub_errors import RequestSubject, httpx, hub_errors, refusal

SECRET = "hf_verysecret"
SIGNED = f"https://cdn.example/x?Signature={SECRET}"
REPO = RequestSubject("https://hub.example", RepoType.DATASET, "acme/tiny", "dev")
FILE = RequestSubject("https://hub.example", RepoType.DATASET, "acme/tiny", "0" * 40, "a/b.bin", pinned=True)


def hub_http_error(status: int, headers: dict[str, str]) -> errors.HfHubHTTPError:
    request = httpx.Request("GET", SIGNED, headers={"authorization": f"Bearer {SECRET}"})
    return errors.HfHubHTTPError(SIGNED, response=httpx.Response(status, headers=headers, request=request))


REFUSALS = [
    (REPO, 401, {}, RepoNotFound, "hf auth login"),
    (REPO, 401, {"x-error-code": "RepoNotFound"}, RepoNotFound, "private"),
    (REPO, 404, {"x-error-code": "RepoNotFound"}, RepoNotFound, "private"),
    (REPO, 404, {}, RepoNotFound, "check the name"),
    (REPO, 404, {"x-error-code": "RevisionNotFound"}, RevisionNotFound, "'dev'"),
    (REPO, 401, {"x-error-message": "Invalid credentials in Authorization header"}, AccessDenied, "expired"),
    (REPO, 401, {"x-error-code": "GatedRepo"}, AccessDenied, "https://hub.example/datasets/acme/tiny"),
    (REPO, 403, {"x-error-code": "GatedRepo"}, AccessDenied, "ask for access"),
    (REPO, 403, {"x-error-message": "Access to this resource is disabled."}, AccessDenied, "disabled"),
    (REPO, 403, {}, AccessDenied, "permissions"),
    (FILE, 404, {"x-error-code": "EntryNotFound"}, EntryNotFound, "a/b.bin"),
    (FILE, 404, {}, EntryNotFound, "a/b.bin"),
    (FILE, 401, {}, AccessDenied, "a/b.bin"),
    (FILE, 416, {}, ContentChanged, "a/b.bin"),
    (REPO, 429, {"ratelimit": '"api";r=0;t=55'}, RateLimited, "55 s"),
    (REPO, 429, {}, RateLimited, "too many"),
    (REPO, 408, {}, HubUnreachable, "408"),
    (REPO, 503, {}, HubUnreachable, "503"),
    (REPO, 503, {"retry-after": "30"}, HubUnreachable, "try again in 30 s"),
    (REPO, 400, {}, BadResponse, "400"),
    (REPO, 302, {}, BadResponse, "302"),
]


@pytest.mark.parametrize(("about", "status", "headers", "kind", "word"), REFUSALS)
def test_each_refusing_status_gives_its_error_with_a_remedy(
    about: RequestSubject, status: int, headers: dict[str, str], kind: type[HffsError], word: str
) -> None:
    error = refusal(about, status, headers)
    assert type(error) is kind
    assert word in str(error)
    with pytest.raises(kind) as through, hub_errors(about):
        raise hub_http_error(status, headers)
    assert type(through.value) is kind
    assert SECRET not in str(through.value)


def test_only_passing_failures_are_transient() -> None:
    transient = {status for _, status, _, kind, _ in REFUSALS if kind.transient}
    assert transient == {429, 408, 503, 400, 302}


BUSY = [408, 429, 500, 502, 503, 504]
DAY = 1_800_000_000


@pytest.mark.parametrize("status", BUSY)
@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "7"}, 7.0),
        ({"ratelimit": '"api";r=0;t=55'}, 55.0),
        ({"retry-after": formatdate(DAY + 90, usegmt=True), "date": formatdate(DAY, usegmt=True)}, 90.0),
        ({"retry-after": formatdate(DAY, usegmt=True), "date": formatdate(DAY, usegmt=True)}, 0.0),
        ({"retry-after": "86400"}, MAX_WAIT),
        ({"ratelimit": '"api";r=4;t=55'}, None),
        ({"retry-after": "soon"}, None),
        ({}, None),
    ],
)
def test_an_overloaded_servers_wait_is_in_the_error(
    status: int, headers: dict[str, str], seconds: float | None
) -> None:
    """A date counts by the server's own clock, not by ours; and no wait is longer than five minutes."""
    error = refusal(FILE, status, headers)
    assert isinstance(error, HubUnreachable)
    assert error.transient
    assert error.retry_after == seconds


def test_a_retry_date_without_the_servers_date_counts_by_our_clock() -> None:
    error = refusal(FILE, 503, {"retry-after": formatdate(time.time() + 100, usegmt=True)})
    assert isinstance(error, HubUnreachable)
    assert error.retry_after is not None
    assert 0 < error.retry_after <= 100


@given(st.integers(100, 999), st.text(max_size=40), st.text(max_size=40), st.text(max_size=40))
def test_no_header_makes_an_endless_wait(status: int, after: str, limit: str, date: str) -> None:
    error = refusal(FILE, status, {"retry-after": after, "ratelimit": limit, "date": date})
    wait = getattr(error, "retry_after", None)
    assert wait is None or 0 <= wait <= MAX_WAIT


@given(
    st.integers(100, 999),
    st.dictionaries(st.sampled_from(["x-error-code", "x-error-message", "retry-after", "ratelimit"]), st.text()),
)
def test_any_refusal_is_an_hffs_error(status: int, headers: dict[str, str]) -> None:
    for about in (REPO, FILE):
        assert isinstance(refusal(about, status, headers), HffsError)


def timed_out() -> BaseException:
    outer = httpx.ConnectError(SIGNED)
    outer.__cause__ = OSError(errno.ENETUNREACH, "no route")
    return outer


@pytest.mark.parametrize(
    ("error", "kind", "word"),
    [
        (httpx.ConnectTimeout(SIGNED), HubUnreachable, "in time"),
        (httpx.ReadTimeout(SIGNED), HubUnreachable, "in time"),
        (httpx.ReadError(SIGNED), HubUnreachable, "broke"),
        (httpx.RemoteProtocolError(SIGNED), HubUnreachable, "broke"),
        (httpx.ProxyError(SIGNED), HubUnreachable, "proxy"),
        (timed_out(), HubUnreachable, "network is unreachable"),
        (httpx.DecodingError(SIGNED), BadResponse, "decoded"),
        (httpx.TooManyRedirects(SIGNED), BadResponse, "redirects"),
        (httpx.UnsupportedProtocol(SIGNED), BadResponse, "redirects"),
        (httpx.InvalidURL(SIGNED), BadResponse, "redirects"),
        (errors.OfflineModeIsEnabled(SIGNED), HubUnreachable, "HF_HUB_OFFLINE"),
        (errors.LocalTokenNotFoundError(SIGNED), HubUnreachable, "broke"),
        (errors.HFValidationError(SIGNED), UsageError, "acme/tiny"),
        (KeyError("sha"), BadResponse, "KeyError"),
        (TypeError(SIGNED), BadResponse, "TypeError"),
        (ValueError(SIGNED), BadResponse, "ValueError"),
        (AttributeError(SIGNED), BadResponse, "AttributeError"),
        (ssl.SSLCertVerificationError(1, SIGNED), HubUnreachable, "certificate"),
        (socket.gaierror(-2, "x"), HubUnreachable, "resolved"),
    ],
)
def test_errors_of_huggingface_hub_become_hffs_errors(error: Exception, kind: type[HffsError], word: str) -> None:
    with pytest.raises(kind, match=word) as caught, hub_errors(REPO):
        raise error
    assert "hub.example" in str(caught.value) or kind is UsageError
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


POOL = urllib3.HTTPConnectionPool("cdn.example")


@pytest.mark.parametrize(
    ("error", "kind", "word"),
    [
        (requests.ConnectTimeout(SIGNED), HubUnreachable, "in time"),
        (requests.ReadTimeout(SIGNED), HubUnreachable, "in time"),
        (urllib3.exceptions.ReadTimeoutError(POOL, SIGNED, SIGNED), HubUnreachable, "in time"),
        (requests.ConnectionError(urllib3.exceptions.MaxRetryError(POOL, SIGNED, ConnectionRefusedError(111, "x"))),
         HubUnreachable, "refused"),
        (requests.ConnectionError(urllib3.exceptions.ProtocolError("x", ConnectionResetError(104, "x"))),
         HubUnreachable, "reset"),
        (ConnectionResetError(104, "x"), HubUnreachable, "reset"),
        (requests.exceptions.SSLError(ssl.SSLError("x")), HubUnreachable, "TLS"),
        (requests.exceptions.ProxyError(SIGNED), HubUnreachable, "proxy"),
        (requests.exceptions.InvalidURL(SIGNED), BadResponse, "address"),
        (requests.exceptions.ChunkedEncodingError(urllib3.exceptions.IncompleteRead(3, 7)), BadResponse, "early"),
        (urllib3.exceptions.ProtocolError("x", urllib3.exceptions.IncompleteRead(3, 7)), BadResponse, "early"),
        (http.client.IncompleteRead(b""), BadResponse, "early"),
        (http.client.BadStatusLine("x"), HubUnreachable, "broke"),
        (urllib3.exceptions.DecodeError("x"), BadResponse, "read"),
        (requests.exceptions.RequestException(SIGNED), HubUnreachable, "broke"),
        (ValueError("invalid literal for int() with base 16"), BadResponse, "broke off"),
    ],
)  # fmt: skip
def test_errors_of_requests_become_hffs_errors(error: Exception, kind: type[HffsError], word: str) -> None:
    with pytest.raises(kind, match=word) as caught, http_errors(FILE, SIGNED):
        raise error
    assert "cdn.example" in str(caught.value)
    assert SECRET not in str(caught.value)


def test_hffs_errors_and_bugs_pass_unchanged() -> None:
    for door in (hub_errors(REPO), http_errors(FILE, SIGNED)):
        with pytest.raises(ContentChanged, match="as it was"), door:
            raise ContentChanged("as it was")
    with pytest.raises(ZeroDivisionError), hub_errors(REPO):
        raise ZeroDivisionError


def test_a_circle_of_causes_ends() -> None:
    one, two = OSError("a"), OSError("b")
    one.__cause__, two.__cause__ = two, one
    with pytest.raises(HubUnreachable), http_errors(FILE, SIGNED):
        raise one


# The token.


def test_a_token_is_shown_in_its_header_only() -> None:
    token = Token(SECRET)
    assert SECRET not in f"{token} {token!r} {[token]} {vars(Token)}"
    assert token.header == f"Bearer {SECRET}"
    with pytest.raises(TypeError):
        pickle.dumps(token)


def test_a_token_is_found_where_huggingface_hub_finds_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    auth = Auth()
    assert auth.token() is None
    (tmp_path / "token").write_text("hf_first\n")
    assert auth.token() == Token("hf_first")
    (tmp_path / "token").write_text("hf_second\n")
    assert auth.token() == Token("hf_second")
    monkeypatch.setenv("HF_TOKEN", "hf_env")
    assert auth.token() == Token("hf_env")
    assert huggingface_hub.get_token() == "hf_env"


def test_implicit_tokens_can_be_disabled_but_not_a_token_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_env")
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_IMPLICIT_TOKEN", True)
    (tmp_path / "mine").write_text(" hf_mine \r\n")
    assert Auth().token() is None
    assert Auth(str(tmp_path / "mine")).token() == Token("hf_mine")


def test_a_token_file_is_read_anew_and_its_absence_reported(tmp_path: Path) -> None:
    auth = Auth(str(tmp_path / "mine"))
    with pytest.raises(AccessDenied, match="No such file"):
        auth.token()
    (tmp_path / "mine").write_text("hf_a")
    assert auth.token() == Token("hf_a")
    (tmp_path / "mine").write_text("")
    with pytest.raises(AccessDenied, match="holds no token"):
        auth.token()


@pytest.mark.parametrize("text", ["hf_a\nX-Evil: 1", "hf_a b", "hf_ä"])
def test_a_token_unfit_for_a_header_is_refused_and_not_shown(text: str) -> None:
    with pytest.raises(AccessDenied) as caught:
        Auth(find=lambda: text).token()
    assert text not in str(caught.value)


@pytest.mark.skipif(not hasattr(errors, "OIDCError"), reason="this huggingface_hub exchanges no tokens")
def test_a_failing_token_exchange_is_reported_without_its_message() -> None:
    def find() -> str | None:
        raise errors.OIDCError(SECRET)

    with pytest.raises(AccessDenied, match="OIDCError") as caught:
        Auth(find=find).token()
    assert SECRET not in str(caught.value)
