"""A reader without a mount: the real fetcher, transport and disk, with a faulty Hub.

``conftest`` makes a Reads for a test; the test scripts the hub's faults, reads, and counts the requests. The retry
policy makes its six attempts without waits of its own, and signed URLs expire when the test advances the clock.
"""

from __future__ import annotations

import time
from pathlib import Path

from hffs.cache import BlobStore, Layout
from hffs.errors import HffsError
from hffs.policy import RetryPolicy
from hffs.transfer import BlobReader, Fetcher, Timers
from tests.hub import Hub
from tests.hub.content import Content
from tests.support.clock import Clock
from tests.unit.sources.conftest import Remote

NO_WAIT = RetryPolicy(base=0.0, cap=0.0)
REPO = "acme/tiny"


class Reads:
    """Timeouts in seconds: ``connect_seconds`` for a connection, ``stall_seconds`` for the next byte, ``deadline`` for
    a read."""

    def __init__(
        self,
        hub: Hub,
        wall: Clock,
        folder: Path,
        *,
        retry: RetryPolicy = NO_WAIT,
        workers: int = 1,
        connect_seconds: float = 10.0,
        stall_seconds: float = 10.0,
        deadline: float = 60.0,
    ) -> None:
        self.hub = hub
        self._deadline = deadline
        self.remote = Remote(
            hub, wall, Clock(1000.0), read_timeout=stall_seconds, connect_timeout=connect_seconds, gate=time.monotonic
        )
        layout = Layout(folder)
        layout.prepare()
        self._store = BlobStore(layout)
        self._timers = Timers()
        self._timers.start()
        self.fetcher = Fetcher(
            self._store,
            self.remote.transport,
            self._timers,
            workers=workers,
            retry=retry,
            late_seconds=0.0,
            jitter=lambda: 0.0,
        )
        self.fetcher.start()

    def close(self) -> None:
        self.fetcher.stop()
        self._timers.stop()
        self._store.close()
        self.remote.close()

    def add(self, files: dict[str, Content]) -> None:
        self.hub.add_repo(REPO, files=files)

    def read(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        """Returns the bytes that open, pread and close on a mount would give."""
        reader = BlobReader(self.fetcher, self.remote.file(name), read_timeout=self._deadline)
        try:
            answer = reader.read(offset, reader.size if length is None else length)
            return answer if isinstance(answer, bytes) else answer.result()
        finally:
            reader.close()

    def failure(self, name: str, offset: int = 0, length: int | None = None) -> HffsError:
        """Returns the error of a read that must fail."""
        try:
            data = self.read(name, offset, length)
        except HffsError as error:
            return error
        raise AssertionError(f"{len(data)} bytes of {name} were read")

    def asked(self, name: str) -> list[str]:
        """Returns kind and status of the requests for the file, in order: ``"resolve 302"``, ``"cdn 206"``. Status 0 is
        an answer that is not HTTP, None an answer that has not begun."""
        return [f"{record.kind} {record.status}" for record in self.hub.journal.requests(file=name)]

    def ranges(self, name: str) -> list[str | None]:
        """Returns the ranges requested, in order: from the CDN, or from the Hub for a git file."""
        records = self.hub.journal.requests(file=name)
        return [record.range for record in records if record.kind in ("cdn", "resolve-cache")]

    def attempts_failed(self) -> int:
        """Returns the number of failed fetches, up to the last 16, which the fetcher keeps."""
        return len(self.fetcher.errors())
