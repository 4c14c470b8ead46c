"""The kernel's own protocol on /dev/fuse: the binding for Linux.

A few threads read requests and answer at once what needs no network. What may ask the network goes to a pool of its
own. A read that has to wait holds no thread at all: its Pending is called back, and a reply thread writes the answer.
So any number of reads may wait while everything else is served. ``serve`` blocks the main thread, which takes signals.

A connection can be taken over from a worker that died or left: INIT is not sent again, the kernel is asked to send
again what was not answered, and the journal tells which files are open.
"""

from __future__ import annotations

import logging
import queue
import signal
import struct
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Final

from ...errors import Cancelled, MountFailed
from ...transfer import Pending
from ...vfs import Filesystem
from .. import errnos
from ..connection import Connection, Resumption
from . import abi
from .device import BUFFER_SIZE, MAX_WRITE, OVER, Device
from .invalidation import drop_pages
from .journal import Journal
from .mounting import mount
from .operations import Answer, Operations
from .passthrough import Passthrough

log = logging.getLogger(__name__)

# Requests that need no network take microseconds of Python and one copy of the data; the copy runs without the
# interpreter's lock. Four let copies overlap on more cores than we measured on (2: no difference from two threads on).
LOOPS: Final = 4
REPLIERS: Final = 2  # they copy what workers have just brought; the network is slower
EARLY: Final = 256  # interrupts remembered: far more than threads that could be between reading and taking in hand
SLOW: Final = 8  # listings and sizes asked of the Hub at once
DROPPING: Final = 4  # files whose pages are dropped at once; each may have to wait for reads, nobody waits for it
MAX_PAGES: Final = 256  # 1 MiB, the most that fs.fuse.max_pages_limit allows unless it was raised
# Reads that wait count as background for the kernel, and the one after the last that fits waits for all others,
# whatever file it is of (64: 4 s of standstill behind 80 stalled reads, 4096: 0.03 s). The congestion threshold only
# slows down writeback and asynchronous read-ahead of the same mount.
MAX_BACKGROUND: Final = 4096
CONGESTION_THRESHOLD: Final = 64
# Not ASYNC_DIO: with it the kernel waits for an O_DIRECT read deaf to every signal, and nobody could kill the reader.
WANTED: Final = (
    abi.Init.ASYNC_READ
    | abi.Init.PARALLEL_DIROPS
    | abi.Init.DO_READDIRPLUS
    | abi.Init.READDIRPLUS_AUTO
    | abi.Init.POSIX_ACL  # the kernel then remembers that a file has no ACL, instead of asking at each `ls -l`
    | abi.Init.ABORT_ERROR
    | abi.Init.MAX_PAGES
    | abi.Init.EXPLICIT_INVAL_DATA
    | abi.Init.INIT_EXT
    | abi.Init.PASSTHROUGH
    | abi.Init.HAS_RESEND
)
# Not refused even when they come again after several deaths: a handle that is never given back would be counted open.
_ENDINGS: Final = frozenset({abi.Op.RELEASE, abi.Op.RELEASEDIR})
# How deep the file system below a passthrough file may be stacked: 1 refuses a cache on overlayfs, as in containers.
STACK_DEPTH: Final = 2


