"""Whether the Hub is asked: never when hffs is told to be offline; seldom while it is found to be away.

``engine`` makes a Reach and puts it between the listings and the catalog, and between the fetcher and the transport.
Both then go on knowing nothing of it: what they hear at once is an error that is not worth a retry. A Hub that was away
when a mount came up is looked for in the background until it answers; so a mount never stays offline by itself.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, Protocol

from ..errors import AccessDenied, ContentChanged, HffsError, HubUnreachable, NotFound, Offline, RateLimited
from ..model import Commit, Entry, RemoteFile
from ..ranges import ByteRange
from ..sources.hub import HttpBody, HttpTransport, HubTreePage

log = logging.getLogger(__name__)

# A Hub that is back is noticed within this without anybody reading; one small request each time.
PROBE_SECONDS: Final = 30.0
# After a failure readers hear at once that the Hub is away. One that is asked again after this finds out, which may
# take it the ten seconds of a connection that nobody answers.
REST_SECONDS: Final = 5.0
# For a look that is under way when the mount ends: a Hub that does not answer must not hold it up. As engine's.
STOP_SECONDS: Final = 2.0
SWITCHED: Final = "to ask the Hub leave out --offline, or unset HF_HUB_OFFLINE"
AWAY: Final = "it is asked again in a moment; see hffs status"


class HubConnectivity:
    """Any thread; the lock is held across no request. ``switched``: told to be offline, which nothing changes."""

    def __init__(self, *, switched: bool = False, now: Callable[[], float] = time.monotonic) -> None:
        self.switched = switched
        self._now = now
        self._wake = threading.Event()  # the Hub has answered, or the mount ends
        self._stopped = False
        self._probe: threading.Thread | None = None
        self._lock = threading.Lock()
        # guarded by _lock
        self._away = False
        self._failed_at = 0.0

    @property
    def offline(self) -> bool:
        """Whether the Hub is not to be asked, or was away when it was asked last."""
        return self.switched or self._away

    def lost(self) -> None:
        """The Hub is away: from now on its failures are told at once, until it answers."""
        with self._lock:
            self._away, self._failed_at = True, self._now()

    def ask_now(self) -> None:
        """Whoever asks next is to ask, however short ago the Hub was away: a person wants to know."""
        with self._lock:
            self._failed_at = self._now() - REST_SECONDS

    def look_for(self, ask: Callable[[], object], back: Callable[[], object], every: float = PROBE_SECONDS) -> None:
        """Call ``ask`` in the background every so many seconds until the Hub answers, it or anybody else; then, on the
        same thread, ``back``. Ends with ``stop``."""
        self._probe = threading.Thread(target=self._look, args=(ask, back, every), name="hffs-reach", daemon=True)
        self._probe.start()

    def stop(self) -> None:
        self._stopped = True
        self._wake.set()
        if self._probe is not None:
            self._probe.join(STOP_SECONDS)

    @contextmanager
    def asking(self, what: str) -> Iterator[None]:
        """Around whatever asks the Hub for ``what``. Raises Offline at once where it is not to be asked just now, and
        for whatever shows that it is away still."""
        if self.switched:
            raise Offline(f"hffs is offline, nobody was asked for {what}", SWITCHED)
        with self._lock:
            away = self._away
            rests = away and self._now() - self._failed_at < REST_SECONDS
        if rests:
            raise Offline(f"the Hub is away, {what} is not here", AWAY)
        try:
            yield
        except (NotFound, AccessDenied, ContentChanged, RateLimited):
            self._answered()  # with a no, which is an answer
            raise
        except HubUnreachable as error:
            if not away:
                raise
            with self._lock:
                self._failed_at = self._now()
            raise Offline(error.what, error.remedy) from error
        self._answered()

    def _answered(self) -> None:
        if not self._away:
            return
        with self._lock:
            was, self._away = self._away, False
        if was:
            log.info("event=hub-back")
            self._wake.set()

    def _look(self, ask: Callable[[], object], back: Callable[[], object], every: float) -> None:
        while self._away and not self._stopped:
            if self._wake.wait(every):
                continue
            self.ask_now()
            try:
                with self.asking("a commit"):
                    ask()
            except HffsError as error:
                log.debug("event=hub-looked-for error=%s", error)
        if not self._stopped:
            back()


class _Catalog(Protocol):
    """What listings ask of a catalog."""

    def first_page(self, commit: Commit, path: str) -> HubTreePage: ...
    def directory(self, commit: Commit, path: str) -> list[Entry]: ...
    def lookup(self, commit: Commit, paths: list[str]) -> list[Entry]: ...
    def complete_size(self, commit: Commit, entry: Entry) -> Entry: ...


class ReachedCatalog:
    """A catalog that is asked within reach only."""

    def __init__(self, catalog: _Catalog, reach: HubConnectivity) -> None:
        self._catalog = catalog
        self._reach = reach

    def first_page(self, commit: Commit, path: str) -> HubTreePage:
        with self._reach.asking(f"the files of {commit.id}"):
            return self._catalog.first_page(commit, path)

    def directory(self, commit: Commit, path: str) -> list[Entry]:
        with self._reach.asking(f"the folder {path!r} of {commit.id}"):
            return self._catalog.directory(commit, path)

    def lookup(self, commit: Commit, paths: list[str]) -> list[Entry]:
        with self._reach.asking(f"{', '.join(map(repr, paths[:3]))} of {commit.id}"):
            return self._catalog.lookup(commit, paths)

    def complete_size(self, commit: Commit, entry: Entry) -> Entry:
        with self._reach.asking(f"the size of {entry.path!r} of {commit.id}"):
            return self._catalog.complete_size(commit, entry)


class ReachedTransport:
    """A transport that is asked within reach only."""

    def __init__(self, transport: HttpTransport, reach: HubConnectivity) -> None:
        self._transport = transport
        self._reach = reach

    def get(self, file: RemoteFile, wanted: ByteRange) -> HttpBody:
        with self._reach.asking(f"{file.path!r} of {file.commit.id}"):
            return self._transport.get(file, wanted)

    def forget(self, file: RemoteFile) -> None:
        self._transport.forget(file)
