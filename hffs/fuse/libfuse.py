"""The portable binding: libfuse through mfusepy. Paths in, nodes of ``vfs`` behind, errnos out.

``serve`` blocks the calling thread (the main one, so that libfuse can take SIGTERM) until the mount is gone; libfuse
calls the operations on threads of its own, and a read that waits holds one of them. Nothing here knows the Hub.
"""

from __future__ import annotations

import functools
import importlib
import logging
import os
from collections.abc import Callable, Iterator
from ctypes.util import find_library
from typing import Any, TypeVar

from ..errors import MountFailed
from ..vfs import Attributes, Filesystem, PageCache
from .errnos import errno_of

log = logging.getLogger(__name__)
F = TypeVar("F", bound=Callable[..., Any])

# The largest request the kernel makes of FUSE without a raised fs.fuse.max_pages_limit: 256 pages.
MAX_READ = 1024 * 1024
# A waiting read holds a libfuse thread, and libfuse starts ten unless told: as many as the kernel's background queue
# below, so that stalled reads of one file leave room for others. The kernel binding has no such bound.
THREADS = 64
# fuse_main's return code in libfuse 3 (helper.c): the event loop was left because of a signal.
ENDED_BY_SIGNAL = 8
# Names and content of a commit never change, so names may be kept for long; sizes too, but st_blocks grows as blocks
# arrive and may be a minute old.
NAME_SECONDS = 3600.0
ATTRIBUTE_SECONDS = 60.0


def load_library() -> Any:
    """mfusepy on libfuse 3 where there is one (libfuse 2 reads at most 128 KiB at a time). Raises MountFailed."""
    chosen = os.environ.get("FUSE_LIBRARY_PATH")
    library = chosen or find_library("fuse3")
    if library:
        os.environ["FUSE_LIBRARY_PATH"] = library
    try:
        return importlib.import_module("mfusepy")
    except (ImportError, OSError, AttributeError):
        if chosen:
            what, remedy = f"libfuse cannot be loaded from {chosen}", "unset FUSE_LIBRARY_PATH, or "
        else:
            what, remedy = "libfuse is not installed", ""
        raise MountFailed(what, f"{remedy}apt-get install fuse3") from None


def answers(method: F) -> F:
    """Any exception becomes an OSError with the errno of the table; mfusepy would make EINVAL of it."""

    @functools.wraps(method)
    def guarded(*args: Any) -> Any:
        try:
            return method(*args)
        except Exception as error:
            number = errno_of(error)
            log.debug("event=errno operation=%s errno=%d error=%s", method.__name__, number, error)
            raise OSError(number, os.strerror(number)) from error

    return guarded  # type: ignore[return-value]


class LibfuseBinding:
    """One mount served by libfuse."""

    name = "libfuse"

    def __init__(self, filesystem: Filesystem, mountpoint: str, *, device: str, allow_other: bool = False) -> None:
        self._library = load_library()
        self._filesystem = filesystem
        self._mountpoint = mountpoint
        self._device = device
        self._allow_other = allow_other

    def served(self, node: int) -> tuple[bool, str]:
        """Whether the open handles of a node are read by the kernel itself, and if not, why."""
        del node
        return False, "libfuse reads through the daemon"

    connection = None  # libfuse keeps its descriptor to itself

    def open_nodes(self) -> dict[int, int]:
        """Open handles by node, where the binding knows of more than the file system; libfuse does not."""
        return {}

    def leave(self) -> None:
        """Nobody could go on: there is nothing to leave."""

    def serve(self, on_ready: Callable[[], None], on_signal: Callable[[], None]) -> None:
        """Mounts, calls ``on_ready`` from the INIT request, returns when unmounted. Signals are libfuse's: it unmounts
        by itself, and ``on_signal`` is not called. Raises MountFailed."""
        del on_signal
        library = self._library
        options: dict[str, Any] = {
            "foreground": True,
            "fsname": self._device,
            "subtype": "hffs",
            "ro": True,
            "default_permissions": True,
            "use_ino": True,
            "entry_timeout": NAME_SECONDS,
            "negative_timeout": NAME_SECONDS,
            "attr_timeout": ATTRIBUTE_SECONDS,
            "max_read": MAX_READ,
            "raw_fi": True,  # else an open could not say whether pages are kept
        }
        if self._allow_other:
            options["allow_other"] = True
        if (library.fuse_version_major, library.fuse_version_minor) >= (3, 12):
            options["max_threads"] = THREADS
            options["max_idle_threads"] = THREADS
        served = False

        def initialised() -> None:
            nonlocal served
            served = True
            on_ready()

        operations = _operations(library, self._filesystem, initialised)
        try:
            library.FUSE(operations, self._mountpoint, **options)
        except RuntimeError as error:
            # fuse_main(3): 8 says that a signal ended the loop, which is how we are told to unmount.
            if served and error.args == (ENDED_BY_SIGNAL,):
                return
            raise MountFailed(
                f"libfuse could not mount {self._mountpoint} (code {error})",
                "the log has libfuse's own words; hffs needs /dev/fuse and, without root, fusermount3",
            ) from None


