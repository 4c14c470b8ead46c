"""Who follows a mount hears what happens, in order; who is slow, deaf or dead costs nobody anything."""

from __future__ import annotations

import json
import logging
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from hffs.control import client
from hffs.control.http import HttpError, Request
from hffs.control.server import ControlServer
from hffs.daemon import events
from hffs.daemon.events import BACKLOG, Feed

log = logging.getLogger("hffs.tests.events")


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@contextmanager
def feeding(progress: Callable[[], Any] = dict, *, tick: float = 3600.0, clock: Clock | None = None) -> Iterator[Feed]:
    """A feed of what this module logs."""
    feed = Feed(progress, tick_seconds=tick, now=clock or Clock())
    log.addHandler(feed)
    try:
        yield feed
    finally:
        log.removeHandler(feed)
        feed.close()


@contextmanager
def serving(runtime: str, feed: Feed, clock: Clock | None = None) -> Iterator[str]:
    path = f"{runtime}/0123456789abcdef.sock"
    routes = {("GET", "/v1/events"): feed.follow, ("GET", "/healthz"): lambda _: "ok"}
    server = ControlServer(path, routes, clock or Clock())
    server.start()
    try:
        yield path
    finally:
        server.stop()


def follow(feed: Feed, kinds: str = "") -> events.Follower:
    return feed.follow(Request("GET", "/v1/events", {"kinds": kinds}))


def taken(follower: events.Follower) -> list[dict[str, Any]]:
    return [json.loads(line) for line in follower.take().splitlines()]


def test_a_log_record_is_an_event_with_its_values(runtime: str) -> None:
    with feeding() as feed, serving(runtime, feed) as path:
        heard = client.events(path)
        log.info("event=mounted mountpoint=%s files=%d limit=%s", "/mnt/ü", 3, None)
        log.debug("event=not-told")
        log.info("event=verified path=%s", "a\nb")
        first, second = next(heard), next(heard)
        assert abs(first.pop("at") - second.pop("at")) < 60
        assert first == {"event": "mounted", "level": "info", "mountpoint": "/mnt/ü", "files": 3, "limit": None}
        assert second == {"event": "verified", "level": "info", "path": "a\nb"}
        heard.close()


@pytest.mark.allow_warnings
def test_problems_are_told_without_secrets_and_counted_whoever_follows() -> None:
    with feeding() as feed:
        log.warning("event=before")
        follower = follow(feed)
        try:
            raise OSError("https://cdn/x?X-Amz-Signature=0123456789")
        except OSError as error:
            log.error("event=fetch-bug path=%s", "a", exc_info=error)
        (told,) = taken(follower)
        assert (told["event"], told["level"], told["path"]) == ("fetch-bug", "error", "a")
        assert told["error"] == "OSError: https://cdn/x?***"
        assert feed.problems == {"before": 1, "fetch-bug": 1}


def test_only_the_kinds_asked_for_come() -> None:
    with feeding() as feed:
        some, every = follow(feed, "evicted,mounted"), follow(feed)
        for event in ("mounted", "other", "evicted"):
            feed.tell(event, {})
        assert [each["event"] for each in taken(some)] == ["mounted", "evicted"]
        assert [each["event"] for each in taken(every)] == ["mounted", "other", "evicted"]


def test_what_nobody_took_in_time_is_counted_and_the_newest_is_kept() -> None:
    with feeding() as feed:
        slow = follow(feed)
        for number in range(BACKLOG + 7):
            feed.tell("x", {"number": number})
        lost, *rest = taken(slow)
        while more := taken(slow):
            rest += more
        assert (lost["event"], lost["count"]) == ("lost", 7)
        assert [each["number"] for each in rest] == list(range(7, BACKLOG + 7))
        feed.tell("x", {"number": -1})
        assert [each.get("number") for each in taken(slow)] == [-1], "lost is told once"


def test_progress_comes_while_it_changes_and_only_to_who_follows() -> None:
    asked, told = threading.Event(), iter([{"bytes": 1}, {"bytes": 1}, {"bytes": 2}])
    last: dict[str, int] = {"bytes": 2}

    def progress() -> dict[str, int]:
        asked.set()
        return next(told, last)

    with feeding(progress, tick=0.001) as feed:
        assert [thread for thread in threading.enumerate() if thread.name == "hffs-events"] == []
        assert not asked.is_set(), "nobody listens"
        follower = follow(feed)
        heard: list[Any] = []
        news = threading.Event()
        follower.on_data = news.set
        while len(heard) < 2:
            assert news.wait(20)
            news.clear()
            heard += [each["bytes"] for each in taken(follower)]
        assert heard == [1, 2]
        thread = next(thread for thread in threading.enumerate() if thread.name == "hffs-events")
        follower.close()
        thread.join(20)
        assert not thread.is_alive(), "it ends with the last who follows"


