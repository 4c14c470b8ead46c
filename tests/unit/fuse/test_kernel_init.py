"""INIT with older, newer and malformed kernels: missing features are not used, or the mount is refused in one line."""

from __future__ import annotations

import errno
import socket
import struct
import threading
from collections.abc import Callable

import pytest

from hffs.errors import MountFailed
from hffs.fuse.kernel import KernelBinding, abi
from hffs.fuse.kernel.device import Device
from hffs.vfs import Filesystem


class Handshake:
    """The kernel's side of the first messages, and the error that ended serving."""

    def __init__(self, filesystem: Filesystem) -> None:
        self.sock, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.sock.settimeout(10)
        self.binding = KernelBinding(filesystem, "/nowhere", device="hffs:test")
        self.error: Exception | None = None
        self.ready = threading.Event()

        def serve() -> None:
            try:
                self.binding.serve_on(Device(theirs.detach()), self.ready.set)
            except MountFailed as error:
                self.error = error

        self.server = threading.Thread(target=serve)
        self.server.start()

    def send(self, opcode: int, body: bytes, unique: int = 2) -> None:
        self.sock.send(abi.in_header.pack(abi.in_header.size + len(body), opcode, unique, 1, 0, 0, 0, 0, 0) + body)

    def receive(self) -> tuple[int, bytes]:
        message = self.sock.recv(65536)
        _, error, _ = abi.out_header.unpack_from(message)
        return -error, message[abi.out_header.size :]

    def end(self) -> None:
        self.sock.close()
        self.server.join(15)
        assert not self.server.is_alive()


@pytest.fixture
def handshake(filesystem_of: Callable[..., Filesystem]):
    made = Handshake(filesystem_of())
    yield made
    made.end()


def test_a_kernel_without_optional_features_is_served(handshake: Handshake) -> None:
    handshake.send(abi.Op.INIT, abi.init_in.pack(7, 31, 131072, int(abi.Init.ASYNC_READ)))
    error, answer = handshake.receive()
    major, minor, _, flags, *_ = abi.init_out.unpack(answer)
    assert (error, major, minor, flags) == (0, 7, 31, abi.Init.ASYNC_READ)
    assert handshake.ready.wait(10)
    assert handshake.binding.served(1) == (False, "")
    handshake.send(abi.Op.LOOKUP, b"README.md\0", 4)
    error, answer = handshake.receive()
    node = abi.entry_out.unpack_from(answer)[0]
    handshake.sock.send(abi.in_header.pack(48, abi.Op.OPEN, 6, node, 0, 0, 0, 0, 0) + abi.open_in.pack(0, 0))
    error, answer = handshake.receive()
    assert (error, abi.open_out.unpack(answer)[1]) == (0, abi.OpenFlag.KEEP_CACHE)
    passthrough, why = handshake.binding.served(node)
    assert not passthrough
    assert "6.9" in why


def test_flags2_is_ignored_without_init_ext(handshake: Handshake) -> None:
    """Before 7.36 the bytes after the first flags are no flags."""
    body = abi.init_in.pack(7, 35, 0, int(abi.Init.ASYNC_READ)) + struct.pack("=I", 0xFFFFFFFF)
    handshake.send(abi.Op.INIT, body)
    _, answer = handshake.receive()
    values = abi.init_out.unpack(answer)
    assert values[10] == 0  # flags2
    assert values[11] == 0  # max_stack_depth


def test_a_later_major_version_is_answered_with_ours_and_sends_init_again(handshake: Handshake) -> None:
    handshake.send(abi.Op.INIT, abi.init_in.pack(8, 0, 0, 0))
    error, answer = handshake.receive()
    assert (error, abi.init_out.unpack(answer)[:2]) == (0, (abi.MAJOR, abi.MINOR))
    assert not handshake.ready.is_set()
    handshake.send(abi.Op.INIT, abi.init_in.pack(7, 45, 0, 0))
    assert handshake.receive()[0] == 0
    assert handshake.ready.wait(10)


def test_a_kernel_that_is_too_old_is_refused_in_one_line(handshake: Handshake) -> None:
    handshake.send(abi.Op.INIT, abi.init_in.pack(6, 1, 0, 0))
    assert handshake.receive()[0] == errno.EPROTO
    handshake.server.join(10)
    assert str(handshake.error) == "the kernel speaks FUSE 6.1: hffs needs Linux 4.20 or newer"


@pytest.mark.parametrize("first", [b"\0\0\0\0\1", struct.pack("=I", 5) + b"\0"])
def test_a_malformed_first_message_ends_the_mount_in_one_line(handshake: Handshake, first: bytes) -> None:
    handshake.sock.send(first)
    handshake.server.join(10)
    assert handshake.error is not None
    assert "INIT" in str(handshake.error)


def test_a_first_request_other_than_init_ends_the_mount_in_one_line(handshake: Handshake) -> None:
    handshake.send(abi.Op.LOOKUP, b"x\0")
    handshake.server.join(10)
    assert "not INIT" in str(handshake.error)


def test_an_unmount_before_init_is_reported(handshake: Handshake) -> None:
    handshake.sock.shutdown(socket.SHUT_RDWR)
    handshake.server.join(10)
    assert "unmounted before it answered" in str(handshake.error)
