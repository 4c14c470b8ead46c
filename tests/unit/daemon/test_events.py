"""Subscribers get a mount's events in order; slow, stack and dead ones delay nothing."""

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
from tests.support.clock import Clock

log = logging.getLogger("hffs.tests.events")


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
    routes = {("GET", "/v1/events"): feed.subscribe, ("GET", "/healthz"): lambda _: "ok"}
    server = ControlServer(path, routes, clock or Clock())
    server.start()
    try:
        yield path
    finally:
        server.stop()


def subscribe(feed: Feed, kinds: str = "") -> events.Subscriber:
    return feed.subscribe(Request("GET", "/v1/events", {"kinds": kinds}))


def taken(subscriber: events.Subscriber) -> list[dict[str, Any]]:
    return [json.loads(line) for line in subscriber.take().splitlines()]


def test_a_log_record_is_an_event_with_its_values(runtime: str) -> None:
    with feeding() as feed, serving(runtime, feed) as path:
        received = client.events(path)
        log.info("event=mounted mountpoint=%s files=%d limit=%s", "/mnt/ü", 3, None)
        log.debug("event=not-sent")
        log.info("event=verified path=%s", "a\nb")
        first, second = next(received), next(received)
        assert abs(first.pop("at") - second.pop("at")) < 60
        assert first == {"event": "mounted", "level": "info", "mountpoint": "/mnt/ü", "files": 3, "limit": None}
        assert second == {"event": "verified", "level": "info", "path": "a\nb"}
        received.close()


@pytest.mark.allow_warnings
def test_problems_are_sent_without_secrets_and_counted_without_subscribers() -> None:
    with feeding() as feed:
        log.warning("event=before")
        subscriber = subscribe(feed)
        try:
            raise OSError("https://cdn/x?X-Amz-Signature=0123456789")
        except OSError as error:
            log.error("event=fetch-bug path=%s", "a", exc_info=error)
        (sent,) = taken(subscriber)
        assert (sent["event"], sent["level"], sent["path"]) == ("fetch-bug", "error", "a")
        assert sent["error"] == "OSError: https://cdn/x?***"
        assert feed.problems == {"before": 1, "fetch-bug": 1}


def test_a_subscriber_gets_the_kinds_it_asked_for() -> None:
    with feeding() as feed:
        some, every = subscribe(feed, "evicted,mounted"), subscribe(feed)
        for event in ("mounted", "other", "evicted"):
            feed.send(event, {})
        assert [each["event"] for each in taken(some)] == ["mounted", "evicted"]
        assert [each["event"] for each in taken(every)] == ["mounted", "other", "evicted"]


def test_dropped_lines_are_counted_and_the_newest_are_kept() -> None:
    with feeding() as feed:
        slow = subscribe(feed)
        for number in range(BACKLOG + 7):
            feed.send("x", {"number": number})
        lost, *rest = taken(slow)
        while more := taken(slow):
            rest += more
        assert (lost["event"], lost["count"]) == ("lost", 7)
        assert [each["number"] for each in rest] == list(range(7, BACKLOG + 7))
        feed.send("x", {"number": -1})
        assert [each.get("number") for each in taken(slow)] == [-1], "lost is sent once"


def test_progress_is_sent_while_it_changes_and_there_are_subscribers() -> None:
    asked, values = threading.Event(), iter([{"bytes": 1}, {"bytes": 1}, {"bytes": 2}])
    last: dict[str, int] = {"bytes": 2}

    def progress() -> dict[str, int]:
        asked.set()
        return next(values, last)

    with feeding(progress, tick=0.001) as feed:
        assert [thread for thread in threading.enumerate() if thread.name == "hffs-events"] == []
        assert not asked.is_set(), "there are no subscribers"
        subscriber = subscribe(feed)
        received: list[Any] = []
        news = threading.Event()
        subscriber.on_data = news.set
        while len(received) < 2:
            assert news.wait(20)
            news.clear()
            received += [each["bytes"] for each in taken(subscriber)]
        assert received == [1, 2]
        thread = next(thread for thread in threading.enumerate() if thread.name == "hffs-events")
        subscriber.close()
        thread.join(20)
        assert not thread.is_alive(), "it ends with the last subscriber"


@pytest.mark.allow_warnings
def test_a_bug_in_progress_does_not_end_the_stream() -> None:
    def broken() -> dict[str, int]:
        raise ValueError("a bug")

    with feeding(broken, tick=0.001) as feed:
        seen = logging.getLogger("hffs.daemon.events")
        seen.addHandler(feed)
        subscriber, received, news = subscribe(feed), [], threading.Event()
        subscriber.on_data = news.set
        while len(received) < 2:
            assert news.wait(20)
            news.clear()
            received += [each["event"] for each in taken(subscriber)]
        seen.removeHandler(feed)
        assert set(received) == {"progress-bug"}


def test_a_heartbeat_is_sent_to_subscribers_of_any_kind() -> None:
    clock = Clock()
    with feeding(dict, tick=0.001, clock=clock) as feed:
        subscriber, first, news = subscribe(feed, "mounted"), threading.Event(), threading.Event()
        subscriber.on_data = news.set
        other = subscribe(feed)
        other.on_data = first.set
        assert taken(other) or first.wait(20), "progress, once"
        clock.now += events.HEARTBEAT_SECONDS
        assert news.wait(20)
        assert [each["event"] for each in taken(subscriber)] == ["alive"]


def test_more_subscribers_than_the_limit_are_refused() -> None:
    with feeding() as feed:
        for _ in range(events.MOST):
            subscribe(feed)
        with pytest.raises(HttpError, match="follow events already"):
            subscribe(feed)


def test_a_hundred_subscribers_that_never_read_delay_no_other_and_are_closed(runtime: str) -> None:
    clock = Clock()
    with feeding(clock=clock) as feed, serving(runtime, feed, clock) as path, ExitStack() as stack:
        for _ in range(100):  # more than there may be connections that ask
            silent = stack.enter_context(socket.socket(socket.AF_UNIX))
            silent.settimeout(20)
            silent.connect(path)
            silent.sendall(b"GET /v1/events HTTP/1.1\r\n\r\n")
            assert silent.recv(15) == b"HTTP/1.1 200 OK"
        received = client.events(path)
        for number in range(2000):  # 400 bytes each: four times what a socket and a queue hold
            log.info("event=x number=%d text=%s", number, "x" * 400)
            found = next(received)
            assert found["number"] == number, "a subscriber that reads gets all events"
        assert client.ask(path, "GET", "/healthz", 20) == "ok"
        assert len(feed._subscribers) == 101
        clock.now += 61
        assert client.ask(path, "GET", "/healthz", 20) == "ok"  # they are ended at the latest before its answer is sent
        log.info("event=after number=%d", 0)
        assert next(received)["event"] == "after"
        assert len(feed._subscribers) == 1
        received.close()


def test_a_closed_connection_ends_the_subscription_at_once(runtime: str) -> None:
    with feeding() as feed, serving(runtime, feed) as path:
        received, stays = client.events(path), client.events(path)
        received.close()
        while len(feed._subscribers) > 1:  # without an event
            assert client.ask(path, "GET", "/healthz", 20) == "ok"
        log.info("event=x")
        assert next(stays)["event"] == "x"
        stays.close()


def test_the_last_events_are_sent_before_the_stream_ends(runtime: str) -> None:
    with feeding() as feed:
        with serving(runtime, feed) as path:
            received = client.events(path)
            log.info("event=unmounted mountpoint=%s", "/mnt")
        assert [each["event"] for each in received] == ["unmounted"]


def test_the_client_raises_why_there_is_no_stream(runtime: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "MOST", 0)
    with feeding() as feed, serving(runtime, feed) as path:
        with pytest.raises(client.Refused, match="follow events already"):
            client.events(path)
        with pytest.raises(client.MountNotFound):
            client.events(f"{path}x")


def test_a_record_that_cannot_be_formatted_does_not_fail_the_code_that_logs(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log, "propagate", False)  # pytest's own handler raises
    with feeding() as feed:
        subscriber = subscribe(feed)
        log.info("event=moved bytes=%d", "many")
        log.info("event=verified path=%s", "a")
        assert [line["event"] for line in taken(subscriber)] == ["verified"]
    assert "--- Logging error ---" in capsys.readouterr().err, "as of any handler"
