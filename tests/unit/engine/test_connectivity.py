"""Whether the Hub is asked: never when told to be offline, seldom while it is away, again as soon as it answers."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from hffs.engine.connectivity import REST_SECONDS, HubConnectivity, ReachedCatalog, ReachedTransport
from hffs.errors import AccessDenied, EntryNotFound, HubUnreachable, Offline, RateLimited
from hffs.ranges import ByteRange
from tests.unit.memory import COMMIT, MemoryCatalog, MemorySource


class Now:
    def __init__(self) -> None:
        self.at = 100.0

    def __call__(self) -> float:
        return self.at


@pytest.fixture
def now() -> Now:
    return Now()


@pytest.fixture
def reach(now: Now) -> Iterator[HubConnectivity]:
    made = HubConnectivity(now=now)
    yield made
    made.stop()


def test_told_to_be_offline_nobody_is_asked_for_anything(now: Now) -> None:
    reach = HubConnectivity(switched=True, now=now)
    catalog, source = MemoryCatalog({"a.txt": 1}), MemorySource()
    file = source.file("a.txt", 1)
    asked = ReachedCatalog(catalog, reach)
    for ask in (
        lambda: asked.first_page(COMMIT, ""),
        lambda: asked.directory(COMMIT, ""),
        lambda: asked.lookup(COMMIT, ["a.txt"]),
        lambda: asked.complete_size(COMMIT, catalog.entries[0]),
        lambda: ReachedTransport(source, reach).get(file, ByteRange(0, 1)),
    ):
        with pytest.raises(Offline, match=r"hffs is offline, nobody was asked for .* of acme/tiny") as caught:
            ask()
        assert not caught.value.transient, "nobody tries it again"
    assert (catalog.calls, source.asked, reach.offline) == ([], [], True)


def test_a_hub_that_was_never_lost_fails_as_it_does(reach: HubConnectivity) -> None:
    source = MemorySource(failures=[HubUnreachable("cannot reach it")])
    with pytest.raises(HubUnreachable) as caught:
        ReachedTransport(source, reach).get(source.file("a.txt", 1), ByteRange(0, 1))
    assert caught.value.transient
    assert not reach.offline


def test_while_it_is_away_one_reader_asks_now_and_then_and_the_others_hear_at_once(
    reach: HubConnectivity, now: Now
) -> None:
    source = MemorySource(failures=[HubUnreachable("cannot reach it")])
    file = source.file("a.txt", 1)
    transport = ReachedTransport(source, reach)
    reach.lost()
    with pytest.raises(Offline, match=r"the Hub is away, 'a.txt' of acme/tiny is not here"):
        transport.get(file, ByteRange(0, 1))
    assert source.asked == []
    now.at += REST_SECONDS
    with pytest.raises(Offline, match="cannot reach it") as caught:
        transport.get(file, ByteRange(0, 1))
    assert not caught.value.transient
    with pytest.raises(Offline, match="the Hub is away"):
        transport.get(file, ByteRange(0, 1))
    assert len(source.asked) == 1
    now.at += REST_SECONDS
    transport.get(file, ByteRange(0, 1))
    assert not reach.offline


@pytest.mark.parametrize("no", [EntryNotFound("none"), AccessDenied("no"), RateLimited("wait")])
def test_a_no_is_an_answer(reach: HubConnectivity, now: Now, no: Exception) -> None:
    reach.lost()
    now.at += REST_SECONDS
    with pytest.raises(type(no)), reach.asking("a file"):
        raise no
    assert not reach.offline


def test_it_is_looked_for_until_it_answers_and_then_what_was_left_is_done(reach: HubConnectivity) -> None:
    reach.lost()
    answers = [HubUnreachable("away"), HubUnreachable("away"), None]
    asked: list[object] = []
    back = threading.Event()

    def ask() -> None:
        asked.append(None)
        answer = answers.pop(0)
        if answer:
            raise answer

    reach.look_for(ask, back.set, every=0.001)
    assert back.wait(10)
    assert (len(asked), reach.offline) == (3, False)


def test_a_reader_that_finds_it_back_ends_the_search(reach: HubConnectivity, now: Now) -> None:
    reach.lost()
    back = threading.Event()
    reach.look_for(lambda: pytest.fail("nobody else need ask"), back.set, every=600)
    now.at += REST_SECONDS
    with reach.asking("a file"):
        pass
    assert back.wait(10)


def test_the_search_ends_with_the_mount(reach: HubConnectivity) -> None:
    reach.lost()
    reach.look_for(lambda: None, lambda: pytest.fail("nothing is begun at the end"), every=600)
    reach.stop()
    assert not [thread for thread in threading.enumerate() if thread.name == "hffs-reach"]


def test_who_wants_to_know_now_is_not_told_what_was_a_moment_ago(reach: HubConnectivity) -> None:
    reach.lost()
    source = MemorySource()
    asked, file = ReachedTransport(source, reach), source.file("a.txt", 1)
    with pytest.raises(Offline, match="away"):
        asked.get(file, ByteRange(0, 1))
    reach.ask_now()
    asked.get(file, ByteRange(0, 1)).close()
    assert not reach.offline
