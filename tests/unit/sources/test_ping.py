"""What one request finds out about a Hub: whether it answers, its clock, and the user of the token."""

from __future__ import annotations

import socket
import time

import pytest

from hffs.errors import BadResponse, HubUnreachable
from hffs.sources.hub.auth import Auth
from hffs.sources.hub.ping import ping
from tests.hub import Answer, Hub, Match, faults


def test_ping_without_a_token_has_no_user(hub: Hub) -> None:
    found = ping(hub.endpoint, Auth(find=lambda: None))
    assert (found.user, found.role) == (None, None)
    assert found.host == hub.endpoint.removeprefix("http://")
    assert found.date is not None
    assert abs(found.date - time.time()) < 60


def test_ping_with_a_good_token_has_its_user(hub: Hub) -> None:
    found = ping(hub.endpoint, Auth(find=lambda: "hf_good"))
    assert (found.user, found.role) == ("alice", "read")


def test_ping_with_a_refused_token_has_no_user(hub: Hub) -> None:
    assert ping(hub.endpoint, Auth(find=lambda: "hf_old")).user is None


def test_ping_of_a_closed_port_is_unreachable(unused_port: int) -> None:
    with pytest.raises(HubUnreachable, match="refused"):
        ping(f"http://127.0.0.1:{unused_port}", Auth(find=lambda: None))


def test_ping_reports_a_redirect_and_sends_it_no_token(hub: Hub) -> None:
    hub.faults.add(Match(kind="whoami"), faults.status(302, headers={"Location": f"{hub.cdn_origin}/elsewhere"}))
    with pytest.raises(BadResponse, match="redirects to another server"):
        ping(hub.endpoint, Auth(find=lambda: "hf_good"))
    assert [entry.kind for entry in hub.journal.requests()] == ["whoami"]


@pytest.mark.parametrize("body", [b"[]", b"{", b"[" * 100_000, b'{"name": 5, "auth": []}', b""])
def test_ping_with_an_answer_that_is_no_account_has_no_user(hub: Hub, body: bytes) -> None:
    hub.faults.add(Match(kind="whoami"), faults.instead(lambda _: Answer(200, {}, [body])))
    assert ping(hub.endpoint, Auth(find=lambda: "hf_good")).user is None


def test_ping_of_a_server_that_is_no_hub_is_reported(hub: Hub) -> None:
    hub.faults.add(Match(kind="whoami"), faults.status(404))
    with pytest.raises(BadResponse, match="404"):
        ping(hub.endpoint, Auth(find=lambda: None))


@pytest.fixture
def unused_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])
