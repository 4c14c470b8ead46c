"""What one question to the Hub tells: whether it is there, its clock, and whom it takes us for."""

from __future__ import annotations

import socket
import time

import pytest

from hffs.errors import BadResponse, HubUnreachable
from hffs.sources.hub.auth import Auth
from hffs.sources.hub.ping import ping
from tests.hub import Answer, Hub, Match, faults


def test_without_a_token_the_hub_is_there_and_knows_nobody(hub: Hub) -> None:
    told = ping(hub.endpoint, Auth(find=lambda: None))
    assert (told.user, told.role) == (None, None)
    assert told.host == hub.endpoint.removeprefix("http://")
    assert told.date is not None
    assert abs(told.date - time.time()) < 60


def test_a_good_token_has_a_name(hub: Hub) -> None:
    told = ping(hub.endpoint, Auth(find=lambda: "hf_good"))
    assert (told.user, told.role) == ("alice", "read")


def test_a_token_that_is_refused_has_none(hub: Hub) -> None:
    assert ping(hub.endpoint, Auth(find=lambda: "hf_old")).user is None


def test_nobody_there_is_said(unused_port: int) -> None:
    with pytest.raises(HubUnreachable, match="refused"):
        ping(f"http://127.0.0.1:{unused_port}", Auth(find=lambda: None))


def test_a_redirect_is_told_and_no_token_goes_along(hub: Hub) -> None:
    hub.faults.add(Match(kind="whoami"), faults.status(302, headers={"Location": f"{hub.cdn_origin}/elsewhere"}))
    with pytest.raises(BadResponse, match="redirects to another server"):
        ping(hub.endpoint, Auth(find=lambda: "hf_good"))
    assert [entry.kind for entry in hub.journal.requests()] == ["whoami"]


@pytest.mark.parametrize("body", [b"[]", b"{", b"[" * 100_000, b'{"name": 5, "auth": []}', b""])
def test_an_answer_that_is_no_account_names_nobody(hub: Hub, body: bytes) -> None:
    hub.faults.add(Match(kind="whoami"), faults.instead(lambda _: Answer(200, {}, [body])))
    assert ping(hub.endpoint, Auth(find=lambda: "hf_good")).user is None


def test_what_is_no_hub_is_told(hub: Hub) -> None:
    hub.faults.add(Match(kind="whoami"), faults.status(404))
    with pytest.raises(BadResponse, match="404"):
        ping(hub.endpoint, Auth(find=lambda: None))


@pytest.fixture
def unused_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])
