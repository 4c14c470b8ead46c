"""Processes that are killed, interrupted or started twice: nothing is lost, nothing stays, exactly one wins."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.hub import Hub, Match, Record, Synthetic, faults
from tests.mount.conftest import Mount
from tests.mount.mounted import CHECKOUT, Commands, Mounted, eventually, process_start

from .conftest import MountAt
from .refusing import Refusals, at, error_line

NAME = "model.safetensors"
MADE = Synthetic(32 << 20, seed=61)
BLOCK = 256 * 1024
IN_FLIGHT = 4  # blocks: no answer of the first mount below is longer


@pytest.fixture(autouse=True)
def tiny(hub: Hub) -> None:
    hub.add_repo("acme/big", files={NAME: MADE, "config.json": b"{}"})
    hub.add_repo("acme/other", files={"other.txt": b"other"})


@contextmanager
def running(*command: str | Path, **options: object) -> Iterator[subprocess.Popen[str]]:
    """A program under way; it does not outlive the block."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **options}
    process = subprocess.Popen(list(map(str, command)), cwd=CHECKOUT, **pipes)  # type: ignore[call-overload]
    try:
        yield process
    finally:
        process.kill()
        process.communicate(timeout=20)


def hffs(commands: Commands, *words: str | Path) -> list[str | Path]:
    return [sys.executable, "-m", "hffs", *words]


