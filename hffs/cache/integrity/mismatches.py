"""The record of mismatches: content that did not have the hash its listing names.

``<cache dir>/mismatches`` holds a JSON object a line, the newest last. Every process that finds one appends it under
flock; at twice the lines that are kept the file is cut to the newest. ``current`` reads it without a mount or a store.
Whether content is fetched again is not decided here. When the disk refuses a line, only this process remembers it. Any
thread.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import math
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from typing import Any, Final

from ...files import atomic_write
from ...model import Blob, RemoteFile
from ..store.layout import Layout
from ..store.locks import PATIENCE_S, poll, try_flock

_log = logging.getLogger(__name__)
# Lines kept: a repo of 250 wrong shards, in some 100 KB.
MOST: Final = 256
# Other processes' findings show within this; what this one finds, at once. A status of 20,000 files asks that often.
_FRESH_S: Final = 1.0
# Between two attempts to lock the file: others hold it for a line and an fsync, or for a rewrite of 100 KB.
_PAUSE_S: Final = 0.005
# JSON can hold larger numbers than Python prints, or computes pauses from.
_BEYOND: Final = 1 << 63

_Key = tuple[str, str]  # etag and origin: the owner of blocks


@dataclass(frozen=True, slots=True)
class Mismatch:
    """A content that was wrong, and where it was found: ``at`` is seconds since the epoch, ``path`` is relative to the
    root of ``repo``. ``expected`` and ``got`` are hex digests. ``copies`` in a row were wrong, with this one."""

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
    """Returns the last mismatch of each content that was wrong when last hashed, and not cleared since."""
    return list(_current(_lines(_path(layout))).values())


class Mismatches:
    """The record of one cache directory."""

    def __init__(self, layout: Layout) -> None:
        self._path = _path(layout)
        self._lock = threading.Lock()
        # guarded by _lock
        self._current: dict[_Key, Mismatch] = {}
        self._seen: tuple[int, int, int] | None = None  # inode, size and mtime of the file when it was read
        self._checked_at = -_FRESH_S
        self._shared: dict[_Key, float] = {}  # the last mismatch that another process found in the same copy

    def find(self, blob: Blob) -> Mismatch | None:
        """Returns the last mismatch of a content; None where none is known, or it was cleared since."""
        now = time.monotonic()
        with self._lock:
            if now - self._checked_at >= _FRESH_S:
                self._checked_at = now
                self._refresh()
            return self._current.get((blob.etag, blob.origin))

    def current(self) -> list[Mismatch]:
        """As the function ``current``."""
        with self._lock:
            self._refresh()
            return list(self._current.values())

    def record(self, file: RemoteFile, expected: str, got: str, *, began: float, now: float) -> Mismatch:
        """Records that a copy was wrong; returns the mismatch, which counts all wrong copies.

        ``began`` is when hashing of this copy began. A mismatch that another process recorded since then was found in
        the same copy, and is returned: nothing is recorded twice."""
        blob = file.blob
        key = (blob.etag, blob.origin)
        with self._lock, self._opened() as fd:
            self._refresh()
            last = self._current.get(key)
            if last is not None and began <= last.at <= now and self._shared.get(key) != last.at:
                self._shared[key] = last.at  # once, or a clock that jumps could cause endless fetches
                return last
            found = Mismatch(
                now, file.path, f"{file.commit.type.prefix}{file.commit.id}", file.commit.sha, blob.etag, blob.size,
                blob.origin, expected, got, 1 if last is None else last.copies + 1,
            )  # fmt: skip
            self._current[key] = found
            self._append(fd, {"what": "wrong", **asdict(found)})
            return found

    def clear(self, blob: Blob, *, right: bool, now: float) -> bool:
        """Clears the mismatches of a content that was found right, or (not ``right``) is to be fetched again as if it
        had never been wrong; returns whether any were recorded."""
        key = (blob.etag, blob.origin)
        with self._lock:
            self._refresh()
            if key not in self._current:
                return False
        with self._lock, self._opened() as fd:
            self._current.pop(key, None)
            self._shared.pop(key, None)
            what = "right" if right else "forgiven"
            self._append(fd, {"what": what, "at": now, "etag": blob.etag, "origin": blob.origin})
        return True

    def _refresh(self) -> None:
        """Reads what other processes have added; the caller holds the lock."""
        try:
            seen = self._stat()
        except OSError:  # never written, or not writable: only this process's entries are known
            return
        if seen != self._seen:
            self._seen = seen
            self._current = _current(_lines(self._path))

    def _stat(self) -> tuple[int, int, int]:
        seen = os.stat(self._path)
        return seen.st_ino, seen.st_size, seen.st_mtime_ns

    @contextlib.contextmanager
    def _opened(self) -> Iterator[int | None]:
        """Yields the file, locked, for appending; None where the disk does not allow it."""
        with contextlib.ExitStack() as stack:
            try:
                fd: int | None = self._lock_file(stack)
            except OSError as error:
                self._log_failure(error)
                fd = None
            yield fd

    def _lock_file(self, stack: contextlib.ExitStack) -> int:
        while True:
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            stack.callback(os.close, fd)
            if not poll(lambda: try_flock(fd), PATIENCE_S, _PAUSE_S):  # noqa: B023 - called at once
                raise TimeoutError(errno.ETIMEDOUT, "another process keeps it locked")
            if os.path.samestat(os.fstat(fd), os.stat(self._path)):  # else it was cut, and replaced
                return fd

    def _log_failure(self, error: OSError) -> None:
        _log.warning("event=mismatch-not-kept path=%s error=%s", self._path, error.strerror)

    def _append(self, fd: int | None, entry: dict[str, Any]) -> None:
        if fd is None:
            return
        try:
            lines = _lines(self._path)
            line = json.dumps(entry, separators=(",", ":"))
            if len(lines) >= 2 * MOST:
                kept = [*lines[-MOST + 1 :], line]
                atomic_write(self._path, "".join(f"{each}\n" for each in kept), sync=True)
            else:
                # A line that a crash cut off is ended first.
                whole = not lines or os.pread(fd, 1, os.fstat(fd).st_size - 1) == b"\n"
                os.write(fd, (line + "\n" if whole else f"\n{line}\n").encode())
                os.fsync(fd)
            self._seen = self._stat()
        except OSError as error:
            self._log_failure(error)


def _path(layout: Layout) -> str:
    return f"{layout.root}/mismatches"


def _lines(path: str) -> list[str]:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read().splitlines()
    except OSError:
        return []


def _entries(lines: list[str]) -> Iterator[Mismatch | _Key]:
    """Yields each mismatch, and the key of each cleared content; other lines (torn, or of a newer version) are
    skipped."""
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
