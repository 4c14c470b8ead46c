"""Interleavings of wants, waits, landings, failures and time, compared with a naive queue."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from hffs.policy import BlockQueue, Fetch, Priority
from tests.support.profile import examples

KEYS = ("a", "b")
BLOCKS = 14
MAX, USUAL, MEMORY = 8, 3, 5.0

keys = st.sampled_from(KEYS)
priorities = st.sampled_from(Priority)
spans = st.tuples(st.integers(0, BLOCKS - 1), st.integers(1, 9)).map(lambda p: range(p[0], min(p[0] + p[1], BLOCKS)))


@dataclass
class Block:
    """One block that is not absent."""

    state: str
    priority: Priority
    since: int
    attempt: int = 0
    until: float = 0.0
    fetch: int = 0
    error: str = ""


@dataclass
class Waiter:
    key: str
    missing: set[int]


@dataclass
class NaiveQueue:
    blocks: dict[tuple[str, int], Block] = field(default_factory=dict)
    waiters: dict[int, Waiter] = field(default_factory=dict)
    wants: int = 0

    def forget(self, now: float) -> None:
        for place in [p for p, b in self.blocks.items() if b.state == "failed" and b.until <= now]:
            del self.blocks[place]

    def want(self, key: str, span: range, priority: Priority, now: float) -> None:
        self.forget(now)
        self.wants += 1
        for number in span:
            block = self.blocks.setdefault((key, number), Block("queued", priority, self.wants))
            if block.state != "failed" and priority < block.priority:
                block.priority, block.since = priority, self.wants
                if block.state == "queued" and priority is Priority.DEMAND and not block.attempt:
                    block.until = 0.0  # a deferred block is due as soon as a reader demands it

    def ready(self, now: float) -> dict[tuple[str, int], Block]:
        return {p: b for p, b in self.blocks.items() if b.state == "queued" and b.until <= now}

    def needed(self, key: str, number: int) -> list[int]:
        return [t for t, w in self.waiters.items() if w.key == key and number in w.missing]

    def present(self, key: str, number: int) -> list[int]:
        self.blocks.pop((key, number), None)
        ended = []
        for ticket in self.needed(key, number):
            self.waiters[ticket].missing.discard(number)
            if not self.waiters[ticket].missing:
                del self.waiters[ticket]
                ended.append(ticket)
        return ended

    def end(self, ticket: int) -> None:
        waiter = self.waiters.pop(ticket)
        for number in waiter.missing:
            block = self.blocks.get((waiter.key, number))
            if block and block.state != "failed" and not self.needed(waiter.key, number):
                block.priority = max(block.priority, Priority.AHEAD)

    def awaited(self, fetch: Fetch) -> list[int]:
        return [n for n in fetch.blocks if (b := self.blocks.get((fetch.key, n))) and b.fetch == fetch.id]


class QueueMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now = 100.0
        self.usual, self.workers = USUAL, 1
        self.make()
        self.naive = NaiveQueue()
        self.fetches: dict[int, Fetch] = {}
        self.tickets = 0
        self.ended: list[int] = []

    def make(self) -> None:
        self.queue: BlockQueue[str] = BlockQueue(
            max_blocks=MAX, demand_blocks=self.usual, workers=self.workers, failure_seconds=MEMORY
        )

    @initialize(usual=st.integers(1, MAX), workers=st.integers(1, 3))
    def choose_sizes(self, usual: int, workers: int) -> None:
        self.usual, self.workers = usual, workers
        self.make()

    def end(self, tickets: list[int], expected: list[int]) -> None:
        assert sorted(tickets) == sorted(expected)
        self.ended += tickets
        assert len(self.ended) == len(set(self.ended)), "a ticket ended twice"

    def pick(self, data: st.DataObject) -> Fetch:
        return self.fetches[data.draw(st.sampled_from(sorted(self.fetches)))]

    @rule(key=keys, span=spans, priority=priorities)
    def want(self, key: str, span: range, priority: Priority) -> None:
        self.queue.want(key, span, priority, self.now)
        self.naive.want(key, span, priority, self.now)

    @rule(key=keys, span=spans, priority=priorities)
    def want_and_wait(self, key: str, span: range, priority: Priority) -> None:
        self.want(key, span, priority)
        self.tickets += 1
        answer = self.queue.wait(self.tickets, key, span, self.now)
        failed = [b.error for n in span if (b := self.naive.blocks[key, n]).state == "failed"]
        assert answer == (failed[0] if failed else None)
        if failed:
            self.end([self.tickets], [self.tickets])
        else:
            self.naive.waiters[self.tickets] = Waiter(key, set(span))

    @precondition(lambda self: self.naive.waiters)
    @rule(data=st.data())
    def list_fetches_of_a_ticket(self, data: st.DataObject) -> None:
        ticket = data.draw(st.sampled_from(sorted(self.naive.waiters)))
        waiter = self.naive.waiters[ticket]
        expected = {
            block.fetch
            for number in waiter.missing
            if (block := self.naive.blocks[waiter.key, number]).state == "running"
        }
        assert {fetch.id for fetch in self.queue.fetches_for(ticket)} == expected

    @precondition(lambda self: self.naive.waiters)
    @rule(data=st.data())
    def abandon(self, data: st.DataObject) -> None:
        ticket = data.draw(st.sampled_from(sorted(self.naive.waiters)))
        self.queue.abandon(ticket)
        self.naive.end(ticket)
        self.end([ticket], [ticket])

    @rule(among=st.sets(priorities) | st.just(set(Priority)))
    def next(self, among: set[Priority]) -> None:
        self.naive.forget(self.now)
        fetch = self.queue.next(self.now, among)
        ready = {p: b for p, b in self.naive.ready(self.now).items() if b.priority in among}
        if fetch is None:
            assert not ready
            return
        assert ready
        oldest, head = min(ready.items(), key=lambda item: (item[1].priority, item[1].since, item[0][1]))
        assert fetch.id not in self.fetches
        assert (fetch.key, fetch.priority, fetch.attempt) == (oldest[0], head.priority, head.attempt)
        assert oldest[1] in fetch.blocks
        assert 1 <= len(fetch.blocks) <= (self.usual if head.priority is Priority.DEMAND else MAX)
        for number in fetch.blocks:
            block = self.naive.blocks[fetch.key, number]
            assert block.state == "queued", "fetched twice at a time"
            assert block.until <= self.now, "fetched before it was due"
            assert block.attempt == head.attempt
            assert number >= oldest[1] or block.priority is head.priority, "begins before what is urgent"
        for number in fetch.blocks:
            block = self.naive.blocks[fetch.key, number]
            block.state, block.fetch = "running", fetch.id
        self.fetches[fetch.id] = fetch
        assert self.queue.awaited(fetch) == any(self.naive.needed(fetch.key, number) for number in fetch.blocks)

    @rule(key=keys, priority=priorities)
    def withdraw(self, key: str, priority: Priority) -> None:
        self.queue.withdraw(key, priority)
        for (other, number), block in list(self.naive.blocks.items()):
            unwanted = block.state == "queued" and block.priority >= priority and not self.naive.needed(key, number)
            if other == key and unwanted:
                del self.naive.blocks[key, number]

    @precondition(lambda self: self.fetches)
    @rule(data=st.data(), order=st.sampled_from(["in order", "any"]))
    def land(self, data: st.DataObject, order: str) -> None:
        fetch = self.pick(data)
        awaited = self.naive.awaited(fetch)
        block = awaited[0] if awaited and order == "in order" else data.draw(st.sampled_from(fetch.blocks))
        self.end(self.queue.landed(fetch, block), self.naive.present(fetch.key, block))

    @rule(key=keys, numbers=st.lists(st.integers(0, BLOCKS - 1), max_size=6))
    def found(self, key: str, numbers: list[int]) -> None:
        expected = [ticket for number in numbers for ticket in self.naive.present(key, number)]
        self.end(self.queue.found(key, numbers), expected)

    @precondition(lambda self: self.fetches)
    @rule(data=st.data(), again=st.booleans(), seconds=st.sampled_from([0.0, 0.5, 3.0, 20.0]))
    def put_back(self, data: st.DataObject, again: bool, seconds: float) -> None:
        fetch = self.pick(data)
        (self.queue.retry if again else self.queue.defer)(fetch, self.now + seconds)
        for number in self.naive.awaited(fetch):
            block = self.naive.blocks[fetch.key, number]
            block.state, block.fetch, block.until = "queued", 0, self.now + seconds
            block.attempt = fetch.attempt + again
        del self.fetches[fetch.id]

    @precondition(lambda self: self.fetches)
    @rule(data=st.data())
    def fail(self, data: st.DataObject) -> None:
        fetch = self.pick(data)
        error = f"fetch {fetch.id}"
        failed: set[int] = set()
        for number in self.naive.awaited(fetch):
            block = self.naive.blocks[fetch.key, number]
            block.state, block.fetch, block.until, block.error = "failed", 0, self.now + MEMORY, error
            failed.update(self.naive.needed(fetch.key, number))
        for ticket in sorted(failed):
            self.naive.end(ticket)
        self.end(self.queue.settle(fetch, error, self.now), sorted(failed))
        del self.fetches[fetch.id]

    @precondition(lambda self: self.fetches)
    @rule(data=st.data())
    def give_up(self, data: st.DataObject) -> None:
        """Settles without an error: awaited blocks are queued again, the others are absent."""
        fetch = self.pick(data)
        for number in self.naive.awaited(fetch):
            block = self.naive.blocks[fetch.key, number]
            if self.naive.needed(fetch.key, number):
                block.state, block.fetch = "queued", 0
            else:
                del self.naive.blocks[fetch.key, number]
        self.end(self.queue.settle(fetch, None, self.now), [])
        del self.fetches[fetch.id]

    @rule(key=keys, keep=st.none() | priorities)
    def drop(self, key: str, keep: Priority | None) -> None:
        lost: set[int] = set()
        for (other, number), block in list(self.naive.blocks.items()):
            kept = block.state == "queued" and keep is not None and block.priority >= keep
            if other == key and block.state != "running" and not kept:
                del self.naive.blocks[key, number]
                lost.update(self.naive.needed(key, number))
        for ticket in sorted(lost):
            self.naive.end(ticket)
        self.end(self.queue.drop(key, keep=keep), sorted(lost))

    @rule(seconds=st.sampled_from([0.25, 1.0, MEMORY, 30.0]))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    @invariant()
    def the_counts_are_those_of_the_naive_queue(self) -> None:
        counted = dict.fromkeys(Priority, 0)
        for block in self.naive.blocks.values():
            if block.state == "queued":
                counted[block.priority] += 1
        assert self.queue.queued() == counted
        assert self.queue.running() == list(self.fetches.values())
        assert {w.ticket: set(w.blocks) for w in self.queue.waiting()} == {
            t: w.missing for t, w in self.naive.waiters.items()
        }

    @invariant()
    def the_next_due_time_is_known(self) -> None:
        later = [b.until for b in self.naive.blocks.values() if b.state == "queued" and b.until > self.now]
        due = self.queue.due(self.now)
        if due is None or due > self.now:  # blocks due since the last `next` may still be reported as due now
            assert due == min(later, default=None)

    def teardown(self) -> None:
        """Workers that complete every fetch end every wait and leave no state."""
        for given in list(self.fetches.values()):
            self.queue.settle(given, None, self.now)
        self.now += 60.0
        seen: list[Fetch] = []
        while (fetch := self.queue.next(self.now)) is not None:
            seen.append(fetch)
            assert len(seen) <= len(KEYS) * BLOCKS, "work without end"
            for block in fetch.blocks:
                self.ended += self.queue.landed(fetch, block)
            assert self.queue.settle(fetch, None, self.now) == []
        assert [fetch.priority for fetch in seen] == sorted(fetch.priority for fetch in seen)
        assert sorted(self.ended) == list(range(1, self.tickets + 1)), "each ticket ends once"
        assert self.queue.queued() == dict.fromkeys(Priority, 0)
        assert self.queue.running() == []
        assert self.queue.waiting() == []
        assert self.queue.due(self.now) is None
        assert self.queue._maps == {}
        assert not self.queue._failures


TestQueue = QueueMachine.TestCase
TestQueue.settings = settings(max_examples=examples(400), stateful_step_count=50, deadline=None, derandomize=True)
