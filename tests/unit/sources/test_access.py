"""The state of access to a Hub: refusals are remembered for a while, a new token is sent at once, quotas are kept."""

from __future__ import annotations

import io
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2 as httpx
import huggingface_hub
import pytest
import requests

from hffs.errors import AccessDenied, AccessLapsed, HffsError, RateLimited
from hffs.model import RemoteFile
from hffs.ranges import ByteRange
from hffs.sources.http.headers import Allowed, allowed
from hffs.sources.hub.access import REPO_REST, TOKEN_REST, HubAccess
from hffs.sources.hub.auth import Auth
from hffs.sources.hub.catalog import HubCatalog
from hffs.sources.hub.hub_transport import HubTransport
from hffs.sources.hub.repo_id import parse_repo
from hffs.sources.hub.url_resolver import UrlResolver
from tests.hub import Hub, Match, Repo, faults
from tests.support.clock import Clock

from .conftest import Remote

FILES = {f"{name}.bin": os.urandom(100) for name in "abcdefgh"}
SMALL = {f"{name}.json": b"{}" for name in "abcdefgh"}


@pytest.fixture
def repo(hub: Hub) -> Repo:
    return hub.add_repo("acme/tiny", files={**FILES, **SMALL}, lfs=lambda path, _: path.endswith(".bin"))


@pytest.fixture
def files(remote: Remote, repo: Repo) -> list[RemoteFile]:
    found = [remote.file(path) for path in FILES]
    remote.hub.journal.clear()
    return found


def read(remote: Remote, file: RemoteFile) -> bytes | HffsError:
    try:
        return remote.read(file)
    except HffsError as error:
        return error


def statuses(hub: Hub) -> list[int | None]:
    """Of what the Hub itself was asked since the test cleared its journal."""
    return [record.status for record in hub.journal.requests(origin="api")]


# A refused token.


def test_a_token_that_stops_working_costs_one_request_however_many_files_are_read(
    hub: Hub, remote: Remote, files: list[RemoteFile]
) -> None:
    remote.token = "hf_good"
    assert read(remote, files[0]) == FILES["a.bin"]
    del hub.tokens["hf_good"]
    hub.journal.clear()
    for file in files[1:] * 3:
        error = read(remote, file)
        assert isinstance(error, AccessDenied)
        assert "refuses the token: it is wrong or has expired" in error.what
    assert statuses(hub) == [401]
    with pytest.raises(AccessDenied):
        remote.commit()
    assert statuses(hub) == [401], "nor is the Hub asked for anything else"
    assert read(remote, files[0]) == FILES["a.bin"], "a signed URL needs no token"
    assert remote.access.refused is not None


def test_a_refused_file_does_not_block_the_others(hub: Hub, remote: Remote, files: list[RemoteFile]) -> None:
    remote.token = "hf_good"
    hub.faults.add(Match(kind="resolve", file="b.bin"), faults.status(403))
    assert read(remote, files[0]) == FILES["a.bin"]
    for _ in range(3):
        assert isinstance(read(remote, files[1]), AccessDenied)
    assert not isinstance(read(remote, files[1]), AccessLapsed), "it never was given"
    assert read(remote, files[2]) == FILES["c.bin"]
    assert statuses(hub) == [302, 403, 302], "and it is not asked for again and again"
    assert remote.access.refused is None
    hub.faults.clear()
    remote.pass_time(REPO_REST)
    assert read(remote, files[1]) == FILES["b.bin"]


def test_a_refused_token_is_sent_again_once_in_thirty_seconds(
    hub: Hub, remote: Remote, files: list[RemoteFile]
) -> None:
    remote.token = "hf_bad"
    for _ in range(3):
        assert isinstance(read(remote, files[0]), AccessDenied)
    remote.pass_time(TOKEN_REST)
    for _ in range(3):
        assert isinstance(read(remote, files[0]), AccessDenied)
    assert statuses(hub) == [401, 401]
    hub.tokens["hf_bad"] = "alice"
    assert isinstance(read(remote, files[0]), AccessDenied)
    remote.pass_time(TOKEN_REST)
    assert read(remote, files[0]) == FILES["a.bin"]
    assert (remote.access.refused, remote.access.recovered(), remote.access.recovered()) == (None, True, False)


def test_another_token_is_sent_at_once(hub: Hub, remote: Remote, files: list[RemoteFile]) -> None:
    remote.token = "hf_bad"
    assert isinstance(read(remote, files[0]), AccessDenied)
    assert not remote.access.recovered()
    remote.token = "hf_good"
    assert remote.access.recovered(), "without a request to the Hub"
    assert read(remote, files[0]) == FILES["a.bin"]
    assert statuses(hub) == [401, 302]


def test_a_token_that_changes_during_a_request_is_read_once_more(
    hub: Hub, remote: Remote, files: list[RemoteFile]
) -> None:
    remote.tokens = ["hf_old", "hf_older"]
    assert isinstance(read(remote, files[0]), AccessDenied)
    assert statuses(hub) == [401, 401], "once, and not until it works"


def test_a_token_file_that_vanishes_and_comes_back(hub: Hub, repo: Repo, wall: Clock, tmp_path: Path) -> None:
    place = tmp_path / "token"
    place.write_text("hf_good")
    access = HubAccess(Auth(str(place)), lapse_seconds=100.0)
    catalog = HubCatalog(hub.endpoint, access)
    ref = parse_repo("acme/tiny")
    try:
        catalog.resolve(ref)
        hub.journal.clear()
        place.unlink()
        for _ in range(2):
            with pytest.raises(AccessLapsed, match=r"token cannot be read: No such file"):
                catalog.resolve(ref)
        assert statuses(hub) == [], "nothing is sent without the token that was asked for"
        place.write_text("hf_bad")
        with pytest.raises(AccessLapsed, match=f"put a good one into {place}"):
            catalog.resolve(ref)
        fresh = tmp_path / "fresh"
        fresh.write_text("hf_good")
        fresh.replace(place)
        catalog.resolve(ref)
        assert statuses(hub) == [401, 200]
    finally:
        huggingface_hub.close_session()


def test_the_login_hint_depends_on_where_the_token_was_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert Auth(str(tmp_path / "mine")).login_hint() == f"put a good one into {tmp_path}/mine"
    assert "hf auth login" in Auth().login_hint()
    monkeypatch.setenv("HUGGING_FACE_HUB_TOKEN", "hf_old")
    assert Auth().login_hint().startswith("set HUGGING_FACE_HUB_TOKEN to a good one and start hffs anew")
    assert Auth().token() is not None
    monkeypatch.setenv("HF_TOKEN", "hf_new")
    assert Auth().login_hint().startswith("set HF_TOKEN")


def test_a_refusal_is_a_lapse_only_where_access_was_granted_before(
    hub: Hub, remote: Remote, repo: Repo, files: Any
) -> None:
    remote.access = HubAccess(remote.auth, lapse_seconds=3600.0, now=remote.steady)
    remote.resolver = UrlResolver(remote.access, clock=remote.wall, monotonic=remote.steady)
    remote.transport = HubTransport(remote.resolver, remote.access)
    remote.token = "hf_good"
    repo.gated = "manual"
    assert type(read(remote, files[0])) is AccessDenied
    remote.pass_time(REPO_REST)
    repo.grant("alice")
    assert read(remote, files[0]) == FILES["a.bin"]
    repo.granted.clear()
    assert type(read(remote, files[1])) is AccessLapsed
    remote.pass_time(3600.0)
    assert type(read(remote, files[1])) is AccessDenied, "but not for ever"


# A refused repo.


def test_a_gated_repo_is_requested_once_in_five_seconds_and_others_freely(
    hub: Hub, remote: Remote, repo: Repo, files: list[RemoteFile]
) -> None:
    hub.add_repo("acme/other", files={"x.bin": b"other"}, lfs=lambda *_: True)
    other = remote.file("x.bin", remote.commit("acme/other"))
    repo.gated = "manual"
    hub.journal.clear()
    for file in files:
        assert isinstance(read(remote, file), AccessDenied)
    assert statuses(hub) == [401]
    assert remote.read(other) == b"other"
    assert remote.commit().id == "acme/tiny", "what a gated repo lists is public"
    remote.pass_time(REPO_REST)
    repo.gated = None
    assert read(remote, files[0]) == FILES["a.bin"]
    assert remote.access.refused is None


# Quotas.


@pytest.mark.parametrize(
    ("limit", "policy", "found"),
    [
        ('"api";r=499;t=120', '"fixed window";"api";q=500;w=300', Allowed("api", 499, 500, 120.0)),
        ('"resolvers"; r=0; t=5', None, Allowed("resolvers", 0, None, 5.0)),
        ('"api";t=120;r=1', '"fixed window";"api";q=0;w=300', Allowed("api", 1, None, 120.0)),
        (
            '"api";r=1;t=2',
            '"fixed window";"pages";q=7;w=300, "fixed window";"api";q=9;w=300',
            Allowed("api", 1, 9, 2.0),
        ),
        ('"api";r=x;t=2', None, None),
        ("r=1;t=2", None, None),
        ('"api";r=1', None, None),
        (None, '"fixed window";"api";q=500;w=300', None),
        ('"' + "a" * 100 + '";r=1;t=2', None, None),
    ],
)
def test_a_quota_is_that_of_the_headers_or_none(limit: str | None, policy: str | None, found: Allowed | None) -> None:
    headers = {"ratelimit": limit, "ratelimit-policy": policy}
    assert allowed({name: value for name, value in headers.items() if value is not None}) == found


