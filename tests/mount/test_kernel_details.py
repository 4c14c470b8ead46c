"""What the kernel caches of a mount, and rarely used system calls.

A stopped daemon shows that the kernel sends no request: a process that needed a reply would hang.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.hub import Hub

from .conftest import Mount
from .mounted import Mounted, eventually
from .sample import BIG, BLOCK, FILES, content

pytestmark = pytest.mark.kernel

WEIGHTS = "weights.safetensors"
NO_REQUEST_SECONDS = 20.0  # seconds; a program that needs a reply would block


@contextmanager
def stopped(mounted: Mounted) -> Iterator[None]:
    """Stops the daemon meanwhile."""
    os.kill(mounted.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(mounted.pid, signal.SIGCONT)


def output_of(code: str, *arguments: str | Path | int, pass_fd: int | None = None) -> bytes:
    """Returns the output of a Python program, which is killed at a timeout; ``pass_fds`` are inherited."""
    command = [sys.executable, "-S", "-c", f"import os, sys\n{code}", *map(str, arguments)]
    inherited = () if pass_fd is None else (pass_fd,)
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        pass_fds=inherited,
        check=True,
        timeout=NO_REQUEST_SECONDS,
    )
    return done.stdout


# What is kept.


def test_a_listing_includes_the_attributes_of_every_file(mounted: Mounted) -> None:
    """READDIRPLUS returns entries and attributes with the names."""
    folder = mounted / "blocks"
    names = sorted(os.listdir(folder))
    with stopped(mounted):
        output = output_of("for name in sys.argv[2:]: print(os.stat(sys.argv[1] + '/' + name).st_size)", folder, *names)
    assert list(map(int, output.split())) == [len(content(f"blocks/{name}")) for name in names]


def test_a_second_listing_comes_from_the_kernel(mounted: Mounted) -> None:
    """FOPEN_CACHE_DIR. Only OPENDIR is sent each time."""
    names = os.listdir(mounted / "blocks")
    folder = os.open(mounted / "blocks", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with stopped(mounted):
            output = output_of("print(*os.listdir(int(sys.argv[1])), sep='\\n')", folder, pass_fd=folder)
    finally:
        os.close(folder)
    assert output.decode().splitlines() == names


def test_missing_names_are_cached(mounted: Mounted) -> None:
    missing = [mounted / name for name in ("adapter_config.json", "blocks/nope", "nope")]
    assert not any(os.path.exists(path) for path in missing)
    with stopped(mounted):
        output = output_of("for path in sys.argv[1:]: print(os.path.exists(path))", *missing)
    assert output.split() == [b"False"] * len(missing)


def test_pages_outlive_their_handle(mounted: Mounted) -> None:
    """FOPEN_KEEP_CACHE: the content of a commit never changes."""
    length = 2 * BLOCK
    with (mounted / WEIGHTS).open("rb", buffering=0) as file:
        assert os.pread(file.fileno(), length, 0) == BIG.read(0, length)
    with (mounted / WEIGHTS).open("rb", buffering=0) as again, stopped(mounted):
        code = "sys.stdout.buffer.write(os.pread(int(sys.argv[1]), int(sys.argv[2]), 0))"
        output = output_of(code, again.fileno(), length, pass_fd=again.fileno())
    assert output == BIG.read(0, length)


def test_stat_shows_new_local_blocks_despite_cached_attributes(mounted: Mounted) -> None:
    path = mounted / WEIGHTS
    assert os.stat(path).st_blocks == 1
    with stopped(mounted):
        assert output_of("print(os.stat(sys.argv[1]).st_blocks)", path).split() == [b"1"]
    assert path.read_bytes() == content(WEIGHTS)
    # A minute is promised.
    assert eventually(lambda: os.stat(path).st_blocks == -(-BIG.size // 512), 60), os.stat(path).st_blocks


# Ways to read.


def test_direct_reads_of_remote_and_local_files_are_correct(mounted: Mounted) -> None:
    def direct() -> bytes:
        """Returns aligned memory, as O_DIRECT requires."""
        found = bytearray()
        file = os.open(mounted / WEIGHTS, os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC)
        try:
            with mmap.mmap(-1, 1 << 20) as piece:
                while count := os.preadv(file, [piece], len(found)):
                    found += piece[:count]
        finally:
            os.close(file)
        return bytes(found)

    assert direct() == content(WEIGHTS)
    assert eventually(lambda: os.getxattr(mounted / WEIGHTS, "user.hffs.state") == b"verified", 20)
    assert direct() == content(WEIGHTS)
    with (mounted / WEIGHTS).open("rb"):
        assert direct() == content(WEIGHTS)


def test_readahead_and_fadvise_fetch_a_file_before_it_is_read(hub: Hub, mounted: Mounted) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    with (mounted / WEIGHTS).open("rb", buffering=0) as file:
        assert libc.readahead(file.fileno(), ctypes.c_int64(0), ctypes.c_size_t(BLOCK)) == 0
        assert eventually(lambda: hub.journal.bytes_sent("cdn") >= BLOCK, 20)
        for advice in (os.POSIX_FADV_SEQUENTIAL, os.POSIX_FADV_WILLNEED, os.POSIX_FADV_RANDOM, os.POSIX_FADV_DONTNEED):
            os.posix_fadvise(file.fileno(), 0, 0, advice)
        assert file.read(BLOCK) == BIG.read(0, BLOCK)


def test_a_file_can_be_spliced_and_copied_by_the_kernel(mounted: Mounted, tmp_path: Path) -> None:
    with (mounted / WEIGHTS).open("rb", buffering=0) as file:
        reading, writing = os.pipe2(os.O_CLOEXEC)
        try:
            at = 3 * BLOCK + 5
            count = os.splice(file.fileno(), writing, 4096, offset_src=at)
            assert count > 0
            assert os.read(reading, count) == BIG.read(at, count)
        finally:
            os.close(reading)
            os.close(writing)
        with (tmp_path / "copy").open("wb") as copy:
            try:
                count = os.copy_file_range(file.fileno(), copy.fileno(), BLOCK, offset_src=7)
            except OSError as error:
                if error.errno == errno.EXDEV:  # to another kind of file system; cp then reads and writes
                    return
                raise
        assert (tmp_path / "copy").read_bytes() == BIG.read(7, count)


def test_locks_work_between_local_processes(mounted: Mounted) -> None:
    def blocked() -> bool:
        code = (
            "import fcntl\nfile = open(sys.argv[1], 'rb')\n"
            "try: fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)\nexcept BlockingIOError: print('blocked')"
        )
        return output_of(code, mounted / WEIGHTS) == b"blocked\n"

    for _ in ("ordinary", "then passthrough, where that is offered"):
        with (mounted / WEIGHTS).open("rb") as file:
            assert not blocked()
            fcntl.flock(file, fcntl.LOCK_SH)
            assert blocked()
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            assert blocked()
            fcntl.flock(file, fcntl.LOCK_UN)
            fcntl.lockf(file, fcntl.LOCK_SH | fcntl.LOCK_NB, 10)
            assert file.read() == content(WEIGHTS)
        assert eventually(lambda: os.getxattr(mounted / WEIGHTS, "user.hffs.state") == b"verified", 20)
        assert eventually(lambda: mounted.status()["open_files"] == [], 10)


# What is refused.


def test_no_file_of_a_repo_is_executable(hub: Hub, mount: Mount) -> None:
    """Modes are 0444, set-user-ids and devices are off: a script of a repo runs only as an argument of a shell."""
    hub.add_repo("acme/tiny", files={"run.sh": b"#!/bin/sh\necho ran\n"})
    mounted = mount("acme/tiny")
    assert not os.access(mounted / "run.sh", os.X_OK)
    with pytest.raises(PermissionError):
        subprocess.run([str(mounted / "run.sh")], check=False)
    assert os.statvfs(mounted.path).f_flag & (os.ST_NOSUID | os.ST_NODEV) == os.ST_NOSUID | os.ST_NODEV
    assert output_of("print(open(sys.argv[1]).read())", mounted / "run.sh").startswith(b"#!/bin/sh")


TOO_LONG = {255: {errno.ENOENT}, 256: {errno.ENOENT, errno.ENAMETOOLONG}, 5000: {errno.ENAMETOOLONG}}


def test_a_name_that_is_too_long_is_refused(mounted: Mounted) -> None:
    ways: list[Callable[[Path], object]] = [os.stat, os.listdir, lambda path: os.getxattr(path, "user.hffs.state")]
    for length, numbers in TOO_LONG.items():
        for way in ways:
            with pytest.raises(OSError) as refused:
                way(mounted / ("n" * length))
            assert refused.value.errno in numbers, length


HOLDING = {
    "folder": "held = os.open(sys.argv[1] + '/blocks', os.O_RDONLY)",
    "working directory": "os.chdir(sys.argv[1])",
    "mapping": "import mmap\nheld = mmap.mmap(os.open(sys.argv[1] + '/config.json', os.O_RDONLY), 0, prot=1)",
}


def test_a_mount_in_use_is_busy_until_its_last_close(mounted: Mounted) -> None:
    for kind, program in HOLDING.items():
        code = f"import os, sys\n{program}\nprint('held', flush=True)\nsys.stdin.read()"
        command = [sys.executable, "-S", "-c", code, str(mounted.path)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
            try:
                assert holder.stdout is not None
                assert holder.stdout.readline() == "held\n"
                done = mounted.commands.run("unmount", str(mounted.path))
                assert (done.returncode, done.stderr.count("\n")) == (1, 1), (kind, done.stderr)
                assert "busy" in done.stderr
                assert (mounted / "README.md").read_bytes() == FILES["README.md"]
            finally:
                holder.communicate(timeout=20)
    mounted.unmount()
