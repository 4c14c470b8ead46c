"""A kernel connection taken over by another worker, over a socket. No mount, no privileges."""

from __future__ import annotations

import errno
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hffs.fuse import Connection, Resumption
from hffs.fuse.kernel import KernelBinding, abi
from hffs.fuse.kernel.device import Device
from hffs.fuse.kernel.journal import Journal
from hffs.fuse.kernel.passthrough import Passthrough
from hffs.vfs import Filesystem

from .test_kernel_protocol import Kernel, read_body

FLAGS = int(abi.Init.HAS_RESEND)


@pytest.fixture
def journal(tmp_path: Path) -> str:
    """Returns the journal of an earlier worker without open files."""
    path = tmp_path / "handles"
    path.touch()
    return str(path)


@contextmanager
def resumed(filesystem: Filesystem, journal: str, *, refuse_resent: bool = False) -> Iterator[Kernel]:
    """Yields the kernel's end of a connection just taken over by a new worker."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
    ours.settimeout(10)
    fd = theirs.detach()
    resumption = Resumption(Connection(fd, FLAGS, 40), refuse_resent)
    binding = KernelBinding(filesystem, "/nowhere", device="hffs:test", journal=journal, resumption=resumption)
    server = threading.Thread(target=binding.serve_on, args=(Device(fd), lambda: None))
    server.start()
    kernel = Kernel(ours)
    kernel.unique = 1000  # the numbers of a connection continue over its workers
    try:
        assert kernel.receive() == (0, -abi.NotifyCode.RESEND, b"")  # before any reply, and without INIT
        yield kernel
    finally:
        ours.close()
        server.join(15)
        assert not server.is_alive()


def resent(kernel: Kernel, opcode: int, node: int, body: bytes) -> tuple[int, bytes]:
    kernel.unique |= abi.UNIQUE_RESEND
    unique = kernel.send(opcode, node, body)
    kernel.unique &= ~abi.UNIQUE_RESEND
    got, error, answer = kernel.receive()
    assert got == unique, "the answer bears the number as it was received"
    return error, answer


def test_a_handle_opened_under_an_earlier_worker_is_read(
    filesystem_of: Callable[..., Filesystem], source: object, journal: str
) -> None:
    with resumed(filesystem_of(), journal) as kernel:
        node = kernel.lookup(kernel.lookup(1, "onnx"), "model.onnx")
        handle = kernel.open(node)
    with resumed(filesystem_of(), journal) as kernel:
        expected = source.contents["onnx/model.onnx"][5:105]  # type: ignore[attr-defined]
        kernel.lookup(kernel.lookup(1, "onnx"), "model.onnx")
        assert resent(kernel, abi.Op.READ, node, read_body(handle, 5, 100)) == (0, expected)
        assert kernel.ask(abi.Op.RELEASE, node, abi.release_in.pack(handle, 0, 0, 0)) == b""
        with pytest.raises(OSError, match="refused") as refused:
            kernel.ask(abi.Op.READ, node, read_body(handle, 0, 10))
        assert refused.value.errno == errno.EBADF
    assert os.stat(journal).st_size > 0
    with resumed(filesystem_of(), journal):
        assert os.stat(journal).st_size == 0


def test_a_journaled_but_unanswered_open_gets_the_same_handle(
    filesystem_of: Callable[..., Filesystem], journal: str
) -> None:
    with resumed(filesystem_of(), journal) as kernel:
        node = kernel.lookup(1, "README.md")
        handle = kernel.open(node)
    with resumed(filesystem_of(), journal) as kernel:
        kernel.lookup(1, "README.md")
        kernel.unique = handle - 2
        error, answer = resent(kernel, abi.Op.OPEN, node, abi.open_in.pack(0, 0))
        assert (error, abi.open_out.unpack_from(answer)[0]) == (0, handle)


def test_a_directory_opened_under_an_earlier_worker_is_read(
    filesystem_of: Callable[..., Filesystem], journal: str
) -> None:
    with resumed(filesystem_of(), journal) as kernel:
        handle = int(abi.open_out.unpack_from(kernel.ask(abi.Op.OPENDIR, 1, abi.open_in.pack(0, 0)))[0])
        before = kernel.ask(abi.Op.READDIR, 1, read_body(handle, 3, 4096))
    with resumed(filesystem_of(), journal) as kernel:
        assert resent(kernel, abi.Op.READDIR, 1, read_body(handle, 3, 4096)) == (0, before)
        assert b"README.md" not in before
        assert b"onnx" in before
        kernel.ask(abi.Op.RELEASEDIR, 1, abi.release_in.pack(handle, 0, 0, 0))


def test_an_interrupt_finds_a_resent_read_by_its_original_number(
    filesystem_of: Callable[..., Filesystem], source: object, journal: str
) -> None:
    with resumed(filesystem_of(), journal) as kernel:
        node = kernel.lookup(kernel.lookup(1, "onnx"), "model.onnx")
        handle = kernel.open(node)
        source.gate.clear()  # type: ignore[attr-defined]
        kernel.unique |= abi.UNIQUE_RESEND
        waiting = kernel.send(abi.Op.READ, node, read_body(handle, 0, 50))
        kernel.send(abi.Op.INTERRUPT, 0, abi.interrupt_in.pack(waiting & ~abi.UNIQUE_RESEND))
        assert kernel.receive() == (waiting, errno.EINTR, b"")


@pytest.mark.allow_warnings("resent-request-refused")
def test_after_repeated_deaths_resent_requests_are_refused_and_new_ones_served(
    filesystem_of: Callable[..., Filesystem], journal: str
) -> None:
    with resumed(filesystem_of(), journal) as kernel:
        node = kernel.lookup(1, "README.md")
        handle = kernel.open(node)
    with resumed(filesystem_of(), journal, refuse_resent=True) as kernel:
        assert resent(kernel, abi.Op.LOOKUP, 1, b"README.md\0") == (errno.EIO, b"")
        assert kernel.lookup(1, "README.md") == node
        assert resent(kernel, abi.Op.RELEASE, node, abi.release_in.pack(handle, 0, 0, 0)) == (0, b"")
    with resumed(filesystem_of(), journal):
        assert os.stat(journal).st_size == 0, "the handle was given back"


def test_a_worker_sends_no_reply_after_leave(filesystem_of: Callable[..., Filesystem], journal: str) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.settimeout(10)
    ready = threading.Event()
    binding = KernelBinding(
        filesystem_of(), "/nowhere", device="t", resumption=Resumption(Connection(theirs.fileno(), FLAGS, 40))
    )
    server = threading.Thread(target=binding.serve_on, args=(Device(theirs.fileno()), ready.set))
    server.start()
    assert ready.wait(10)
    kernel = Kernel(ours)
    kernel.receive()
    assert kernel.lookup(1, "README.md")
    binding.leave()
    server.join(15)
    assert not server.is_alive()
    kernel.send(abi.Op.LOOKUP, 1, b"README.md\0")
    ours.shutdown(socket.SHUT_WR)  # threads that still read see the end without having replied
    ours.setblocking(False)
    with pytest.raises(BlockingIOError):
        ours.recv(100)
    ours.close()
    theirs.close()


class Kernelside:
    """A device with consecutive ids, as of one connection over all its workers."""

    def __init__(self) -> None:
        self.ids: set[int] = set()
        self.given = 0

    def open_backing(self, fd: int) -> int:
        self.given += 1
        self.ids.add(self.given)
        return self.given

    def close_backing(self, number: int) -> None:
        self.ids.remove(number)


def dup_fd() -> int:
    return os.open("/dev/null", os.O_RDONLY)


def test_the_next_worker_reuses_the_backing_id_while_a_handle_is_open(journal: str) -> None:
    device = Kernelside()
    book = Journal(journal)
    first = Passthrough(device, journal=book)  # type: ignore[arg-type]
    assert first.open(7, 2, dup_fd) == 1
    book.close()
    book = Journal(journal, resume=True)
    second = Passthrough(device, journal=book)  # type: ignore[arg-type]
    assert second.open(7, 4, dup_fd) == 1
    second.release(7, 2)
    assert device.ids == {1}
    second.release(7, 4)
    assert device.ids == set()
    assert second.open(7, 6, dup_fd) == 2
    book.close()


def test_a_restored_ordinary_file_stays_ordinary_until_its_last_release(journal: str) -> None:
    device = Kernelside()
    book = Journal(journal)
    assert Passthrough(device, journal=book).open(7, 2, lambda: None) is None  # type: ignore[arg-type]
    book.close()
    book = Journal(journal, resume=True)
    second = Passthrough(device, journal=book)  # type: ignore[arg-type]
    assert second.open(7, 4, dup_fd) is None
    second.release(7, 4)
    second.release(7, 2)
    assert second.open(7, 6, dup_fd) == 1
    book.close()


def test_backing_ids_left_by_a_death_in_release_are_closed(journal: str) -> None:
    device = Kernelside()
    book = Journal(journal)
    Passthrough(device, journal=book).open(7, 2, dup_fd)  # type: ignore[arg-type]
    book.released(2)  # and then its worker died
    book.close()
    book = Journal(journal, resume=True)
    Passthrough(device, journal=book)  # type: ignore[arg-type]
    assert device.ids == set()
    book.close()


@pytest.mark.allow_warnings("journal-lost")
def test_without_a_working_journal_no_file_is_opened_in_passthrough(journal: str) -> None:
    book = Journal(journal + "-gone", resume=True)
    passthrough = Passthrough(Kernelside(), journal=book)  # type: ignore[arg-type]
    assert passthrough.holds(7, 4), "the kernel names no handle that it was not given"
    assert passthrough.open(7, 2, dup_fd) is None
    assert "not known" in passthrough.kind(7)[1]
