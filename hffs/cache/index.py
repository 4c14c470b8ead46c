"""The metadata index: small texts by key (listings, branch → commit with its age, jobs), kept by diskcache.

A convenience that may be lost at any moment: whatever fails here is logged once and is a miss or does nothing, and a
damaged database is set aside and begun anew. Raw text only ever goes in or comes out: diskcache's own Disk unpickles
what it finds (CVE-2025-69872). Holds no block data. Any thread; one connection for all of them, so that closing leaves
nothing open.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import diskcache
from diskcache.core import DBNAME, MODE_RAW

_log = logging.getLogger(__name__)
_T = TypeVar("_T")
# Nobody waits longer for a convenience; a write of ours takes milliseconds.
_TIMEOUT_S: Final = 1.0
# After a failure nothing is tried for this long: a database that somebody keeps locked must not cost every look-up its
# timeout.
_PAUSE_S: Final = 10.0
# A listing takes some 100 bytes a file: 2.5 million files. Whatever is let go the Hub says again.
MOST_BYTES: Final = 256 << 20
_AT_ONCE: Final = 256  # rows deleted in one transaction, so that nobody waits long for the database
_PAGES: Final = ("page_size", "page_count", "freelist_count")
_LAST: Final = "\U0010ffff"  # sqlite compares text by its UTF-8 bytes: behind whatever begins like the prefix
_SETTINGS: Final = {
    "eviction_policy": "none",  # culling drops entries silently, as does the size limit
    "cull_limit": 0,
    "statistics": 0,
    "tag_index": 0,
    "sqlite_mmap_size": 0,  # a mapped file that somebody cuts off is SIGBUS for the whole process
    "sqlite_cache_size": 1024,  # pages of 4 KiB; the default of 32 MiB is a fifth of a mount's memory
}


class _Row(ValueError):
    """A row that is no text of ours."""


class TextDisk(diskcache.Disk):  # type: ignore[misc]
    """Keys and values are str, in the database itself; anything else raises, on the way in and on the way out."""

    def put(self, key: Any) -> tuple[str, bool]:
        if not isinstance(key, str):
            raise _Row(f"a key of type {type(key).__name__}")
        return key, True

    def get(self, key: Any, raw: Any) -> str:
        return self.fetch(MODE_RAW if raw else -1, None, key, False)

    def store(self, value: Any, read: bool, key: Any = None) -> tuple[int, int, None, str]:  # noqa: ARG002 - theirs
        if read or not isinstance(value, str):
            raise _Row(f"a value of type {type(value).__name__}")
        return 0, MODE_RAW, None, value

    def fetch(self, mode: int, filename: Any, value: Any, read: bool) -> str:
        if mode != MODE_RAW or filename is not None or read or not isinstance(value, str):
            raise _Row(f"a row of mode {mode}")
        return value

    def remove(self, file_path: Any) -> None:
        """No row of ours has a file; one that names one must not have it removed."""


class _TextCache(diskcache.Cache):  # type: ignore[misc]
    """diskcache with one connection for all threads (the caller serialises) and no wait but sqlite's own timeout.

    Its own way is a connection a thread, which nobody but that thread can close, and 60 s of retries at the start."""

    _shared: sqlite3.Connection | None = None

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        try:
            super().__init__(*arguments, **settings)
        except BaseException:
            self.close()
            raise

    @property
    def _con(self) -> sqlite3.Connection:
        if self._shared is None:
            path = os.path.join(self._directory, DBNAME)
            self._shared = sqlite3.connect(path, timeout=_TIMEOUT_S, isolation_level=None, check_same_thread=False)
            for name in ("mmap_size", "cache_size"):
                self._shared.execute(f"PRAGMA {name} = {_SETTINGS['sqlite_' + name]}")
            self._shared.execute("PRAGMA synchronous = 1")  # NORMAL, diskcache's default
        return self._shared

    @property
    def _sql_retry(self) -> Callable[..., sqlite3.Cursor]:
        return self._con.execute

    def used_bytes(self) -> int:
        """Bytes of the database's pages that hold something."""
        values = [self._con.execute(f"PRAGMA {name}").fetchone()[0] for name in _PAGES]
        return int(values[0] * (values[1] - values[2]))

    def oldest_quarter(self) -> list[int]:
        """One look through the table, for as many rows as are likely to have to go."""
        ask = "SELECT rowid FROM Cache ORDER BY store_time, rowid LIMIT (SELECT count(*) / 4 + 1 FROM Cache)"
        return [row for (row,) in self._con.execute(ask)]

    def drop(self, rows: list[int]) -> int:
        self._con.execute("BEGIN IMMEDIATE")
        try:
            return sum(self._con.execute("DELETE FROM Cache WHERE rowid = ?", (row,)).rowcount for row in rows)
        finally:
            self._con.execute("COMMIT")

    def close(self) -> None:
        connection, self._shared = self._shared, None
        if connection is not None:
            connection.close()


