"""Reads waiting for a CDN that never answers delay no other process, end on a signal, and use no processor time."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.hub import Hub, Match, Synthetic, faults

from .conftest import Mount
from .mounted import CHECKOUT, PROGRAM_SECONDS, Mounted, eventually, forget_pages, process_start, program, python

pytestmark = pytest.mark.kernel

NAME = "model.safetensors"
OTHER = Synthetic(3 << 20, seed=6)
SIZE = 64 << 20
STEP = 64 << 10
SOON = 2.0  # for what happens within a second on a machine that has nothing else to do


@pytest.fixture(scope="module")
def big(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Synthetic(SIZE, seed=5).write(tmp_path_factory.mktemp("big"))


@pytest.fixture
def stalled(hub: Hub, mount: Mount, big: Path) -> Iterator[Mounted]:
    """A mount with a file that never arrives, and one that is local except for its end."""
    hub.add_repo("acme/big", files={NAME: big, "other.bin": OTHER, "config.json": b"{}"})
    mounted = mount("acme/big", "--prefetch", "none")
    with (mounted / "other.bin").open("rb", buffering=0) as file:
        assert file.read(1 << 20) == OTHER.read(0, 1 << 20)
    (mounted / "config.json").read_bytes()
    hub.faults.add(Match(kind="cdn", file=NAME), faults.hold())
    yield mounted
    hub.faults.clear()


@contextmanager
def started(*commands: list[str]) -> Iterator[list[subprocess.Popen[str]]]:
    """Runs these programs concurrently; none outlives the block."""
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    running = [subprocess.Popen(command, cwd=CHECKOUT, text=True, **pipes) for command in commands]  # type: ignore[call-overload]
    try:
        yield running
    finally:
        for process in running:
            process.kill()
            process.communicate(timeout=PROGRAM_SECONDS)


def waiting(mounted: Mounted, count: int = 1) -> None:
    """Waits until at least this many reads wait in the daemon."""
    reads = [0]

    def enough() -> bool:
        reads[0] = len(mounted.status()["waiting_reads"])
        return reads[0] >= count

    assert eventually(enough, 60), f"{reads[0]} of {count} reads wait"


def gone_after(pids: list[int]) -> float:
    """Returns the seconds until these processes ended."""
    began = time.monotonic()
    assert eventually(lambda: not any(process_start(pid) for pid in pids), 30), "they wait for the file system"
    return time.monotonic() - began


def test_a_thousand_waiting_reads_delay_neither_local_reads_nor_their_own_end(
    hub: Hub, stalled: Mounted, big: Path
) -> None:
    readers = [python("reading", "at_once", stalled / NAME, big, 1 + 100 * number, 100, STEP) for number in range(10)]
    with started(*readers) as processes:
        waiting(stalled, 1000)
        forget_pages(stalled / "other.bin")
        began = time.monotonic()
        with (stalled / "other.bin").open("rb", buffering=0) as file:
            assert file.read(1 << 20) == OTHER.read(0, 1 << 20)
        local = time.monotonic() - began
        began = time.monotonic()
        assert sorted(os.listdir(stalled.path)) == sorted([NAME, "other.bin", "config.json"])
        assert not (stalled / "nope").exists()
        assert (stalled / "config.json").read_bytes() == b"{}"
        others = time.monotonic() - began
        half = processes[::2]
        for reader in half:
            reader.kill()
        ended = gone_after([reader.pid for reader in half])
        print(f"behind 1000 reads: local MiB {local:.3f} s, names {others:.3f} s; 5 x 100 killed {ended:.3f} s")
        assert local < SOON
        assert others < SOON
        assert ended < SOON
        hub.faults.clear()
        for reader in processes[1::2]:
            _, output = reader.communicate(timeout=PROGRAM_SECONDS)
            assert reader.returncode == 0, output
    assert eventually(lambda: stalled.status()["waiting_reads"] == [], 30)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT], ids=["killed", "interrupted"])
@pytest.mark.parametrize("way", ["read", "direct", "fault"])
def test_a_waiting_reader_ends_on_a_signal(stalled: Mounted, big: Path, way: str, number: signal.Signals) -> None:
    """SIGINT with its default action. A process with a handler continues to wait for a page, as on every disk."""
    read = {
        "read": ["cat", str(stalled / NAME)],
        "direct": ["dd", f"if={stalled / NAME}", "of=/dev/null", "bs=64K", "iflag=direct"],
        "fault": python("reading", "one", stalled / NAME, big, 5000),
    }[way]
    with started(read) as (reader,):
        waiting(stalled)
        assert reader.poll() is None
        os.kill(reader.pid, number)
        ended = gone_after([reader.pid])
        assert reader.wait(10) == -number
        assert ended < SOON


def test_a_read_without_bytes_until_its_deadline_fails_with_etimedout(hub: Hub, mount: Mount, big: Path) -> None:
    hub.add_repo("acme/big", files={NAME: big})
    mounted = mount("acme/big", "--prefetch", "none", "--read-timeout", "3")
    hub.faults.add(Match(kind="cdn", file=NAME), faults.hold())
    began = time.monotonic()
    with (mounted / NAME).open("rb") as file, pytest.raises(OSError) as failed:
        os.pread(file.fileno(), 10, SIZE // 2)
    took = time.monotonic() - began
    assert failed.value.errno == errno.ETIMEDOUT
    assert took > 2.9
    assert took < 3 * 3 + SOON, "the kernel asks once more, for the page alone"
    hub.faults.clear()


# Ending the mount.


def test_a_mount_with_waiting_readers_is_busy_and_unchanged(hub: Hub, stalled: Mounted, big: Path) -> None:
    with started(python("reading", "one", stalled / NAME, big, 5000)) as (reader,):
        waiting(stalled)
        done = stalled.commands.run("unmount", str(stalled.path))
        assert done.returncode == 1
        assert "busy" in done.stderr
        assert "--lazy" in done.stderr
        assert done.stderr.count("\n") == 1
        assert stalled.is_mounted()
        assert stalled.status()["state"] == "serving"
        hub.faults.clear()
        _, output = reader.communicate(timeout=PROGRAM_SECONDS)
        assert reader.returncode == 0, output


def test_a_lazy_unmount_hides_the_mount_and_lets_readers_finish(hub: Hub, stalled: Mounted, big: Path) -> None:
    with started(python("reading", "one", stalled / NAME, big, 5000)) as (reader,):
        waiting(stalled)
        stalled.commands.expect("unmount", "--lazy", str(stalled.path))
        assert not stalled.is_mounted()
        assert os.listdir(stalled.path) == []
        assert reader.poll() is None
        hub.faults.clear()
        _, output = reader.communicate(timeout=PROGRAM_SECONDS)
        assert reader.returncode == 0, output
    assert eventually(lambda: not stalled.is_alive(), 20), "no process reads any more"


def test_a_lazily_unmounted_daemon_ends_with_its_last_reader(hub: Hub, stalled: Mounted, big: Path) -> None:
    with started(python("reading", "one", stalled / NAME, big, 5000), ["cat", str(stalled / NAME)]) as readers:
        waiting(stalled)
        stalled.commands.expect("unmount", "--lazy", str(stalled.path))
        for reader in readers:
            reader.kill()
        assert gone_after([reader.pid for reader in readers]) < SOON
    hub.faults.clear()
    assert eventually(lambda: not stalled.is_alive(), 20), "no process reads any more"


# Names that wait for the Hub.


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT], ids=["killed", "interrupted"])
@pytest.mark.parametrize("way", ["list", "look up"])
def test_a_process_waiting_for_a_listing_ends_on_a_signal(
    hub: Hub, mount: Mount, way: str, number: signal.Signals
) -> None:
    """A process whose request was read by the daemon cannot end before the daemon replies."""
    hub.page_size = 10
    hub.add_repo("acme/wide", files={f"deep/{n // 30}/{n:03}.txt": b"x" for n in range(90)})
    mounted = mount("acme/wide", "--prefetch", "none")
    hub.faults.add(Match(kind="tree"), faults.hold())
    hub.faults.add(Match(kind="paths-info"), faults.hold())
    try:
        where = mounted / "deep" / "1"
        with started(["ls", "-f", str(where)] if way == "list" else ["cat", str(where / "055.txt")]) as (reader,):
            hub.faults.wait_held(timeout=20)
            assert reader.poll() is None
            os.kill(reader.pid, number)
            ended = gone_after([reader.pid])
            assert reader.wait(10) == -number
            assert ended < SOON
    finally:
        hub.faults.clear()
    assert len(os.listdir(mounted / "deep" / "1")) == 30


# What it costs.


def ticks(pid: int) -> int:
    """Returns the processor time of a process in ticks of 10 ms, user and system (proc(5))."""
    after_name = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    return int(after_name[11]) + int(after_name[12])


def resident(pid: int) -> int:
    """Returns the memory of a process in KiB."""
    return next(
        int(line.split()[1]) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line[:6] == "VmRSS:"
    )


def processes(mounted: Mounted) -> list[int]:
    """Returns the pids of the daemon and of its supervisor, if any."""
    status = mounted.status()
    return [int(status["pid"]), *([int(status["supervisor"]["pid"])] if status["supervisor"] else [])]


def test_an_idle_mount_uses_no_processor_time(hub: Hub, mount: Mount) -> None:
    hub.add_repo("acme/tiny", files={"config.json": b"{}"})
    mounted = mount("acme/tiny")
    assert eventually(lambda: mounted.status()["bytes_local"] == 2, 20)
    assert (mounted / "config.json").read_bytes() == b"{}"
    pids = processes(mounted)
    assert eventually(lambda: mounted.status()["verification"]["verified"] == 1, 20)
    before = [ticks(pid) for pid in pids]
    time.sleep(3)  # what is measured is that time passes and nothing is done
    assert sum(map(ticks, pids)) - sum(before) <= 2


def test_twenty_thousand_files_are_listed_in_bounded_memory(hub: Hub, mount: Mount) -> None:
    hub.add_repo("acme/wide", files={f"{number % 20:02}/{number:05}.txt": b"x" for number in range(20_000)})
    mounted = mount("acme/wide", "--prefetch", "none")
    for _ in range(2):
        assert len(program("find", mounted.path, "-type", "f", "-size", "1c").stdout.splitlines()) == 20_000
    used = {pid: resident(pid) for pid in processes(mounted)}
    print(f"20,000 files listed: {list(used.values())} KiB resident")
    assert sum(used.values()) <= 150 * 1024
