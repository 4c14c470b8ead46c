"""The portable binding: libfuse through mfusepy. Translates paths to nodes of ``vfs`` and exceptions to errnos.

``serve`` blocks the main thread, on which libfuse handles SIGTERM, until the mount is gone. libfuse calls the
operations on its own threads, and a waiting read holds one of them.
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
# A waiting read holds a thread, and libfuse starts ten by default. As many as the kernel's background queue below, so
# that stalled reads of one file leave threads for others. The kernel binding has no such bound.
THREADS = 64
# fuse_main's return code in libfuse 3 (helper.c): a signal ended the event loop.
ENDED_BY_SIGNAL = 8
# Names and content of a commit never change, so the kernel may cache names and sizes for long; st_blocks grows with the
# local blocks and may be a minute old.
NAME_SECONDS = 3600.0
ATTRIBUTE_SECONDS = 60.0


def load_library() -> Any:
    """Returns mfusepy, on libfuse 3 if present (libfuse 2 reads at most 128 KiB at a time). Raises MountFailed."""
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
    """Turns any exception of ``method`` into an OSError with its errno; mfusepy would turn it into EINVAL."""

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
        """Returns whether the kernel reads the open handles of a node directly, and if not, why."""
        del node
        return False, "libfuse reads through the daemon"

    connection = None  # libfuse does not give its descriptor away

    def open_nodes(self) -> dict[int, int]:
        """Returns open handles by node that the file system does not count: none with libfuse."""
        return {}

    def leave(self) -> None:
        """Does nothing: no other process can take over this mount."""

    def serve(self, on_ready: Callable[[], None], on_signal: Callable[[], None]) -> None:
        """Mounts, calls ``on_ready`` on INIT, returns when unmounted. libfuse handles the signals and unmounts, so
        ``on_signal`` is not called. Raises MountFailed."""
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
            "raw_fi": True,  # else an open could not control the page cache
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
            # A signal ended the loop, and libfuse has unmounted.
            if served and error.args == (ENDED_BY_SIGNAL,):
                return
            raise MountFailed(
                f"libfuse could not mount {self._mountpoint} (code {error})",
                "see libfuse's messages in the log; hffs needs /dev/fuse and, without root, fusermount3",
            ) from None


def _operations(library: Any, filesystem: Filesystem, on_ready: Callable[[], None]) -> Any:
    """Returns the operations as an instance of mfusepy's class, which exists only after libfuse was loaded."""
    uid, gid = os.getuid(), os.getgid()
    view = filesystem.view
    # Nodes whose content failed verification once. The kernel keeps pages over opens, since content never changes; of
    # these nodes each open drops them. They cannot be dropped earlier: the notification waits for running reads and
    # cannot be killed meanwhile, and a helper process, as in the kernel binding, does not know libfuse's node numbers.
    failed: set[int] = set()
    view.on_content_wrong(failed.add)

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
            fi.keep_cache = node.content.page_cache is PageCache.KEEP and node.id not in failed
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
