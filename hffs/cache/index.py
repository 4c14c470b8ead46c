"""The metadata index: small texts by key (listings, branch → commit with its age, jobs), kept by diskcache.

A convenience that may be lost at any moment: a failure is logged once and counts as a miss or does nothing, and a
damaged database is renamed and replaced by a new one. Only raw text is stored and read: diskcache's own Disk unpickles
what it reads (CVE-2025-69872). Holds no block data. Any thread; one connection for all of them, so that closing leaves
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
from diskcache.core import DBNAME, DEFAULT_SETTINGS, ENOVAL, METADATA, MODE_RAW

_log = logging.getLogger(__name__)
_T = TypeVar("_T")
# A convenience is not worth a longer wait; a write takes milliseconds.
_TIMEOUT_S: Final = 1.0
# After a failure nothing is tried for this long: a database that another process keeps locked must not cost every
# look-up its timeout.
_PAUSE_S: Final = 10.0
# A listing takes some 100 bytes a file: 2.5 million files. Dropped rows are fetched from the Hub again.
MOST_BYTES: Final = 256 << 20
_AT_ONCE: Final = 256  # rows deleted in one transaction, to keep the database locked only briefly
_PAGES: Final = ("page_size", "page_count", "freelist_count")
_LAST: Final = "\U0010ffff"  # sqlite compares text by its UTF-8 bytes: sorts after every key with the prefix
_SETTINGS: Final = {
    **DEFAULT_SETTINGS,  # all of them, else those in the file would count, also as PRAGMAs
    "eviction_policy": "none",  # culling drops entries silently, as does the size limit
    "cull_limit": 0,
    "statistics": 0,
    "tag_index": 0,
    "sqlite_mmap_size": 0,  # truncating a mapped file is SIGBUS for the whole process
    "sqlite_cache_size": 1024,  # pages of 4 KiB; the default of 32 MiB is a fifth of a mount's memory
}


class _Row(ValueError):
    """A row that is not text."""


class TextDisk(diskcache.Disk):  # type: ignore[misc]
    """Keys and values are str, in the database itself; anything else raises, when stored and when read."""

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
        """Removes nothing: no row has a file, and a forged one must not delete any."""


class _TextCache(diskcache.Cache):  # type: ignore[misc]
    """diskcache with one connection for all threads (the caller serialises) and no wait but sqlite's own timeout.

    diskcache itself opens a connection per thread, which only that thread can close, and retries for 60 s at first."""

    _shared: sqlite3.Connection | None = None

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        try:
            super().__init__(*arguments, **settings)
        except BaseException:
            self.close()
            raise

    def reset(self, key: str, value: Any = ENOVAL, update: bool = True) -> Any:
        """Ignores unknown settings in the file: diskcache makes each a PRAGMA or an attribute."""
        if key not in DEFAULT_SETTINGS and key not in METADATA:
            return value
        return super().reset(key, value, update)

    @property
    def _con(self) -> sqlite3.Connection:
        if self._shared is None:
            path = os.path.join(self._directory, DBNAME)
            self._shared = sqlite3.connect(path, timeout=_TIMEOUT_S, isolation_level=None, check_same_thread=False)
            for name in ("mmap_size", "cache_size"):
                self._shared.execute(f"PRAGMA {name} = {_SETTINGS['sqlite_' + name]}")
            self._shared.execute("PRAGMA trusted_schema = 0")  # runs nothing that a forged file defines
            self._shared.execute("PRAGMA synchronous = 1")  # NORMAL, diskcache's default
        return self._shared

    @property
    def _sql_retry(self) -> Callable[..., sqlite3.Cursor]:
        return self._con.execute

    def used_bytes(self) -> int:
        """Returns the bytes of the database's pages in use."""
        values = [self._con.execute(f"PRAGMA {name}").fetchone()[0] for name in _PAGES]
        return int(values[0] * (values[1] - values[2]))

    def oldest_quarter(self) -> list[int]:
        """Returns the oldest rows, as many as are likely to be dropped, by one pass through the table."""
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
    """Texts by key, in their own folder. No method raises because of the disk or the database."""

    def __init__(self, folder: str | os.PathLike[str], *, clock: Callable[[], float] = time.time) -> None:
        self._folder = Path(folder)
        self._clock = clock
        self._lock = threading.Lock()  # around one statement of sqlite each, _TIMEOUT_S at most
        # guarded by _lock
        self._cache: _TextCache | None = None
        self._renewed = False  # a second replacement would be a loop
        self._logged = False
        self._failed_at: float | None = None
        self._closed = False

    def get(self, key: str) -> str | None:
        """Returns the text last set, unless it expired."""
        found = self._entry(key)
        return found[1] if found else None

    def age(self, key: str) -> float | None:
        """Returns the seconds since the text that ``get`` would return was set."""
        found = self._entry(key)
        return max(self._clock() - found[0], 0.0) if found else None

    def set(self, key: str, text: str, expire: float | None = None) -> None:
        """Stores a text, which expires in ``expire`` seconds."""
        now = self._clock()
        until = "" if expire is None else repr(now + expire)
        self._run(lambda cache: cache.set(key, f"{now!r} {until}\n{text}"), None)

    def delete(self, key: str) -> None:
        self._run(lambda cache: cache.delete(key), None)

    def keys(self, prefix: str) -> list[str]:
        """Returns the keys with this prefix, sorted; expired ones may be among them."""
        ask = "SELECT key FROM Cache WHERE raw = 1 AND key >= ? AND key < ? ORDER BY key"
        bounds = prefix, prefix + _LAST

        def found(cache: _TextCache) -> list[str]:
            return [key for (key,) in cache._sql(ask, bounds) if isinstance(key, str)]  # noqa: SLF001 - our subclass

        return self._run(found, [])

    def trim(self, most: int = MOST_BYTES) -> int:
        """Drops the texts set longest ago, down to three quarters of ``most`` bytes, once there are more; returns their
        number. Takes no time where nothing is dropped, else some 10 us a row (2026-11, 2 cores)."""
        dropped, enough = 0, most
        while self._run(lambda cache: cache.used_bytes(), 0) > enough:
            enough = most * 3 // 4
            none: list[int] = []
            oldest, before = self._run(lambda cache: cache.oldest_quarter(), none), dropped
            for start in range(0, len(oldest), _AT_ONCE):
                rows = oldest[start : start + _AT_ONCE]
                dropped += self._run(lambda cache, rows=rows: cache.drop(rows), 0)  # type: ignore[misc]
                if self._run(lambda cache: cache.used_bytes(), 0) <= enough:
                    break
            if dropped == before:  # another process does the same, or the database cannot be used now
                break
        return dropped

    def close(self) -> None:
        """Closes the database; from then on everything is a miss."""
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
            return None  # not written by ``set``

    def _run(self, act: Callable[[_TextCache], _T], otherwise: _T) -> _T:
        """Runs one statement; returns ``otherwise`` when it fails."""
        with self._lock:
            for _ in range(2):
                try:
                    cache = self._opened()
                    return otherwise if cache is None else act(cache)
                except (_Row, UnicodeError) as error:  # a lone surrogate is no text for sqlite
                    self._log_once("it is ignored", error)
                    return otherwise
                except (sqlite3.OperationalError, diskcache.Timeout, OSError) as error:
                    self._failed_at = self._clock()
                    self._log_once("it cannot be used", error)
                    return otherwise
                # sqlite3.Error: not a database, malformed; others: diskcache with tables and settings it never wrote.
                except Exception as error:  # noqa: BLE001
                    self._log_once("it is damaged, and is replaced", error)
                    if not self._set_aside():
                        return otherwise
            return otherwise

    def _opened(self) -> _TextCache | None:
        """None when the database cannot be used now."""
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
        """Renames the database, so that the next use creates a new one; False when that was tried before."""
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

    def _log_once(self, why: str, error: BaseException) -> None:
        if not self._logged:
            self._logged = True
            _log.warning("event=index-unusable folder=%s why=%s error=%r", self._folder, why, error)
