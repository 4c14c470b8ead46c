"""A mount that is brought wholly here: through the command, the socket and Python, under readers, across deaths."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

import hffs
from hffs.control import client
from hffs.errors import HffsError, NotFound, UsageError
from tests.hub import Hub, Match, Synthetic, faults

from .conftest import Mount
from .mounted import CHECKOUT, Commands, Mounted, eventually, program

NAME = "model.safetensors"
BIG = Synthetic(48 << 20, seed=81)
READ = Synthetic(2 << 20, seed=82)
SOON = 60.0
FILES: dict[str, bytes | Path | Synthetic] = {
    NAME: BIG,
    "config.json": b"{}",
    "empty": b"",
    "onnx/a b#1%.bin": Synthetic(700_001, seed=83),
    "onnx/deep/model.onnx": Synthetic(3 << 20, seed=84),
    "read.bin": READ,
}
ALL = sum(
    made.size if isinstance(made, Synthetic) else len(made) for made in FILES.values() if not isinstance(made, Path)
)
ON = ("--prefetch", "none", "--big-file", "8M", "--workers", "4", "--fetch-size", "1M")


@pytest.fixture(autouse=True)
def big(hub: Hub) -> None:
    hub.add_repo("acme/big", files=FILES)


class Daemon:
    """The control socket of a mount, asked as any program would ask it."""

    def __init__(self, mounted: Mounted) -> None:
        name = hashlib.sha256(os.fsencode(mounted.path)).hexdigest()[:16] + ".sock"
        self._path = str(mounted.commands.runtime / name)

    def ask(self, method: str, target: str, body: object = None) -> Any:
        return client.ask(self._path, method, target, 20.0, body)

    def refusal(self, method: str, target: str, body: object) -> HffsError:
        with pytest.raises(client.Refused) as refused:
            self.ask(method, target, body)
        return refused.value

    def ended(self, name: str) -> dict[str, Any]:
        """A job, once it has ended."""
        found: dict[str, Any] = {}

        def over() -> bool:
            found.update(self.ask("GET", f"/v1/jobs/{name}"))
            return found["state"] != "running"

        assert eventually(over, SOON), found
        return found


@contextmanager
def hydrating(mounted: Mounted, *words: str) -> Iterator[subprocess.Popen[str]]:
    """``hffs hydrate MOUNTPOINT WORDS --json`` under way; it does not outlive the block."""
    command = [sys.executable, "-m", "hffs", "hydrate", str(mounted.path), "--json", *words]
    streams: Any = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, cwd=CHECKOUT, env=mounted.commands.environment, **streams)
    try:
        yield process
    finally:
        process.kill()
        process.communicate(timeout=SOON)


def lines(output: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.splitlines()]


def done(process: subprocess.Popen[str]) -> list[dict[str, Any]]:
    """The lines of one that ended well."""
    output, wrong = process.communicate(timeout=SOON)
    assert process.returncode == 0, f"{output[-2000:]}{wrong}"
    assert lines(output)[-1]["state"] == "done"
    return lines(output)


def sha256(made: Synthetic) -> str:
    return hashlib.sha256(made.read(0, made.size)).hexdigest()


def sent(hub: Hub) -> int:
    return sum(hub.journal.bytes_sent(kind) for kind in ("cdn", "resolve-cache"))


# What it comes to.


def test_a_mount_in_use_is_hydrated_and_then_read_by_passthrough(hub: Hub, mount: Mount) -> None:
    mounted = mount("acme/big", *ON)
    hub.shape.total = 60e6
    with hydrating(mounted) as process:
        assert program("sha256sum", mounted / NAME).stdout.split()[0] == sha256(BIG)
        assert (mounted / "config.json").read_bytes() == b"{}"
        output = done(process)
    assert output[-1]["files_done"] == output[-1]["files_total"] == len(FILES)
    assert output[-1]["bytes_done"] == ALL
    assert sent(hub) <= 1.1 * ALL
    status = mounted.status()
    counted = {"verified": len(FILES), "pending": 0, "failed": [], "passed": 0, "unchecked": 0, "mismatches": []}
    assert status["verification"] == counted
    assert status["bytes_local"] == status["bytes_total"] == ALL
    assert {**status["hydration"], "bytes_per_s": 0} == {
        "state": "done",
        "bytes_done": ALL,
        "bytes_total": ALL,
        "bytes_per_s": 0,
        "eta_s": None,
        "files_done": len(FILES),
        "files_total": len(FILES),
    }
    place = mounted / NAME
    assert os.getxattr(place, "user.hffs.state") == b"verified"
    assert os.getxattr(place, "user.hffs.local_bytes") == str(BIG.size).encode()
    assert place.stat().st_blocks * 512 >= BIG.size
    asked = len(hub.journal.requests())
    with place.open("rb") as file:
        assert hashlib.sha256(file.read()).hexdigest() == sha256(BIG)
        (served,) = [each["served"] for each in mounted.status()["open_files"] if each["path"] == NAME]
        assert served == ("passthrough" if status["binding"] == "kernel" and os.geteuid() == 0 else "kernel-cache")
    assert len(hub.journal.requests()) == asked


@pytest.mark.parametrize(
    ("target", "names"),
    [
        ("onnx", {"onnx/a b#1%.bin", "onnx/deep/model.onnx"}),
        ("onnx/deep/model.onnx", {"onnx/deep/model.onnx"}),
        ("onnx/a b#1%.bin", {"onnx/a b#1%.bin"}),
    ],
)
def test_hydrate_subpath_with_to_exports_only_that_subtree(
    hub: Hub, mount: Mount, commands: Commands, tmp_path: Path, target: str, names: set[str]
) -> None:
    mounted = mount("acme/big", *ON)
    out = tmp_path / "out"
    commands.expect("hydrate", str(mounted / target), "--to", str(out))
    assert {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()} == names
    for name in names:
        assert (out / name).read_bytes() == (mounted / name).read_bytes()
        assert os.getxattr(mounted / name, "user.hffs.state") == b"verified"
    assert {record.file for record in hub.journal.requests("cdn")} == names


def test_a_mounted_folder_is_brought_by_names_and_patterns_of_its_own(
    hub: Hub, mount: Mount, commands: Commands, tmp_path: Path
) -> None:
    mounted = mount("acme/big/onnx", *ON)
    out = tmp_path / "out"
    commands.expect("hydrate", str(mounted.path), "--to", str(out), "--exclude", "*.onnx")
    assert [str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()] == ["a b#1%.bin"]
    output = lines(commands.expect("hydrate", str(mounted / "deep"), "--json"))
    assert [each["path"] for each in output if each["event"] == "file"] == ["deep/model.onnx"]


def test_what_is_not_in_the_mount_is_3_and_what_is_no_mount_too(mount: Mount, commands: Commands) -> None:
    mounted = mount("acme/big", *ON)
    for words in (
        [str(mounted / "nope")],
        [str(mounted.path), "--include", "*.nope"],
        [str(mounted.path.parent / "elsewhere")],
    ):
        refused = commands.run("hydrate", *words)
        assert (refused.returncode, refused.stderr.count("\n")) == (3, 1), refused
    assert commands.run("hydrate", str(mounted.path), "--revision", "v1").returncode == 2


def test_forced_through_a_mount_all_is_fetched_again_under_an_open_file(
    hub: Hub, mount: Mount, commands: Commands
) -> None:
    mounted = mount("acme/big", *ON)
    commands.expect("hydrate", str(mounted.path))
    hub.journal.clear()
    with (mounted / NAME).open("rb") as file:
        assert file.read(5) == BIG.read(0, 5)
        last = lines(commands.expect("hydrate", str(mounted.path), "--force", "--json"))[-1]
        assert last["bytes_fetched"] == ALL
        file.seek(0)
        assert hashlib.sha256(file.read()).hexdigest() == sha256(BIG)
    assert sent(hub) == ALL
    assert mounted.status()["verification"]["verified"] == len(FILES)


def test_what_another_server_has_brought_before_is_laid_without_a_request(
    hub: Hub, mount: Mount, commands: Commands, tmp_path: Path
) -> None:
    """The same content by its sha256; of git files too, whose sha1 counts their size in."""
    with Hub() as mirror:
        mirror.add_repo("acme/big", files=FILES)
        commands.expect("hydrate", "acme/big", "--endpoint", mirror.endpoint)
    mounted = mount("acme/big", *ON)
    commands.expect("hydrate", str(mounted.path), "--to", str(tmp_path / "out"))
    assert hub.journal.requests("cdn") == []
    assert hashlib.sha256((tmp_path / "out" / NAME).read_bytes()).hexdigest() == sha256(BIG)


# While it runs.


def test_status_tells_how_far_it_is_and_what_each_worker_is_at(hub: Hub, mount: Mount, commands: Commands) -> None:
    mounted = mount("acme/big", *ON)
    hub.faults.add(Match(kind="cdn", file=NAME), faults.stall(600_000))
    with hydrating(mounted):
        hub.faults.wait_held(timeout=20)

        def all_reported() -> bool:
            (status,) = json.loads(commands.expect("status", str(mounted.path), "--json"))["mounts"]
            found.update(status)
            return status["hydration"]["files_done"] == len(FILES) - 1 and bool(status["workers"]["list"])

        found: dict[str, Any] = {}
        assert eventually(all_reported, 30), found
        assert found["hydration"]["state"] == "running"
        assert found["hydration"]["bytes_total"] == ALL
        assert ALL - BIG.size <= found["hydration"]["bytes_done"] < ALL
        workers = found["workers"]
        assert workers["active"] == len(workers["list"]) >= 1
        for worker in workers["list"]:
            assert (worker["path"], worker["for"]) == (NAME, "bulk")
            assert worker["bytes_per_s"] >= 0
            assert 0 <= worker["offset"] < worker["offset"] + worker["size"] <= BIG.size
        assert workers["why"]
        assert commands.expect("status", str(mounted.path))
        hub.faults.clear()


def test_a_reader_s_bytes_are_asked_for_before_any_more_of_it(hub: Hub, mount: Mount) -> None:
    """By the order of requests: when the reader comes, all workers but those kept for readers are at work."""
    mounted = mount("acme/big", *ON)
    held = hub.faults.add(Match(kind="cdn", file=NAME), faults.stall(1000))
    with hydrating(mounted, "--include", NAME) as process:
        hub.faults.wait_held(timeout=20)
        before = len(hub.journal.requests("cdn", file=NAME))
        assert (mounted / "read.bin").read_bytes() == READ.read(0, READ.size), "while everything else is held"
        assert len(hub.journal.requests("cdn", file=NAME)) <= before + 1, "the one that was being asked for"
        hub.faults.remove(held)
        hub.faults.release()
        done(process)


@pytest.mark.allow_warnings
def test_while_the_server_asks_for_patience_only_readers_are_served(hub: Hub, mount: Mount) -> None:
    mounted = mount("acme/big", *ON)
    daemon = Daemon(mounted)
    hub.faults.add(Match(kind="cdn", file=NAME), faults.rate_limited(t=200))
    job = daemon.ask("POST", "/v1/hydrate", {"include": [NAME]})
    assert eventually(lambda: "patience" in mounted.status()["workers"]["why"], 20)
    refused = [record.number for record in hub.journal.requests("cdn", status=429)]
    assert (mounted / "read.bin").read_bytes() == READ.read(0, READ.size)
    after = [record for record in hub.journal.requests("cdn") if record.number > refused[-1]]
    assert {record.file for record in after} == {"read.bin"}
    assert daemon.ask("GET", f"/v1/jobs/{job['id']}")["state"] == "running"
    assert daemon.ask("DELETE", f"/v1/jobs/{job['id']}")["state"] == "cancelled"


def test_the_limit_of_the_bandwidth_is_changed_while_it_runs(hub: Hub, mount: Mount) -> None:
    mounted = mount("acme/big", *ON, "--bandwidth", "1M")
    daemon = Daemon(mounted)
    assert mounted.status()["bandwidth"] == {"limit": 1 << 20}
    job = daemon.ask("POST", "/v1/hydrate")
    assert daemon.ask("POST", "/v1/bandwidth", {"bytes_per_s": 2 << 20}) == {"bytes_per_s": 2 << 20}
    assert mounted.status()["bandwidth"] == {"limit": 2 << 20}
    assert daemon.ask("GET", f"/v1/jobs/{job['id']}")["state"] == "running"
    daemon.ask("POST", "/v1/bandwidth", {"bytes_per_s": None})
    assert mounted.status()["bandwidth"] == {"limit": None}
    assert daemon.ended(job["id"])["state"] == "done"
    for wrong in (0, -1, "fast", True, 1.5):
        assert "bytes_per_s" in str(daemon.refusal("POST", "/v1/bandwidth", {"bytes_per_s": wrong}))


# Jobs.


def test_a_job_can_be_watched_and_cancelled_and_what_came_is_kept(hub: Hub, mount: Mount) -> None:
    mounted = mount("acme/big", *ON)
    daemon = Daemon(mounted)
    held = hub.faults.add(Match(kind="cdn", file=NAME), faults.stall(1 << 20))
    job = daemon.ask("POST", "/v1/hydrate", {})
    hub.faults.wait_held(timeout=20)
    assert (job["kind"], job["target"]) == ("hydrate", str(mounted.path))

    def all_but_one() -> bool:
        return bool(daemon.ask("GET", f"/v1/jobs/{job['id']}")["files_done"] == len(FILES) - 1)

    assert eventually(all_but_one, 30)
    now = daemon.ask("GET", f"/v1/jobs/{job['id']}")
    assert sorted(each["path"] for each in now["finished"]) == sorted(set(FILES) - {NAME})
    assert [each["path"] for each in now["active"]] == [NAME]
    later = daemon.ask("GET", f"/v1/jobs/{job['id']}?since={now['ended']}")
    assert (later["finished"], later["ended"]) == ([], len(FILES) - 1)
    cancelled = daemon.ask("DELETE", f"/v1/jobs/{job['id']}")
    assert cancelled["state"] == "cancelled"
    assert cancelled["files_done"] == len(FILES) - 1
    assert mounted.status()["hydration"]["state"] == "cancelled"
    hub.faults.remove(held)
    hub.faults.release()
    assert mounted.status()["bytes_local"] >= ALL - BIG.size
    for since in ("-1", "nope", "%C2%B2", "9" * 5000):
        assert daemon.ask("GET", f"/v1/jobs/{job['id']}?since={since}")["ended"] == len(FILES) - 1
    assert daemon.refusal("GET", "/v1/jobs/nope", None).exit_code == NotFound.exit_code


@pytest.mark.parametrize(
    "body",
    [
        {"nope": 1}, {"path": 1}, {"include": "*.json"}, {"include": [1]}, {"exclude": {"a": 1}}, {"force": "yes"},
        {"id": "x"}, {"target": "x"}, {"path": None}, [], [1], "text", 7,
    ],
)  # fmt: skip
def test_a_wish_that_makes_no_sense_is_refused_and_does_nothing(hub: Hub, mounted: Mounted, body: object) -> None:
    refused = Daemon(mounted).refusal("POST", "/v1/hydrate", body)
    assert (refused.exit_code, refused.what != "") == (UsageError.exit_code, True)
    assert mounted.status()["hydration"]["state"] == "idle"


def test_a_path_that_leads_out_of_the_mount_finds_nothing(mounted: Mounted) -> None:
    daemon = Daemon(mounted)
    for path in ("../..", "/etc", "..", "\0", "a/../.."):
        job = daemon.ended(daemon.ask("POST", "/v1/hydrate", {"path": path})["id"])
        assert (job["state"], [each["exit_code"] for each in job["errors"]]) == ("failed", [NotFound.exit_code]), path


def test_an_interrupted_command_cancels_its_job(hub: Hub, mount: Mount) -> None:
    mounted = mount("acme/big", *ON)
    hub.faults.add(Match(kind="cdn", file=NAME), faults.stall(1000))
    with hydrating(mounted) as process:
        hub.faults.wait_held(timeout=20)
        assert eventually(lambda: mounted.status()["hydration"]["state"] == "running", 20)
        process.send_signal(signal.SIGINT)
        output, wrong = process.communicate(timeout=SOON)
        assert process.returncode == 130
        assert "fetched data is kept" in wrong
        assert lines(output)[-1]["state"] == "cancelled"
    assert mounted.status()["hydration"]["state"] == "cancelled"
    hub.faults.clear()


# Deaths.


@pytest.mark.allow_warnings
@pytest.mark.parametrize("way", ["killed", "restarted"])
def test_a_job_goes_on_when_the_daemon_dies_or_is_replaced(
    hub: Hub, mount: Mount, commands: Commands, tmp_path: Path, way: str
) -> None:
    mounted = mount("acme/big", *ON)
    if mounted.status()["supervisor"] is None:
        pytest.skip("THIS KERNEL CANNOT SEND REQUESTS AGAIN, NOT TESTED: jobs that survive")
    hub.shape.total = 30e6
    out = tmp_path / "out"
    with hydrating(mounted, "--to", str(out)) as process:
        hub.journal.wait_for(lambda records: sum(record.bytes_sent for record in records) > ALL // 2, SOON)
        if way == "killed":
            os.kill(mounted.pid, signal.SIGKILL)
        else:
            commands.expect("restart", str(mounted.path))
        output = done(process)
    hub.shape.total = None
    files = [each["path"] for each in output if each["event"] == "file"]
    assert sorted(files) == sorted(FILES), "each is told of once"
    assert output[-1]["bytes_done"] == ALL
    assert output[-1]["files_done"] == len(FILES)
    assert {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()} == set(FILES)
    assert hashlib.sha256((out / NAME).read_bytes()).hexdigest() == sha256(BIG)
    print(f"{sent(hub) / ALL:.3f} times the repo was sent")
    assert sent(hub) <= 1.1 * ALL
    assert mounted.status()["supervisor"]["restarts"] == 1
    mounted.pid = int(mounted.status()["pid"])


@pytest.mark.allow_warnings
def test_a_job_that_ended_or_was_cancelled_is_not_begun_again_by_force(
    hub: Hub, mount: Mount, commands: Commands
) -> None:
    mounted = mount("acme/big", *ON)
    if mounted.status()["supervisor"] is None:
        pytest.skip("THIS KERNEL CANNOT SEND REQUESTS AGAIN, NOT TESTED: jobs that survive")
    daemon = Daemon(mounted)
    over = daemon.ask("POST", "/v1/hydrate", {"include": ["*.bin"], "force": True})
    assert daemon.ended(over["id"])["state"] == "done"
    hub.faults.add(Match(kind="cdn", file=NAME), faults.stall(1000))
    given_up = daemon.ask("POST", "/v1/hydrate", {"include": [NAME]})
    hub.faults.wait_held(timeout=20)
    daemon.ask("DELETE", f"/v1/jobs/{given_up['id']}")
    hub.faults.clear()
    hub.journal.clear()
    commands.expect("restart", str(mounted.path))
    again = daemon.ended(over["id"])
    assert (again["state"], again["bytes_fetched"]) == ("done", 0), "a client that asks again gets the result"
    assert daemon.refusal("GET", f"/v1/jobs/{given_up['id']}", None).exit_code == NotFound.exit_code
    assert hub.journal.requests("cdn") == []
    mounted.pid = int(mounted.status()["pid"])


def test_of_a_mount_that_is_unmounted_under_it_the_command_tells_at_once(hub: Hub, mount: Mount) -> None:
    mounted = mount("acme/big", *ON)
    hub.faults.add(Match(kind="cdn", file=NAME), faults.stall(1000))
    with hydrating(mounted) as process:
        hub.faults.wait_held(timeout=20)
        assert eventually(lambda: mounted.status()["hydration"]["state"] == "running", 20)
        mounted.unmount()
        hub.faults.clear()
        output, wrong = process.communicate(timeout=15)
    assert process.returncode == 1
    assert "ended while it was hydrated" in wrong
    assert lines(output)[-1]["event"] == "end"


# Python.


@pytest.fixture
def session() -> Iterator[None]:
    """huggingface_hub's connections, which it keeps as long as the process lives."""
    yield
    huggingface_hub.close_session()


