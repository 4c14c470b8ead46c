"""The order of work: which blocks are wanted, by whom, how urgently; which run now; which have just failed.

``transfer.scheduler`` calls every method under its lock, passes ``now`` (monotonic seconds), and acts on what is
returned after releasing it. Keeps the promises: a block is fetched by one worker at a time, however many want it; all
who wait for it share its outcome; what is demanded goes first, the oldest first. Never fetches, sleeps, logs or reads
a clock, and does not know which blocks are present: it is told (``landed``, ``found``). Not thread-safe by itself.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Generic

from ..ranges import runs as gathered
from .blocks import BlockMap, E, Event, Priority, Run, State, after
from .ready_queue import ReadyQueue

# A demanded block may wait for demanded neighbours right before it to share its GET: the kernel hands the requests of
# one read-ahead over in any order. No more than 4 (1 MiB, the longest read the kernel sends), as it waits for them.
_STEP_BACK = 4


@dataclass(frozen=True, slots=True)
class Fetch:
    """Adjacent blocks of one blob for one worker, in one GET. ``attempt`` counts from 0."""

    id: int
    key: str
    blocks: range
    priority: Priority
    attempt: int


@dataclass(frozen=True, slots=True)
class Waiting:
    """A ticket that has not ended: the blocks it still misses, and since when it waits."""

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
    """The blocks of all files that are queued, running or have just failed. ``E`` is what the caller calls an error."""

    def __init__(
        self, *, max_blocks: int = 64, demand_blocks: int = 16, workers: int = 8, failure_seconds: float = 5.0
    ) -> None:
        """``max_blocks`` bounds a fetch, ``demand_blocks`` is its usual length; one of read-ahead or hydration grows up
        to the bound as far as the work still splits over ``workers``. A failure answers for ``failure_seconds``."""
        if min(max_blocks, demand_blocks, workers) < 1 or failure_seconds < 0:
            raise ValueError("lengths and workers count from 1, seconds from 0")
        self._max = max_blocks
        self._usual = min(demand_blocks, max_blocks)
        self._workers = workers
        self._failure_seconds = failure_seconds
        self._maps: dict[str, BlockMap[E]] = {}
        self._running: dict[int, Fetch] = {}
        self._tickets: dict[int, _Waiter] = {}
        self._agenda: ReadyQueue[E] = ReadyQueue()
        self._failures: deque[tuple[float, str, range]] = deque()
        self._queued = [0] * len(Priority)
        self._fetches = self._wants = 0

    # wanting and waiting

    def want(self, key: str, blocks: range, priority: Priority, now: float) -> bool:
        """Queue those of ``blocks`` that are absent, and raise the others to ``priority``; True: there is more to do.

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
        """Let ``ticket`` wait for blocks just wanted (under the same hold of the lock); it ends exactly once.

        It ends by coming out of ``landed``, ``found``, ``settle`` or ``drop``, by ``abandon``, or here: when one of the
        blocks has just failed, that failure is returned and nothing waits.
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
        """The waiter has gone: blocks demanded for it alone sink to AHEAD, fetches under way go on. An ended ticket is
        nothing to abandon and no mistake: it may have ended while the waiter gave up."""
        if ticket in self._tickets:
            self._end(ticket)

    def under_way(self, ticket: int) -> list[Fetch]:
        """The running fetches that a ticket's missing blocks come with."""
        waiter = self._tickets[ticket]
        table = self._maps[waiter.key]
        runs = [run for run in (table.look(block)[0] for block in waiter.missing) if run is not None]
        return [self._running[number] for number in {run.fetch for run in runs if run.state is State.RUNNING}]

    # working

    def next(self, now: float, among: Collection[Priority] = tuple(Priority)) -> Fetch | None:
        """The most urgent work: by priority, then age, joined with its queued neighbours. None: nothing is due.

        ``among`` are the priorities this worker may work at."""
        self._forget_failures(now)
        self._agenda.promote(now)
        for priority in sorted(among):
            head = self._agenda.first(priority)
            if head is not None:
                return self._take(head)
        return None

    def landed(self, fetch: Fetch, block: int) -> list[int]:
        """``block`` of a running fetch is in the store; the tickets whose last missing block it was."""
        self._assert_running(fetch, "landed")
        assert block in fetch.blocks, f"block {block} is none of fetch {fetch.id} of {fetch.blocks}"
        return self._present(fetch.key, block)

    def found(self, key: str, blocks: Iterable[int]) -> list[int]:
        """Blocks that turned out to be in the store, whatever we thought of them; the tickets that ended well."""
        return [ticket for block in blocks for ticket in self._present(key, block)]

    def defer(self, fetch: Fetch, until: float) -> None:
        """The fetch could not be done now (another process is at it, or it should not be yet, as nobody waits): what
        has not landed is due again at ``until``, or when a reader comes that had not asked for it before."""
        self._put_back(fetch, until, fetch.attempt)

    def retry(self, fetch: Fetch, until: float) -> None:
        """The fetch failed and is worth another attempt: what has not landed is due again at ``until``."""
        self._put_back(fetch, until, fetch.attempt + 1)

    def settle(self, fetch: Fetch, error: E | None, now: float, *, remember: bool = True) -> list[int]:
        """The fetch ended. With an error, blocks not landed have failed: the tickets that failed with them.

        Without one, they are queued again where somebody waits for them, else absent. ``remember`` the failure for
        those who want the blocks in the next seconds, or let them find out.
        """
        self._assert_running(fetch, "settle")
        del self._running[fetch.id]
        table = self._maps.get(fetch.key)
        if table is None:
            return []
        if error is None:
            self._release(table, fetch)
        failed: dict[int, None] = {}
        for run in self._awaited(fetch):
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
        """When the next deferred block becomes due (monotonic seconds; at most ``now``: it is); None: none is."""
        until = self._agenda.due()
        return None if until is None else max(until, now)

    def drop(self, key: str, *, keep: Priority | None = None) -> list[int]:
        """Forget what is queued and what failed for ``key``; the tickets that lost a block. Fetches under way go on.

        What is queued at ``keep`` or less urgent stays: a file that nobody reads any more may still be hydrated. Blocks
        that a reader had raised above it go all the same; who hydrates wants what is missing again.
        """
        table = self._maps.get(key)
        if table is None:
            return []
        gone = [
            run
            for run in table
            if after(run.state, Event.DROP) is State.ABSENT
            and not (run.state is State.QUEUED and keep is not None and run.priority >= keep)
        ]
        for run in gone:
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

    def relinquish(self, key: str, priority: Priority) -> None:
        """Forget what of ``key`` is queued at ``priority`` or less urgent and nobody waits for. Fetches go on."""
        table = self._maps.get(key, BlockMap())
        for run in [run for run in table if run.state is State.QUEUED and run.priority >= priority]:
            span = range(run.start, run.stop)
            for spare in gathered(block for block in span if block not in table.waiters) if table.waiters else [span]:
                (part,) = self._isolate(table, spare)
                after(part.state, Event.DROP)
                self._dequeue(part)
                table.remove(part)
        self._tidy(key)

    # looking

    def awaited(self, fetch: Fetch) -> bool:
        """Whether a reader waits for any block of a running fetch."""
        table = self._maps.get(fetch.key)
        return table is not None and any(block in table.waiters for block in fetch.blocks)

    def busy(self, key: str) -> bool:
        """Whether anything of ``key`` is queued or under way, a fetch included that has landed all its blocks."""
        queued = any(run.state is not State.FAILED for run in self._maps.get(key, ()))
        return queued or any(fetch.key == key for fetch in self._running.values())

    def runs(self, key: str) -> list[tuple[range, bool]]:
        """What of ``key`` is queued or (True) under way, in ascending order; other blocks are neither."""
        return [
            (range(run.start, run.stop), run.state is State.RUNNING)
            for run in self._maps.get(key, ())
            if run.state is not State.FAILED
        ]

    def queued(self) -> dict[Priority, int]:
        """How many blocks are queued, deferred ones included."""
        return {priority: self._queued[priority] for priority in Priority}

    def running(self) -> list[Fetch]:
        """The fetches that were handed out and have not ended, oldest first."""
        return list(self._running.values())

    def waiting(self) -> list[Waiting]:
        """The tickets that have not ended, oldest first."""
        return [
            Waiting(ticket, waiter.key, tuple(sorted(waiter.missing)), waiter.since)
            for ticket, waiter in self._tickets.items()
        ]

    # the inside

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
        """The blocks to fetch in one go with the head of the most urgent run.

        Neighbours join when they are due and at the same attempt: nobody inherits another's failures.
        """
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
        for run in self._awaited(fetch):
            run.state, run.attempt, run.until = after(run.state, Event.PUT_BACK), attempt, until
            self._enqueue(run)

    def _release(self, table: BlockMap[E], fetch: Fetch) -> None:
        for run in self._awaited(fetch):
            for span in gathered(block for block in range(run.start, run.stop) if block in table.waiters):
                (part,) = self._isolate(table, span)
                part.state = after(part.state, Event.PUT_BACK)
                self._enqueue(part)
        for run in self._awaited(fetch):
            after(run.state, Event.RELEASE)
            table.remove(run)

    def _awaited(self, fetch: Fetch) -> list[Run[E]]:
        """What a fetch has not brought yet."""
        table = self._maps.get(fetch.key)
        if table is None:
            return []
        return [run for run in table.within(fetch.blocks) if run.state is State.RUNNING and run.fetch == fetch.id]

    def _end(self, ticket: int) -> None:
        """Take a ticket out before its blocks came; what was demanded for it alone is no longer urgent."""
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
        """The runs of ``span``, split so that they end where it does."""
        for edge in (span.start, span.stop):
            right = table.cut(edge)
            if right is not None and right.state is State.QUEUED:
                self._agenda.push(right)
        return table.within(span)

    def _enqueue(self, run: Run[E]) -> None:
        self._queued[run.priority] += len(run)
        self._agenda.push(run)

    def _dequeue(self, run: Run[E]) -> None:
        self._queued[run.priority] -= len(run)
        self._agenda.remove(run)

    def _set_priority(self, run: Run[E], priority: Priority) -> None:
        if run.state is State.QUEUED:
            self._dequeue(run)
            run.priority = priority
            if priority is Priority.DEMAND and not run.attempt:
                run.until = None
            self._enqueue(run)
        run.priority = priority  # of a running one: what it goes back to the queue with

    def _tidy(self, key: str) -> None:
        if key in self._maps and not self._maps[key]:
            del self._maps[key]

    def _assert_running(self, fetch: Fetch, event: str) -> None:
        assert fetch.id in self._running, f"fetch {fetch.id} is not running: {event}"


def _joins(run: Run[E], head: Run[E]) -> bool:
    return run.state is State.QUEUED and run.until is None and run.attempt == head.attempt