@pytest.mark.allow_warnings
def test_a_bug_in_progress_ends_nothing() -> None:
    def broken() -> dict[str, int]:
        raise ValueError("a bug")

    with feeding(broken, tick=0.001) as feed:
        seen = logging.getLogger("hffs.daemon.events")
        seen.addHandler(feed)
        follower, heard, news = follow(feed), [], threading.Event()
        follower.on_data = news.set
        while len(heard) < 2:
            assert news.wait(20)
            news.clear()
            heard += [each["event"] for each in taken(follower)]
        seen.removeHandler(feed)
        assert set(heard) == {"progress-bug"}


def test_silence_is_broken_by_a_heartbeat_whatever_kinds_are_asked_for() -> None:
    clock = Clock()
    with feeding(dict, tick=0.001, clock=clock) as feed:
        follower, first, news = follow(feed, "mounted"), threading.Event(), threading.Event()
        follower.on_data = news.set
        other = follow(feed)
        other.on_data = first.set
        assert taken(other) or first.wait(20), "progress, once"
        clock.now += events.HEARTBEAT_SECONDS
        assert news.wait(20)
        assert [each["event"] for each in taken(follower)] == ["alive"]


def test_too_many_are_refused() -> None:
    with feeding() as feed:
        for _ in range(events.MOST):
            follow(feed)
        with pytest.raises(HttpError, match="follow already"):
            follow(feed)


def test_a_hundred_who_never_read_delay_nobody_and_are_ended(runtime: str) -> None:
    clock = Clock()
    with feeding(clock=clock) as feed, serving(runtime, feed, clock) as path, ExitStack() as deaf:
        for _ in range(100):  # more than there may be connections that ask
            deafs = deaf.enter_context(socket.socket(socket.AF_UNIX))
            deafs.settimeout(20)
            deafs.connect(path)
            deafs.sendall(b"GET /v1/events HTTP/1.1\r\n\r\n")
            assert deafs.recv(15) == b"HTTP/1.1 200 OK"
        heard = client.events(path)
        for number in range(2000):  # 400 bytes each: four times what a socket and a queue hold
            log.info("event=x number=%d text=%s", number, "x" * 400)
            found = next(heard)
            assert found["number"] == number, "who reads hears all of it"
        assert client.ask(path, "GET", "/healthz", 20) == "ok"
        assert len(feed._followers) == 101
        clock.now += 61
        assert client.ask(path, "GET", "/healthz", 20) == "ok"  # they are ended at the latest before its answer is sent
        log.info("event=after number=%d", 0)
        assert next(heard)["event"] == "after"
        assert len(feed._followers) == 1
        heard.close()


def test_who_hangs_up_is_forgotten_at_once(runtime: str) -> None:
    with feeding() as feed, serving(runtime, feed) as path:
        heard, stays = client.events(path), client.events(path)
        heard.close()
        while len(feed._followers) > 1:  # no event has to find it out
            assert client.ask(path, "GET", "/healthz", 20) == "ok"
        log.info("event=x")
        assert next(stays)["event"] == "x"
        stays.close()


def test_at_the_end_the_last_events_still_come_and_the_stream_ends(runtime: str) -> None:
    with feeding() as feed:
        with serving(runtime, feed) as path:
            heard = client.events(path)
            log.info("event=unmounted mountpoint=%s", "/mnt")
        assert [each["event"] for each in heard] == ["unmounted"]


def test_the_client_says_why_there_is_no_stream(runtime: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "MOST", 0)
    with feeding() as feed, serving(runtime, feed) as path:
        with pytest.raises(client.Refused, match="follow already"):
            client.events(path)
        with pytest.raises(client.MountNotFound):
            client.events(f"{path}x")


def test_a_record_that_cannot_be_told_is_no_error_of_whoever_logs(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log, "propagate", False)  # pytest's own handler raises
    with feeding() as feed:
        follower = follow(feed)
        log.info("event=moved bytes=%d", "many")
        log.info("event=verified path=%s", "a")
        assert [line["event"] for line in taken(follower)] == ["verified"]
    assert "--- Logging error ---" in capsys.readouterr().err, "as of any handler"
