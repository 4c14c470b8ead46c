"""Readers survive the death of the daemon, and its upgrade: they see a pause and then the right bytes.

Each test ends with its mount gone and nothing of it left: no process, no socket, no record, no journal.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.hub import Hub, Match, Synthetic, faults

from .conftest import Mount
from .mounted import CHECKOUT, PROGRAM_SECONDS, Commands, Mounted, eventually, forget_pages, process_start

pytestmark = pytest.mark.allow_warnings  # a death is logged as a warning

COLD = 32 << 20
LOCAL = 16 << 20
ROUNDS = int(os.environ.get("HFFS_SURVIVAL_ROUNDS", "3"))
BACK_SECONDS = 20.0  # for a worker to be started again: 0.3 s on an idle machine
READS = 50

Killed = Callable[[Mounted], None]


class Processes:
    """The processes of a mount, from outside of it."""

    def __init__(self, mounted: Mounted) -> None:
        self.mounted = mounted
        self.supervisor = int(mounted.status()["supervisor"]["pid"])
        self._seen = {self.supervisor: process_start(self.supervisor)}
        self.worker()

    def worker(self) -> int:
        pid = int(self.mounted.status()["pid"])
        self._seen[pid] = process_start(pid)
        return pid

    def kill_worker(self) -> None:
        os.kill(self.worker(), signal.SIGKILL)

    def back(self, restarts: int) -> bool:
        """Whether a worker serves again, after so many restarts."""

        def serves() -> bool:
            reported = self.mounted.status()
            return reported["state"] == "serving" and reported["supervisor"]["restarts"] >= restarts

        return eventually(serves, BACK_SECONDS)

    def alive(self) -> list[int]:
        return [pid for pid, start in self._seen.items() if start is not None and process_start(pid) == start]

    def assert_nothing_left(self) -> None:
        assert not self.mounted.is_mounted()
        assert eventually(lambda: not self.alive(), 10), f"{self.alive()} outlive the mount"
        left = [path.name for path in self.mounted.commands.runtime.iterdir() if path.suffix != ".log"]
        assert left == []


@pytest.fixture
def lasting(mount: Mount) -> Iterator[Callable[..., Processes]]:
    """``mount``, and afterwards the proof that nothing stays."""
    made: list[Processes] = []

    def mounts(repo: str, *options: str) -> Processes:
        made.append(Processes(mount(repo, *options)))
        return made[-1]

    try:
        yield mounts
        for processes in made:
            if processes.mounted.is_mounted():
                processes.worker()
                processes.mounted.unmount()
            processes.assert_nothing_left()
    finally:
        for processes in made:
            for pid in processes.alive():
                os.kill(pid, signal.SIGKILL)
            processes.mounted.force_unmount()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Big files, some of which a test makes local, and a tree of small ones."""
    top = tmp_path_factory.mktemp("files")
    for seed, name in enumerate(("cold-0", "cold-1", "mapped")):
        Synthetic(COLD, seed=seed + 1).write(top).rename(top / f"{name}.bin")
    for seed, name in enumerate(("local-0", "local-1")):
        Synthetic(LOCAL, seed=seed + 10).write(top).rename(top / f"{name}.bin")
    for number in range(600):
        path = top / "tree" / f"{number % 12:02}" / f"{number:03}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"%d" % number * 100)
    return top


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def surviving(way: str, *arguments: str | Path | int) -> list[str]:
    return [sys.executable, "-m", "tests.mount.surviving", way, *map(str, arguments)]


@contextmanager
def running(*commands: list[str]) -> Iterator[list[subprocess.Popen[str]]]:
    """Programs at the same time; none outlives the block."""
    pipes: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    started = [subprocess.Popen(command, cwd=CHECKOUT, text=True, **pipes) for command in commands]
    try:
        yield started
    finally:
        for process in started:
            process.kill()
            process.communicate(timeout=PROGRAM_SECONDS)


def output(process: subprocess.Popen[str]) -> str:
    reported, wrong = process.communicate(timeout=PROGRAM_SECONDS)
    assert process.returncode == 0, f"{process.args}: {process.returncode}\n{wrong[-3000:]}"
    return reported


def make_local(mounted: Mounted, *names: str) -> None:
    """Wholly here and verified, so that the next open is in passthrough where there is any."""
    for name in names:
        (mounted / name).read_bytes()

    def verified() -> bool:
        return bool(mounted.status()["verification"]["verified"] >= len(names))

    assert eventually(verified, 30)
    for name in names:
        forget_pages(mounted / name)


def served(mounted: Mounted, name: str) -> str:
    (found,) = [each for each in mounted.status()["open_files"] if each["path"] == name]
    return str(found["served"])


