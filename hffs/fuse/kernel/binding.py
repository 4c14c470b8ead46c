"""The Linux binding: the kernel's FUSE protocol on /dev/fuse.

A few threads read requests and answer those that need no network at once. Requests that may need the network run on a
separate pool. A read that has to wait holds no thread: its PendingRead calls back, and a reply thread writes the
answer. So any number of reads may wait while other requests are served. ``serve`` blocks the main thread, which handles
signals.

A connection can be taken over from a worker that died or left: INIT is not sent again, the kernel is asked to resend
unanswered requests, and the journal names the open files.
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
from ...vfs import Filesystem, PendingRead
from .. import errnos
from ..connection import Connection, Resumption
from . import abi
from .device import BUFFER_SIZE, MAX_WRITE, NO_PASSTHROUGH, OVER, Device
from .invalidation import drop_pages
from .journal import Journal
from .mount_syscall import mount
from .operations import Answer, Operations
from .passthrough import Passthrough

log = logging.getLogger(__name__)

# Requests that need no network take microseconds of Python and one copy of the data; the copy runs without the
# interpreter lock. Four let copies overlap on machines with more cores than measured (2: no gain beyond two threads).
LOOPS: Final = 4
REPLIERS: Final = 2  # they copy freshly fetched data; the network is slower
EARLY: Final = 256  # interrupts remembered: far more than threads between reading a request and registering it
SLOW: Final = 8  # concurrent requests to the Hub for listings and sizes
DROPPING: Final = 4  # files whose pages are dropped concurrently; each may wait for reads, and delays no request
MAX_PAGES: Final = 256  # 1 MiB, the most that fs.fuse.max_pages_limit allows unless it was raised
# The kernel counts waiting reads as background requests, and delays every further read of the mount once this many
# wait (64: 4 s of standstill behind 80 stalled reads, 4096: 0.03 s). The congestion threshold only slows down writeback
# and asynchronous read-ahead of the same mount.
MAX_BACKGROUND: Final = 4096
CONGESTION_THRESHOLD: Final = 64
# Without ASYNC_DIO: with it the kernel waits for an O_DIRECT read uninterruptibly, and the reader cannot be killed.
WANTED: Final = (
    abi.Init.ASYNC_READ
    | abi.Init.PARALLEL_DIROPS
    | abi.Init.DO_READDIRPLUS
    | abi.Init.READDIRPLUS_AUTO
    | abi.Init.POSIX_ACL  # lets the kernel cache that a file has no ACL, instead of a request at each `ls -l`
    | abi.Init.ABORT_ERROR
    | abi.Init.MAX_PAGES
    | abi.Init.EXPLICIT_INVAL_DATA
    | abi.Init.INIT_EXT
    | abi.Init.PASSTHROUGH
    | abi.Init.HAS_RESEND
)
# Never refused when resent after repeated deaths: a handle that is not released would stay counted as open.
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
        self._settled: queue.SimpleQueue[tuple[abi.RequestHeader, PendingRead] | int | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        # guarded by _lock: waiting reads, by the unique number of their request (without the resend bit)
        self._waiting: dict[int, PendingRead] = {}
        # requests on the slow pool, with the number to reply to; the thread that removes one answers it
        self._in_pool: dict[int, int] = {}
        # interrupts of requests not registered: answered already, or read but not yet registered by another thread
        self._early: deque[int] = deque(maxlen=EARLY)
        self._over = threading.Event()
        self._leaving = False
        # Wakes the thread in ``serve``: True for a signal, False for the end of the mount. SimpleQueue.put is the only
        # wake-up that is safe in a signal handler, which may have interrupted the wait in any state.
        self._wake: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._device: Device
        self._passthrough: Passthrough | None = None
        self._operations: Operations
        self._slow: ThreadPoolExecutor
        self._dropping: ThreadPoolExecutor

    def serve(self, on_ready: Callable[[], None], on_signal: Callable[[], None]) -> None:
        """Mounts and answers INIT, or resumes; calls ``on_ready``; returns after an unmount or ``leave``. SIGTERM,
        SIGINT and SIGHUP call ``on_signal``, which unmounts; the handlers stay installed. Main thread only. Raises
        MountFailed."""

        def on_handler(*_: object) -> None:  # only wakes: a handler may have interrupted anything
            self._wake.put(True)

        def wait() -> None:
            while not self._over.is_set():
                with suppress(queue.Empty):
                    if self._wake.get(timeout=3600):
                        on_signal()

        # Installed before the mount exists, since a signal would leave it dead; and kept after it is gone, so that a
        # second signal does not keep the process from removing its socket and record.
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, on_handler)
        if self._resumption is not None:
            fd = self._resumption.connection.fd
        else:
            fd = mount(self._mountpoint, device_name=self._device_name, allow_other=self._allow_other)
        self.serve_on(Device(fd), on_ready, wait)

    def serve_on(self, device: Device, on_ready: Callable[[], None], wait: Callable[[], None] | None = None) -> None:
        """Serves a device until its connection is gone, then closes it. INIT is expected first unless resuming. After
        ``leave`` it returns with the device open: its threads still block on it until the process ends. Raises
        MountFailed."""
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
            refused = "" if flags & abi.Init.PASSTHROUGH else NO_PASSTHROUGH
            passthrough = self._passthrough = Passthrough(device, refused, journal)
            self._operations = Operations(self._filesystem, passthrough)
            self._filesystem.view.on_attributes_changed(self._settled.put)
            self._filesystem.view.on_content_wrong(self._drop_pages)
            if self._resumption is not None:
                self._request_resend()
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
            if not self._leaving:  # else threads use both until the process ends
                device.close()
                if journal is not None:
                    journal.close()

    def leave(self) -> None:
        """Stops replying and lets ``serve`` return with the mount intact, for another worker to take over. Unanswered
        requests stay unanswered. Any thread; only while ``serve`` runs."""
        self._leaving = True
        self._device.stop_replying()
        self._over.set()
        self._wake.put(False)

    # --- INIT -------------------------------------------------------------------------------------------------------

    def served(self, node: int) -> tuple[bool, str]:
        """Returns whether the kernel reads the open handles of a node directly, and if not, why."""
        return (False, "") if self._passthrough is None else self._passthrough.kind(node)

    def open_nodes(self) -> dict[int, int]:
        """Returns the number of open handles of each node, including those opened under earlier workers."""
        return {} if self._passthrough is None else self._passthrough.counts()

    def _request_resend(self) -> None:
        """Asks the kernel to resend the requests that the earlier worker did not answer; before the first request is
        read, so that each arrives once. Raises MountFailed."""
        try:
            self._device.notify(abi.NotifyCode.RESEND)
        except OSError as error:
            if error.errno not in OVER:  # unmounted meanwhile: the first read reports it
                raise MountFailed(f"the kernel does not resend its requests: {error.strerror}") from error

    def _initialise(self) -> Connection:
        """Answers INIT, which precedes every other request, and returns the negotiated connection. Raises
        MountFailed."""
        buffer = bytearray(BUFFER_SIZE)
        while True:
            length = self._device.receive(buffer)
            if not length:
                raise MountFailed(f"{self._mountpoint} was unmounted before it answered")
            try:
                request = abi.parse_init(memoryview(buffer)[:length])
            except ValueError as error:
                raise MountFailed(f"the kernel's first request is not INIT: {error}") from error
            if request.major < abi.MAJOR:
                self._device.refuse(request.unique, errnos.UNKNOWN_PROTOCOL)
                kernel = f"{request.major}.{request.minor}"
                raise MountFailed(f"the kernel speaks FUSE {kernel}", "hffs needs Linux 4.20 or newer")
            if request.major == abi.MAJOR:
                break
            # The kernel has a later major version: after this answer it sends INIT again in ours.
            self._device.reply(request.unique, abi.init_out.pack(abi.MAJOR, abi.MINOR, *[0] * 16))
        flags = WANTED & request.offered
        reply = request.reply(
            flags, background=MAX_BACKGROUND, congestion=CONGESTION_THRESHOLD, write=MAX_WRITE, pages=MAX_PAGES,
            stack=STACK_DEPTH if flags & abi.Init.PASSTHROUGH else 0,
        )  # fmt: skip
        self._device.reply(request.unique, reply)
        minor = min(request.minor, abi.MINOR)
        log.debug("event=init minor=%d flags=%#x", minor, flags)
        return Connection(self._device.fd, int(flags), minor)

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
        """Handles one request; never raises. Nothing that outlives the call may reference the buffer."""
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
                with self._lock:
                    interrupted = header.number in self._early
                    if not interrupted:
                        self._in_pool[header.number] = header.unique
                if interrupted:
                    raise Cancelled("interrupted")
                self._slow.submit(self._answer_in_pool, header, memoryview(bytes(body)))
                return
        except RuntimeError:  # the pool is shut down: the mount is ending
            self._device.refuse(header.unique, errnos.errno_of(Cancelled("unmounted")))
            return
        except Exception as error:  # noqa: BLE001 - a loop that ends would leave the mount unserved
            self._refuse(header, error)
            return
        self._send(header, self._answer(header, body))

    def _answer_in_pool(self, header: abi.RequestHeader, body: memoryview) -> None:
        """Runs on the slow pool: answers a request that may wait for the network, unless an interrupt has answered
        it."""
        if header.number not in self._in_pool:
            return
        answer = self._answer(header, body)
        with self._lock:
            interrupted = self._in_pool.pop(header.number, None) is None
        if not interrupted:
            self._send(header, answer)
        elif not isinstance(answer, Exception):
            self._operations.undo(header)

    def _answer(self, header: abi.RequestHeader, body: memoryview) -> Answer | Exception:
        try:
            return self._operations.answer(header, body)
        except Exception as error:  # noqa: BLE001 - every request is answered
            return error

    def _send(self, header: abi.RequestHeader, answer: Answer | Exception) -> None:
        if isinstance(answer, Exception):
            self._refuse(header, answer)
        elif isinstance(answer, tuple):
            self._device.reply(header.unique, *answer)
        else:
            with self._lock:
                self._waiting[header.number] = answer
                interrupted = header.number in self._early
            answer.add_done_callback(lambda pending: self._settled.put((header, pending)))
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
        """Ends a request with EINTR, since its process was signalled. A request that is not registered was answered
        already, or another thread has just read it and will find the interrupt in ``_early``."""
        try:
            number = abi.interrupt_in.unpack_from(body)[0] & ~abi.UNIQUE_RESEND
        except struct.error:
            return
        with self._lock:
            pending = self._waiting.get(number)
            in_pool = self._in_pool.pop(number, None)
            if pending is None and in_pool is None:
                self._early.append(number)
        if pending is not None:
            pending.cancel()
        if in_pool is not None:  # a process cannot end while its request is unanswered, not even by SIGKILL
            self._device.refuse(in_pool, errnos.errno_of(Cancelled("interrupted")))

    def _reply(self) -> None:
        """Runs on a reply thread: reads settled data from the store and writes it to the kernel."""
        while True:
            settled = self._settled.get()
            if settled is None:
                return
            if isinstance(settled, int):
                self._drop_attributes(settled)
                continue
            header, pending = settled
            try:
                data = pending.take()
            except Exception as error:  # noqa: BLE001 - every request is answered
                self._forget(header)
                self._device.refuse(header.unique, errnos.errno_of(error))
                continue
            if data is not None:  # else it waits again and calls back later
                self._forget(header)
                self._device.reply(header.unique, data)

    def _drop_pages(self, node: int) -> None:
        """Drops the pages of a node on a thread that serves no request: the call may wait for reads of these pages."""
        try:
            self._dropping.submit(drop_pages, self._device.fd, node)
        except RuntimeError:  # the mount is ending, and its pages with it
            log.debug("event=pages-left node=%d", node)

    def _drop_attributes(self, node: int) -> None:
        """Makes the next stat a request. A negative offset keeps the pages, so the call does not wait for reads."""
        try:
            self._device.notify(abi.NotifyCode.INVAL_INODE, abi.inval_inode_out.pack(node, -1, 0))
        except OSError as error:  # mostly ENOENT: the kernel has forgotten the inode
            log.debug("event=attributes-not-dropped node=%d error=%s", node, error)

    def _forget(self, header: abi.RequestHeader) -> None:
        with self._lock:
            self._waiting.pop(header.number, None)
