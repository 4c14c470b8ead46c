"""What proved wrong: a record in the cache directory of content that was not what its hash says.

``<cache dir>/mismatches`` holds a JSON object a line, the newest last, appended under flock by every process that finds
something, and cut to the newest when it has grown to twice what is kept. ``standing`` reads it without a mount or a
store. Whether content is fetched again is not decided here. Any thread; a disk that refuses to keep a line
costs no more than that line: this process remembers.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import math
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from typing import Any, Final

from ...model import Blob, RemoteFile
from ..store.layout import Layout

_log = logging.getLogger(__name__)
# Lines kept: a repo of 250 shards that are all wrong, in some 100 KB.
MOST: Final = 256
# Other processes' findings show within this; what this one finds, at once. A status of 20,000 files asks that often.
_FRESH_S: Final = 1.0
# For the file's lock: a line and an fsync take milliseconds, seconds on a disk that is busy.
_PATIENCE_S: Final = 10.0
_PAUSE_S: Final = 0.005
# What JSON can hold more of than Python writes out, or counts pauses with.
_BEYOND: Final = 1 << 63

_Key = tuple[str, str]  # etag and origin: what blocks belong to


@dataclass(frozen=True, slots=True)
class Mismatch:
    """A content that was wrong, and where it was met: ``at`` is seconds since the epoch, ``path`` counts from the root
    of ``repo``. ``expected`` and ``got`` are hex digests. ``copies`` of it were wrong in a row, this one counted."""

    at: float
    path: str
    repo: str
    commit: str
    etag: str
    size: int
    origin: str
    expected: str
    got: str
    copies: int


_KINDS: Final = (float, str, str, str, str, int, str, str, str, int)
_FIELDS: Final = [(field.name, kind) for field, kind in zip(fields(Mismatch), _KINDS, strict=True)]


def current(layout: Layout) -> list[Mismatch]:
    """Of each content that was wrong when it was last hashed, and that nobody asked to try again, its last mismatch."""
    return list(_current(_lines(_path(layout))).values())


class Mismatches:
    """The record of one cache directory, to look up and to add to."""

    def __init__(self, layout: Layout) -> None:
        self._path = _path(layout)
        self._lock = threading.Lock()
        # guarded by _lock
        self._standing: dict[_Key, Mismatch] = {}
        self._seen: tuple[int, int, int] | None = None  # of the file, when it was read
        self._looked = -_FRESH_S
        self._shared: dict[_Key, float] = {}  # the last mismatch that another had found of the same copy

    def find(self, blob: Blob) -> Mismatch | None:
        """The last mismatch of a content that is wrong as far as is known; None: it was right since, or never wrong."""
        now = time.monotonic()
        with self._lock:
            if now - self._looked >= _FRESH_S:
                self._looked = now
                self._refresh()
            return self._standing.get((blob.etag, blob.origin))

    def current(self) -> list[Mismatch]:
        """As ``standing``."""
        with self._lock:
            self._refresh()
            return list(self._standing.values())

    def record(self, file: RemoteFile, expected: str, got: str, *, began: float, now: float) -> Mismatch:
        """Record that a copy was wrong; what is known of the content now, with all its copies counted.

        ``began`` is when this copy's hashing began. A mismatch that another process recorded since then was of the very
        same copy, and is the answer: nothing is recorded twice."""
        blob = file.blob
        key = (blob.etag, blob.origin)
        with self._lock, self._opened() as fd:
            self._refresh()
            last = self._standing.get(key)
            if last is not None and began <= last.at <= now and self._shared.get(key) != last.at:
                self._shared[key] = last.at  # once, or a clock that jumps could have it fetched for ever
                return last
            found = Mismatch(
                now, file.path, f"{file.commit.type.prefix}{file.commit.id}", file.commit.sha, blob.etag, blob.size,
                blob.origin, expected, got, 1 if last is None else last.copies + 1,
            )  # fmt: skip
            self._standing[key] = found
            self._append(fd, {"what": "wrong", **asdict(found)})
            return found

    def clear(self, blob: Blob, *, right: bool, now: float) -> bool:
        """The content was found right, or somebody wants it to be tried again as if it had never been wrong; whether
        anything was on record against it."""
        key = (blob.etag, blob.origin)
        with self._lock:
            self._refresh()
            if key not in self._standing:
                return False
        with self._lock, self._opened() as fd:
            self._standing.pop(key, None)
            self._shared.pop(key, None)
            what = "right" if right else "forgiven"
            self._append(fd, {"what": what, "at": now, "etag": blob.etag, "origin": blob.origin})
        return True

    def _refresh(self) -> None:
        """Read what others have added; the caller holds the lock."""
        try:
            seen = os.stat(self._path)
        except OSError:  # never written, or not to be written: what this process knows counts
            return
        mark = (seen.st_ino, seen.st_size, seen.st_mtime_ns)
        if mark != self._seen:
            self._seen = mark
            self._standing = _current(_lines(self._path))

    @contextlib.contextmanager
    def _opened(self) -> Iterator[int | None]:
        """The record for one who adds to it, alone; None where the disk does not allow it."""
        fd: int | None = None
        try:
            while fd is None:
                fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
                _lock(fd)
                if not os.path.samestat(os.fstat(fd), os.stat(self._path)):  # cut and replaced meanwhile
                    os.close(fd)
                    fd = None
        except OSError as error:
            _log.warning("event=mismatch-not-kept path=%s error=%s", self._path, error.strerror)
            if fd is not None:
                os.close(fd)
                fd = None
        try:
            yield fd
        finally:
            if fd is not None:
                os.close(fd)

    def _append(self, fd: int | None, entry: dict[str, Any]) -> None:
        if fd is None:
            return
        try:
            lines = _lines(self._path)
            line = json.dumps(entry, separators=(",", ":"))
            if len(lines) >= 2 * MOST:
                self._replace([*lines[-MOST + 1 :], line])
            else:
                # After a line that was cut off by a crash the next one begins anew.
                whole = not lines or os.pread(fd, 1, os.fstat(fd).st_size - 1) == b"\n"
                os.write(fd, (line + "\n" if whole else f"\n{line}\n").encode())
                os.fsync(fd)
            seen = os.stat(self._path)
            self._seen = (seen.st_ino, seen.st_size, seen.st_mtime_ns)
        except OSError as error:
            _log.warning("event=mismatch-not-kept path=%s error=%s", self._path, error.strerror)

    def _replace(self, lines: list[str]) -> None:
        fd, temporary = tempfile.mkstemp(dir=os.path.dirname(self._path), prefix=".mismatches.")
        try:
            with open(fd, "w", encoding="utf-8") as file:
                file.writelines(f"{line}\n" for line in lines)
                file.flush()
                os.fsync(fd)
            os.replace(temporary, self._path)
        except BaseException:
            os.unlink(temporary)
            raise


def _lock(fd: int) -> None:
    """Others hold it for one line, or for one rewriting of 100 KB. Raises OSError when it takes too long."""
    ends = time.monotonic() + _PATIENCE_S
    while True:
        try:
            return fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= ends:
                raise
            time.sleep(_PAUSE_S)


def _path(layout: Layout) -> str:
    return f"{layout.root}/mismatches"


def _lines(path: str) -> list[str]:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read().splitlines()
    except OSError:
        return []


def _entries(lines: list[str]) -> Iterator[Mismatch | _Key]:
    """A mismatch, or the content against which nothing stands from there on; what is neither (a torn line, a newer
    version's) is passed over."""
    for line in lines:
        try:
            row = json.loads(line)
            if row["what"] == "wrong":
                found = Mismatch(*[kind(row[name]) for name, kind in _FIELDS])
                if math.isfinite(found.at) and 0 <= found.size < _BEYOND and 0 < found.copies < _BEYOND:
                    yield found
            elif row["what"] in ("right", "forgiven"):
                yield str(row["etag"]), str(row["origin"])
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
            continue


def _current(lines: list[str]) -> dict[_Key, Mismatch]:
    found: dict[_Key, Mismatch] = {}
    for each in _entries(lines):
        if isinstance(each, Mismatch):
            found[each.etag, each.origin] = each
        else:
            found.pop(each, None)
    return found