def test_each_kind_of_request_has_its_quota_updated_by_each_response(hub: Hub, remote: Remote, repo: Repo) -> None:
    hub.limits.quotas.update({"api": 50, "resolvers": 100})
    assert remote.access.requests_left() is None
    file = remote.file("a.bin")
    assert set(remote.access.quotas()) == {"api"}
    remote.read(file)
    remote.read(remote.file("a.json"))
    found = remote.access.quotas()
    asked = {kind: len(hub.journal.requests(kind)) for kind in ("api", "resolve")}
    assert (found["api"].left, found["api"].limit) == (50 - asked["api"], 50)
    assert (found["resolvers"].left, found["resolvers"].limit) == (100 - asked["resolve"], 100)
    assert remote.access.requests_left() == 98
    remote.pass_time(301.0)
    assert remote.access.quotas() == {}, "a window that has ended says nothing about the next"


def test_another_user_has_another_quota(hub: Hub, remote: Remote, repo: Repo) -> None:
    hub.limits.quotas.update({"api": 50})
    remote.commit()
    remote.commit()
    remote.token = "hf_good"
    remote.commit()
    assert remote.access.quotas()["api"].left == 49


def test_responses_out_of_order_do_not_raise_the_quota(hub: Hub, remote: Remote, repo: Repo) -> None:
    for window, left in (("r=10;t=100", 10), ("r=12;t=101", 10), ("r=9;t=99", 9)):
        scripted = hub.faults.add(Match(kind="info"), faults.header("RateLimit", f'"api";{window}'))
        remote.commit()
        hub.faults.remove(scripted)
        assert remote.access.quotas()["api"].left == left
    remote.pass_time(100.0)
    hub.faults.add(Match(kind="info"), faults.header("RateLimit", '"api";r=50;t=299'))
    remote.commit()
    assert remote.access.quotas()["api"].left == 50, "another window"


def test_a_spent_quota_blocks_its_kind_of_request_until_it_resets(
    hub: Hub, remote: Remote, files: list[RemoteFile]
) -> None:
    hub.limits.quotas["resolvers"] = 2
    for file in files[:2]:
        assert isinstance(read(remote, file), bytes)
    waits = []
    for file in files[2:]:
        error = read(remote, file)
        assert isinstance(error, RateLimited)
        waits.append(error.retry_after)
    assert statuses(hub) == [302, 302, 429]
    assert all(wait and 0 < wait <= 300 for wait in waits)
    assert remote.access.slow_reason().startswith("the Hub takes no request of the kind 'resolvers' for ")
    assert remote.access.background_delay() > 0
    remote.commit()
    assert read(remote, files[0]) == FILES["a.bin"], "a signed URL costs no quota"
    remote.pass_time(301.0)
    assert read(remote, files[2]) == FILES["c.bin"]


def test_a_new_login_is_not_blocked_by_the_quota_of_anonymous_requests(
    hub: Hub, remote: Remote, files: list[RemoteFile]
) -> None:
    hub.limits.quotas["resolvers"] = 1
    assert isinstance(read(remote, files[0]), bytes)
    assert isinstance(read(remote, files[1]), RateLimited)
    remote.token = "hf_good"
    assert read(remote, files[1]) == FILES["b.bin"]


def test_background_requests_are_delayed_on_a_low_quota_unless_they_are_free(
    hub: Hub, remote: Remote, files: list[RemoteFile]
) -> None:
    hub.limits.quotas["resolvers"] = 20
    assert [remote.transport.background_delay(file) for file in files] == [0] * 8
    for file in files[:4]:
        read(remote, file)
    granted = 0
    while not remote.access.background_delay():
        granted += 1
    assert granted == 16 - 5, "down to a quarter of twenty"
    assert remote.transport.background_delay(files[5]) > 0
    assert remote.transport.background_delay(files[0]) == 0, "its signed URL is known"
    assert remote.access.slow_reason().endswith(" s")
    assert read(remote, files[5]) == FILES["f.bin"], "a waiting reader is not delayed"


# Which hosts get the token.