@pytest.mark.parametrize("number", range(ROUNDS))
def test_every_reader_survives_a_killed_worker(
    hub: Hub, lasting: Callable[..., Processes], files: Path, tmp_path: Path, number: int
) -> None:
    hub.add_repo("acme/big", files=files)
    mount = lasting("acme/big", "--prefetch", "none")
    mounted = mount.mounted
    make_local(mounted, "local-0.bin", "local-1.bin")
    hub.shape.latency = 0.02
    before = hub.journal.bytes_sent("cdn")
    stop = tmp_path / "stop"
    sums = ["cold-0.bin", "cold-1.bin", "local-0.bin", "local-1.bin"]
    with running(
        *(["sha256sum", str(mounted / name)] for name in sums),
        surviving("mapped", mounted / "mapped.bin", files / "mapped.bin"),
        surviving("finds", mounted / "tree", files / "tree", stop),
        surviving("opens", mounted / "tree", files / "tree", stop),
    ) as readers:
        far = (1 + number % 5) << 22  # each round dies at another place
        assert eventually(lambda: hub.journal.bytes_sent("cdn") - before >= far, 30)
        mount.kill_worker()
        assert mount.back(1)
        hub.shape.latency = 0
        stop.touch()
        for name, reader in zip(sums, readers[:4], strict=True):
            assert output(reader).split()[0] == digest(files / name), name
        for reader in readers[4:]:
            output(reader)


@pytest.mark.parametrize("way", ["list", "look"])
def test_a_listing_and_a_look_up_in_flight_are_answered_by_the_next_worker(
    hub: Hub, lasting: Callable[..., Processes], way: str
) -> None:
    hub.page_size = 50
    hub.add_repo("acme/wide", files={f"deep/{n // 30}/{n:03}.txt": b"%d" % n for n in range(90)})
    mount = lasting("acme/wide", "--prefetch", "none")
    hub.faults.add(Match(kind="tree"), faults.hold())
    hub.faults.add(Match(kind="paths-info"), faults.hold())
    where = mount.mounted / "deep" / "1"
    with running(["ls", "-f", str(where)] if way == "list" else ["cat", str(where / "055.txt")]) as (reader,):
        hub.faults.wait_held(timeout=20)
        mount.kill_worker()
        assert mount.back(1)
        assert reader.poll() is None
        hub.faults.clear()
        reported = output(reader)
    assert reported == "55" if way == "look" else "055.txt" in reported.split()


def test_requests_that_no_worker_has_read_yet_wait_for_the_next_one(
    hub: Hub, lasting: Callable[..., Processes], files: Path
) -> None:
    hub.add_repo("acme/big", files=files)
    mount = lasting("acme/big", "--prefetch", "none")
    place, source = mount.mounted / "tree", files / "tree"
    for folder in ("03", "04"):  # else all wait for the look-up of one folder
        assert (place / folder).is_dir()
    worker = mount.worker()
    stats = [["stat", "-c", "%s", str(place / "03" / f"{number:03}.txt")] for number in range(3, 600, 60)]
    reads = [["cat", str(place / "04" / f"{number:03}.txt")] for number in range(4, 600, 60)]
    os.kill(worker, signal.SIGSTOP)
    with running(*stats, *reads) as readers:
        try:
            assert eventually(lambda: all(waits(each) for each in readers), 20)
        finally:
            os.kill(worker, signal.SIGKILL)
        assert [output(each).strip() for each in readers[: len(stats)]] == [
            str((source / "03" / f"{number:03}.txt").stat().st_size) for number in range(3, 600, 60)
        ]
        for number, reader in zip(range(4, 600, 60), readers[len(stats) :], strict=True):
            assert output(reader) == (source / "04" / f"{number:03}.txt").read_text()


def waits(process: subprocess.Popen[str]) -> bool:
    """Whether a process sleeps in a request to the file system (proc(5): the kernel's function it sleeps in)."""
    return Path(f"/proc/{process.pid}/wchan").read_text() == "request_wait_answer"


def test_reads_that_wait_for_a_stalled_server_get_their_bytes_from_the_next_worker(
    hub: Hub, lasting: Callable[..., Processes], files: Path
) -> None:
    hub.add_repo("acme/big", files=files)
    mount = lasting("acme/big", "--prefetch", "none")
    hub.faults.add(Match(kind="cdn"), faults.hold())
    with running(surviving("spread", mount.mounted / "cold-0.bin", files / "cold-0.bin", READS)) as (reader,):
        assert eventually(lambda: len(mount.mounted.status()["waiting_reads"]) >= READS, 30)
        mount.kill_worker()
        assert mount.back(1)
        assert eventually(lambda: len(mount.mounted.status()["waiting_reads"]) >= READS, 30)
        assert reader.poll() is None
        hub.faults.clear()
        output(reader)


