"""``hffs hydrate`` without a mount: killed, interrupted, run twice, refused. Data stays, the exit code says why."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.hub import Hub, Match, Record, Synthetic, faults
from tests.mount.mounted import Commands, eventually

from .refusing import error_line
from .test_disk import disk
from .test_processes import hffs, running

__all__ = ["disk"]

MIB = 1 << 20
BLOCK = 256 * 1024
NAME = "model.safetensors"
BIG = Synthetic(64 << 20, seed=71)
SMALL: dict[str, bytes | Path | Synthetic] = {f"small/{n:02}.bin": Synthetic(n * 7001, seed=n) for n in range(1, 21)}
ALL = BIG.size + sum(made.size for made in SMALL.values() if isinstance(made, Synthetic))
BIG_IS = ("--big-file", "1M", "--workers", "4", "--fetch-size", "1M")
SOON = 60.0

ODD, JAPANESE = "with space #1 100%25?.txt", "sub/ünï/日本 語.bin"
NAMES: dict[str, bytes | Path | Synthetic] = {
    "config.json": b"{}",
    "empty.txt": b"",
    ODD: b"odd",
    JAPANESE: Synthetic(300_000, seed=5),
    "sub/model.gguf": Synthetic(17 << 20, seed=6),
    "sub/deep/er/x.bin": b"x",
}


@pytest.fixture
def big(hub: Hub) -> None:
    hub.add_repo("acme/big", files={NAME: BIG, **SMALL})


@pytest.fixture
def odd(hub: Hub) -> None:
    hub.add_repo("acme/odd", files=NAMES)


def content(made: bytes | Path | Synthetic) -> bytes:
    assert not isinstance(made, Path)
    return made if isinstance(made, bytes) else made.read(0, made.size)


def exported(folder: Path) -> dict[str, bytes]:
    """The content of every file below a folder, which holds nothing else."""
    found = {}
    for path in folder.rglob("*"):
        if not path.is_dir():
            assert path.is_file()
            found[str(path.relative_to(folder))] = path.read_bytes()
    return found


def on_disk(cache: Path) -> int:
    return sum(path.stat().st_blocks * 512 for path in cache.rglob("*.data"))


def sent(records: list[Record]) -> int:
    return sum(record.bytes_sent for record in records)


def events(output: str) -> list[dict[str, Any]]:
    """The lines of ``--json``: one start first, one end last."""
    found = [json.loads(line) for line in output.splitlines()]
    assert [each["event"] for each in found][:1] == ["start"]
    assert [each["event"] for each in found].count("start") == 1
    assert [number for number, each in enumerate(found) if each["event"] == "end"] == [len(found) - 1]
    done = [each["bytes_done"] for each in found if each["event"] == "progress"]
    assert done == sorted(done)
    return found


def end(output: str) -> dict[str, Any]:
    return events(output)[-1]


# Interrupted.


@pytest.mark.usefixtures("big")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_blocks_fetched_before_an_interruption_are_not_fetched_again(
    hub: Hub, commands: Commands, number: signal.Signals
) -> None:
    # It is silent in the middle of the third piece (of 16, 12, 9 MiB), so that no bytes are left in socket buffers.
    hub.faults.add(Match(kind="cdn", file=NAME, nth=3, count=1), faults.stall(3 * MIB + 1000))
    command = hffs(commands, "hydrate", "acme/big", *BIG_IS)
    with running(*command, env=commands.environment) as process:
        hub.faults.wait_held(timeout=SOON)
        stored = ALL - BIG.size + (16 + 12 + 3) * MIB
        assert eventually(lambda: on_disk(commands.cache) >= stored - 3 * BLOCK, 9)
        process.send_signal(number)
        output, wrong = process.communicate(timeout=SOON)
    if number == signal.SIGKILL:
        assert process.returncode == -signal.SIGKILL
    else:
        assert process.returncode == 130
        assert error_line(wrong) == "interrupted: fetched data is kept; run the same command to continue"
        assert output == ""
    hub.journal.wait_for(lambda records: all(record.finished for record in records), SOON)
    first = hub.journal.requests("cdn")
    assert ALL // 3 < sent(first) < ALL
    hub.journal.clear()
    last = end(commands.expect("hydrate", "acme/big", *BIG_IS, "--json"))
    assert (last["state"], last["files_done"], last["bytes_done"]) == ("done", 21, ALL)
    second = hub.journal.requests("cdn") + hub.journal.requests("resolve-cache")
    assert last["bytes_fetched"] == sum(record.bytes_sent for record in second)
    twice = sent(first) + sent(second) - ALL
    print(f"{twice / ALL:.2%} of {ALL} bytes were sent twice")
    # A broken block, up to three that waited to be stored with others, one that was just being stored.
    assert 1000 <= twice <= 1000 + 5 * BLOCK < 0.02 * ALL
    hub.journal.clear()
    output = commands.expect("hydrate", "acme/big", *BIG_IS)
    assert output == "acme/big: 21 files, 65.4M, verified; nothing was fetched\n"
    assert hub.journal.requests("cdn") == []


@pytest.mark.usefixtures("big")
@pytest.mark.parametrize("silent", ["cdn", "tree"])
def test_an_interruption_ends_it_while_the_hub_is_silent(hub: Hub, commands: Commands, silent: str) -> None:
    hub.page_size = 5
    hub.faults.add(Match(kind=silent, nth=2, count=1000), faults.hold())
    with running(*hffs(commands, "hydrate", "acme/big"), env=commands.environment) as process:
        hub.faults.wait_held(timeout=30)
        process.send_signal(signal.SIGINT)
        _, wrong = process.communicate(timeout=9)  # less than the ten seconds after which silence is an error
        assert process.returncode == 130
        assert error_line(wrong).startswith("interrupted")
    hub.faults.clear()
    commands.expect("hydrate", "acme/big")


@pytest.mark.usefixtures("big")
def test_two_processes_share_the_work(hub: Hub, commands: Commands) -> None:
    hub.shape.total = 40e6
    command = hffs(commands, "hydrate", "acme/big", *BIG_IS, "--json")
    with running(*command, env=commands.environment) as one, running(*command, env=commands.environment) as other:
        output = [process.communicate(timeout=SOON)[0] for process in (one, other)]
        assert [one.returncode, other.returncode] == [0, 0]
    hub.shape.total = None
    for last in map(end, output):
        assert (last["state"], last["bytes_done"], last["files_done"]) == ("done", ALL, 21)
    sent_bytes = hub.journal.bytes_sent("cdn")
    print(f"{sent_bytes / ALL:.3f} times the repo was sent")
    assert sent_bytes <= 1.1 * ALL


# Selected, exported and forced.


@pytest.mark.usefixtures("odd")
@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["acme/odd"], set(NAMES)),
        (
            ["acme/odd", "--include", "*.bin", "--include", "*.json"],
            {"config.json", "sub/ünï/日本 語.bin", "sub/deep/er/x.bin"},
        ),
        (["acme/odd", "--exclude", "sub/*"], {"config.json", "empty.txt", ODD}),
        (["acme/odd/sub"], {"ünï/日本 語.bin", "model.gguf", "deep/er/x.bin"}),
        (["acme/odd", "--subfolder", "sub/deep"], {"er/x.bin"}),
        (["acme/odd/sub/model.gguf"], {"model.gguf"}),
        (["acme/odd/config.json"], {"config.json"}),
    ],
)
def test_only_selected_files_are_fetched_and_exported_under_their_names(
    hub: Hub, commands: Commands, tmp_path: Path, words: list[str], names: set[str]
) -> None:
    folder = tmp_path / "out of #1"
    output = events(commands.expect("hydrate", *words, "--to", str(folder), "--json"))
    assert output[-1]["state"] == "done"
    assert {each["path"] for each in output if each["event"] == "file"} == names
    found = exported(folder)
    assert set(found) == names
    root = "sub/deep/" if "--subfolder" in words else "sub/" if "/sub" in words[0] else ""
    for name, data in found.items():
        assert data == content(NAMES[root + name]), name
    fetched = {record.file for kind in ("cdn", "resolve-cache") for record in hub.journal.requests(kind)}
    assert fetched - {".gitattributes"} == {root + name for name in names if NAMES[root + name] != b""}


@pytest.mark.usefixtures("odd")
def test_export_replaces_the_repos_files_and_keeps_others(commands: Commands, tmp_path: Path) -> None:
    folder, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    (folder / "sub").mkdir(parents=True)
    elsewhere.write_text("mine")
    (folder / "config.json").write_text("old, and longer than the new one")
    (folder / "empty.txt").symlink_to(elsewhere)
    (folder / "notes").write_text("mine")
    for _ in range(2):
        commands.expect("hydrate", "acme/odd", "--to", str(folder))
        assert exported(folder) == {"notes": b"mine", **{name: content(made) for name, made in NAMES.items()}}
        assert not (folder / "empty.txt").is_symlink()
    assert elsewhere.read_text() == "mine"


@pytest.mark.usefixtures("odd")
def test_a_name_that_cannot_be_exported_is_an_error_and_others_are_exported(commands: Commands, tmp_path: Path) -> None:
    (tmp_path / "out" / "config.json").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out" / "sub").symlink_to(tmp_path / "elsewhere")
    done = commands.run("hydrate", "acme/odd", "--to", str(tmp_path / "out"))
    assert done.returncode == 1, done
    lines = done.stderr.splitlines()
    assert any(line.startswith("hffs: config.json: ") for line in lines), lines
    assert any("symbolic link" in line for line in lines), lines
    assert (tmp_path / "out" / "empty.txt").read_bytes() == b""
    assert list((tmp_path / "elsewhere").iterdir()) == []


@pytest.mark.usefixtures("odd")
def test_force_fetches_everything_again(hub: Hub, commands: Commands, tmp_path: Path) -> None:
    commands.expect("hydrate", "acme/odd", "--to", str(tmp_path / "a"))
    hub.journal.clear()
    last = end(commands.expect("hydrate", "acme/odd", "--force", "--json", "--to", str(tmp_path / "b")))
    total = sum(len(content(made)) for made in NAMES.values())
    assert (last["state"], last["bytes_fetched"]) == ("done", total)
    assert hub.journal.bytes_sent("cdn", file="sub/model.gguf") == 17 << 20
    assert exported(tmp_path / "a") == exported(tmp_path / "b")


@pytest.mark.usefixtures("odd")
def test_a_folder_inside_a_mount_is_refused_file_by_file(commands: Commands, mount: Callable[..., Any]) -> None:
    mounted = mount("acme/odd", "--prefetch", "none")
    done = commands.run("hydrate", "acme/odd/config.json", "--to", str(mounted.path))
    assert done.returncode == 1
    assert done.stderr.startswith("hffs: ")


# Limits by the server and by the user.


@pytest.mark.usefixtures("big")
@pytest.mark.parametrize(
    "refusal", [faults.rate_limited(t=2), faults.unavailable(retry_after=2)], ids=["RateLimit", "Retry-After"]
)
def test_retry_after_of_a_server_is_respected(hub: Hub, commands: Commands, refusal: Any) -> None:
    hub.faults.add(Match(kind="cdn", nth=3, count=1), refusal)
    last = end(commands.expect("hydrate", "acme/big", "--workers", "1", "--json"))
    assert last["state"] == "done"
    records = hub.journal.requests("cdn")
    (at,) = [number for number, record in enumerate(records) if record.status in (429, 503)]
    assert records[at + 1].time >= records[at].time + 2.0
    assert records[at + 1].file == records[at].file, "the same file is retried"


def test_the_bandwidth_is_not_exceeded(hub: Hub, commands: Commands) -> None:
    rate, size = 1 << 20, 5 << 19
    hub.add_repo("acme/slow", files={"a.bin": Synthetic(size - BLOCK, seed=1), "b.bin": Synthetic(BLOCK, seed=2)})
    commands.expect("hydrate", "acme/slow", "--bandwidth", "1M", "--big-file", "1M")
    took = time.monotonic() - min(record.time for record in hub.journal.requests("cdn"))
    assert took >= (size - BLOCK) / rate, "all of it but the first burst"


# Exit codes.


@pytest.mark.usefixtures("big")
def test_a_missing_repo_or_file_exits_3(commands: Commands) -> None:
    for words in (["acme/none"], ["acme/big@v9"], ["acme/big/nope"], ["acme/big", "--include", "*.nope"]):
        done = commands.run("hydrate", *words)
        assert done.returncode == 3, (words, done)
        error_line(done.stderr)


def test_a_gated_repo_exits_4_and_fetches_nothing(hub: Hub, commands: Commands) -> None:
    hub.add_repo("acme/gated", files={"a.safetensors": Synthetic(1 << 20, seed=1)}).gated = "manual"
    done = commands.run("hydrate", "acme/gated")
    assert done.returncode == 4, done
    assert "acme/gated" in error_line(done.stderr)
    assert hub.journal.requests("cdn") == []


@pytest.mark.usefixtures("big")
def test_a_hub_lost_midway_exits_5_and_fetched_data_stays(hub: Hub, commands: Commands) -> None:
    hub.shape.total = 40e6
    command = hffs(commands, "hydrate", "acme/big", *BIG_IS, "--json")
    with running(*command, env=commands.environment) as process:
        hub.journal.wait_for(lambda records: sent(list(records)) > ALL // 2, SOON)
        hub.down()
        output, wrong = process.communicate(timeout=SOON)
    assert process.returncode == 5, wrong
    last = end(output)
    assert (last["state"], last["exit_code"]) == ("failed", 5)
    assert ALL // 3 < last["bytes_done"] < ALL
    hub.up()
    hub.shape.total = None
    again = end(commands.expect("hydrate", "acme/big", "--json"))
    assert again["bytes_fetched"] <= ALL - last["bytes_done"]
    assert again["bytes_done"] == ALL


def test_content_that_stays_wrong_exits_6_and_other_files_complete(
    hub: Hub, commands: Commands, tmp_path: Path
) -> None:
    files: dict[str, bytes | Path | Synthetic] = {f"{n}.safetensors": Synthetic(300_000 + n, seed=n) for n in range(4)}
    hub.add_repo("acme/wrong", files=files)
    fault = hub.faults.add(Match(kind="cdn", file="2.safetensors"), faults.flip_bit(1000))
    done = commands.run("hydrate", "acme/wrong", "--json", "--to", str(tmp_path / "out"))
    assert done.returncode == 6, done
    assert done.stderr.count("\n") <= 1, done.stderr
    output = events(done.stdout)
    (error,) = [each for each in output if each["event"] == "error"]
    assert (error["path"], error["exit_code"]) == ("2.safetensors", 6)
    assert (output[-1]["files_done"], output[-1]["exit_code"]) == (3, 6)
    assert sorted(exported(tmp_path / "out")) == ["0.safetensors", "1.safetensors", "3.safetensors"]
    assert len(hub.journal.requests("cdn", file="2.safetensors")) == 2
    hub.faults.remove(fault)
    assert end(commands.expect("hydrate", "acme/wrong", "--json"))["bytes_fetched"] == 300_002


@pytest.mark.usefixtures("big")
def test_a_repo_larger_than_the_cache_exits_7_before_any_fetch(hub: Hub, commands: Commands, disk: Path) -> None:
    commands.environment["HFFS_CACHE_DIR"] = str(disk / "cache")
    done = commands.run("hydrate", "acme/big", "--json")
    assert done.returncode == 7, done
    last = end(done.stdout)
    assert (last["state"], last["exit_code"]) == ("failed", 7)
    assert "the cache may hold" in done.stderr
    assert hub.journal.requests("cdn") == []


def test_names_of_a_hostile_server_write_nothing_outside_the_folder(
    hub: Hub, commands: Commands, tmp_path: Path
) -> None:
    hub.add_repo("acme/odd", files={"config.json": b"{}", "sub/a.bin": b"a"})
    hub.faults.add(Match(kind="tree"), faults.listed())
    folder = tmp_path / "home of out" / "out"
    done = commands.run("hydrate", "acme/odd", "--json", "--to", str(folder))
    assert done.returncode == 3, "files that are listed but do not exist"
    last = end(done.stdout)
    assert last["state"] == "failed"
    found = exported(folder)
    assert found.pop("config.json") == b"{}"
    assert found.pop("sub/a.bin") == b"a"
    assert found == {}
    assert list(folder.parent.iterdir()) == [folder]
    assert "Traceback" not in done.stderr
