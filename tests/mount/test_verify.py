"""A mount whose local part is verified: by the command, the socket and Python, under readers, across a death."""

from __future__ import annotations

import hashlib
import os
import signal
from contextlib import suppress
from pathlib import Path

import pytest

import hffs
from hffs.errors import HffsError, UsageError
from tests.hub import Hub, Match, Synthetic, faults

from .conftest import Mount
from .mounted import Mounted, eventually, on_both_bindings
from .test_hydrate import SOON, Daemon, lines, sha256

BLOCK = 256 * 1024
NAME = "model.bin"
BIG = Synthetic(8 * BLOCK + 5, seed=95)
RIGHT = BIG.read(0, BIG.size)
PART = Synthetic(4 * BLOCK, seed=96)
STUB = b"version https://git-lfs.github.com/spec/v1\noid sha256:%s\nsize 12345\n" % (b"ab" * 32)
FILES: dict[str, bytes | Path | Synthetic] = {
    NAME: BIG,
    "config.json": b"{}",
    "sub/part.bin": PART,
    "sub/stub.safetensors": STUB,
}


@pytest.fixture(autouse=True)
def big(hub: Hub) -> None:
    hub.add_repo("acme/big", files=FILES)


def spoil(mounted: Mounted, made: Synthetic, offset: int) -> None:
    (path,) = (mounted.commands.cache / "blobs").rglob(f"{sha256(made)}/*.data")
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)
        file.seek(offset)
        file.write(bytes([byte[0] ^ 1]))


def hydrated(mount: Mount, *options: str) -> Mounted:
    mounted = mount("acme/big", "--prefetch", "none", *options)
    mounted.commands.expect("hydrate", str(mounted.path), "--include", "*.bin", "--exclude", "sub/*")
    return mounted