def test_a_file_the_kernel_reads_by_itself_can_be_opened_whenever_the_worker_died(
    hub: Hub, lasting: Callable[..., Processes], files: Path
) -> None:
    hub.add_repo("acme/big", files=files)
    mount = lasting("acme/big", "--prefetch", "none")
    make_local(mount.mounted, "local-0.bin")
    place, expected = mount.mounted / "local-0.bin", (files / "local-0.bin").read_bytes()

    def right(fd: int) -> bool:
        forget_pages(place)
        return os.pread(fd, LOCAL, 0) == expected

    first = os.open(place, os.O_RDONLY)
    try:
        how = served(mount.mounted, "local-0.bin")
        for death in (1, 2):
            mount.kill_worker()
            second = os.open(place, os.O_RDONLY)
            assert right(second)
            assert right(first)
            assert mount.back(death)
            assert served(mount.mounted, "local-0.bin") == how
            os.close(second)
    finally:
        os.close(first)
    assert eventually(lambda: mount.mounted.status()["open_files"] == [], 10)
    assert place.read_bytes() == expected
    assert os.geteuid() != 0 or how == "passthrough"


def test_a_file_that_became_local_while_open_survives_a_worker_death(
    hub: Hub, lasting: Callable[..., Processes], files: Path
) -> None:
    """It became local while it was open; a second open must not be in passthrough before the first is closed."""
    hub.add_repo("acme/big", files=files)
    mount = lasting("acme/big", "--prefetch", "none")
    place, expected = mount.mounted / "local-1.bin", (files / "local-1.bin").read_bytes()
    first = os.open(place, os.O_RDONLY)
    try:
        assert os.pread(first, LOCAL, 0) == expected
        make_local(mount.mounted, "local-1.bin")
        mount.kill_worker()
        assert place.read_bytes() == expected
        forget_pages(place)
        assert os.pread(first, LOCAL, 0) == expected
        assert served(mount.mounted, "local-1.bin") == "kernel-cache"
    finally:
        os.close(first)
    assert place.read_bytes() == expected


def test_coming_up_again_asks_the_hub_nothing(hub: Hub, lasting: Callable[..., Processes], files: Path) -> None:
    hub.add_repo("acme/big", files=files)
    mount = lasting("acme/big", "--prefetch", "none")
    make_local(mount.mounted, "local-0.bin")
    asked = len(hub.journal.requests())
    hub.down()
    mount.kill_worker()
    assert (mount.mounted / "local-0.bin").read_bytes() == (files / "local-0.bin").read_bytes()
    assert len(list((mount.mounted / "tree").rglob("*.txt"))) == 600
    assert mount.back(1)
    hub.up()
    assert len(hub.journal.requests()) == asked


def test_restart_replaces_the_daemon_under_a_running_reader(
    hub: Hub, lasting: Callable[..., Processes], files: Path
) -> None:
    hub.add_repo("acme/big", files=files)
    mount = lasting("acme/big", "--prefetch", "none")
    hub.shape.latency = 0.02
    worker = mount.worker()
    with running(["sha256sum", str(mount.mounted / "cold-0.bin")]) as (reader,):
        assert eventually(lambda: hub.journal.bytes_sent("cdn") >= 1 << 20, 30)
        mount.mounted.commands.expect("restart", str(mount.mounted.path))
        assert output(reader).split()[0] == digest(files / "cold-0.bin")
    reported = mount.mounted.status()
    assert reported["pid"] != worker
    assert reported["supervisor"] == {"pid": mount.supervisor, "restarts": 1}
    assert process_start(worker) is None
    assert reported["state"] == "serving", "it answers when the command returns"
    os.kill(mount.supervisor, signal.SIGHUP)
    assert mount.back(2)
    mount.worker()
    assert "worker-died" not in mount.mounted.log()


def test_a_mount_whose_supervisor_was_killed_serves_on_and_says_so(
    hub: Hub, lasting: Callable[..., Processes], files: Path
) -> None:
    hub.add_repo("acme/big", files=files)
    mount = lasting("acme/big", "--prefetch", "none")
    os.kill(mount.supervisor, signal.SIGKILL)
    assert eventually(lambda: mount.mounted.status()["supervisor"] is None, 10)
    reported = mount.mounted.status()
    assert reported["state"] == "serving"
    assert "supervisor has ended" in reported["last_errors"][-1]["what"]
    assert (mount.mounted / "local-0.bin").read_bytes() == (files / "local-0.bin").read_bytes()
    refused = mount.mounted.commands.run("restart", str(mount.mounted.path))
    assert (refused.returncode, "no supervisor" in refused.stderr) == (1, True)


