"""What a service manager hears of a mount: ready, its state when that changes, alive while the file system answers."""

from __future__ import annotations

import errno
import queue

import pytest

from hffs.daemon.watchdog import StatusNotifier
from hffs.system import mount_table

WHERE = "/mnt/model"


class Heard:
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


def test_it_is_ready_then_alive_as_often_as_the_manager_wants(mounted: object) -> None:
    heard = Heard(0.04)
    looks: list[tuple[str, float]] = []
    teller = StatusNotifier(WHERE, lambda: "serving", heard, lambda *look: looks.append(look) or 0)
    teller.start()
    assert heard.next(5) == ["ready", "status serving", "alive", "alive", "alive"]
    teller.stop()
    assert set(looks) == {(WHERE, 0.01)}


def test_a_state_is_told_when_it_changes_and_an_unwatched_mount_is_not_looked_at(mounted: object) -> None:
    heard = Heard(None)

    def look(where: str, seconds: float) -> int:
        raise AssertionError("nobody wants to know")

    teller = StatusNotifier(WHERE, lambda: "serving", heard, look)
    teller.start()
    assert heard.next(2) == ["ready", "status serving"]
    teller.stop()
    states = iter(["serving", "serving", "offline: the Hub", "serving"])
    watched = Heard(0.04)
    teller = StatusNotifier(WHERE, lambda: next(states, "serving"), watched, lambda *_: 0)
    teller.start()
    words = []
    while words.count("status serving") < 2:
        words.append(watched.next(1)[0])
    teller.stop()
    assert [word for word in words if word.startswith("status")] == [
        "status serving",
        "status offline: the Hub",
        "status serving",
    ]


@pytest.mark.allow_warnings("event=no-answer")
def test_it_falls_silent_while_the_file_system_does_not_answer(mounted: object) -> None:
    heard, asked = Heard(0.04), []
    answers = iter([0, errno.ETIMEDOUT, errno.ETIMEDOUT, 0])

    def look(where: str, seconds: float) -> int:
        asked.append(heard.words.qsize())
        return next(answers, 0)

    teller = StatusNotifier(WHERE, lambda: "serving", heard, look)
    teller.start()
    assert heard.next(4) == ["ready", "status serving", "alive", "alive"]
    teller.stop()
    assert len(asked) >= 4


def test_a_mount_that_was_taken_off_or_covered_is_no_worry(mounted: dict[str, mount_table.Mounted]) -> None:
    heard = Heard(0.04)
    looks: list[str] = []
    teller = StatusNotifier(WHERE, lambda: "serving", heard, lambda where, _: looks.append(where) or 0)
    teller.start()
    assert heard.next(3)[2] == "alive"
    mounted[WHERE] = mount_table.Mounted(WHERE, "nfs", "gone:/x", "0:99")
    heard.next(2)  # one of them may have been on its way
    before = len(looks)
    heard.next(2)
    mounted.clear()
    assert heard.next(3) == ["alive"] * 3
    teller.stop()
    assert len(looks) == before
