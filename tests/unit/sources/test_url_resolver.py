"""Where bytes are: one HEAD per file and URL lifetime, shared by all threads, checked and renewed."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from email.utils import formatdate
from typing import Any

import pytest

from hffs.errors import (
    AccessDenied,
    BadResponse,
    Cancelled,
    ContentChanged,
    DeadlineExceeded,
    EntryNotFound,
    HffsError,
    HubUnreachable,
    LinkExpired,
    RateLimited,
)
from hffs.model import RemoteFile
from hffs.sources.http.urls import expires_at, origin_of
from hffs.sources.hub.access import REPO_REST
from hffs.sources.hub.urls import resolve_url
from tests.hub import Hub, Match, faults

from .conftest import Remote

NAME = "model.safetensors"


@pytest.fixture
def tiny(hub: Hub) -> Any:
    return hub.add_repo("acme/tiny", files={"config.json": b'{"a": 1}', NAME: b"x" * 1000})


@pytest.fixture
def lfs(remote: Remote, tiny: Any) -> RemoteFile:
    return remote.file(NAME)


def heads(hub: Hub) -> int:
    return len(hub.journal.requests("resolve", method="HEAD"))


def together(count: int, ask: Any) -> list[Any]:
    """What each of ``count`` threads got, or the error it got."""

    def one(_: int) -> Any:
        try:
            return ask()
        except HffsError as error:
            return error

    with ThreadPoolExecutor(count) as threads:
        return list(threads.map(one, range(count)))


def test_a_git_file_is_located_without_a_request(hub: Hub, remote: Remote, tiny: Any) -> None:
    file = remote.file("config.json")
    place = remote.resolver.locate(file)
    assert place.url == resolve_url(file.commit, "config.json")
    assert not hub.journal.requests("resolve")


def test_an_lfs_file_is_behind_a_signed_url(hub: Hub, remote: Remote, lfs: RemoteFile) -> None:
    place = remote.resolver.locate(lfs)
    assert origin_of(place.url) == origin_of(hub.cdn_origin)
    assert expires_at(place.url) == remote.wall.now + 3600
    (record,) = hub.journal.requests("resolve")
    assert record.headers["accept-encoding"] == "identity"
    assert record.method == "HEAD"


@pytest.mark.parametrize(
    ("lifetime", "kept"),
    [(3600, 3540), (120, 96), (10, 8)],  # 60 s before the end, or 80 % of the life, whichever is later
)
def test_a_url_is_renewed_shortly_before_it_expires(
    lifetime: int, kept: int, hub: Hub, remote: Remote, lfs: RemoteFile
) -> None:
    hub.signer.lifetime = lifetime
    first = remote.resolver.locate(lfs)
    remote.pass_time(kept - 0.5)
    assert remote.resolver.locate(lfs) == first
    assert heads(hub) == 1
    remote.pass_time(1)
    second = remote.resolver.locate(lfs)
    assert second.url != first.url
    assert heads(hub) == 2


def test_a_url_that_names_no_expiry_is_kept_ten_minutes(hub: Hub, remote: Remote, lfs: RemoteFile) -> None:
    hub.faults.add(Match(kind="resolve"), faults.header("Location", hub.cdn_origin + "/plain"))
    remote.resolver.locate(lfs)
    remote.pass_time(599)
    remote.resolver.locate(lfs)
    assert heads(hub) == 1
    remote.pass_time(2)
    remote.resolver.locate(lfs)
    assert heads(hub) == 2


def test_a_wrong_clock_of_ours_does_not_make_urls_useless(hub: Hub, remote: Remote, lfs: RemoteFile) -> None:
    hub.faults.add(Match(kind="resolve"), faults.header("Date", formatdate(remote.wall.now, usegmt=True)))
    remote.resolver._clock = lambda: remote.wall.now + 7200
    remote.resolver.locate(lfs)
    remote.steady.now += 3500
    remote.resolver.locate(lfs)
    assert heads(hub) == 1


def test_eight_threads_share_one_request(hub: Hub, remote: Remote, lfs: RemoteFile) -> None:
    hub.faults.add(Match(kind="resolve", count=1), faults.hold())
    hub.journal.clear()
    asked = threading.Barrier(9)

    def ask() -> Any:
        asked.wait(10)
        return remote.resolver.locate(lfs)

    with ThreadPoolExecutor(8) as threads:
        waiting = [threads.submit(ask) for _ in range(8)]
        asked.wait(10)
        hub.faults.wait_held()
        hub.faults.release()
        assert len({future.result(10) for future in waiting}) == 1
    assert heads(hub) == 1


def test_a_failure_is_shared_and_the_next_call_sends_a_request(
    hub: Hub, remote: Remote, lfs: RemoteFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.faults.add(Match(kind="resolve", count=1), faults.unavailable())
    hub.faults.add(Match(kind="resolve", count=1), faults.hold())
    joined, wait = threading.Event(), remote.resolver._wait

    def waiting(*args: Any) -> Any:
        joined.set()
        return wait(*args)

    monkeypatch.setattr(remote.resolver, "_wait", waiting)
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(remote.resolver.locate, lfs)
        hub.faults.wait_held()
        second = threads.submit(remote.resolver.locate, lfs)
        assert joined.wait(10)
        hub.faults.release()
        for outcome in (first, second):
            assert isinstance(outcome.exception(10), HubUnreachable)
    assert heads(hub) == 1
    assert remote.resolver.locate(lfs).url
    assert heads(hub) == 2


def test_the_wait_for_another_threads_request_is_bounded(hub: Hub, remote: Remote, lfs: RemoteFile) -> None:
    remote.resolver._patience = 0.05
    hub.faults.add(Match(kind="resolve"), faults.hold())
    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(remote.resolver.locate, lfs)
        hub.faults.wait_held()
        with pytest.raises(DeadlineExceeded):
            remote.resolver.locate(lfs)
        hub.faults.release()
        assert first.result(10).url


def test_different_files_do_not_wait_for_each_other(hub: Hub, remote: Remote, tiny: Any) -> None:
    tiny.commit({"other.bin": b"y" * 10})
    commit = remote.commit()
    one, other = remote.file(NAME, commit), remote.file("other.bin", commit)
    hub.faults.add(Match(kind="resolve", file=NAME), faults.hold())
    with ThreadPoolExecutor(1) as threads:
        held = threads.submit(remote.resolver.locate, one)
        hub.faults.wait_held()
        assert remote.resolver.locate(other).url
        assert not held.done()
        hub.faults.release()
        assert held.result(10).url


# Renewal.


def test_a_refused_url_is_replaced_once_for_all_threads(hub: Hub, remote: Remote, lfs: RemoteFile) -> None:
    bad = remote.resolver.locate(lfs).url
    hub.expire_urls()
    fresh = together(8, lambda: remote.resolver.renew(lfs, bad))
    assert len(set(fresh)) == 1
    assert fresh[0].url != bad
    assert heads(hub) == 2
    assert remote.resolver.locate(lfs) == fresh[0]


def test_a_hub_that_repeats_a_refused_url_is_requested_once(hub: Hub, remote: Remote, lfs: RemoteFile) -> None:
    hub.faults.add(Match(kind="resolve"), faults.header("Location", hub.cdn_origin + "/same"))
    bad = remote.resolver.locate(lfs).url
    assert remote.resolver.renew(lfs, bad).url == bad
    for _ in range(3):
        with pytest.raises(LinkExpired):
            remote.resolver.renew(lfs, bad)
    assert heads(hub) == 2
    remote.pass_time(601)
    assert remote.resolver.locate(lfs).url == bad
    assert heads(hub) == 3


# What is checked.


def test_another_commit_etag_or_size_means_the_content_changed(hub: Hub, remote: Remote, lfs: RemoteFile) -> None:
    for name, value in (("X-Repo-Commit", "0" * 40), ("X-Linked-Etag", f'"{"0" * 64}"'), ("X-Linked-Size", "999")):
        fault = hub.faults.add(Match(kind="resolve"), faults.header(name, value))
        with pytest.raises(ContentChanged):
            remote.resolver.locate(lfs)
        hub.faults.remove(fault)
    assert remote.resolver.locate(lfs).url


def test_a_response_without_commit_or_etag_is_refused(hub: Hub, remote: Remote, lfs: RemoteFile) -> None:
    for name in ("X-Repo-Commit", "X-Linked-Etag"):
        fault = hub.faults.add(Match(kind="resolve"), faults.without(name))
        with pytest.raises(BadResponse):
            remote.resolver.locate(lfs)
        hub.faults.remove(fault)
    hub.faults.add(Match(kind="resolve"), faults.without("X-Linked-Size"))
    assert remote.resolver.locate(lfs).url


def test_a_moved_branch_does_not_affect_a_commit(hub: Hub, remote: Remote, tiny: Any, lfs: RemoteFile) -> None:
    tiny.commit({NAME: b"other"})
    assert remote.resolver.locate(lfs).url


def test_renames_are_followed_within_the_hub_with_the_token(hub: Hub, remote: Remote, lfs: RemoteFile) -> None:
    remote.token = "hf_good"
    hub.rename("acme/tiny", "acme/small")
    assert origin_of(remote.resolver.locate(lfs).url) == origin_of(hub.cdn_origin)
    assert [(record.status, record.token) for record in hub.journal.requests("resolve")] == [
        (307, "hf_good"),
        (302, "hf_good"),
    ]
    assert not hub.journal.requests("cdn")


def test_a_hub_that_answers_itself_is_the_address(hub: Hub, remote: Remote, tiny: Any) -> None:
    git = remote.file("config.json")
    place = remote.resolver.locate(replace(git, lfs=True))
    assert origin_of(place.url) == origin_of(hub.endpoint)
    assert "etag=" in place.url  # the query of the relative redirect was kept


def test_circles_and_bad_targets_of_redirects_are_refused(hub: Hub, remote: Remote, lfs: RemoteFile) -> None:
    for fault in (
        faults.redirect_loop(), faults.redirect("ftp://127.0.0.1/x"), faults.redirect("file:///etc/passwd"),
        faults.header("Location", None),
    ):  # fmt: skip
        hub.faults.add(Match(kind="resolve"), fault)
        hub.journal.clear()
        with pytest.raises(BadResponse):
            remote.resolver.locate(lfs)
        assert heads(hub) <= 6
        hub.faults.clear()


def test_refusals_of_an_address_are_raised(hub: Hub, remote: Remote, tiny: Any, lfs: RemoteFile) -> None:
    missing = replace(lfs, path="none.bin")
    with pytest.raises(EntryNotFound, match=r"none\.bin"):
        remote.resolver.locate(missing)
    tiny.gated = "manual"
    with pytest.raises(AccessDenied, match="gated"):
        remote.resolver.locate(lfs)
    remote.token = "hf_good"
    with pytest.raises(AccessDenied, match="ask for access"):
        remote.resolver.locate(lfs)
    tiny.grant("alice")
    remote.pass_time(REPO_REST)
    assert remote.resolver.locate(lfs).url
    hub.faults.add(Match(kind="resolve"), faults.rate_limited(t=30))
    with pytest.raises(RateLimited) as caught:
        remote.resolver.renew(lfs, remote.resolver.locate(lfs).url)
    assert caught.value.retry_after == 30
    hub.down()
    with pytest.raises(HubUnreachable):
        remote.resolver.locate(missing)


def test_an_address_is_requested_once_more_with_a_rotated_token(
    hub: Hub, remote: Remote, tiny: Any, lfs: RemoteFile
) -> None:
    tiny.private = True
    remote.tokens = ["hf_old", "hf_good"]
    assert remote.resolver.locate(lfs).url
    assert [record.status for record in hub.journal.requests("resolve")] == [401, 302]
    remote.token = "hf_old"
    with pytest.raises(AccessDenied) as caught:
        remote.resolver.renew(lfs, remote.resolver.locate(lfs).url)
    assert "hf_old" not in str(caught.value)
    assert heads(hub) == 3


def test_urls_of_files_long_unused_are_forgotten(
    hub: Hub, remote: Remote, tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hffs.sources.hub.url_resolver.MAX_URLS", 2)
    tiny.commit({f"{number}.bin": str(number).encode() for number in range(3)})
    commit = remote.commit()
    files = [remote.file(f"{number}.bin", commit) for number in range(3)]
    for file in files:
        remote.resolver.locate(file)
    remote.resolver.locate(files[2])
    remote.resolver.locate(files[1])
    assert heads(hub) == 3
    remote.resolver.locate(files[0])
    assert heads(hub) == 4


def test_a_closed_resolver_sends_no_request(hub: Hub, remote: Remote, lfs: RemoteFile) -> None:
    remote.transport.close()
    with pytest.raises(Cancelled):
        remote.resolver.locate(lfs)
    assert heads(hub) == 0
