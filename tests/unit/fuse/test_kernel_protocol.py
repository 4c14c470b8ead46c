"""The kernel binding over a socket that preserves messages, like /dev/fuse. No mount, no privileges."""

from __future__ import annotations

import errno
import socket
import struct
import threading
from collections.abc import Callable, Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hffs.fuse.kernel import KernelBinding, abi
from hffs.fuse.kernel.binding import SLOW
from hffs.fuse.kernel.device import Device
from hffs.vfs import Filesystem
from tests.support.profile import examples
from tests.unit.memory import COMMIT, MemorySource


class Kernel:
    """The kernel's end: sends requests and reads replies."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.unique = 0

    def send(self, opcode: int, node: int = 1, body: bytes = b"") -> int:
        self.unique += 2
        length = abi.in_header.size + len(body)
        self.sock.send(abi.in_header.pack(length, opcode, self.unique, node, 0, 0, 0, 0, 0) + body)
        return self.unique

    def receive(self) -> tuple[int, int, bytes]:
        """Returns unique, errno and body of a reply."""
        message = self.sock.recv(1 << 21)
        length, error, unique = abi.out_header.unpack_from(message)
        assert length == len(message)
        return unique, -error, message[abi.out_header.size :]

    def ask(self, opcode: int, node: int = 1, body: bytes = b"") -> bytes:
        unique = self.send(opcode, node, body)
        # 0: a notification of changed attributes, sent by another thread at any time
        got, error, answer = next(message for message in iter(self.receive, None) if message[0])
        assert got == unique
        if error:
            raise OSError(error, "refused")
        return answer

    def lookup(self, node: int, name: str) -> int:
        return int(abi.entry_out.unpack_from(self.ask(abi.Op.LOOKUP, node, name.encode() + b"\0"))[0])

    def open(self, node: int) -> int:
        return int(abi.open_out.unpack_from(self.ask(abi.Op.OPEN, node, abi.open_in.pack(0, 0)))[0])


def read_body(handle: int, offset: int, size: int) -> bytes:
    return abi.read_in.pack(handle, offset, size, 0, 0, 0, 0)


@pytest.fixture
def filesystem(filesystem_of: Callable[..., Filesystem]) -> Filesystem:
    return filesystem_of()


@pytest.fixture
def kernel(filesystem: Filesystem) -> Iterator[Kernel]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for each in (ours, theirs):
        each.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
    ours.settimeout(10)
    binding = KernelBinding(filesystem, "/nowhere", device="hffs:test")
    server = threading.Thread(target=binding.serve_on, args=(Device(theirs.detach()), lambda: None))
    server.start()
    kernel = Kernel(ours)
    kernel.binding, kernel.server = binding, server  # type: ignore[attr-defined]
    offered = abi.Init(0xFFFFFFFF) | abi.Init.PASSTHROUGH | abi.Init.HAS_RESEND
    low, high = int(offered) & 0xFFFFFFFF, int(offered) >> 32
    answer = kernel.ask(abi.Op.INIT, 0, abi.init_in.pack(7, 45, 131072, low) + struct.pack("=I11I", high, *[0] * 11))
    assert len(answer) == 64  # sizeof(struct fuse_init_out)
    kernel.init = abi.init_out.unpack(answer)  # type: ignore[attr-defined]
    yield kernel
    ours.close()
    server.join(15)
    assert not server.is_alive()


def test_init_asks_for_large_requests_and_a_long_background_queue(kernel: Kernel) -> None:
    major, minor, readahead, flags, background, _, _, _, pages, *_ = kernel.init  # type: ignore[attr-defined]
    assert (major, minor, readahead) == (7, abi.MINOR, 131072)
    assert (background, pages) == (4096, 256)
    assert flags & abi.Init.MAX_PAGES
    assert flags & abi.Init.DO_READDIRPLUS
    assert not flags & (1 << 12)  # AUTO_INVAL_DATA would drop pages of content that cannot change


def test_look_up_getattr_open_read_release(kernel: Kernel, source: MemorySource) -> None:
    folder = kernel.lookup(1, "onnx")
    node = kernel.lookup(folder, "model.onnx")
    values = abi.attr.unpack_from(kernel.ask(abi.Op.GETATTR, node, struct.pack("=IIQ", 0, 0, 0)), abi.attr_out.size)
    ino, size, blocks, _, mtime, *_ = values
    assert (ino, size, blocks) == (node, 300_000, 1)
    assert mtime == int(COMMIT.date)
    assert values[7] == int((COMMIT.date % 1) * 1e9)
    handle = kernel.open(node)
    data = kernel.ask(abi.Op.READ, node, read_body(handle, 100, 1000))
    assert data == source.contents["onnx/model.onnx"][100:1100]
    assert (
        kernel.ask(abi.Op.READ, node, read_body(handle, 299_990, 4096))
        == source.contents["onnx/model.onnx"][299_990:300_000]
    )
    assert kernel.ask(abi.Op.RELEASE, node, abi.release_in.pack(handle, 0, 0, 0)) == b""
    with pytest.raises(OSError, match="refused") as refused:
        kernel.ask(abi.Op.READ, node, read_body(handle, 0, 10))
    assert refused.value.errno == errno.EBADF


def test_a_missing_name_may_be_cached(kernel: Kernel) -> None:
    node, _, valid, *_ = abi.entry_out.unpack_from(kernel.ask(abi.Op.LOOKUP, 1, b"none\0"))
    assert (node, valid) == (0, 3600)
    assert kernel.lookup(1, "\N{SNOWMAN}") == 0
    node, *_ = abi.entry_out.unpack_from(kernel.ask(abi.Op.LOOKUP, 1, b"\xff\xfe\0"))
    assert node == 0


def records(answer: bytes, plus: bool) -> list[tuple[int, int, str]]:
    """Returns node, off and name of each record; for READDIRPLUS the node of its entry."""
    found, at = [], 0
    while at < len(answer):
        entry = 0
        start = at
        if plus:
            entry = abi.entry_out.unpack_from(answer, at)[0]
            at += abi.entry_out.size + abi.attr.size
        ino, off, length, _ = abi.dirent.unpack_from(answer, at)
        name = answer[at + abi.dirent.size :][:length].decode()
        at = start + abi.padded(at + abi.dirent.size + length - start)
        found.append((entry if plus else ino, off, name))
    return found


@pytest.mark.parametrize("plus", [False, True])
@pytest.mark.parametrize("room", [200, 400, 4096])
def test_a_directory_is_read_in_pieces_without_loss_or_repetition(kernel: Kernel, plus: bool, room: int) -> None:
    handle = int(abi.open_out.unpack_from(kernel.ask(abi.Op.OPENDIR, 1, abi.open_in.pack(0, 0)))[0])
    seen: list[tuple[int, int, str]] = []
    while True:
        offset = seen[-1][1] if seen else 0
        answer = kernel.ask(abi.Op.READDIRPLUS if plus else abi.Op.READDIR, 1, read_body(handle, offset, room))
        assert len(answer) <= room
        more = records(answer, plus)
        if not more:
            break
        seen += more
    assert [name for _, _, name in seen] == [".", "..", "README.md", "empty", "onnx"]
    if plus:
        assert [node for node, _, _ in seen][:2] == [0, 0]  # dots are not looked up
        assert seen[2][0] == kernel.lookup(1, "README.md")
    kernel.ask(abi.Op.RELEASEDIR, 1, abi.release_in.pack(handle, 0, 0, 0))


def test_extended_attributes_return_size_then_value(kernel: Kernel) -> None:
    node = kernel.lookup(1, "README.md")
    name = b"user.hffs.commit\0"
    assert kernel.ask(abi.Op.GETXATTR, node, abi.getxattr_in.pack(0, 0) + name) == abi.getxattr_out.pack(40, 0)
    assert kernel.ask(abi.Op.GETXATTR, node, abi.getxattr_in.pack(64, 0) + name) == COMMIT.sha.encode()
    for size, name_asked, number in ((8, name, errno.ERANGE), (64, b"security.capability\0", errno.ENODATA)):
        with pytest.raises(OSError, match="refused") as refused:
            kernel.ask(abi.Op.GETXATTR, node, abi.getxattr_in.pack(size, 0) + name_asked)
        assert refused.value.errno == number
    assert b"user.hffs.etag\0" in kernel.ask(abi.Op.LISTXATTR, node, abi.getxattr_in.pack(4096, 0))


def test_an_unknown_operation_is_enosys(kernel: Kernel) -> None:
    for opcode in (16, 9, 10, 25, 46, 52, 4000):  # WRITE MKDIR UNLINK FLUSH LSEEK STATX and an unknown one
        with pytest.raises(OSError, match="refused") as refused:
            kernel.ask(opcode, 1, bytes(64))
        assert refused.value.errno == errno.ENOSYS


def test_a_waiting_read_delays_no_request_and_an_interrupt_ends_it(kernel: Kernel, source: MemorySource) -> None:
    node = kernel.lookup(kernel.lookup(1, "onnx"), "model.onnx")
    handle = kernel.open(node)
    source.gate.clear()
    waiting = [kernel.send(abi.Op.READ, node, read_body(handle, number * 100, 50)) for number in range(1000)]
    assert kernel.lookup(1, "README.md")  # answered while a thousand reads wait
    kernel.send(abi.Op.INTERRUPT, 0, abi.interrupt_in.pack(waiting[7]))
    assert kernel.receive() == (waiting[7], errno.EINTR, b"")
    source.gate.set()
    answers = {unique: (error, data) for unique, error, data in (kernel.receive() for _ in range(999))}
    for number, unique in enumerate(waiting):
        if number != 7:
            assert answers[unique] == (0, source.contents["onnx/model.onnx"][number * 100 :][:50])


def test_forgets_and_late_interrupts_are_not_answered(kernel: Kernel) -> None:
    kernel.send(abi.Op.FORGET, 1, struct.pack("=Q", 1))
    kernel.send(abi.Op.BATCH_FORGET, 0, struct.pack("=IIQQ", 1, 0, 1, 1))
    kernel.send(abi.Op.INTERRUPT, 0, abi.interrupt_in.pack(999_999))
    kernel.send(abi.Op.INTERRUPT, 0, b"")
    assert kernel.lookup(1, "README.md")  # the next reply is that of this request


@pytest.mark.allow_warnings("malformed")
@settings(max_examples=examples(300), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(opcode=st.integers(1, 60), node=st.integers(0, 2**64 - 1) | st.just(1), body=st.binary(max_size=120))
def test_no_request_ends_the_loop(kernel: Kernel, opcode: int, node: int, body: bytes) -> None:
    if opcode in (abi.Op.DESTROY, abi.Op.INIT):
        return
    unique = kernel.send(opcode, node, body)
    if opcode not in abi.UNANSWERED:
        got, error, _ = kernel.receive()
        assert got == unique
        assert 0 <= error < 4096
    assert kernel.lookup(1, "README.md")


@pytest.mark.allow_warnings("malformed")
@settings(max_examples=examples(100), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(message=st.binary(min_size=1, max_size=100))
def test_no_bytes_end_the_loop(kernel: Kernel, message: bytes) -> None:
    if len(message) >= 8 and struct.unpack_from("=I", message)[0] == len(message):
        return
    kernel.sock.send(message)
    assert kernel.lookup(1, "README.md")


def test_attributes_of_a_file_that_became_local_are_dropped(kernel: Kernel) -> None:
    node = kernel.lookup(1, "README.md")
    answer = kernel.ask(abi.Op.GETATTR, node, struct.pack("=IIQ", 0, 0, 0))
    assert abi.attr_out.unpack_from(answer)[0] == 60
    handle = kernel.open(node)
    kernel.send(abi.Op.READ, node, read_body(handle, 0, 10))
    messages = [kernel.receive() for _ in range(2)]
    [(unique, code, body)] = [message for message in messages if not message[0]]
    assert (unique, -code) == (0, abi.NotifyCode.INVAL_INODE)
    assert abi.inval_inode_out.unpack(body) == (node, -1, 0)  # below 0: attributes only
    answer = kernel.ask(abi.Op.GETATTR, node, struct.pack("=IIQ", 0, 0, 0))
    assert abi.attr_out.unpack_from(answer)[0] == 3600


def test_an_interrupt_before_its_request_is_not_lost(kernel: Kernel, source: MemorySource) -> None:
    node = kernel.lookup(kernel.lookup(1, "onnx"), "model.onnx")
    handle = kernel.open(node)
    source.gate.clear()
    coming = kernel.unique + 4  # the number after the interrupt's own
    kernel.send(abi.Op.INTERRUPT, 0, abi.interrupt_in.pack(coming))
    assert kernel.unique == coming - 2
    while coming not in kernel.binding._early:  # type: ignore[attr-defined]
        assert kernel.server.is_alive()  # type: ignore[attr-defined]
    assert kernel.send(abi.Op.READ, node, read_body(handle, 0, 50)) == coming
    assert kernel.receive() == (coming, errno.EINTR, b"")
    source.gate.set()


def test_waiting_to_drop_pages_delays_no_lookup(
    kernel: Kernel, filesystem: Filesystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    let_go = threading.Event()
    monkeypatch.setattr("hffs.fuse.kernel.binding.drop_pages", lambda _device, _node: let_go.wait(30))
    monkeypatch.setattr(filesystem.view, "lookup_waits", lambda _parent, _name: True)
    try:
        for node in range(SLOW):
            kernel.binding._drop_pages(node)  # type: ignore[attr-defined]
        assert kernel.lookup(1, "onnx")
    finally:
        let_go.set()