class KernelBinding:
    """One mount served over /dev/fuse."""

    name = "kernel"

    def __init__(
        self,
        filesystem: Filesystem,
        mountpoint: str,
        *,
        device: str,
        allow_other: bool = False,
        journal: str | None = None,
        resumption: Resumption | None = None,
    ) -> None:
        self._filesystem = filesystem
        self._mountpoint = mountpoint
        self._device_name = device
        self._allow_other = allow_other
        self._journal_path = journal
        self._resumption = resumption
        self._refuse_resent = resumption is not None and resumption.refuse_resent
        self.connection: Connection | None = None
        self._settled: queue.SimpleQueue[tuple[int, Pending] | int | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        # guarded by _lock: reads that wait, by the unique number of their request (without the mark of a resent one)
        self._waiting: dict[int, Pending] = {}
        # and requests that the slow pool has in hand, with the number to answer to; who takes one out answers it
        self._asking: dict[int, int] = {}
        # and interrupts of what nobody had in hand: answered already, or about to be taken in hand by another thread
        self._early: deque[int] = deque(maxlen=EARLY)
        self._over = threading.Event()
        self._leaving = False
        # For whoever waits for the end: True that a signal came, False that the mount has gone. Of all that wakes a
        # thread only this may be used in a signal handler, which may have interrupted the waiting in any state.
        self._wake: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._device: Device
        self._passthrough: Passthrough | None = None
        self._operations: Operations
        self._slow: ThreadPoolExecutor
        self._dropping: ThreadPoolExecutor

    def serve(self, on_ready: Callable[[], None], on_signal: Callable[[], None]) -> None:
        """Mounts and answers INIT, or resumes; calls ``on_ready``; returns when unmounted or told to ``leave``.
        SIGTERM, SIGINT and SIGHUP call ``on_signal``, which is to unmount, and afterwards nothing; main thread only.
        Raises MountFailed."""

        def heard(*_: object) -> None:  # nothing is done inside the handler: it may have interrupted anything
            self._wake.put(True)

        def wait() -> None:
            while not self._over.is_set():
                with suppress(queue.Empty):
                    if self._wake.get(timeout=3600):
                        on_signal()

        # Before there is a mount, which would stay behind dead; and they stay when it has gone: the process tidies up
        # and ends, and who is impatient and signals again must not make it leave its socket and record behind.
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, heard)
        if self._resumption is not None:
            fd = self._resumption.connection.fd
        else:
            fd = mount(self._mountpoint, device_name=self._device_name, allow_other=self._allow_other)
        self.serve_on(Device(fd), on_ready, wait)

    def serve_on(self, device: Device, on_ready: Callable[[], None], wait: Callable[[], None] | None = None) -> None:
        """Serves a device, whose INIT is still to come unless it is resumed, until its other end is gone; closes it.
        Told to ``leave``, it returns with the device open: its threads still wait on it, the process is to end.
        Raises MountFailed."""
        self._device = device
        self._slow = ThreadPoolExecutor(SLOW, thread_name_prefix="hffs-slow")
        self._dropping = ThreadPoolExecutor(DROPPING, thread_name_prefix="hffs-pages")
        threads = [threading.Thread(target=self._loop, name=f"hffs-fuse-{n}", daemon=True) for n in range(LOOPS)]
        threads += [threading.Thread(target=self._reply, name=f"hffs-reply-{n}", daemon=True) for n in range(REPLIERS)]
        journal: Journal | None = None
        try:
            if self._resumption is None:
                self.connection = self._initialise()
            else:
                self.connection = self._resumption.connection
            if self._journal_path is not None:
                journal = Journal(self._journal_path, resume=self._resumption is not None)
            flags = self.connection.flags
            refused = "" if flags & abi.Init.PASSTHROUGH else "this kernel has no passthrough (Linux 6.9 is the first)"
            passthrough = self._passthrough = Passthrough(device, refused, journal)
            self._operations = Operations(self._filesystem, passthrough)
            self._filesystem.on_attributes_changed(self._settled.put)
            self._filesystem.on_content_wrong(self._drop_pages)
            if self._resumption is not None:
                self._ask_again()
            for thread in threads:
                thread.start()
            on_ready()
            (wait or self._over.wait)()
        finally:
            for _ in range(REPLIERS):
                self._settled.put(None)
            for pool in (self._slow, self._dropping):
                pool.shutdown(wait=False, cancel_futures=True)
            for thread in threads:
                if thread.is_alive() and not self._leaving:
                    thread.join(timeout=5)
            if not self._leaving:  # else threads still use both, until the process ends
                device.close()
                if journal is not None:
                    journal.close()

    def leave(self) -> None:
        """Stop serving and let ``serve`` return, with the mount as it is: another worker goes on. What is not answered
        by now never is by us. Any thread; only while ``serve`` runs."""
        self._leaving = True
        self._device.fall_silent()
        self._over.set()
        self._wake.put(False)

    # --- INIT -------------------------------------------------------------------------------------------------------

    def served(self, node: int) -> tuple[bool, str]:
        """Whether the open handles of a node are read by the kernel itself, and if not, why."""
        return (False, "") if self._passthrough is None else self._passthrough.kind(node)

    def open_nodes(self) -> dict[int, int]:
        """The open handles of each node, those of workers before us too."""
        return {} if self._passthrough is None else self._passthrough.counts()

    def _ask_again(self) -> None:
        """Have the kernel send again what the worker before us was asked and did not answer; before the first request
        is read, so that each comes once. Raises MountFailed."""
        try:
            self._device.notify(abi.NotifyCode.RESEND)
        except OSError as error:
            if error.errno not in OVER:  # unmounted meanwhile: the first read will tell
                raise MountFailed(f"the kernel does not send its requests again: {error.strerror}") from error

    def _initialise(self) -> Connection:
        """The first request is INIT; nothing else comes before it is answered. What both sides can. Raises
        MountFailed."""
        buffer = bytearray(BUFFER_SIZE)
        while True:
            length = self._device.receive(buffer)
            if not length:
                raise MountFailed(f"{self._mountpoint} was unmounted before it answered")
            message = memoryview(buffer)[:length]
            try:
                header = abi.parse_header(message)
                if header.opcode != abi.Op.INIT:
                    raise MountFailed(f"the kernel's first request is {header.opcode}, not INIT")
                major, minor, readahead, low = abi.init_in.unpack_from(message, abi.in_header.size)
            except (ValueError, struct.error) as error:
                raise MountFailed(f"the kernel's first request is no INIT: {error}") from error
            if major < abi.MAJOR:
                self._device.refuse(header.unique, errnos.UNKNOWN_PROTOCOL)
                raise MountFailed(f"the kernel speaks FUSE {major}.{minor}", "hffs needs Linux 4.20 or newer")
            at = abi.in_header.size + abi.init_in.size
            high = abi.init_in_flags2.unpack_from(message, at)[0] if low & abi.Init.INIT_EXT else 0
            flags = WANTED & abi.Init(low | high << 32)
            if major == abi.MAJOR:
                break
            # The kernel is of a later major version: told ours, it sends INIT again in ours.
            self._device.reply(header.unique, abi.init_out.pack(abi.MAJOR, abi.MINOR, *[0] * 16))
        self._device.reply(
            header.unique,
            abi.init_out.pack(
                abi.MAJOR, min(minor, abi.MINOR), readahead, flags & 0xFFFFFFFF, MAX_BACKGROUND, CONGESTION_THRESHOLD,
                MAX_WRITE, 1, MAX_PAGES, 0, flags >> 32, STACK_DEPTH if flags & abi.Init.PASSTHROUGH else 0, *[0] * 6,
            ),
        )  # fmt: skip
        log.debug("event=init minor=%d flags=%#x", minor, flags)
        return Connection(self._device.fd, int(flags), min(minor, abi.MINOR))

    # --- requests ---------------------------------------------------------------------------------------------------

    def _loop(self) -> None:
        buffer = bytearray(BUFFER_SIZE)
        whole = memoryview(buffer)
        while True:
            length = self._device.receive(buffer)
            if not length:
                self._over.set()
                self._wake.put(False)
                return
            self._take(whole[:length])

    def _take(self, message: memoryview) -> None:
        """One request; whatever it is, the loop goes on. What stays after this returns must not hold the buffer."""
        try:
            header = abi.parse_header(message)
        except ValueError as error:
            log.error("event=malformed-request error=%s", error)
            return
        body = message[abi.in_header.size :]
        if header.opcode in abi.UNANSWERED:
            if header.opcode == abi.Op.INTERRUPT:
                self._interrupt(body)
            return
        if header.opcode == abi.Op.DESTROY:
            self._device.reply(header.unique)
            return
        if not self._operations.knows(header.opcode):
            self._device.refuse(header.unique, errnos.UNKNOWN_OPERATION)
            return
        if self._refuse_resent and header.unique & abi.UNIQUE_RESEND and header.opcode not in _ENDINGS:
            log.warning("event=resent-request-refused opcode=%d node=%d", header.opcode, header.node)
            self._device.refuse(header.unique, errnos.MALFORMED)
            return
        try:
            if self._operations.may_wait(header, body):
                number = header.unique & ~abi.UNIQUE_RESEND
                with self._lock:
                    interrupted = number in self._early
                    if not interrupted:
                        self._asking[number] = header.unique
                if interrupted:
                    raise Cancelled("interrupted")
                self._slow.submit(self._ask, header, memoryview(bytes(body)))
                return
        except RuntimeError:  # the pool is shut down: the mount is going away
            self._device.refuse(header.unique, errnos.errno_of(Cancelled("unmounted")))
            return
        except Exception as error:  # noqa: BLE001 - a loop that ends leaves the mount deaf
            self._refuse(header, error)
            return
        self._answer(header, body)

    def _ask(self, header: abi.RequestHeader, body: memoryview) -> None:
        """On the slow pool: a request that may wait for the network, unless an interrupt has answered it meanwhile."""
        number = header.unique & ~abi.UNIQUE_RESEND
        if number not in self._asking:
            return
        answer: Answer | Exception
        try:
            answer = self._operations.answer(header, body)
        except Exception as error:  # noqa: BLE001 - whatever it is, the request is answered
            answer = error
        with self._lock:
            left = self._asking.pop(number, None) is None
        if not left:
            self._give(header, answer)
        elif not isinstance(answer, Exception):
            self._operations.undo(header)

    def _answer(self, header: abi.RequestHeader, body: memoryview) -> None:
        try:
            answer = self._operations.answer(header, body)
        except Exception as error:  # noqa: BLE001 - whatever it is, the request is answered
            self._refuse(header, error)
            return
        self._give(header, answer)

    def _give(self, header: abi.RequestHeader, answer: Answer | Exception) -> None:
        if isinstance(answer, Exception):
            self._refuse(header, answer)
            return
        if isinstance(answer, tuple):
            self._device.reply(header.unique, *answer)
            return
        unique = header.unique
        number = unique & ~abi.UNIQUE_RESEND
        with self._lock:
            self._waiting[number] = answer
            interrupted = number in self._early
        answer.add_done_callback(lambda pending: self._settled.put((unique, pending)))
        if interrupted:
            answer.cancel()

    def _refuse(self, header: abi.RequestHeader, error: Exception) -> None:
        if isinstance(error, (ValueError, struct.error)):
            log.error("event=malformed-request opcode=%d error=%s", header.opcode, error)
            self._device.refuse(header.unique, errnos.MALFORMED)
            return
        log.debug("event=errno opcode=%d node=%d error=%s", header.opcode, header.node, error)
        self._device.refuse(header.unique, errnos.errno_of(error))

    def _interrupt(self, body: memoryview) -> None:
        """The process that waits was signalled: its request ends with EINTR. One that nobody has in hand is answered
        already, or another thread has just read it and will find that it was interrupted."""
        try:
            (unique,) = abi.interrupt_in.unpack_from(body)
        except struct.error:
            return
        with self._lock:
            pending = self._waiting.get(unique & ~abi.UNIQUE_RESEND)
            asking = self._asking.pop(unique & ~abi.UNIQUE_RESEND, None)
            if pending is None and asking is None:
                self._early.append(unique & ~abi.UNIQUE_RESEND)
        if pending is not None:
            pending.cancel()
        if asking is not None:  # the kernel lets nobody go whose request we have in hand, not even when it is killed
            self._device.refuse(asking, errnos.errno_of(Cancelled("interrupted")))

    def _reply(self) -> None:
        """A reply thread: what has settled is read from the store and written to the kernel."""
        while True:
            settled = self._settled.get()
            if settled is None:
                return
            if isinstance(settled, int):
                self._drop_attributes(settled)
                continue
            unique, pending = settled
            try:
                data = pending.take()
            except Exception as error:  # noqa: BLE001 - whatever it is, the request is answered
                self._forget(unique)
                self._device.refuse(unique, errnos.errno_of(error))
                continue
            if data is not None:  # else it goes on waiting, and comes here again
                self._forget(unique)
                self._device.reply(unique, data)

    def _drop_pages(self, node: int) -> None:
        """Not here, and not by a thread that serves: it may have to wait for reads of the very pages."""
        try:
            self._dropping.submit(drop_pages, self._device.fd, node)
        except RuntimeError:  # the mount is going away, and its pages with it
            log.debug("event=pages-left node=%d", node)

    def _drop_attributes(self, node: int) -> None:
        """Its next stat asks us again. An offset below 0 leaves pages alone, so nothing that is read is waited for."""
        try:
            self._device.notify(abi.NotifyCode.INVAL_INODE, abi.inval_inode_out.pack(node, -1, 0))
        except OSError as error:  # mostly ENOENT: the kernel has forgotten the inode
            log.debug("event=attributes-not-dropped node=%d error=%s", node, error)

    def _forget(self, unique: int) -> None:
        with self._lock:
            self._waiting.pop(unique & ~abi.UNIQUE_RESEND, None)
