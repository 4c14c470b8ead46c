"""Small helpers for files: atomic replacement, writes that continue after a short count, listings that never raise.

No state; any thread.
"""

from __future__ import annotations

import contextlib
import os


def atomic_write(
    path: str | os.PathLike[str],
    data: str | bytes,
    *,
    mode: int = 0o600,
    sync: bool = False,
    temporary: str | None = None,
) -> None:
    """Replaces the file ``path`` by one that holds ``data`` (text as UTF-8); a crash leaves the old or the new one.

    ``temporary`` is the start of the temporary file's path, on the same file system; by default a hidden name beside
    ``path``. ``sync``: the data reaches the disk before the file gets its name. Raises OSError; the temporary file is
    removed then."""
    folder, name = os.path.split(path)
    partial = f"{temporary or os.path.join(folder, f'.{name}.')}{os.urandom(4).hex()}"
    fd = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        try:
            write_all(fd, data.encode() if isinstance(data, str) else data)
            if mode != 0o600:
                os.fchmod(fd, mode)
            if sync:
                os.fsync(fd)
        finally:
            os.close(fd)
        os.replace(partial, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(partial)
        raise


def write_all(fd: int, data: bytes | memoryview, offset: int | None = None) -> None:
    """Writes all of ``data`` at ``offset``, or at the file's position without one. Raises OSError."""
    left = memoryview(data)
    while left:
        written = os.write(fd, left) if offset is None else os.pwrite(fd, left, offset)
        left = left[written:]
        offset = None if offset is None else offset + written


def names_in(folder: str | os.PathLike[str]) -> list[str]:
    """Returns the names in a folder, sorted; none where it cannot be listed."""
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []
