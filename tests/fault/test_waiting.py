"""Readers that wait for a CDN that does not answer: they can be killed, seen, and left behind by an unmount."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.hub import Hub, Match, Synthetic, faults
from tests.hub.script import Fault
from tests.mount.conftest import Mount
from tests.mount.mounted import CHECKOUT, Commands, eventually, on_both_bindings, process_start

from .refusing import Refusals, at

NAME = "model.safetensors"
MADE = Synthetic(64 << 20, seed=71)
FAR = 48 << 20
GONE_IN = 1.0  # seconds for a killed process to be gone
DISTANCE = 1 << 20  # between places that are read at the same time
DATA = Match(kind="cdn")


@pytest.fixture(autouse=True)
def big(hub: Hub) -> None:
    hub.add_repo("acme/big", files={NAME: MADE, "config.json": b"{}", "other.bin": Synthetic(1 << 20, seed=72)})


@contextmanager
def reader(way: str, path: Path, place: int = FAR) -> Iterator[subprocess.Popen[str]]:
    """A program that reads; it does not outlive the block, whatever it waits for."""
    command = [sys.executable, "-m", "tests.fault.programs", way, str(path), str(place)]
    process = subprocess.Popen(
        command, cwd=CHECKOUT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        yield process
    finally:
        process.kill()
        process.communicate(timeout=20)


def waits_in_the_kernel(pid: int) -> bool:
    """It sleeps inside a request to a FUSE file system, or in a page that such a request brings."""
    state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    where = Path(f"/proc/{pid}/wchan").read_text()
    return state in "SD" and ("fuse" in where or "request_wait" in where or "folio" in where or "page" in where)


@pytest.mark.parametrize("fault", [faults.hold(), faults.stall(1000)], ids=["no answer", "stalled"])
@pytest.mark.parametrize(
    ("binding", "way"),
    # What libfuse cannot do is in the next test.
    [
        ("kernel", "pread"),
        ("kernel", "fault"),
        ("kernel", "fault_at_random"),
        ("libfuse", "pread"),
        ("libfuse", "fault"),
    ],
    indirect=["binding"],
)
def test_a_reader_that_waits_and_is_killed_is_gone_within_a_second(
    hub: Hub, mount: Mount, way: str, fault: Fault
) -> None:
    mounted = mount("acme/big", "--prefetch", "none")
    hub.faults.add(DATA, fault)
    with reader(way, mounted / NAME) as process:
        hub.faults.wait_held(timeout=30)
        assert eventually(lambda: waits_in_the_kernel(process.pid), 10), Path(f"/proc/{process.pid}/wchan").read_text()
        process.kill()
        begun = time.monotonic()
        gone = eventually(lambda: process_start(process.pid) is None, 10)
        took = time.monotonic() - begun
        print(f"{way}: gone after {took:.3f} s")
        hub.faults.clear()
        assert gone
        assert took < GONE_IN
    with (mounted / NAME).open("rb") as file:
        assert os.pread(file.fileno(), 4096, FAR) == MADE.read(FAR, 4096), "the mount goes on"


@pytest.mark.allow_warnings
@pytest.mark.parametrize("binding", ["libfuse"], indirect=True)
def test_with_libfuse_a_killed_process_in_a_page_fault_ends_by_the_deadline(hub: Hub, mount: Mount) -> None:
    """Of a mapping that was advised MADV_RANDOM (Linux 6.18, libfuse 3.14): the kernel asks for the one page, and waits
    for the answer even when the process is killed. It sends INTERRUPT, to which the kernel binding answers EINTR at
    once; libfuse has no way to hand that to an operation that is written in Python. So it lasts until the read's
    deadline. Without that advice the page comes by read-ahead, whose waiting ends with the process."""
    mounted = mount("acme/big", "--prefetch", "none", "--read-timeout", "4")
    hub.faults.add(DATA, faults.hold())
    with reader("fault_at_random", mounted / NAME) as process:
        hub.faults.wait_held(timeout=30)
        assert eventually(lambda: waits_in_the_kernel(process.pid), 10)
        process.kill()
        begun = time.monotonic()
        assert eventually(lambda: process_start(process.pid) is None, 30)
        print(f"gone after {time.monotonic() - begun:.3f} s")
        hub.faults.clear()


@on_both_bindings
def test_one_of_many_waiting_readers_may_be_killed_and_the_others_get_their_bytes(hub: Hub, mount: Mount) -> None:
    mounted = mount("acme/big", "--prefetch", "none")
    hub.faults.add(DATA, faults.hold())
    with ExitStack() as stack:
        processes = [stack.enter_context(reader("pread", mounted / NAME)) for _ in range(4)]
        hub.faults.wait_held(timeout=30)
        assert eventually(lambda: all(waits_in_the_kernel(process.pid) for process in processes), 10)
        for process in processes[:2]:
            process.kill()
        assert eventually(lambda: all(process_start(process.pid) is None for process in processes[:2]), 5)
        assert [process.poll() for process in processes[2:]] == [None, None]
        hub.faults.clear()
        for process in processes[2:]:
            process.communicate(timeout=30)
            assert process.returncode == 0


@on_both_bindings
def test_status_answers_while_sixty_four_reads_wait_and_shows_them(hub: Hub, mount: Mount, commands: Commands) -> None:
    mounted = mount("acme/big", "--prefetch", "none")
    hub.faults.add(DATA, faults.hold())
    hub.faults.add(Match(kind="resolve"), faults.hold())
    program = (
        "import os, sys, threading\n"
        "file = os.open(sys.argv[1], os.O_RDONLY)\n"
        "def read(at): os.pread(file, 4096, at * int(sys.argv[2]))\n"
        "for at in range(64): threading.Thread(target=read, args=(at,), daemon=True).start()\n"
        "print('begun', flush=True)\n"
        "sys.stdin.read()\n"
        "os._exit(0)\n"
    )
    command = [sys.executable, "-c", program, str(mounted / NAME), str(DISTANCE)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "begun\n"
            hub.faults.wait_held(timeout=30)

            def places() -> set[int]:
                return {read["offset"] for read in mounted.status()["waiting_reads"] if read["path"] == NAME}

            wanted = {number * DISTANCE for number in range(64)}
            assert eventually(lambda: places() >= wanted, 30), sorted(wanted - places())
            begun = time.monotonic()
            shown = commands.expect("status", str(mounted.path))
            took = time.monotonic() - begun
            print(f"hffs status took {took:.3f} s")
            assert took < 5
            assert f"{NAME} at 1.0M for" in shown
            assert mounted.status()["state"] == "serving"
            if commands.binding == "kernel":  # a read that waits holds one of libfuse's threads, and these are 64
                assert (mounted / "config.json").stat().st_size == 2
        finally:
            process.kill()
            hub.faults.clear()


@on_both_bindings
@pytest.mark.allow_warnings
def test_unmounting_under_a_waiting_reader_says_busy_and_lazily_it_ends_in_time(
    hub: Hub, mount: Mount, commands: Commands, refusals: Refusals
) -> None:
    mounted = mount("acme/big", "--prefetch", "none", "--read-timeout", "4")
    hub.faults.add(DATA, faults.hold())
    with reader("pread", mounted / NAME) as process:
        hub.faults.wait_held(timeout=30)
        line = refusals.of(1, "unmount", mounted.path)
        assert line == f"{mounted.path} is busy: close the programs that use it, or hffs unmount --lazy"
        assert mounted.status()["state"] == "serving"
        begun = time.monotonic()
        commands.expect("unmount", "--lazy", str(mounted.path))
        assert not at(mounted.path)
        _, output = process.communicate(timeout=60)
        assert process.returncode == 1, "the read ended with an error at its deadline"
        assert f"[Errno {errno.ETIMEDOUT}]" in output or f"[Errno {errno.EIO}]" in output
    assert eventually(lambda: not mounted.is_alive(), 20)
    assert time.monotonic() - begun < 40, (
        "4 s for the read, which the kernel asks for twice; the rest is for a busy machine"
    )
    refusals.nothing_left()


@on_both_bindings
@pytest.mark.allow_warnings
def test_a_daemon_that_is_told_to_end_does_not_wait_for_the_cdn(
    hub: Hub, mount: Mount, commands: Commands, refusals: Refusals
) -> None:
    mounted = mount("acme/big", "--prefetch", "none")
    hub.faults.add(DATA, faults.stall(1000))
    with reader("pread", mounted / NAME) as process:
        hub.faults.wait_held(timeout=30)
        process.kill()
    begun = time.monotonic()
    commands.expect("unmount", str(mounted.path))
    assert eventually(lambda: not mounted.is_alive(), 20)
    took = time.monotonic() - begun
    print(f"unmounted and ended after {took:.3f} s")
    assert took < 8
    refusals.nothing_left()
