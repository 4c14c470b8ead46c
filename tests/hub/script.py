"""Which requests get a fault, and which of them are held: the machinery behind `hub.faults`.

A fault is a function `(request, answering) -> Answer`, where `answering(request)` is the hub's regular answer; `faults`
has ready-made ones. Tests add and remove faults, connection threads look them up; no lock is held while a fault runs.
"""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Callable
from dataclasses import dataclass, replace
from threading import Condition

from .journal import is_kind
from .wire import Answer, Request

Answering = Callable[[Request], Answer]
Fault = Callable[[Request, Answering], Answer]

HOLD_SECONDS = 120.0  # a held answer is released after this, if the test does not release it


@dataclass(frozen=True, slots=True)
class Match:
    """Selects requests: every given field must match; `nth` (from 1) and `count` then pick among the matches."""

    kind: str | None = None
    path: str | None = None  # the raw path, exactly
    method: str | None = None
    repo: str | None = None
    file: str | None = None
    ranged: bool | None = None  # with or without a Range header
    where: Callable[[Request], bool] | None = None
    nth: int = 1  # the first of them that is hit
    count: int | None = None  # how many are hit from that one on; None: all

    def agrees(self, request: Request) -> bool:
        route = request.route
        return (
            (self.kind is None or is_kind(route.kind, self.kind))
            and (self.path is None or self.path == request.path)
            and (self.method is None or self.method == request.method)
            and (self.repo is None or self.repo == route.repo)
            and (self.file is None or self.file == route.file)
            and (self.ranged is None or self.ranged == ("range" in request.headers))
            and (self.where is None or self.where(request))
        )


@dataclass(eq=False)
class Scripted:
    """A fault in the script. `seen` counts the requests that match, `hits` those that got the fault."""

    match: Match
    fault: Fault
    seen: int = 0
    hits: int = 0


class Faults:
    def __init__(self) -> None:
        self._changed = Condition()
        # Guarded by _changed:
        self._script: list[Scripted] = []
        self._held: set[int] = set()  # eventfds of the answers being held
        self._stopped = False

    def add(self, match: Match, fault: Fault, *, nth: int | None = None, count: int | None = None) -> Scripted:
        """Applies `fault` to matching requests from now on. Later additions wrap earlier ones."""
        if nth is not None or count is not None:
            match = replace(match, nth=nth or match.nth, count=count if count is not None else match.count)
        scripted = Scripted(match, fault)
        with self._changed:
            self._script.append(scripted)
        return scripted

    def remove(self, scripted: Scripted) -> None:
        with self._changed:
            self._script.remove(scripted)

    def clear(self) -> None:
        """Empties the script and releases every held answer."""
        with self._changed:
            self._script.clear()
        self.release()

    def around(self, request: Request, answering: Answering) -> Answering:
        """Returns `answering`, wrapped in the faults that apply to this request."""
        with self._changed:
            chosen = []
            for scripted in self._script:
                if not scripted.match.agrees(request):
                    continue
                scripted.seen += 1
                late = scripted.seen - scripted.match.nth
                if late >= 0 and (scripted.match.count is None or late < scripted.match.count):
                    scripted.hits += 1
                    chosen.append(scripted.fault)
        for fault in chosen:
            answering = _bind(fault, answering)
        return answering

    # Holding.

    def hold(self, connection: socket.socket) -> bool:
        """Blocks the calling connection thread until `release`. Returns False if its client disconnects first."""
        event = os.eventfd(0, os.EFD_CLOEXEC)
        try:
            with self._changed:
                if self._stopped:
                    return False
                self._held.add(event)
                self._changed.notify_all()
            poll = select.poll()
            poll.register(event, select.POLLIN)
            poll.register(connection, select.POLLRDHUP)
            ready = {fd for fd, _ in poll.poll(HOLD_SECONDS * 1000)}
            return event in ready or not ready
        finally:
            with self._changed:
                self._held.discard(event)
                self._changed.notify_all()
            os.close(event)

    def release(self) -> None:
        """Releases every held answer."""
        with self._changed:
            for event in self._held:
                os.eventfd_write(event, 1)

    def wait_held(self, count: int = 1, timeout: float = 10.0) -> None:
        """Waits until at least `count` answers are held.

        Raises: TimeoutError.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: len(self._held) >= count, timeout):
                raise TimeoutError(f"{len(self._held)} held, not {count}, after {timeout} s")

    def wait_none_held(self, timeout: float = 10.0) -> None:
        """Waits until no request is held any more: each was released, or its connection ended.

        Raises: TimeoutError.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: not self._held, timeout):
                raise TimeoutError(f"{len(self._held)} still held after {timeout} s")

    def stop(self) -> None:
        with self._changed:
            self._stopped = True
        self.clear()


def _bind(fault: Fault, answering: Answering) -> Answering:
    return lambda request: fault(request, answering)