def _operations(library: Any, filesystem: Filesystem, on_ready: Callable[[], None]) -> Any:
    """mfusepy takes an instance of its own class, which exists only once libfuse has been loaded."""
    uid, gid = os.getuid(), os.getgid()
    view = filesystem.view
    # Files whose content was wrong once. Pages are kept over opens, since content never changes, but of these each open
    # drops what the kernel has: it cannot be told to earlier, for whoever tells it waits, not to be killed, for reads
    # under way, and a process of its own, as the kernel binding's, does not know the numbers that libfuse gives nodes.
    mistrusted: set[int] = set()
    view.on_content_wrong(mistrusted.add)

    class LibfuseOperations(library.Operations):  # type: ignore[misc]
        use_ns = True

        def init_with_config(self, connection: Any, config: Any) -> None:
            if connection is not None:
                connection.max_readahead = MAX_READ
                connection.max_background = THREADS
                connection.congestion_threshold = THREADS
                if hasattr(connection, "max_read"):
                    connection.max_read = MAX_READ
            if config is not None:
                config.use_ino = 1
                config.entry_timeout = NAME_SECONDS
                config.negative_timeout = NAME_SECONDS
                config.attr_timeout = ATTRIBUTE_SECONDS
            on_ready()

        @answers
        def getattr(self, path: str, fi: Any = None) -> dict[str, int]:
            return _stat(view.attributes(view.find(path)), uid, gid)

        @answers
        def readdir(self, path: str, fh: int) -> Iterator[tuple[str, dict[str, int], int]]:
            directory = view.find(path)
            names = [(".", directory), ("..", directory)]
            names += [(child.name, child) for child in view.children(directory)]
            return iter([(name, {"st_ino": node.id, "st_mode": node.content.format}, 0) for name, node in names])

        @answers
        def readlink(self, path: str) -> str:
            return view.readlink(view.find(path))

        @answers
        def open(self, path: str, fi: Any) -> int:
            node = view.find(path)
            fi.fh = filesystem.open(node)
            fi.keep_cache = node.content.page_cache is PageCache.KEEP and node.id not in mistrusted
            fi.direct_io = node.content.page_cache is PageCache.BYPASS
            return 0

        @answers
        def read(self, path: str | None, size: int, offset: int, fi: Any) -> bytes:
            answer = filesystem.read(fi.fh, offset, size)
            return answer if isinstance(answer, bytes) else answer.result()

        @answers
        def release(self, path: str | None, fi: Any) -> int:
            filesystem.release(fi.fh)
            return 0

        @answers
        def statfs(self, path: str) -> dict[str, int]:
            space = view.space()
            return {
                "f_bsize": 4096,
                "f_frsize": 4096,
                "f_blocks": space.total // 4096,
                "f_bfree": space.free // 4096,
                "f_bavail": space.free // 4096,
                "f_namemax": 255,
            }

        @answers
        def getxattr(self, path: str, name: str, position: int = 0) -> bytes:
            return filesystem.xattr(view.find(path), name)

        @answers
        def listxattr(self, path: str) -> list[str]:
            return filesystem.xattr_names(view.find(path))

    return LibfuseOperations()


def _stat(found: Attributes, uid: int, gid: int) -> dict[str, int]:
    nanoseconds = int(found.mtime * 1e9)
    return {
        "st_ino": found.node,
        "st_mode": found.mode,
        "st_nlink": 2 if found.is_directory else 1,
        "st_size": found.size,
        "st_blocks": found.blocks,
        "st_blksize": 4096,
        "st_uid": uid,
        "st_gid": gid,
        "st_mtime": nanoseconds,
        "st_ctime": nanoseconds,
        "st_atime": nanoseconds,
    }
