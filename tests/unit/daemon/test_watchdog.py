"""Notifications to a service manager: ready, the state when it changes, alive while the file system answers."""

from __future__ import annotations

import errno
import queue

import pytest

from hffs.daemon.watchdog import StatusNotifier
from hffs.system import mount_table

WHERE = "/mnt/model"


class Manager:
    def __init__(self, watchdog_s: float | None) -> None:
        self.watchdog_s = watchdog_s
        self.words: queue.Queue[str] = queue.Queue()

    def send(self, word: str) -> None:
        self.words.put(word)

    def next(self, count: int) -> list[str]:
        return [self.words.get(timeout=30) for _ in range(count)]


@pytest.fixture
def mounted(monkeypatch: pytest.MonkeyPatch) -> dict[str, mount_table.Mounted]:
    table = {WHERE: mount_table.Mounted(WHERE, mount_table.TYPE, "acme/tiny", "0:77")}
    monkeypatch.setattr(mount_table, "table", lambda: table)
    return table


def test_ready_is_followed_by_alive_as_often_as_the_manager_requires(mounted: object) -> None:
    manager = Manager(0.04)
    probes: list[tuple[str, float]] = []
    notifier = StatusNotifier(WHERE, lambda: "serving", manager, lambda *probe: probes.append(probe) or 0)
    notifier.start()
    assert manager.next(5) == ["ready", "status serving", "alive", "alive", "alive"]
    notifier.stop()
    assert set(probes) == {(WHERE, 0.01)}


def test_a_changed_state_is_sent_and_a_mount_without_watchdog_is_not_probed(mounted: object) -> None:
    manager = Manager(None)

    def probe(where: str, seconds: float) -> int:
        raise AssertionError("no watchdog is set")

    notifier = StatusNotifier(WHERE, lambda: "serving", manager, probe)
    notifier.start()
    assert manager.next(2) == ["ready", "status serving"]
    notifier.stop()
    states = iter(["serving", "serving", "offline: the Hub", "serving"])
    watched = Manager(0.04)
    notifier = StatusNotifier(WHERE, lambda: next(states, "serving"), watched, lambda *_: 0)
    notifier.start()
    words = []
    while words.count("status serving") < 2:
        words.append(watched.next(1)[0])
    notifier.stop()
    assert [word for word in words if word.startswith("status")] == [
        "status serving",
        "status offline: the Hub",
        "status serving",
    ]


@pytest.mark.allow_warnings("event=no-answer")
def test_alive_is_not_sent_while_the_file_system_does_not_answer(mounted: object) -> None:
    manager, asked = Manager(0.04), []
    answers = iter([0, errno.ETIMEDOUT, errno.ETIMEDOUT, 0])

    def probe(where: str, seconds: float) -> int:
        asked.append(manager.words.qsize())
        return next(answers, 0)

    notifier = StatusNotifier(WHERE, lambda: "serving", manager, probe)
    notifier.start()
    assert manager.next(4) == ["ready", "status serving", "alive", "alive"]
    notifier.stop()
    assert len(asked) >= 4


def test_an_unmounted_or_covered_mount_counts_as_alive(mounted: dict[str, mount_table.Mounted]) -> None:
    manager = Manager(0.04)
    probes: list[str] = []
    notifier = StatusNotifier(WHERE, lambda: "serving", manager, lambda where, _: probes.append(where) or 0)
    notifier.start()
    assert manager.next(3)[2] == "alive"
    mounted[WHERE] = mount_table.Mounted(WHERE, "nfs", "gone:/x", "0:99")
    manager.next(2)  # one of them may have been on its way
    before = len(probes)
    manager.next(2)
    mounted.clear()
    assert manager.next(3) == ["alive"] * 3
    notifier.stop()
    assert len(probes) == before
