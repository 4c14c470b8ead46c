"""The gate in front of a source: no requests when hffs is set offline, few while the source is unreachable.

``session`` puts a ``GatedSource`` between each source and what uses it. While the source is unreachable its users get
Offline at once, which is not worth a retry; one request every ``REST_SECONDS`` is let through to find out whether that
still holds. A source that was unreachable when a mount came up is probed in the background until it answers, so that a
mount never stays offline by itself.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Final

from ..errors import AccessDenied, ContentChanged, HffsError, HubUnreachable, NotFound, Offline, RateLimited
from ..model import Commit, Entry, RemoteFile, RepoRef
from ..ranges import ByteRange
from ..sources.base import Body, ResolvedRepo, Source, TreePage

log = logging.getLogger(__name__)

# A source that answers again is noticed within this without any reader; one small request each time.
PROBE_SECONDS: Final = 30.0
# After a failure requests fail at once for so long. The one that is sent then may take the ten seconds of a connection
# that is never accepted.
REST_SECONDS: Final = 5.0
# For a probe that is under way when the mount ends: it must not delay the unmount. As in ``session``.
STOP_SECONDS: Final = 2.0
SET_OFFLINE: Final = "to ask the Hub leave out --offline, or unset HF_HUB_OFFLINE"
UNREACHABLE: Final = "it is asked again in a moment; see hffs status"


class HubConnectivity:
    """The reachability of one source. Any thread; no request is made under the lock. ``disabled``: hffs is set offline,
    for as long as the process runs."""

    def __init__(self, *, disabled: bool = False, now: Callable[[], float] = time.monotonic) -> None:
        self.disabled = disabled
        self._now = now
        self._wake = threading.Event()  # the source has answered, or the mount ends
        self._stopped = False
        self._prober: threading.Thread | None = None
        self._lock = threading.Lock()
        # guarded by _lock
        self._unreachable = False
        self._failed_at = 0.0

    @property
    def offline(self) -> bool:
        """Whether the source may not be asked, or was unreachable at the last request."""
        return self.disabled or self._unreachable

    def mark_unreachable(self) -> None:
        """From now on requests fail at once, until one is answered."""
        with self._lock:
            self._unreachable, self._failed_at = True, self._now()

    def end_rest(self) -> None:
        """The next request is sent, however recent the last failure: it is the user's."""
        with self._lock:
            self._failed_at = self._now() - REST_SECONDS

    def probe(
        self, request: Callable[[], object], recovered: Callable[[], object], every: float = PROBE_SECONDS
    ) -> None:
        """Calls ``request``, which passes the gate, every so many seconds until the source answers it or any other
        request; then calls ``recovered``. Both on a thread of its own, which ends with ``stop``."""
        self._prober = threading.Thread(
            target=self._probe, args=(request, recovered, every), name="hffs-probe", daemon=True
        )
        self._prober.start()

    def stop(self) -> None:
        self._stopped = True
        self._wake.set()
        if self._prober is not None:
            self._prober.join(STOP_SECONDS)

    @contextmanager
    def gate(self, what: str) -> Iterator[None]:
        """Around a request for ``what``. Raises Offline at once while no request is to be sent, and in place of
        HubUnreachable while the source stays unreachable."""
        if self.disabled:
            raise Offline(f"hffs is offline and {what} is not cached", SET_OFFLINE)
        with self._lock:
            unreachable = self._unreachable
            rests = unreachable and self._now() - self._failed_at < REST_SECONDS
        if rests:
            raise Offline(f"the Hub is unreachable and {what} is not cached", UNREACHABLE)
        try:
            yield
        except (NotFound, AccessDenied, ContentChanged, RateLimited):
            self._answered()
            raise
        except HubUnreachable as error:
            if not unreachable:
                raise
            with self._lock:
                self._failed_at = self._now()
            raise Offline(error.what, error.remedy) from error
        self._answered()

    def _answered(self) -> None:
        if not self._unreachable:
            return
        with self._lock:
            recovered, self._unreachable = self._unreachable, False
        if recovered:
            log.info("event=hub-back")
            self._wake.set()

    def _probe(self, request: Callable[[], object], recovered: Callable[[], object], every: float) -> None:
        while self._unreachable and not self._stopped:
            if self._wake.wait(every):
                continue
            self.end_rest()
            try:
                request()
            except HffsError as error:
                log.debug("event=hub-looked-for error=%s", error)
        if not self._stopped:
            recovered()


class GatedSource:
    """A source whose requests pass the gate of ``connectivity``."""

    def __init__(self, source: Source, connectivity: HubConnectivity) -> None:
        self.id = source.id
        self.access = source.access
        self._source = source
        self._gate = connectivity.gate

    @property
    def requests(self) -> int:
        return self._source.requests

    def resolve(self, ref: RepoRef) -> ResolvedRepo:
        with self._gate(f"the commit of {ref}"):
            return self._source.resolve(ref)

    def list_tree(self, commit: Commit, path: str) -> TreePage:
        with self._gate(f"the listing of {commit.id}"):
            return self._source.list_tree(commit, path)

    def list_directory(self, commit: Commit, path: str) -> list[Entry]:
        with self._gate(f"the listing of {path!r} of {commit.id}"):
            return self._source.list_directory(commit, path)

    def stat(self, commit: Commit, paths: Iterable[str]) -> list[Entry]:
        wanted = list(paths)
        with self._gate(f"the listing of {', '.join(map(repr, wanted[:3]))} of {commit.id}"):
            return self._source.stat(commit, wanted)

    def complete_size(self, commit: Commit, entry: Entry) -> Entry:
        with self._gate(f"the size of {entry.path!r} of {commit.id}"):
            return self._source.complete_size(commit, entry)

    def open_range(self, file: RemoteFile, wanted: ByteRange) -> Body:
        with self._gate(f"{file.path!r} of {file.commit.id}"):
            return self._source.open_range(file, wanted)

    def forget(self, file: RemoteFile) -> None:
        self._source.forget(file)

    def background_delay(self, file: RemoteFile) -> float:
        return self._source.background_delay(file)

    def close(self) -> None:
        self._source.close()