@on_both_bindings
def test_damage_under_a_reader_is_told_and_mended_and_the_reader_goes_on(hub: Hub, mount: Mount) -> None:
    mounted = hydrated(mount)
    with open(mounted / "sub/part.bin", "rb", buffering=0) as part:
        os.posix_fadvise(part.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        assert part.read(10) == PART.read(0, 10)
    with open(mounted / NAME, "rb") as file:
        spoil(mounted, BIG, 3 * BLOCK + 7)
        done = mounted.commands.run("verify", str(mounted.path))
        assert done.returncode == 6
        what = f"{NAME}: CRC mismatch in block 3: not what was written to the disk"
        assert done.stdout.splitlines()[0] == f"{what}: run it again with --fix"
        assert "1 incomplete, only their blocks checked" in done.stdout.splitlines()[-1]
        before = hub.journal.bytes_sent("cdn")
        done = mounted.commands.run("verify", str(mounted / NAME), "--fix")
        assert (done.returncode, done.stdout.splitlines()[0].rpartition("; ")[2]) == (0, "repaired")
        assert hub.journal.bytes_sent("cdn") - before == BLOCK
        assert file.read() == RIGHT
    assert (mounted / NAME).read_bytes() == RIGHT
    assert mounted.status()["hydration"]["state"] == "done", "a verification is no hydration"
    assert eventually(lambda: mounted.status()["verification"]["verified"] == 1, SOON)


@pytest.mark.kernel
def test_pages_that_the_kernel_keeps_are_dropped_with_what_was_bad(mount: Mount) -> None:
    mounted = mount("acme/big", "--prefetch", "none", "--log-level", "debug")
    with open(mounted / NAME, "rb", buffering=0) as file:  # before it is verified, so that the daemon reads for it
        mounted.commands.expect("hydrate", str(mounted / NAME))
        assert file.read() == RIGHT  # every block was looked at once
        spoil(mounted, BIG, 3 * BLOCK + 7)
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        file.seek(0)
        assert file.read() != RIGHT, "the damage did not reach the reader, and this test shows nothing"
        mounted.commands.expect("verify", str(mounted.path), "--fix")
        assert eventually(lambda: "event=pages-dropped" in mounted.log(), SOON)
        assert os.pread(file.fileno(), BIG.size, 0) == RIGHT
    assert (mounted / NAME).read_bytes() == RIGHT


def test_what_a_repo_itself_has_wrong_is_a_warning_and_shows_in_status(mount: Mount) -> None:
    mounted = mount("acme/big", "--prefetch", "none")
    assert mounted.status()["problems"] == [
        {"path": "sub/stub.safetensors", "what": f"has {len(STUB)} bytes, which is too few for weights"}
    ]
    output = mounted.commands.expect("verify", str(mounted.path))
    assert output.splitlines()[0].startswith("warning: sub/stub.safetensors: it has ")
    (mounted / "sub/stub.safetensors").read_bytes()
    output = mounted.commands.expect("verify", str(mounted / "sub"))
    assert output.splitlines()[0].startswith("warning: sub/stub.safetensors: it is a git-LFS pointer, not the content")
    sub = mount("acme/big/sub", "--prefetch", "none")
    assert [each["path"] for each in sub.status()["problems"]] == ["stub.safetensors"]


def test_required_files_are_fetched_and_verified_with_fix(mount: Mount) -> None:
    mounted = mount("acme/big", "--prefetch", "none")
    done = mounted.commands.run("verify", str(mounted.path), "--require", "config.json", "--require", "*.gguf")
    assert done.returncode == 6
    assert [line.partition(":")[0] for line in done.stdout.splitlines()[:2]] == ["config.json", "warning"]
    assert f"*.gguf: no file of {mounted.path} matches this required pattern" in done.stdout
    mounted.commands.expect("verify", str(mounted.path), "--require", "config.json", "--require", NAME, "--fix")
    status = mounted.status()
    assert status["bytes_local"] == BIG.size + 2
    assert status["verification"]["verified"] == 2


def test_python_and_the_socket_tell_the_same(mount: Mount, monkeypatch: pytest.MonkeyPatch) -> None:
    mounted = hydrated(mount)
    monkeypatch.setenv("HFFS_RUNTIME_DIR", str(mounted.commands.runtime))
    result = hffs.verify(mounted.path)
    assert (result.ok, result.right, result.absent, result.bytes_checked) == (True, 1, 3, BIG.size)
    with pytest.raises(UsageError):
        hffs.verify(mounted.path, repo="acme/big")
    daemon = Daemon(mounted)
    spoil(mounted, BIG, 5)
    job = daemon.ended(daemon.ask("POST", "/v1/verify", {"path": NAME})["id"])
    assert (job["kind"], job["state"], job["checked"]["wrong"]) == ("verify", "failed", 1)
    assert [(each["kind"], each["severity"]) for each in job["findings"]] == [("blocks", "damage")]
    assert [error["exit_code"] for error in job["errors"]] == [6]
    assert job["finished"][0]["etag"] == hashlib.sha256(RIGHT).hexdigest()
    for body in ({"fix": 1}, {"require": "config.json"}, {"kind": "hydrate"}, {"never": 1}):
        assert "not a request to verify" in str(daemon.refusal("POST", "/v1/verify", body))


def test_a_verification_may_be_cancelled_while_it_mends(hub: Hub, mount: Mount) -> None:
    mounted = hydrated(mount)
    daemon = Daemon(mounted)
    spoil(mounted, BIG, 5)
    hub.faults.add(Match(kind="cdn"), faults.stall(after=100))
    before = len(hub.journal.requests(kind="cdn"))
    job = daemon.ask("POST", "/v1/verify", {"fix": True})
    assert eventually(lambda: len(hub.journal.requests(kind="cdn")) > before, SOON)
    daemon.ask("DELETE", f"/v1/jobs/{job['id']}")
    assert daemon.ended(job["id"])["state"] == "cancelled"
    hub.faults.clear()
    hub.cut()
    assert (mounted / NAME).read_bytes() == RIGHT


@pytest.mark.kernel
@pytest.mark.allow_warnings("the worker died")
def test_a_verification_outlives_the_daemon_that_began_it(hub: Hub, mount: Mount) -> None:
    mounted = hydrated(mount)
    daemon = Daemon(mounted)
    spoil(mounted, BIG, 5)
    hub.faults.add(Match(kind="cdn"), faults.stall(after=100))
    before = len(hub.journal.requests(kind="cdn"))
    job = daemon.ask("POST", "/v1/verify", {"fix": True, "require": [NAME]})
    assert eventually(lambda: len(hub.journal.requests(kind="cdn")) > before, SOON)
    hub.faults.clear()
    os.kill(mounted.pid, signal.SIGKILL)

    def goes_on() -> bool:
        with suppress(HffsError):  # no daemon answers yet, or it has no such job yet
            return bool(daemon.ask("GET", f"/v1/jobs/{job['id']}")["started_at"] != job["started_at"])
        return False

    assert eventually(goes_on, SOON)
    assert daemon.ended(job["id"])["state"] == "done"
    assert (mounted / NAME).read_bytes() == RIGHT
    assert mounted.status()["verification"]["verified"] == 1


def test_json_lines_of_a_mount(mount: Mount) -> None:
    mounted = hydrated(mount)
    spoil(mounted, BIG, 5)
    done = mounted.commands.run("verify", str(mounted.path), "--fix", "--json")
    assert done.returncode == 0, done.stderr
    output = lines(done.stdout)
    assert [each["event"] for each in output if each["event"] not in ("progress", "file")] == [
        "start", "finding", "finding", "outcome", "outcome", "end",
    ]  # fmt: skip
    assert [(each["severity"], each["mended"]) for each in output if each["event"] == "outcome"] == [
        ("damage", True),
        ("warning", False),
    ]