@pytest.mark.usefixtures("session")
def test_in_python_the_progress_of_files_and_of_all_is_told(hub: Hub, tmp_path: Path, commands: Commands) -> None:
    seen: list[hffs.Progress] = []
    options: dict[str, Any] = {
        name.lower().removeprefix("hffs_"): commands.environment[name]
        for name in ("HFFS_CACHE_DIR", "HFFS_RUNTIME_DIR")
    }
    came = hffs.hydrate(
        "acme/big", exclude=[NAME], to=tmp_path / "out", progress=seen.append, endpoint=hub.endpoint, **options
    )
    assert (came.files, came.bytes_total, came.bytes_fetched) == (len(FILES) - 1, ALL - BIG.size, ALL - BIG.size)
    assert (tmp_path / "out" / "config.json").read_bytes() == b"{}"
    whole = [each for each in seen if not each.file]
    assert whole[-1].state == "done"
    assert whole[-1].bytes_done == whole[-1].bytes_total == ALL - BIG.size
    assert [each.bytes_done for each in whole] == sorted(each.bytes_done for each in whole)
    assert {each.file for each in seen if each.state == "done" and each.file} == set(FILES) - {NAME}
    again = hffs.hydrate("acme/big", exclude=[NAME], endpoint=hub.endpoint, **options)
    assert again.bytes_fetched == 0
    with pytest.raises(HffsError) as refused:
        hffs.hydrate("acme/big", include=["*.nope"], endpoint=hub.endpoint, **options)
    assert refused.value.exit_code == NotFound.exit_code


def test_in_python_a_mount_hydrates_itself_and_a_callable_that_raises_cancels(
    hub: Hub, tmp_path: Path, commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in commands.environment.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "here").mkdir()
    with hffs.mount("acme/big", tmp_path / "here", prefetch="none", workers=4, big_file="8M") as mounted:
        seen: list[hffs.Progress] = []
        came = mounted.hydrate(include=["onnx/*"], progress=seen.append)
        assert (came.files, came.bytes_fetched) == (2, 700_001 + (3 << 20))
        assert seen[-1].state == "done"
        held = hub.faults.add(Match(kind="cdn", file=NAME), faults.stall(1000))

        def enough(_: hffs.Progress) -> None:
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            mounted.hydrate(progress=enough)
        assert mounted.status()["hydration"]["state"] == "cancelled"
        hub.faults.remove(held)
        hub.faults.release()
        assert mounted.hydrate().files == len(FILES)
