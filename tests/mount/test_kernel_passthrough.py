"""The kernel reads local, verified files directly: never an EIO or zeros, and status lists these files and the reason
for the others."""

from __future__ import annotations

import hashlib
import mmap
import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from hffs.cache import BlobStore, Layout
from hffs.cache.store.layout import BlobPaths
from hffs.model import Blob, Digest
from hffs.ranges import block_count
from tests.hub import Hub

from .mounted import Commands, Mounted, eventually, forget_pages, read
from .sample import BIG, BLOCK, content

NAME = "weights.safetensors"
SHA256 = hashlib.sha256(content(NAME)).hexdigest()
KERNEL = tuple(int(part) for part in os.uname().release.split(".")[:2])

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(KERNEL < (6, 9), reason="LINUX BEFORE 6.9, NOT TESTED: passthrough"),
    pytest.mark.skipif(os.geteuid() != 0, reason="NOT ROOT, NOT TESTED: passthrough"),
]


def served(mounted: Mounted, name: str = NAME) -> tuple[int, str, str]:
    """Returns the handles of a file, how they are served, and why not by passthrough."""
    for each in mounted.status()["open_files"]:
        if each["path"] == name:
            return each["handles"], each["served"], each["why"]
    return 0, "", ""


def closed(mounted: Mounted, name: str = NAME) -> None:
    """Waits for the release, which the kernel sends a moment after the close."""
    assert eventually(lambda: served(mounted, name)[0] == 0, 10), served(mounted, name)


def verified(mounted: Mounted, name: str = NAME) -> None:
    """Waits until the file is local, verified and closed."""
    (mounted / name).read_bytes()
    assert eventually(lambda: state(mounted, name) == "verified", 20), state(mounted, name)
    closed(mounted, name)


def state(mounted: Mounted, name: str = NAME) -> str:
    return os.getxattr(mounted / name, "user.hffs.state").decode()


def sent_through(path: Path) -> bytes:
    """Returns the file as sent into a socket by sendfile(2)."""
    ours, theirs = socket.socketpair()
    received = bytearray()

    def receive() -> None:
        while piece := theirs.recv(1 << 20):
            received.extend(piece)

    receiver = threading.Thread(target=receive)
    with ours, theirs:
        receiver.start()
        with path.open("rb") as file:
            ours.sendfile(file)
        ours.shutdown(socket.SHUT_WR)
        receiver.join(30)
    return bytes(received)


def is_passthrough(mounted: Mounted) -> None:
    """Asserts that a new open is passthrough and that all ways of reading give the right bytes."""
    with (mounted / NAME).open("rb") as file:
        assert served(mounted) == (1, "passthrough", "")
        assert file.read() == content(NAME)
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as pages:
            assert pages[:] == content(NAME)
    assert sent_through(mounted / NAME) == content(NAME)


def is_ordinary(mounted: Mounted) -> str:
    """Asserts that a new open is not passthrough, gives the right bytes, and that status has the reason."""
    with (mounted / NAME).open("rb") as file:
        handles, kind, why = served(mounted)
        assert (handles, kind) == (1, "kernel-cache")
        assert file.read() == content(NAME)
    assert why
    return str(why)


def test_a_file_that_became_local_while_open_is_passthrough_after_the_last_close(
    mounted: Mounted, source: Path
) -> None:
    with ExitStack() as stack:
        first = stack.enter_context((mounted / NAME).open("rb"))
        assert first.read() == content(NAME)
        assert eventually(lambda: state(mounted) == "verified", 20)
        second = stack.enter_context((mounted / NAME).open("rb"))
        assert served(mounted) == (2, "kernel-cache", "not completely local and verified when it was opened")
        for seed in range(3):
            read("preads", mounted / NAME, source / NAME, seed, 20)
        forget_pages(mounted / NAME)
        assert second.read() == content(NAME)
        first.close()
        third = stack.enter_context((mounted / NAME).open("rb"))
        assert eventually(lambda: served(mounted)[:2] == (2, "kernel-cache"), 10), served(mounted)
        assert third.read() == content(NAME)
        kept = stack.enter_context(mmap.mmap(third.fileno(), 0, access=mmap.ACCESS_READ))
        second.close()
        third.close()
        # A mapping holds its handle as a descriptor does.
        with (mounted / NAME).open("rb") as fourth:
            assert served(mounted)[1] == "kernel-cache"
            assert fourth.read() == kept[:] == content(NAME)
    closed(mounted)
    is_passthrough(mounted)
    read("private", mounted / NAME, source / NAME)


def test_concurrent_handles_share_one_backing_file(mounted: Mounted, source: Path) -> None:
    verified(mounted)
    with ExitStack() as stack:
        files = [stack.enter_context((mounted / NAME).open("rb")) for _ in range(5)]
        assert served(mounted) == (5, "passthrough", "")
        for file in files:
            assert file.read() == content(NAME)
        files[0].close()
        files.append(stack.enter_context((mounted / NAME).open("rb")))
        assert files[-1].read() == content(NAME)
        read("threads", mounted / NAME, source / NAME, 8)
    closed(mounted)
    is_passthrough(mounted)