def blocks_sent(records: list[Record]) -> list[int]:
    """Every block that whole answers of the CDN have brought, as often as it was sent."""
    found: list[int] = []
    for record in records:
        first, _, last = str(record.range).removeprefix("bytes=").partition("-")
        assert int(first) % BLOCK == 0
        found += range(int(first) // BLOCK, (int(first) + record.bytes_sent) // BLOCK)
        assert int(last) >= int(first)
    return found


# The daemon.


def test_what_a_killed_daemon_had_stored_is_used_by_the_next_one(hub: Hub, mount: Mount) -> None:
    hub.shape.total = 40e6
    mounted = mount("acme/big", "--prefetch", "none", "--workers", "4", "--fetch-size", "1M")
    with running("cat", mounted / NAME, stdout=subprocess.DEVNULL) as reader:
        hub.journal.wait_for(lambda records: sum(record.bytes_sent for record in records) > MADE.size // 3, 60)
        mounted.kill()
        reader.communicate(timeout=30)
        assert reader.returncode != 0, "its mount has gone"
    assert eventually(lambda: not mounted.is_alive(), 10)
    before = blocks_sent(hub.journal.requests("cdn"))
    assert MADE.size // 3 <= len(before) * BLOCK < MADE.size
    hub.journal.clear()
    hub.shape.total = None
    mounted.start("acme/big", ["--prefetch", "none"])
    local = int(mounted.status()["bytes_local"])
    assert (mounted / NAME).read_bytes() == MADE.read(0, MADE.size)
    after = blocks_sent(hub.journal.requests("cdn"))
    assert len(after) * BLOCK == MADE.size - local, "what was stored was not fetched again"
    twice = sorted({*before} & {*after})
    print(f"{local // BLOCK} blocks were stored, {len(twice)} were on their way to the daemon: {twice}")
    # Of what the Hub calls sent, the daemon had not yet read some: what four connections hold in the kernel's buffers.
    assert len(twice) <= 4 * IN_FLIGHT
    assert mounted.warnings_logged() == []


@pytest.mark.allow_warnings
def test_a_read_survives_a_killed_worker_and_little_is_fetched_twice(hub: Hub, mount: Mount) -> None:
    hub.shape.total = 40e6
    mounted = mount("acme/big", "--prefetch", "none", "--workers", "4", "--fetch-size", "1M")
    if mounted.status()["supervisor"] is None:
        pytest.skip("THIS KERNEL CANNOT SEND REQUESTS AGAIN, NOT TESTED: readers that survive")
    with running("sha256sum", mounted / NAME) as reader:
        hub.journal.wait_for(lambda records: sum(record.bytes_sent for record in records) > MADE.size // 3, 60)
        os.kill(mounted.pid, signal.SIGKILL)
        output, _ = reader.communicate(timeout=90)
    assert output.split()[0] == sha256(MADE)
    sent = blocks_sent(hub.journal.requests("cdn"))
    twice = len(sent) - len({*sent})
    print(f"{twice} of {MADE.size // BLOCK} blocks were fetched twice")
    assert twice <= 4 * IN_FLIGHT


def test_a_term_signal_unmounts_and_leaves_nothing(mount: Mount, refusals: Refusals) -> None:
    mounted = mount("acme/big")
    assert (mounted / "config.json").read_bytes() == b"{}"
    os.kill(mounted.pid, signal.SIGTERM)
    assert eventually(lambda: not mounted.is_alive(), 10)
    assert not at(mounted.path)
    refusals.nothing_left()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_mount_in_the_foreground_ends_orderly_when_told(
    commands: Commands, refusals: Refusals, place: Path, number: signal.Signals
) -> None:
    with running(*hffs(commands, "mount", "-f", "acme/big", place), env=commands.environment) as process:
        assert eventually(lambda: bool(at(place)) and (place / "config.json").exists(), 30)
        process.send_signal(number)
        process.communicate(timeout=30)
        assert process.returncode == 0
    assert not at(place)
    refusals.nothing_left()


@pytest.mark.allow_warnings
def test_repeated_termination_signals_end_a_process_as_cleanly_as_one(
    commands: Commands, refusals: Refusals, place: Path
) -> None:
    """SIGHUP asks for another worker: not of a mount that is ending."""
    for round_ in range(4):
        with running(*hffs(commands, "mount", "-f", "acme/big", place), env=commands.environment) as process:
            assert eventually(lambda: bool(at(place)), 30)
            for number in range(40):
                process.send_signal((signal.SIGTERM, signal.SIGINT, signal.SIGHUP)[(number + round_) % 3])
                time.sleep(0.001)  # spread over all that it does meanwhile
            process.communicate(timeout=30)
            # Python itself gives signals back to the system while it ends; all is tidied up by then.
            assert process.returncode in (0, -signal.SIGTERM, -signal.SIGINT, -signal.SIGHUP)
        assert not at(place)
        refusals.nothing_left()


# Starting.


@pytest.mark.parametrize("slow", ["info", "tree"])
def test_an_interrupted_start_leaves_no_daemon(
    hub: Hub, commands: Commands, refusals: Refusals, place: Path, slow: str
) -> None:
    hub.faults.add(Match(kind=slow), faults.hold())
    with running(*hffs(commands, "mount", "acme/big", place), env=commands.environment) as process:
        hub.faults.wait_held(timeout=30)
        begun = time.monotonic()
        process.send_signal(signal.SIGINT)
        _, line = process.communicate(timeout=30)
        assert process.returncode == 130
        assert error_line(line).startswith("interrupted")
        assert time.monotonic() - begun < 15
    hub.faults.clear()
    assert not at(place)
    refusals.nothing_left()


def test_of_two_starts_at_one_place_exactly_one_wins(
    hub: Hub, commands: Commands, refusals: Refusals, place: Path
) -> None:
    hub.shape.latency = 0.3  # both are past their first look at the place when the first is mounted
    starts = [hffs(commands, "mount", repo, place) for repo in ("acme/big", "acme/other", "acme/big")]
    begun = [running(*start, env=commands.environment) for start in starts]
    with begun[0] as a, begun[1] as b, begun[2] as c:
        ended = [(*process.communicate(timeout=60), process.returncode) for process in (a, b, c)]
    try:
        codes = sorted(code for _, _, code in ended)
        assert codes == [0, 1, 1], ended
        assert len(at(place)) == 1
        (winner,) = [output.split()[0] for output, _, code in ended if code == 0]
        for _, line, code in ended:
            if code:
                assert str(place) in error_line(line)
        (status,) = refusals.statuses()
        assert status["repo"] == winner
        assert sorted(os.listdir(place)) == (["other.txt"] if winner == "acme/other" else ["config.json", NAME])
    finally:
        commands.expect("unmount", str(place))
    refusals.nothing_left()


def test_a_start_that_fails_after_the_place_was_checked_leaves_it_usable(
    hub: Hub, commands: Commands, refusals: Refusals, mount_at: MountAt, place: Path
) -> None:
    refusals.of(3, "mount", "acme/nope", place)
    assert (mount_at(place, "acme/other") / "other.txt").read_bytes() == b"other"


# Sharing.


def test_two_mounts_that_read_the_same_cold_file_fetch_it_once(hub: Hub, mount: Mount) -> None:
    hub.shape.total = 60e6
    hub.shape.latency = 0.02
    first, second = mount("acme/big", "--prefetch", "none"), mount("acme/big", "--prefetch", "none")
    with running("sha256sum", first / NAME) as one, running("sha256sum", second / NAME) as other:
        sums = {process.communicate(timeout=90)[0].split()[0] for process in (one, other)}
    hub.shape.total = None
    assert sums == {sha256(MADE)}
    sent = hub.journal.bytes_sent("cdn", file=NAME)
    print(f"{sent / MADE.size:.3f} times the file was sent, in {len(hub.journal.requests('cdn'))} requests")
    assert sent <= MADE.size * 1.05
    assert first.status()["bytes_local"] == second.status()["bytes_local"] == MADE.size


def sha256(made: Synthetic) -> str:
    return hashlib.sha256(made.read(0, made.size)).hexdigest()


def test_a_daemon_that_dies_with_blocks_in_its_hands_holds_up_no_other(hub: Hub, mount: Mount) -> None:
    first, second = mount("acme/big", "--prefetch", "none"), mount("acme/big", "--prefetch", "none")
    held = hub.faults.add(Match(kind="cdn"), faults.stall(1000))
    with running("cat", first / NAME, stdout=subprocess.DEVNULL), running("sha256sum", second / NAME) as reader:
        hub.faults.wait_held(timeout=30)
        hub.faults.remove(held)  # requests from now on are answered
        first.kill()
        assert reader.communicate(timeout=60)[0].split()[0] == sha256(MADE)
    hub.faults.clear()
    assert eventually(lambda: process_start(first.pid) is None, 10)


def test_a_busy_mount_stays_and_the_line_says_what_to_do(mount: Mount, commands: Commands, refusals: Refusals) -> None:
    mounted: Mounted = mount("acme/big")
    program = [sys.executable, "-m", "tests.fault.programs", "keep", str(mounted / "config.json"), "0"]
    with running(*program) as reader:
        assert reader.stdout is not None
        assert reader.stdout.readline() == "begun\n"
        line = refusals.of(1, "unmount", mounted.path)
        assert line == f"{mounted.path} is busy: close the programs that use it, or hffs unmount --lazy"
        assert (mounted / "config.json").read_bytes() == b"{}"
        assert mounted.status()["state"] == "serving"
        commands.expect("unmount", "--lazy", str(mounted.path))
        assert not at(mounted.path)
        assert mounted.is_alive(), "it still serves open files"
    assert eventually(lambda: not mounted.is_alive(), 10)
    refusals.nothing_left()