AWAY = [
    "https://hub.example:444/api/x",  # another port
    "https://hub2.example/api/x",  # another host
    "https://hub.example.evil/api/x",
    "//other.example/api/x",
]


@pytest.mark.parametrize("location", AWAY)
def test_redirects_of_a_listing_carry_the_token_to_the_hub_only(location: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, str | None]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append((str(request.url), request.headers.get("authorization")))
        if len(seen) == 1:
            return httpx.Response(307, headers={"location": "/api/models/acme/renamed?x=1"})
        if len(seen) == 2:
            return httpx.Response(307, headers={"location": location})
        return httpx.Response(404, json={"error": "none"})

    with pytest.raises(HffsError):
        _with_client(answer, "https://hub.example")
    assert ["hf_good" in (token or "") for _, token in seen] == [True, True, False]
    assert seen[1][0] == "https://hub.example/api/models/acme/renamed?x=1", "a relative one keeps its query"


@pytest.mark.parametrize("location", ["http://hub.example/api/x", "http://other.example/x", "ftp://hub.example/x"])
def test_a_listings_redirect_from_https_to_http_is_not_followed(location: str) -> None:
    seen: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(str(request.url))
        return httpx.Response(307, headers={"location": location})

    with pytest.raises(HffsError, match="redirect"):
        _with_client(answer, "https://hub.example")
    assert {url.partition("?")[0] for url in seen} == {"https://hub.example/api/models/acme/tiny"}


def test_the_same_host_by_https_is_another_origin_than_by_http() -> None:
    seen: list[tuple[str, bool]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append((request.url.scheme, "authorization" in request.headers))
        if len(seen) == 1:
            return httpx.Response(308, headers={"location": "https://hub.example/api/x"})
        return httpx.Response(404, json={"error": "none"})

    with pytest.raises(HffsError):
        _with_client(answer, "http://hub.example")
    assert seen == [("http", True), ("https", False)]


def _with_client(answer: Any, endpoint: str) -> None:
    """One call of HfApi with the token, answered by ``answer``."""

    def unread(request: httpx.Request) -> httpx.Response:  # as from a socket: its body is still to come
        made = answer(request)
        return httpx.Response(made.status_code, headers=made.headers, stream=httpx.ByteStream(made.content))

    huggingface_hub.set_client_factory(
        lambda: httpx.Client(transport=httpx.MockTransport(unread), follow_redirects=True)
    )
    try:
        access = HubAccess(Auth(find=lambda: "hf_good"))
        HubCatalog(endpoint, access, sleep=lambda _: None).resolve(parse_repo("acme/tiny"))
    finally:
        huggingface_hub.close_session()
        huggingface_hub.set_client_factory(_default_factory())


def _default_factory() -> Any:
    from huggingface_hub.utils import _http

    return _http.default_client_factory


@pytest.mark.parametrize(
    "location", [*AWAY, "http://hub.example/x", "https://hub.example/other/resolve/x", "/other/resolve/x"]
)
def test_redirects_of_a_file_carry_the_token_to_the_hub_only(
    location: str, remote: Remote, files: list[RemoteFile], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, str | None]] = []

    def send(self: requests.Session, request: requests.PreparedRequest, **_: Any) -> requests.Response:
        seen.append((str(request.url), request.headers.get("Authorization")))
        response = requests.Response()
        response.raw = io.BytesIO()
        response.status_code = 302 if len(seen) < 3 else 404
        response.headers["Location"] = location
        response.headers["X-Repo-Commit"] = files[0].commit.sha
        return response

    monkeypatch.setattr(requests.Session, "send", send)
    remote.token = "hf_good"
    commit = replace(files[0].commit, source="https://hub.example")
    for lfs in (True, False):
        seen.clear()
        with pytest.raises(HffsError):
            remote.transport.open_range(replace(files[0], commit=commit, lfs=lfs), ByteRange(0, 10))
        assert seen[0][1] == "Bearer hf_good"
        for url, token in seen:
            at_home = url.startswith("https://hub.example/")
            assert token == ("Bearer hf_good" if at_home else None), url
            assert not url.startswith("http://")
        assert len(seen) > 1 or lfs or location.startswith("http:")


def test_an_empty_token_file_is_an_error_and_no_request_is_sent(tmp_path: Path, hub: Hub, repo: Repo) -> None:
    (tmp_path / "token").write_text("\n")
    catalog = HubCatalog(hub.endpoint, HubAccess(Auth(str(tmp_path / "token"))), sleep=lambda _: None)
    with pytest.raises(AccessDenied, match="holds no token"):
        catalog.resolve(parse_repo("acme/tiny"))
    assert statuses(hub) == []
    huggingface_hub.close_session()
