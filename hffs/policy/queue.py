"""The fetch queue: which blocks are wanted and how urgently, which are being fetched, which have just failed.

``transfer.scheduler`` calls every method under its lock, passes ``now`` (monotonic seconds), and acts on the results
after releasing it. Invariants: a block is fetched by one worker at a time, however many want it; all tickets that wait
for it share its outcome; demanded blocks come first, oldest first. Never fetches, sleeps, logs or reads a clock; the
caller reports which blocks are present (``landed``, ``found``). Not thread-safe by itself.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Generic

from ..ranges import runs as gathered
from .blocks import BlockMap, E, Event, Priority, Run, State, after
from .ready_queue import ReadyQueue

# A demanded block's GET may start with demanded neighbours right before it: the kernel sends the requests of one
# read-ahead in any order. At most 4 (1 MiB, the longest read the kernel sends), since the block then waits for them.
_STEP_BACK = 4


@dataclass(frozen=True, slots=True)
class Fetch:
    """Adjacent blocks of one blob, fetched by one worker in one GET. ``attempt`` counts from 0."""

    id: int
    key: str
    blocks: range
    priority: Priority
    attempt: int


@dataclass(frozen=True, slots=True)
class Waiting:
    """A ticket that has not ended: the blocks it still needs, and since when it waits."""

    ticket: int
    key: str
    blocks: tuple[int, ...]
    since: float


@dataclass(slots=True)
class _Waiter:
    key: str
    missing: set[int]
    since: float


class BlockQueue(Generic[E]):
    """The blocks of all files that are queued, running or have just failed. ``E`` is the caller's error type."""

    def __init__(
        self, *, max_blocks: int = 64, demand_blocks: int = 16, workers: int = 8, failure_seconds: float = 5.0
    ) -> None:
        """``max_blocks`` bounds a fetch, ``demand_blocks`` is its usual length; a fetch of read-ahead or hydration
        grows up to the bound while the work still splits over ``workers``. A failure is remembered for
        ``failure_seconds``."""
        if min(max_blocks, demand_blocks, workers) < 1 or failure_seconds < 0:
            raise ValueError("lengths and workers count from 1, seconds from 0")
        self._max = max_blocks
        self._usual = min(demand_blocks, max_blocks)
        self._workers = workers
        self._failure_seconds = failure_seconds
        self._maps: dict[str, BlockMap[E]] = {}
        self._running: dict[int, Fetch] = {}
        self._tickets: dict[int, _Waiter] = {}
        self._ready: ReadyQueue[E] = ReadyQueue()
        self._failures: deque[tuple[float, str, range]] = deque()
        self._queued = [0] * len(Priority)
        self._fetches = self._wants = 0

    # requests and waits

    def want(self, key: str, blocks: range, priority: Priority, now: float) -> bool:
        """Queues the absent ones of ``blocks`` and raises the others to ``priority``. Returns whether work was added.

        A remembered failure stays (``wait`` returns it) until it is ``failure_seconds`` old.
        """
        if blocks.step != 1 or blocks.start < 0:
            raise ValueError(f"not a span: {blocks}")
        self._forget_failures(now)
        if not blocks:
            return False
        self._wants += 1
        table = self._maps.setdefault(key, BlockMap())
        more = False
        at = blocks.start
        while at < blocks.stop:
            run, end = table.look(at)
            end = min(end, blocks.stop)
            if run is None:
                run = Run(key, at, end, after(State.ABSENT, Event.WANT), priority, self._wants)
                table.insert(run)
                self._enqueue(run)
                more = True
            else:
                after(run.state, Event.WANT)
                if run.state is not State.FAILED and priority < run.priority:
                    (part,) = self._isolate(table, range(at, end))
                    part.since = self._wants
                    self._set_priority(part, priority)
                    more = more or part.state is State.QUEUED
            at = end
        return more

    def wait(self, ticket: int, key: str, blocks: Iterable[int], now: float) -> E | None:
        """Lets ``ticket`` wait for blocks just wanted (under the same hold of the lock); it ends exactly once.

        It ends by being returned from ``landed``, ``found``, ``settle`` or ``drop``, by ``abandon``, or here: if one of
        the blocks has just failed, that failure is returned and nothing waits.
        """
        missing = set(blocks)
        assert missing, f"ticket {ticket} waits for nothing"
        assert ticket not in self._tickets, f"ticket {ticket} waits already"
        table = self._maps.get(key, BlockMap())
        for block in sorted(missing):
            run = table.look(block)[0]
            if after(run.state if run else State.ABSENT, Event.WAIT) is State.FAILED and run is not None:
                return run.error
        for block in missing:
            table.waiters.setdefault(block, []).append(ticket)
        self._tickets[ticket] = _Waiter(key, missing, now)
        return None

    def abandon(self, ticket: int) -> None:
        """Ends a ticket without a result: blocks demanded for it alone drop to AHEAD, running fetches continue. A
        ticket that has ended is ignored: it may have ended while its waiter gave up."""
        if ticket in self._tickets:
            self._end(ticket)

    def fetches_for(self, ticket: int) -> list[Fetch]:
        """Returns the running fetches of a ticket's missing blocks."""
        waiter = self._tickets[ticket]
        table = self._maps[waiter.key]
        runs = [run for run in (table.look(block)[0] for block in waiter.missing) if run is not None]
        return [self._running[number] for number in {run.fetch for run in runs if run.state is State.RUNNING}]

    # fetches

    def next(self, now: float, among: Collection[Priority] = tuple(Priority)) -> Fetch | None:
        """Starts the most urgent fetch: by priority, then age, joined with queued neighbours. None: nothing is due.
        ``among`` are the priorities allowed."""
        self._forget_failures(now)
        self._ready.promote(now)
        for priority in sorted(among):
            head = self._ready.first(priority)
            if head is not None:
                return self._take(head)
        return None

    def landed(self, fetch: Fetch, block: int) -> list[int]:
        """Reports that ``block`` of a running fetch is in the store. Returns the tickets whose last missing block it
        was."""
        self._assert_running(fetch, "landed")
        assert block in fetch.blocks, f"block {block} is none of fetch {fetch.id} of {fetch.blocks}"
        return self._present(fetch.key, block)

    def found(self, key: str, blocks: Iterable[int]) -> list[int]:
        """Reports blocks found in the store, whatever their state here. Returns the tickets that are complete."""
        return [ticket for block in blocks for ticket in self._present(key, block)]

    def defer(self, fetch: Fetch, until: float) -> None:
        """Ends a fetch that cannot run now (another process holds the lease, or it has no budget and no waiting
        reader): blocks not landed are due again at ``until``, or when a new reader demands them."""
        self._put_back(fetch, until, fetch.attempt)

    def retry(self, fetch: Fetch, until: float) -> None:
        """Ends a failed fetch that will be retried: blocks not landed are due again at ``until``."""
        self._put_back(fetch, until, fetch.attempt + 1)

    def settle(self, fetch: Fetch, error: E | None, now: float, *, remember: bool = True) -> list[int]:
        """Ends a fetch. With an error, blocks not landed fail, and the tickets that fail with them are returned.
        Without one, they are queued again if a ticket waits for them, else absent. ``remember``: later wants of the
        blocks get the same failure for ``failure_seconds``."""
        self._assert_running(fetch, "settle")
        del self._running[fetch.id]
        table = self._maps.get(fetch.key)
        if table is None:
            return []
        if error is None:
            self._release(table, fetch)
        failed: dict[int, None] = {}
        for run in self._outstanding(fetch):
            run.state, run.error = after(run.state, Event.FAIL), error
            run.until = now + self._failure_seconds
            for block in range(run.start, run.stop):
                failed.update(dict.fromkeys(table.waiters.get(block, ())))
            if remember:
                self._failures.append((run.until, fetch.key, range(run.start, run.stop)))
            else:
                after(run.state, Event.EXPIRE)
                table.remove(run)
        for ticket in failed:
            self._end(ticket)
        self._tidy(fetch.key)
        return list(failed)

    def due(self, now: float) -> float | None:
        """Returns when the next deferred block becomes due (monotonic seconds, at least ``now``); None: none is."""
        until = self._ready.due()
        return None if until is None else max(until, now)

    def drop(self, key: str, *, keep: Priority | None = None) -> list[int]:
        """Removes what is queued or failed for ``key``. Returns the tickets that lost a block. Running fetches
        continue.

        Blocks queued at ``keep`` or less urgent stay: a closed file may still be hydrated. Blocks that a reader had
        raised above it are removed all the same; a hydration wants missing blocks again.
        """
        table = self._maps.get(key)
        if table is None:
            return []
        dropped = [
            run
            for run in table
            if after(run.state, Event.DROP) is State.ABSENT
            and not (run.state is State.QUEUED and keep is not None and run.priority >= keep)
        ]
        for run in dropped:
            if run.state is State.QUEUED:
                self._dequeue(run)
            table.remove(run)
        lost = {
            ticket: None for block, tickets in table.waiters.items() for ticket in tickets if not table.holds(block)
        }
        for ticket in lost:
            self._end(ticket)
        self._tidy(key)
        return list(lost)

    def withdraw(self, key: str, priority: Priority) -> None:
        """Removes blocks of ``key`` queued at ``priority`` or less urgent without a waiting ticket. Fetches
        continue."""
        table = self._maps.get(key, BlockMap())
        for run in [run for run in table if run.state is State.QUEUED and run.priority >= priority]:
            span = range(run.start, run.stop)
            for spare in gathered(block for block in span if block not in table.waiters) if table.waiters else [span]:
                (part,) = self._isolate(table, spare)
                after(part.state, Event.DROP)
                self._dequeue(part)
                table.remove(part)
        self._tidy(key)

    # queries

    def awaited(self, fetch: Fetch) -> bool:
        """Returns whether a ticket waits for any block of a running fetch."""
        table = self._maps.get(fetch.key)
        return table is not None and any(block in table.waiters for block in fetch.blocks)

    def busy(self, key: str) -> bool:
        """Returns whether anything of ``key`` is queued or running, including a fetch all of whose blocks have
        landed."""
        queued = any(run.state is not State.FAILED for run in self._maps.get(key, ()))
        return queued or any(fetch.key == key for fetch in self._running.values())

    def runs(self, key: str) -> list[tuple[range, bool]]:
        """Returns the ranges of ``key`` that are queued or (True) running, in ascending order."""
        return [
            (range(run.start, run.stop), run.state is State.RUNNING)
            for run in self._maps.get(key, ())
            if run.state is not State.FAILED
        ]

    def queued(self) -> dict[Priority, int]:
        """Returns the number of queued blocks by priority, deferred ones included."""
        return {priority: self._queued[priority] for priority in Priority}

    def running(self) -> list[Fetch]:
        """Returns the running fetches, oldest first."""
        return list(self._running.values())

    def waiting(self) -> list[Waiting]:
        """Returns the tickets that have not ended, oldest first."""
        return [
            Waiting(ticket, waiter.key, tuple(sorted(waiter.missing)), waiter.since)
            for ticket, waiter in self._tickets.items()
        ]

    # implementation

    def _take(self, head: Run[E]) -> Fetch:
        table = self._maps[head.key]
        self._fetches += 1
        fetch = Fetch(self._fetches, head.key, self._reach(table, head), head.priority, head.attempt)
        for run in self._isolate(table, fetch.blocks):
            self._dequeue(run)
            run.state, run.fetch = after(run.state, Event.TAKE), fetch.id
        self._running[fetch.id] = fetch
        return fetch

    def _reach(self, table: BlockMap[E], head: Run[E]) -> range:
        """Returns the blocks to fetch in one GET with the head of the most urgent run. Neighbours join if they are due
        and at the same attempt, so that no block inherits the failures of another."""
        start = stop = head.start
        demanded = head.priority is Priority.DEMAND
        if demanded:
            floor = start - min(_STEP_BACK, self._usual - 1)
            for run in table.preceding(head.start):
                if run.stop != start or start <= floor or run.priority is not Priority.DEMAND or not _joins(run, head):
                    break
                start = max(run.start, floor)
        horizon = start + (self._usual if demanded else self._max * self._workers)
        for run in table.following(head.start):
            if run.start != stop or stop >= horizon or not _joins(run, head):
                break
            stop = run.stop
        length = min(stop, horizon) - start
        if not demanded:  # a window of 32 MiB keeps 8 workers busy with 4 MiB each; 100 GiB goes in pieces of 16 MiB
            length = min(length, max(self._usual, -(-length // self._workers)))
        return range(start, start + length)

    def _present(self, key: str, block: int) -> list[int]:
        table = self._maps.get(key)
        run = table.look(block)[0] if table else None
        if table is None or run is None:
            return []
        after(run.state, Event.PRESENT)
        if run.start == block and len(run) > 1:
            run.start += 1
            if run.state is State.QUEUED:
                self._queued[run.priority] -= 1
        else:
            (part,) = self._isolate(table, range(block, block + 1))
            if part.state is State.QUEUED:
                self._dequeue(part)
            table.remove(part)
        ended = []
        for ticket in table.waiters.pop(block, ()):
            missing = self._tickets[ticket].missing
            missing.discard(block)
            if not missing:
                del self._tickets[ticket]
                ended.append(ticket)
        if not table:
            self._tidy(key)
        return ended

    def _put_back(self, fetch: Fetch, until: float, attempt: int) -> None:
        self._assert_running(fetch, "put back")
        del self._running[fetch.id]
        for run in self._outstanding(fetch):
            run.state, run.attempt, run.until = after(run.state, Event.PUT_BACK), attempt, until
            self._enqueue(run)

    def _release(self, table: BlockMap[E], fetch: Fetch) -> None:
        for run in self._outstanding(fetch):
            for span in gathered(block for block in range(run.start, run.stop) if block in table.waiters):
                (part,) = self._isolate(table, span)
                part.state = after(part.state, Event.PUT_BACK)
                self._enqueue(part)
        for run in self._outstanding(fetch):
            after(run.state, Event.RELEASE)
            table.remove(run)

    def _outstanding(self, fetch: Fetch) -> list[Run[E]]:
        """Returns the runs of a fetch that have not landed."""
        table = self._maps.get(fetch.key)
        if table is None:
            return []
        return [run for run in table.within(fetch.blocks) if run.state is State.RUNNING and run.fetch == fetch.id]

    def _end(self, ticket: int) -> None:
        """Removes an incomplete ticket; blocks demanded for it alone drop to AHEAD."""
        waiter = self._tickets.pop(ticket)
        table = self._maps[waiter.key]
        alone = []
        for block in sorted(waiter.missing):
            table.waiters[block].remove(ticket)
            if not table.waiters[block]:
                del table.waiters[block]
                alone.append(block)
        for span in gathered(alone):
            for run in table.within(span):
                if run.priority is Priority.DEMAND and run.state is not State.FAILED:
                    (part,) = self._isolate(table, range(max(run.start, span.start), min(run.stop, span.stop)))
                    self._set_priority(part, Priority.AHEAD)

    def _forget_failures(self, now: float) -> None:
        while self._failures and self._failures[0][0] <= now:
            _, key, span = self._failures.popleft()
            table = self._maps.get(key)
            for run in table.within(span) if table else ():
                if table and run.state is State.FAILED and run.until is not None and run.until <= now:
                    after(run.state, Event.EXPIRE)
                    table.remove(run)
            self._tidy(key)

    def _isolate(self, table: BlockMap[E], span: range) -> list[Run[E]]:
        """Returns the runs of ``span``, split at its ends."""
        for edge in (span.start, span.stop):
            right = table.cut(edge)
            if right is not None and right.state is State.QUEUED:
                self._ready.push(right)
        return table.within(span)

    def _enqueue(self, run: Run[E]) -> None:
        self._queued[run.priority] += len(run)
        self._ready.push(run)

    def _dequeue(self, run: Run[E]) -> None:
        self._queued[run.priority] -= len(run)
        self._ready.remove(run)

    def _set_priority(self, run: Run[E], priority: Priority) -> None:
        if run.state is State.QUEUED:
            self._dequeue(run)
            run.priority = priority
            if priority is Priority.DEMAND and not run.attempt:
                run.until = None
            self._enqueue(run)
        run.priority = priority  # for a running run, the priority if it is queued again

    def _tidy(self, key: str) -> None:
        if key in self._maps and not self._maps[key]:
            del self._maps[key]

    def _assert_running(self, fetch: Fetch, event: str) -> None:
        assert fetch.id in self._running, f"fetch {fetch.id} is not running: {event}"


def _joins(run: Run[E], head: Run[E]) -> bool:
    return run.state is State.QUEUED and run.until is None and run.attempt == head.attempt
