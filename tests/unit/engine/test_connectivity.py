"""Whether a source is asked: never when hffs is set offline, seldom while it is unreachable, again once it answers."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from hffs.engine.connectivity import REST_SECONDS, GatedSource, HubConnectivity
from hffs.errors import AccessDenied, EntryNotFound, HubUnreachable, Offline, RateLimited
from hffs.model import RemoteFile, RepoRef
from hffs.ranges import ByteRange
from hffs.sources.base import OpenAccess, ResolvedRepo
from tests.unit.memory import COMMIT, MemoryBody, MemoryCatalog, MemorySource

REF = RepoRef(COMMIT.type, COMMIT.id)


class Now:
    def __init__(self) -> None:
        self.at = 100.0

    def __call__(self) -> float:
        return self.at


class FakeSource(MemoryCatalog):
    """One file, ``a.txt``; ``ranges`` are those requested of it, ``failures`` are raised first."""

    id = COMMIT.source
    access = OpenAccess()
    requests = 0

    def __init__(self, *failures: Exception) -> None:
        super().__init__({"a.txt": 1})
        self._bytes = MemorySource(failures=list(failures))
        self.file = self._bytes.file("a.txt", 1)
        self.ranges = self._bytes.asked

    def resolve(self, ref: RepoRef) -> ResolvedRepo:
        self._asked("resolve")
        return ResolvedRepo(COMMIT)

    def open_range(self, file: RemoteFile, wanted: ByteRange) -> MemoryBody:
        return self._bytes.open_range(file, wanted)

    def forget(self, file: RemoteFile) -> None: ...

    def background_delay(self, file: RemoteFile) -> float:
        return 0.0

    def close(self) -> None: ...


@pytest.fixture
def now() -> Now:
    return Now()


@pytest.fixture
def connectivity(now: Now) -> Iterator[HubConnectivity]:
    made = HubConnectivity(now=now)
    yield made
    made.stop()


def test_a_process_that_is_set_offline_sends_no_request(now: Now) -> None:
    connectivity = HubConnectivity(disabled=True, now=now)
    source = FakeSource()
    gated = GatedSource(source, connectivity)
    for request in (
        lambda: gated.resolve(REF),
        lambda: gated.list_tree(COMMIT, ""),
        lambda: gated.list_directory(COMMIT, ""),
        lambda: gated.stat(COMMIT, ["a.txt"]),
        lambda: gated.complete_size(COMMIT, source.entries[0]),
        lambda: gated.open_range(source.file, ByteRange(0, 1)),
    ):
        with pytest.raises(Offline, match=r"hffs is offline and .* acme/tiny is not cached") as caught:
            request()
        assert not caught.value.transient
    assert (source.calls, source.ranges, connectivity.offline) == ([], [], True)


def test_a_failure_before_the_source_is_marked_unreachable_is_passed_on(connectivity: HubConnectivity) -> None:
    source = FakeSource(HubUnreachable("cannot reach it"))
    with pytest.raises(HubUnreachable) as caught:
        GatedSource(source, connectivity).open_range(source.file, ByteRange(0, 1))
    assert caught.value.transient
    assert not connectivity.offline


def test_an_unreachable_source_gets_one_request_per_rest_and_the_others_fail_at_once(
    connectivity: HubConnectivity, now: Now
) -> None:
    source = FakeSource(HubUnreachable("cannot reach it"))
    gated = GatedSource(source, connectivity)
    connectivity.mark_unreachable()
    with pytest.raises(Offline, match=r"the Hub is unreachable and 'a.txt' of acme/tiny is not cached"):
        gated.open_range(source.file, ByteRange(0, 1))
    assert source.ranges == []
    now.at += REST_SECONDS
    with pytest.raises(Offline, match="cannot reach it") as caught:
        gated.open_range(source.file, ByteRange(0, 1))
    assert not caught.value.transient
    with pytest.raises(Offline, match="the Hub is unreachable"):
        gated.open_range(source.file, ByteRange(0, 1))
    assert len(source.ranges) == 1
    now.at += REST_SECONDS
    gated.open_range(source.file, ByteRange(0, 1))
    assert not connectivity.offline


@pytest.mark.parametrize("refusal", [EntryNotFound("none"), AccessDenied("no"), RateLimited("wait")])
def test_a_refusal_shows_that_the_source_is_reachable(
    connectivity: HubConnectivity, now: Now, refusal: Exception
) -> None:
    connectivity.mark_unreachable()
    now.at += REST_SECONDS
    with pytest.raises(type(refusal)), connectivity.gate("a file"):
        raise refusal
    assert not connectivity.offline


def test_an_unreachable_source_is_probed_until_it_answers(connectivity: HubConnectivity) -> None:
    connectivity.mark_unreachable()
    answers = [HubUnreachable("away"), HubUnreachable("away"), None]
    sent: list[object] = []
    recovered = threading.Event()

    def request() -> None:
        sent.append(None)
        answer = answers.pop(0)
        with connectivity.gate("a commit"):
            if answer:
                raise answer

    connectivity.probe(request, recovered.set, every=0.001)
    assert recovered.wait(10)
    assert (len(sent), connectivity.offline) == (3, False)


def test_a_readers_request_that_is_answered_ends_the_probing(connectivity: HubConnectivity, now: Now) -> None:
    connectivity.mark_unreachable()
    recovered = threading.Event()
    connectivity.probe(lambda: pytest.fail("no probe is due"), recovered.set, every=600)
    now.at += REST_SECONDS
    with connectivity.gate("a file"):
        pass
    assert recovered.wait(10)


def test_probing_ends_with_the_mount(connectivity: HubConnectivity) -> None:
    connectivity.mark_unreachable()
    connectivity.probe(lambda: None, lambda: pytest.fail("nothing starts at the end"), every=600)
    connectivity.stop()
    assert not [thread for thread in threading.enumerate() if thread.name == "hffs-probe"]


def test_end_rest_lets_the_next_request_through(connectivity: HubConnectivity) -> None:
    connectivity.mark_unreachable()
    source = FakeSource()
    gated = GatedSource(source, connectivity)
    with pytest.raises(Offline, match="unreachable"):
        gated.open_range(source.file, ByteRange(0, 1))
    connectivity.end_rest()
    gated.open_range(source.file, ByteRange(0, 1)).close()
    assert not connectivity.offline
