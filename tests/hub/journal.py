"""The requests to the hub and its answers: one frozen record per request, in order of arrival.

Connection threads write, tests read, at any time, behind one condition. A record exists from the arrival of its
request; `status` is None until the answer starts and `finished` until the kernel has accepted its last byte.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Condition
from typing import Any, TextIO

from .wire import Request

SETTLE_SECONDS = 0.5  # longest wait for answers in their last slice: the client has them before we have noted them
NOT_API = frozenset({"resolve", "resolve-cache", "cdn", "page", "control"})


@dataclass(frozen=True, slots=True)
class Record:
    number: int
    time: float  # monotonic, at arrival
    origin: str  # "api" or "cdn"
    method: str
    path: str  # as sent, percent-encoded
    query: dict[str, str]
    headers: dict[str, str]  # names in lower case
    connection: int
    kind: str
    type: str | None
    repo: str | None
    revision: str | None
    file: str | None
    status: int | None = None
    bytes_sent: int = 0  # of the body, handed to the kernel
    finished: float | None = None  # monotonic

    @property
    def range(self) -> str | None:
        return self.headers.get("range")

    @property
    def authorized(self) -> bool:
        """Whether an Authorization header was sent, valid or not."""
        return "authorization" in self.headers

    @property
    def token(self) -> str | None:
        return self.headers.get("authorization", "").removeprefix("Bearer ") or None

    def as_json(self) -> dict[str, Any]:
        """Returns all fields but the headers, so that no file contains a token."""
        names = "number time origin method path kind type repo revision file status bytes_sent finished connection"
        return {**{name: getattr(self, name) for name in names.split()}, "range": self.range, "auth": self.authorized}


def is_kind(kind: str, wanted: str) -> bool:
    """Returns whether a request's kind is the wanted one; "api" means every kind under /api/ but files."""
    return kind == wanted or (wanted == "api" and kind not in NOT_API)


class Journal:
    def __init__(self, path: Path | None = None) -> None:
        self._changed = Condition()
        # Guarded by _changed:
        self._records: dict[int, Record] = {}
        self._next = 0
        self._ending: set[int] = set()  # in their last slice
        self._file: TextIO | None = path.open("a", encoding="utf-8") if path else None

    # Written by connection threads.

    def arrived(self, request: Request) -> int:
        route = request.route
        with self._changed:
            self._next += 1
            self._records[self._next] = Record(
                self._next, time.monotonic(), request.origin, request.method, request.path, request.query,
                dict(request.headers), request.connection, route.kind, route.type if route.repo else None,
                route.repo, route.revision, route.file,
            )  # fmt: skip
            self._changed.notify_all()
            return self._next

    def started(self, number: int, status: int) -> None:
        self._update(number, status=status)

    def ending(self, number: int) -> None:
        """The next bytes handed to the kernel are the last of this answer."""
        with self._changed:
            self._ending.add(number)

    def finished(self, number: int, bytes_sent: int) -> None:
        self._update(number, bytes_sent=bytes_sent, finished=time.monotonic())
        with self._changed:
            record = self._records.get(number)
            if self._file is not None and record is not None and record.kind != "control":
                self._file.write(json.dumps(record.as_json()) + "\n")
                self._file.flush()

    def _update(self, number: int, **changes: Any) -> None:
        with self._changed:
            if "finished" in changes:
                self._ending.discard(number)
            if number in self._records:  # else cleared meanwhile
                self._records[number] = replace(self._records[number], **changes)
            self._changed.notify_all()

    # Read by tests.

    def requests(
        self,
        kind: str | None = None,
        *,
        path: str | None = None,
        method: str | None = None,
        repo: str | None = None,
        file: str | None = None,
        origin: str | None = None,
        status: int | None = None,
    ) -> list[Record]:
        """Returns the records that match everything given. Control requests match only by their kind."""
        with self._changed:
            self._changed.wait_for(lambda: not self._ending, SETTLE_SECONDS)
            records = list(self._records.values())
        exact = {"path": path, "method": method, "repo": repo, "file": file, "origin": origin, "status": status}
        asked = {name: value for name, value in exact.items() if value is not None}
        return [
            record
            for record in records
            if (is_kind(record.kind, kind) if kind else record.kind != "control")
            and all(getattr(record, name) == value for name, value in asked.items())
        ]

    def bytes_sent(self, kind: str | None = None, *, file: str | None = None, repo: str | None = None) -> int:
        return sum(record.bytes_sent for record in self.requests(kind, file=file, repo=repo))

    def clear(self) -> None:
        """Drops all records; answers still in flight leave none."""
        with self._changed:
            self._changed.wait_for(lambda: not self._ending, SETTLE_SECONDS)
            self._records.clear()

    def wait_for(self, predicate: Callable[[Sequence[Record]], bool], timeout: float = 10.0) -> list[Record]:
        """Waits until the predicate is true of all records, and returns them.

        Raises: TimeoutError.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: predicate(list(self._records.values())), timeout):
                raise TimeoutError(f"not seen within {timeout} s; {len(self._records)} requests so far")
            return list(self._records.values())

    def close(self) -> None:
        with self._changed:
            if self._file is not None:
                self._file.close()
                self._file = None