def test_concurrent_opens_and_closes_never_fail(mounted: Mounted) -> None:
    """While the file turns from remote to verified: the kernel refuses an open of the wrong kind with EIO."""
    wrong: list[object] = []
    start = threading.Barrier(8)

    def reader(number: int) -> None:
        start.wait(20)
        for turn in range(60):
            at = (number * 7919 + turn * 104729) % (BIG.size - 4096)
            try:
                file = os.open(mounted / NAME, os.O_RDONLY | os.O_CLOEXEC)
                try:
                    if os.pread(file, 4096, at) != BIG.read(at, 4096):
                        wrong.append((number, turn, at))
                    if turn == 20:
                        while os.read(file, 1 << 20):
                            pass
                finally:
                    os.close(file)
            except OSError as error:
                wrong.append((number, turn, error))

    threads = [threading.Thread(target=reader, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(100)
    assert wrong == []
    verified(mounted)
    is_passthrough(mounted)


# The cache below.

ORDINARY = "not completely local and verified when it was opened"


@pytest.fixture
def place(hub: Hub, mounted: Mounted) -> BlobPaths:
    """Returns the paths of the file in the cache."""
    return Layout(str(mounted.commands.cache)).paths(SHA256, hub.endpoint)


def test_a_passthrough_file_is_never_punched_under_its_reader(hub: Hub, mounted: Mounted, place: BlobPaths) -> None:
    verified(mounted)
    store = BlobStore(Layout(str(mounted.commands.cache)))
    stored = store.open(Blob(SHA256, BIG.size, hub.endpoint, Digest("sha256", SHA256)))
    try:
        assert stored.verified, "it is the blob that the mount has made"
        with (mounted / NAME).open("rb") as file:
            assert served(mounted)[1] == "passthrough"
            assert stored.discard(range(block_count(BIG.size))) == 0, "this process is not the mount's"
            forget_pages(Path(place.data))
            assert file.read() == content(NAME)
            with (mounted / NAME).open("rb") as another:  # of the same kind, whatever the cache says by now
                assert another.read() == content(NAME)
        closed(mounted)
        assert is_ordinary(mounted) == ORDINARY
        verified(mounted)
        is_passthrough(mounted)
    finally:
        stored.close()
        store.close()


def test_an_ordinary_file_may_be_punched_and_is_fetched_again(hub: Hub, mounted: Mounted) -> None:
    store = BlobStore(Layout(str(mounted.commands.cache)))
    with (mounted / NAME).open("rb") as file:
        assert file.read() == content(NAME)
        assert eventually(lambda: state(mounted) == "verified", 20)
        stored = store.open(Blob(SHA256, BIG.size, hub.endpoint, Digest("sha256", SHA256)))
        try:
            assert stored.discard(range(block_count(BIG.size))) == BIG.size
        finally:
            stored.close()
            store.close()
        forget_pages(mounted / NAME)
        file.seek(0)
        assert file.read() == content(NAME)
    assert hub.journal.bytes_sent("cdn") == 2 * BIG.size


@pytest.mark.allow_warnings
def test_a_file_damaged_on_disk_is_read_through_the_daemon_and_mended(mounted: Mounted, place: BlobPaths) -> None:
    verified(mounted)
    with open(place.data, "r+b") as data:
        data.seek(BLOCK + 100)
        data.write(b"damage")
    assert state(mounted) == "local"
    assert is_ordinary(mounted) == ORDINARY
    closed(mounted)
    forget_pages(mounted / NAME)  # the kernel reads cached pages without a request
    verified(mounted)
    is_passthrough(mounted)


@pytest.fixture
def cache_on(request: pytest.FixtureRequest, commands: Commands) -> Iterator[str]:
    """The cache on its own file system, mounted before the daemon starts."""
    layers = str(request.param).split(" on ")[::-1]
    commands.cache.mkdir()
    places = [commands.home / f"below-{number}" for number in range(len(layers))]
    made: list[Path] = []

    def mounted(*words: str | Path) -> None:
        done = subprocess.run(["mount", *map(str, words)], capture_output=True, text=True, timeout=20)
        if done.returncode:
            pytest.skip(f"NO {request.param}, NOT TESTED: {done.stderr.strip()}")
        made.append(Path(words[-1]))

    try:
        for number, (kind, place) in enumerate(zip(layers, places, strict=True)):
            place.mkdir()
            if kind == "tmpfs":
                mounted("-t", "tmpfs", "-o", "size=64m,mode=700", "tmpfs", place)
                continue
            parts = {name: places[number - 1] / name for name in ("lowerdir", "upperdir", "workdir")}
            for path in parts.values():
                path.mkdir()
            mounted("-t", "overlay", "-o", ",".join(f"{name}={path}" for name, path in parts.items()), "overlay", place)
        mounted("--bind", places[-1], commands.cache)
        yield str(request.param)
    finally:
        for path in reversed(made):
            subprocess.run(["umount", "-l", str(path)], check=True, timeout=20)


@pytest.mark.parametrize("cache_on", ["tmpfs", "overlay on tmpfs"], indirect=True)
def test_a_cache_on_a_stacked_file_system_serves_passthrough(cache_on: str, mounted: Mounted) -> None:
    verified(mounted)
    is_passthrough(mounted)
    with (mounted / NAME).open("rb") as one, (mounted / NAME).open("rb") as other:
        assert one.read() == other.read() == content(NAME)