def test_a_mount_whose_processes_were_all_killed_is_cleared_away_by_the_next(
    hub: Hub, lasting: Callable[..., Processes], files: Path
) -> None:
    hub.add_repo("acme/big", files=files)
    mount = lasting("acme/big", "--prefetch", "none")
    mounted, commands = mount.mounted, mount.mounted.commands
    worker = mount.worker()
    os.kill(mount.supervisor, signal.SIGKILL)
    os.kill(worker, signal.SIGKILL)
    assert eventually(lambda: not mount.alive(), 10)
    (reported,) = json.loads(commands.expect("status", "--json"))["mounts"]
    assert reported["state"] == "dead"
    commands.expect("mount", "acme/big", str(mounted.path), "--prefetch", "none")
    assert (mounted / "local-0.bin").read_bytes() == (files / "local-0.bin").read_bytes()
    again = Processes(mounted)
    os.kill(again.supervisor, signal.SIGKILL)
    os.kill(again.worker(), signal.SIGKILL)
    assert eventually(lambda: not again.alive(), 10)
    commands.expect("unmount", str(mounted.path))
    again.assert_nothing_left()


def test_jobs_of_a_mount_that_was_killed_are_not_done_on_the_next_one_there(
    hub: Hub, lasting: Callable[..., Processes], files: Path, commands: Commands, tmp_path: Path
) -> None:
    hub.add_repo("acme/big", files=files)
    name = hashlib.sha256(os.fsencode(tmp_path / "mnt" / "0")).hexdigest()[:16]
    commands.runtime.mkdir(mode=0o700, exist_ok=True)
    left = commands.runtime / f"{name}.jobs"
    left.write_text(json.dumps([{"wish": {"id": "old", "target": "elsewhere"}, "ended_at": None}]))
    mount = lasting("acme/big", "--prefetch", "none")
    assert mount.mounted.status()["socket"] == str(left.with_suffix(".sock")), "the file was another mount's"
    assert not left.exists()
    mount.kill_worker()
    assert eventually(lambda: mount.back(1), BACK_SECONDS)
    assert mount.mounted.status()["hydration"]["state"] == "idle"


@pytest.mark.parametrize("process", ["supervisor", "worker"])
def test_sigterm_unmounts_even_when_a_reader_is_inside(
    hub: Hub, lasting: Callable[..., Processes], files: Path, process: str
) -> None:
    hub.add_repo("acme/big", files=files)
    mount = lasting("acme/big", "--prefetch", "none")
    with (mount.mounted / "cold-0.bin").open("rb") as file:
        os.kill(mount.supervisor if process == "supervisor" else mount.worker(), signal.SIGTERM)
        assert eventually(lambda: not mount.mounted.is_mounted(), 10)
        assert hashlib.sha256(file.read()).hexdigest() == digest(files / "cold-0.bin")
    mount.assert_nothing_left()


def test_an_unmount_while_no_worker_is_there_is_not_undone_by_the_next_one(
    hub: Hub, lasting: Callable[..., Processes], files: Path
) -> None:
    hub.add_repo("acme/big", files=files)
    mount = lasting("acme/big", "--prefetch", "none")
    mount.kill_worker()
    assert ctypes.CDLL(None).umount2(os.fsencode(mount.mounted.path), 2) == 0
    mount.assert_nothing_left()


def test_a_mount_in_the_foreground_is_replaced_by_sighup_and_keeps_its_process(
    hub: Hub, commands: Commands, files: Path, tmp_path: Path
) -> None:
    """What `systemctl reload` does to a unit whose main process is `hffs mount -f`."""
    hub.add_repo("acme/big", files=files)
    mounted = Mounted(commands, tmp_path / "mnt")
    mounted.path.mkdir()
    command = [sys.executable, "-m", "hffs", "mount", "-f", "acme/big", str(mounted.path), "--prefetch", "none"]
    with subprocess.Popen(
        command, cwd=CHECKOUT, env=commands.environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
    ) as main:
        try:
            assert main.stdout is not None
            assert "is mounted at" in main.stdout.readline()
            mount = Processes(mounted)
            assert mount.supervisor == main.pid
            main.send_signal(signal.SIGHUP)
            assert mount.back(1)
            mount.worker()
            assert (mounted / "local-0.bin").read_bytes() == (files / "local-0.bin").read_bytes()
            main.send_signal(signal.SIGTERM)
            assert main.wait(20) == 0
            mount.assert_nothing_left()
        finally:
            main.kill()
            mounted.force_unmount()