class Index:
    """Texts by key in a folder of their own. No method raises because of the disk or the database."""

    def __init__(self, folder: str | os.PathLike[str], *, clock: Callable[[], float] = time.time) -> None:
        self._folder = Path(folder)
        self._clock = clock
        self._lock = threading.Lock()  # around one statement of sqlite each, _TIMEOUT_S at most
        # guarded by _lock
        self._cache: _TextCache | None = None
        self._renewed = False  # once is mending, twice would be a loop
        self._complained = False
        self._failed_at: float | None = None
        self._closed = False

    def get(self, key: str) -> str | None:
        """The text last set, unless it expired."""
        found = self._entry(key)
        return found[1] if found else None

    def age(self, key: str) -> float | None:
        """Seconds since the text that ``get`` would give was set."""
        found = self._entry(key)
        return max(self._clock() - found[0], 0.0) if found else None

    def set(self, key: str, text: str, expire: float | None = None) -> None:
        """Keep a text; ``expire`` seconds from now it is gone."""
        now = self._clock()
        until = "" if expire is None else repr(now + expire)
        self._run(lambda cache: cache.set(key, f"{now!r} {until}\n{text}"), None)

    def delete(self, key: str) -> None:
        self._run(lambda cache: cache.delete(key), None)

    def keys(self, prefix: str) -> list[str]:
        """The keys that begin so, in their order; expired ones may be among them."""
        ask = "SELECT key FROM Cache WHERE raw = 1 AND key >= ? AND key < ? ORDER BY key"
        bounds = prefix, prefix + _LAST

        def found(cache: _TextCache) -> list[str]:
            return [key for (key,) in cache._sql(ask, bounds) if isinstance(key, str)]  # noqa: SLF001 - our subclass

        return self._run(found, [])

    def trim(self, most: int = MOST_BYTES) -> int:
        """Let the texts go that were set longest ago, down to three quarters of ``most`` bytes, once there are more.
        How many went. Takes no time where nothing is to go, else some 10 us a row (2026-11, 2 cores)."""
        gone, enough = 0, most
        while self._run(lambda cache: cache.used_bytes(), 0) > enough:
            enough = most * 3 // 4
            none: list[int] = []
            oldest, before = self._run(lambda cache: cache.oldest_quarter(), none), gone
            for start in range(0, len(oldest), _AT_ONCE):
                rows = oldest[start : start + _AT_ONCE]
                gone += self._run(lambda cache, rows=rows: cache.drop(rows), 0)  # type: ignore[misc]
                if self._run(lambda cache: cache.used_bytes(), 0) <= enough:
                    break
            if gone == before:  # another process is at it, or the database cannot be used now
                break
        return gone

    def close(self) -> None:
        """Close the database; from then on everything is a miss."""
        with self._lock:
            self._closed = True
            self._drop()

    def _entry(self, key: str) -> tuple[float, str] | None:
        raw: str | None = self._run(lambda cache: cache.get(key), None)
        if raw is None:
            return None
        head, _, text = raw.partition("\n")
        at, _, until = head.partition(" ")
        try:
            return (float(at), text) if not until or self._clock() < float(until) else None
        except ValueError:
            return None  # written by something else

    def _run(self, act: Callable[[_TextCache], _T], otherwise: _T) -> _T:
        """One statement, with everything that can go wrong turned into ``otherwise``."""
        with self._lock:
            for _ in range(2):
                try:
                    cache = self._opened()
                    return otherwise if cache is None else act(cache)
                except (_Row, UnicodeError) as error:  # a lone surrogate is no text for sqlite
                    self._complain("it is ignored", error)
                    return otherwise
                except (sqlite3.OperationalError, diskcache.Timeout, OSError) as error:
                    self._failed_at = self._clock()
                    self._complain("it cannot be used", error)
                    return otherwise
                except sqlite3.Error as error:  # not a database, malformed: worth a new one, once
                    self._complain("it is damaged and begins anew", error)
                    if not self._set_aside():
                        return otherwise
            return otherwise

    def _opened(self) -> _TextCache | None:
        """None when there is nothing to ask now."""
        if self._failed_at is not None:
            if 0 <= self._clock() - self._failed_at < _PAUSE_S:
                return None
            self._failed_at = None
        if self._cache is None and not self._closed:
            os.makedirs(self._folder, mode=0o700, exist_ok=True)
            self._cache = _TextCache(str(self._folder), disk=TextDisk, **_SETTINGS)
        return self._cache

    def _drop(self) -> None:
        cache, self._cache = self._cache, None
        if cache is not None:
            with contextlib.suppress(sqlite3.Error):
                cache.close()

    def _set_aside(self) -> bool:
        """Rename the database, so that the next use makes a new one; False when that was tried before."""
        self._drop()
        if self._renewed:
            return False
        self._renewed = True
        stamp = f"damaged-{int(self._clock())}"
        for suffix in ("", "-wal", "-shm"):
            path = self._folder / (DBNAME + suffix)
            with contextlib.suppress(OSError):
                path.rename(f"{path}.{stamp}")
        return True

    def _complain(self, why: str, error: BaseException) -> None:
        if not self._complained:
            self._complained = True
            _log.warning("event=index-unusable folder=%s why=%s error=%r", self._folder, why, error)
