"""One ledger for all processes of a cache directory: exact while they live, cleared of them when they die."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from hffs.cache.budget import ledger as ledger_module
from hffs.cache.budget.ledger import SLOTS, Account, Ledger
from hffs.errors import CacheUnusable
from tests.support.profile import examples
from tests.unit.cache.content import ROOT

Open = Callable[..., Ledger]


class Other:
    """``ledger_process.py`` on the same ledger."""

    def __init__(self, path: Path, limit: int = 0) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.unit.cache.ledger_process", str(path), str(limit)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1, cwd=ROOT,
        )  # fmt: skip

    def say(self, command: str) -> None:
        assert self.process.stdin
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()

    def hear(self) -> str:
        assert self.process.stdout
        return self.process.stdout.readline().rstrip("\n")

    def ask(self, command: str) -> str:
        self.say(command)
        return self.hear()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(30)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "ledger"


@pytest.fixture
def other(path: Path) -> Iterator[Callable[..., Other]]:
    made: list[Other] = []

    def start(limit: int = 0) -> Other:
        made.append(Other(path, limit))
        return made[-1]

    yield start
    for each in made:
        each.kill()
        for pipe in (each.process.stdin, each.process.stdout):
            assert pipe
            pipe.close()


@pytest.fixture
def ledger(path: Path) -> Iterator[Open]:
    made: list[Ledger] = []

    def start(limit: int | None = None, *, counted: int | None = None) -> Ledger:
        made.append(Ledger(str(path), limit))
        if counted is not None:
            made[-1].record_count(counted, made[-1].read(), 5.0)
        return made[-1]

    yield start
    for each in made:
        each.close()


def test_nothing_is_reserved_before_the_first_count(ledger: Open) -> None:
    mine = ledger(100)
    assert mine.read() == Account(0, 0, 100, 0)
    assert mine.reserve(1) is None
    mine.record_count(40, mine.read(), 7.9)
    assert mine.read() == Account(40, 0, 100, 7)
    assert mine.reserve(1) == 0


def test_held_and_reserved_bytes_keep_to_the_limit(ledger: Open) -> None:
    mine = ledger(100, counted=40)
    assert mine.reserve(50) == 0
    assert mine.reserve(11) == 1
    mine.settle(50, 20)
    assert mine.read() == Account(60, 0, 100, 5)
    assert mine.reserve(40) == 0
    mine.adjust(-30)
    assert mine.read() == Account(30, 40, 100, 5)
    assert mine.reserve(30, 90) == 10, "the disk has room for 90"
    assert mine.reserve(20, 90) == 0


def test_changes_during_a_count_are_added(ledger: Open) -> None:
    mine = ledger(counted=1000)
    before = mine.read()
    mine.adjust(-100)
    mine.record_count(50, before, 8.0)
    assert mine.read() == Account(0, 0, None, 8)
    before = mine.read()
    mine.adjust(7)
    mine.record_count(50, before, 9.0)
    assert mine.read().held == 57


def test_the_smallest_limit_applies_until_its_process_dies(ledger: Open, other) -> None:
    mine = ledger(100, counted=40)
    narrow = other(60)
    assert narrow.ask("reserve 15") == "0"
    assert mine.read() == Account(40, 15, 60, 5)
    assert mine.reserve(10) == 5
    narrow.kill()
    assert mine.read() == Account(40, 0, 100, 5)
    assert mine.stale, "some of what it had reserved may be on disk"
    assert mine.reserve(60) == 0


def test_a_death_without_reservations_needs_no_count(ledger: Open, other) -> None:
    mine = ledger(100, counted=40)
    narrow = other(60)
    assert narrow.ask("reserve 15") == "0"
    assert narrow.ask("settle 15 10") == "None"
    narrow.kill()
    assert mine.read() == Account(50, 0, 100, 5)
    assert not mine.stale


def test_only_the_first_process_is_alone(ledger: Open, other) -> None:
    first = other()
    assert first.ask("alone") == "True"
    assert not ledger().is_alone()
    first.kill()
    for each in (ledger(), ledger()):
        assert not each.is_alone(), "two hands of one process are two"


def test_a_process_is_alone_again_after_all_others_died(ledger: Open, other) -> None:
    first = other()
    first.ask("look")
    first.kill()
    assert ledger().is_alone()


def test_concurrent_processes_and_threads_lose_no_update(ledger: Open, other) -> None:
    mine = ledger(10_000_000, counted=0)
    others = [other(), other()]
    for each in others:
        each.say("churn 150")

    def churn(_: int) -> None:
        for _ in range(100):
            assert mine.reserve(5) == 0
            mine.settle(5, 2)

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(churn, range(3)))
    assert [each.hear() for each in others] == ["churned", "churned"]
    assert mine.read() == Account(2 * 150 * 3 + 3 * 100 * 2, 0, 10_000_000, 5)


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(os.urandom(3000)),
        lambda path: os.truncate(path, 100),
        lambda path: path.write_bytes(path.read_bytes()[:16] + b"\7" + path.read_bytes()[17:]),
        lambda path: path.write_bytes(path.read_bytes() + b"more"),
    ],
)
def test_a_damaged_ledger_keeps_the_reservations_of_living_processes(ledger: Open, path: Path, damage) -> None:
    mine = ledger(100, counted=40)
    assert mine.reserve(10) == 0
    damage(path)
    assert mine.read() == Account(0, 10, 100, 0)
    assert mine.reserve(1) is None
    mine.record_count(40, mine.read(), 6.0)
    assert ledger().read() == Account(40, 10, 100, 6)


def test_a_removed_cache_gets_a_new_ledger(ledger: Open, path: Path) -> None:
    mine = ledger(100, counted=40)
    assert mine.reserve(10) == 0
    path.unlink()
    path.parent.rmdir()
    assert mine.read() == Account(0, 10, 100, 0)
    assert ledger().read() == Account(0, 10, 100, 0), "the same file for both"


def test_a_ledger_that_stays_locked_raises(ledger: Open, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fcntl

    mine = ledger(counted=1)
    with path.open("r+b") as stuck:
        fcntl.flock(stuck, fcntl.LOCK_EX)
        monkeypatch.setattr(ledger_module, "_PATIENCE_S", 0.0)
        with pytest.raises(CacheUnusable, match="stopped or hangs"):
            mine.read()
    assert mine.read().held == 1


def test_the_number_of_slots_is_limited(ledger: Open) -> None:
    hands = [ledger() for _ in range(SLOTS)]
    for each in hands:
        each.read()
    with pytest.raises(CacheUnusable, match="use the cache already"):
        ledger().read()
    hands[5].close()
    assert ledger(77).read().limit == 77


def test_a_closed_ledger_is_not_opened_again(ledger: Open) -> None:
    mine = ledger(counted=5)
    mine.close()
    with pytest.raises(CacheUnusable, match="closed"):
        mine.settle(1, 1)
    assert ledger().is_alone()


class LedgerMachine(RuleBasedStateMachine):
    """Three processes' hands on one ledger against plain numbers; one that is closed has died."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.hands: list[Ledger | None] = [None] * 3
        self.limits: list[int | None] = [None] * 3
        self.reserved = [0] * 3
        self.held = 0

    @initialize()
    def begin(self) -> None:
        first = self.open(0, None)
        first.record_count(0, first.read(), 1.0)

    def open(self, number: int, limit: int | None) -> Ledger:
        made = Ledger(f"{self.folder.name}/ledger", limit)
        made.read()
        self.hands[number], self.limits[number], self.reserved[number] = made, limit, 0
        return made

    def teardown(self) -> None:
        for each in self.hands:
            if each is not None:
                each.close()
        self.folder.cleanup()

    def hand(self, number: int) -> Ledger:
        return self.hands[number] or self.open(number, None)

    @rule(number=st.integers(0, 2), limit=st.none() | st.integers(1, 200))
    def die_and_come_again(self, number: int, limit: int | None) -> None:
        hand = self.hands[number]
        if hand is not None:
            hand.close()
        self.open(number, limit)

    @rule(number=st.integers(0, 2), size=st.integers(0, 60), ceiling=st.none() | st.integers(0, 200))
    def reserve(self, number: int, size: int, ceiling: int | None) -> None:
        hand = self.hand(number)
        most = min((each for each in (*self.limits, ceiling) if each is not None), default=10**9)
        over = max(0, self.held + sum(self.reserved) + size - most)
        assert hand.reserve(size, ceiling) == over
        if not over:
            self.reserved[number] += size

    @precondition(lambda self: any(self.reserved))
    @rule(number=st.integers(0, 2), share=st.floats(0, 1), stored=st.floats(0, 1))
    def settle(self, number: int, share: float, stored: float) -> None:
        part = int(self.reserved[number] * share)
        self.hand(number).settle(part, int(part * stored))
        self.reserved[number] -= part
        self.held += int(part * stored)

    @rule(number=st.integers(0, 2), share=st.floats(0, 1))
    def evict(self, number: int, share: float) -> None:
        freed = int(self.held * share)
        self.hand(number).adjust(-freed)
        self.held -= freed

    @invariant()
    def all_agree(self) -> None:
        limit = min((each for each in self.limits if each is not None), default=None)
        for each in self.hands:
            if each is not None:
                assert each.read() == Account(self.held, sum(self.reserved), limit, 1)


TestLedgerMachine = LedgerMachine.TestCase
TestLedgerMachine.settings = settings(
    max_examples=examples(40), stateful_step_count=25, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
