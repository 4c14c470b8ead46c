"""Many readers of one cold file, and one that stalls: no reader waits for the block of another.

A loader faults pages of one file from several threads and processes at once; a file system that holds a lock of the
file while it fetches stops them all.
"""

from __future__ import annotations

import errno
import hashlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.hub import Hub, Match, Request, Synthetic, faults

from .conftest import Mount
from .mounted import (
    CHECKOUT,
    PROGRAM_SECONDS,
    eventually,
    forget_pages,
    on_both_bindings,
    process_start,
    program,
    python,
    read,
)

NAME = "model.safetensors"
SIZE = 64 << 20
FAR = 48 << 20  # a place that no read-ahead from the beginning reaches
PROCESSES = 8


@pytest.fixture(scope="module")
def big(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Synthetic(SIZE, seed=5).write(tmp_path_factory.mktemp("big"))


@contextmanager
def started(*commands: list[str]) -> Iterator[list[subprocess.Popen[str]]]:
    """These programs at the same time; none outlives the block."""
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    running = [subprocess.Popen(command, cwd=CHECKOUT, text=True, **pipes) for command in commands]  # type: ignore[call-overload]
    try:
        yield running
    finally:
        for process in running:
            process.kill()
            process.communicate(timeout=PROGRAM_SECONDS)


def ended_well(process: subprocess.Popen[str], ends: float) -> None:
    _, output = process.communicate(timeout=max(0.1, ends - time.monotonic()))
    assert process.returncode == 0, output


def early(request: Request) -> bool:
    """A range that begins before FAR."""
    return int(request.headers.get("range", "bytes=0-").removeprefix("bytes=").partition("-")[0]) < FAR - (8 << 20)


@pytest.mark.parametrize("way", ["faults", "preads"])
def test_eight_processes_read_one_cold_file_at_random(hub: Hub, mount: Mount, big: Path, way: str) -> None:
    hub.shape.latency = 0.03
    hub.add_repo("acme/big", files={NAME: big})
    mounted = mount("acme/big")
    with started(*(python("reading", way, mounted / NAME, big, seed, 40) for seed in range(PROCESSES))) as readers:
        ends = time.monotonic() + PROGRAM_SECONDS
        for reader in readers:
            ended_well(reader, ends)
    assert hub.journal.bytes_sent("cdn") <= SIZE, "bytes were fetched twice"
    assert len(hub.journal.requests("resolve")) == 1


@on_both_bindings
def test_faults_that_are_held_up_do_not_hold_up_another_of_the_same_file(hub: Hub, mount: Mount, big: Path) -> None:
    hub.add_repo("acme/big", files={NAME: big})
    mounted = mount("acme/big", "--workers", "32")  # what is read ahead is held up too and must not take them all
    hub.faults.add(Match(kind="cdn", where=early), faults.hold())
    stuck = [python("reading", "one", mounted / NAME, big, at << 20) for at in (0, 10, 20, 30)]
    with started(*stuck) as readers:
        hub.faults.wait_held(len(stuck), timeout=30)
        read("one", mounted / NAME, big, FAR, timeout=30)
        assert [reader.poll() for reader in readers] == [None] * len(stuck), "the Hub has not answered them"
        hub.faults.clear()
        ends = time.monotonic() + PROGRAM_SECONDS
        for reader in readers:
            ended_well(reader, ends)


def test_a_hung_cdn_delays_only_the_reads_that_need_it(hub: Hub, mount: Mount, big: Path) -> None:
    other = Synthetic(3 << 20, seed=6)
    hub.add_repo("acme/big", files={NAME: big, "other.bin": other, "sub/x.txt": b"x"})
    mounted = mount("acme/big", "--prefetch", "none")
    assert (mounted / "other.bin").read_bytes() == other.read(0, other.size)
    digest = hashlib.sha256(other.read(0, other.size)).hexdigest()
    forget_pages(mounted / "other.bin")
    hub.faults.add(Match(kind="cdn", file=NAME), faults.stall(1000))
    with started(python("reading", "one", mounted / NAME, big, 5000)) as (reader,):
        hub.faults.wait_held(timeout=30)
        assert "x.txt" in program("ls", "-lR", mounted.path, timeout=20).stdout
        assert program("cat", mounted / "sub" / "x.txt", timeout=20).stdout == "x"
        assert program("sha256sum", mounted / "other.bin", timeout=20).stdout.split()[0] == digest
        status = mounted.status(timeout=20)
        assert NAME in [waiting["path"] for waiting in status["waiting_reads"]]
        assert reader.poll() is None, "the CDN has not answered it"
        hub.faults.clear()
        ended_well(reader, time.monotonic() + PROGRAM_SECONDS)


@pytest.mark.allow_warnings
def test_a_read_that_gets_no_bytes_ends_with_an_errno_in_time(hub: Hub, mount: Mount, big: Path) -> None:
    hub.add_repo("acme/big", files={NAME: big})
    mounted = mount("acme/big", "--prefetch", "none", "--read-timeout", "1")
    hub.faults.add(Match(kind="cdn", file=NAME), faults.stall(1000))
    began = time.monotonic()
    with (mounted / NAME).open("rb") as file, pytest.raises(OSError) as failed:
        os.pread(file.fileno(), 10, 5000)
    assert failed.value.errno in (errno.ETIMEDOUT, errno.EIO)
    assert time.monotonic() - began < 30, "1 s was asked for, and the kernel asks twice; the rest is for a busy machine"
    with started(python("reading", "one", mounted / NAME, big, FAR)) as (reader,):
        reader.communicate(timeout=30)
        assert reader.returncode == -signal.SIGBUS
    hub.faults.clear()
    assert eventually(lambda: reads_again(mounted / NAME, big), 30), "the mount works again once the CDN does"


def reads_again(path: Path, source: Path) -> bool:
    try:
        return path.read_bytes() == source.read_bytes()
    except OSError:
        return False


@pytest.mark.allow_warnings
def test_local_bytes_are_served_while_the_hub_is_down_and_others_fail_in_time(
    hub: Hub, mount: Mount, big: Path
) -> None:
    other = Synthetic(3 << 20, seed=6)
    hub.add_repo("acme/big", files={NAME: big, "other.bin": other, "config.json": b"{}"})
    mounted = mount("acme/big", "--prefetch", "none", "--read-timeout", "1")
    for path in ("other.bin", "config.json"):
        (mounted / path).read_bytes()
        forget_pages(mounted / path)
    hub.down()
    assert (mounted / "other.bin").read_bytes() == other.read(0, other.size)
    assert (mounted / "config.json").read_bytes() == b"{}"
    with pytest.raises(OSError) as failed:
        (mounted / NAME).read_bytes()
    assert failed.value.errno in (errno.ETIMEDOUT, errno.EIO)
    hub.up()
    assert eventually(lambda: reads_again(mounted / NAME, big), 30), "the mount works again once the Hub does"


@on_both_bindings
def test_a_killed_reader_dies_at_once(hub: Hub, mount: Mount, big: Path) -> None:
    hub.add_repo("acme/big", files={NAME: big})
    mounted = mount("acme/big", "--prefetch", "none")
    hub.faults.add(Match(kind="cdn", file=NAME), faults.hold())
    with started(["cat", str(mounted / NAME)]) as (reader,):
        hub.faults.wait_held(timeout=30)
        reader.kill()
        assert eventually(lambda: process_start(reader.pid) is None, 5), "it waits for the file system"
        hub.faults.clear()
