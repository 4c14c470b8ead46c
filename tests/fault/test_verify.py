"""``hffs verify`` of the cache and of folders that other tools made: damage is found, mended, or reported."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import huggingface_hub
import pytest
from tqdm import tqdm

import hffs
from hffs.cli import main
from hffs.errors import NotFound, UsageError
from tests.hub import Hub, Match, Synthetic, faults
from tests.mount.mounted import Commands, eventually

from .test_processes import hffs as hffs_command
from .test_processes import running

BLOCK = 256 * 1024
SOON = 60.0
BIG = Synthetic(3 * BLOCK + 1000, seed=90)
HEADER = json.dumps({"w": {"dtype": "U8", "shape": [BIG.size], "data_offsets": [0, BIG.size]}}).encode()
WEIGHTS = struct.pack("<Q", len(HEADER)) + HEADER + BIG.read(0, BIG.size)
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:%s\nsize %d\n"
STUB = POINTER % (b"ab" * 32, 12345)
FILES: dict[str, bytes | Path | Synthetic] = {
    "config.json": b'{"a": 1}',
    "empty.txt": b"",
    "model.safetensors": WEIGHTS,
    "same.safetensors": WEIGHTS,
    "sub/other.bin": Synthetic(BLOCK + 7, seed=91),
}
Run = Callable[..., tuple[int, str, str]]
Verify = Callable[..., "VerifyOutput"]
Hydrate = Callable[..., None]


class VerifyOutput:
    """The exit code and output of ``hffs verify --json``."""

    def __init__(self, code: int, stdout: str, stderr: str) -> None:
        self.code = code
        self.stderr = stderr
        lines = [json.loads(line) for line in stdout.splitlines()]
        self.events = [line["event"] for line in lines]
        self.findings = [line for line in lines if line["event"] == "outcome"]
        self.checked = lines[-1].get("checked", {}) if lines else {}

    @property
    def outcomes(self) -> list[tuple[str, str, bool]]:
        return [(each["path"], each["kind"], each["mended"]) for each in self.findings]


@pytest.fixture(autouse=True)
def tiny(hub: Hub) -> None:
    hub.add_repo("acme/tiny", files=FILES)


@pytest.fixture(autouse=True)
def _environment(commands: Commands, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The commands run in this process, in the environment of ``commands``."""
    for name, value in commands.environment.items():
        if name.startswith(("HF", "HOME")):
            monkeypatch.setenv(name, value)
    monkeypatch.setattr(tqdm, "monitor_interval", 0)  # else its thread outlives the test
    yield
    huggingface_hub.close_session()


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*words: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(list(map(str, words)))
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def verify(run: Run) -> Verify:
    return lambda *words: VerifyOutput(*run("verify", *words, "--json"))


@pytest.fixture
def hydrate(run: Run) -> Hydrate:
    def hydrate(*words: object) -> None:
        code, output, wrong = run("hydrate", *words)
        assert code == 0, output + wrong

    return hydrate


def corrupt(path: Path, offset: int) -> None:
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)
        file.seek(offset)
        file.write(bytes([byte[0] ^ 1]))


def data_of(commands: Commands, content: bytes) -> Path:
    """The file of a content in the cache."""
    (found,) = (commands.cache / "blobs").rglob(f"{hashlib.sha256(content).hexdigest()}/*.data")
    return found


def state_of(commands: Commands, content: bytes) -> Path:
    return data_of(commands, content).with_suffix(".state")


# The cache.


def test_hydrated_files_verify_without_asking_a_server(hub: Hub, verify: Verify, hydrate: Hydrate, run: Run) -> None:
    hydrate("acme/tiny", "--exclude", "sub/*")
    hub.down()
    result = verify("acme/tiny")
    assert (result.code, result.findings) == (0, [])
    assert result.checked == {
        "right": 4, "plausible": 0, "partial": 0, "absent": 1, "wrong": 0, "others": 0,
        "bytes": len(WEIGHTS) + 8, "blocks": 5,
    }  # fmt: skip
    assert result.events[0] == "start"
    assert result.events[-1] == "end"
    size = f"{(len(WEIGHTS) + 8) / 1024:.1f}K"
    assert run("verify", "acme/tiny") == (0, f"acme/tiny: 4 files correct, 1 not local; {size} read; no damage\n", "")


def test_damaged_blocks_are_reported_and_fix_fetches_only_them(
    hub: Hub, commands: Commands, verify: Verify, hydrate: Hydrate
) -> None:
    hydrate("acme/tiny")
    path = data_of(commands, WEIGHTS)
    corrupt(path, BLOCK + 5)
    damaged = path.read_bytes()
    result = verify("acme/tiny")
    assert (result.code, result.outcomes) == (6, [("model.safetensors", "blocks", False)])
    assert path.read_bytes() == damaged, "nothing changes without --fix"
    before = hub.journal.bytes_sent("cdn")
    result = verify("acme/tiny", "--fix")
    assert (result.code, result.outcomes) == (0, [("model.safetensors", "blocks", True)])
    assert hub.journal.bytes_sent("cdn") - before == BLOCK
    assert path.read_bytes() == WEIGHTS
    assert verify("acme/tiny").findings == []


def test_bytes_that_match_their_crcs_but_not_their_hash_are_found(
    commands: Commands, verify: Verify, hydrate: Hydrate, run: Run
) -> None:
    """As by a program that can write the cache: CRCs are no signature."""
    from hffs.cache.store.checksum import crc32
    from hffs.cache.store.state_file import StateFile

    hydrate("acme/tiny")
    path = data_of(commands, WEIGHTS)
    corrupt(path, 5)
    state, _ = StateFile.open(str(state_of(commands, WEIGHTS)))
    state.set_crcs(0, [crc32(path.read_bytes()[:BLOCK])])
    state.close()
    result = verify("acme/tiny")
    assert (result.code, result.outcomes) == (6, [("model.safetensors", "hash", False)])
    assert result.findings[0]["expected"] == hashlib.sha256(WEIGHTS).hexdigest()
    assert result.findings[0]["got"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert "verified" not in run("cache", "list")[1].splitlines()[1]
    result = verify("acme/tiny", "--fix")
    assert (result.code, result.outcomes) == (0, [("model.safetensors", "hash", True)])
    assert data_of(commands, WEIGHTS).read_bytes() == WEIGHTS
    assert "verified" in run("cache", "list")[1].splitlines()[1]


def test_a_truncated_data_file_is_found_and_mended(commands: Commands, verify: Verify, hydrate: Hydrate) -> None:
    hydrate("acme/tiny")
    os.truncate(data_of(commands, WEIGHTS), BLOCK)
    result = verify("acme/tiny")
    assert (result.code, result.outcomes) == (6, [("model.safetensors", "unreadable", False)])
    assert verify("acme/tiny", "--fix").outcomes == [("model.safetensors", "unreadable", True)]
    assert data_of(commands, WEIGHTS).read_bytes() == WEIGHTS


@pytest.mark.allow_warnings("what could not be fetched")
def test_fix_without_the_hub_drops_damage_and_exits_5(
    hub: Hub, commands: Commands, verify: Verify, hydrate: Hydrate
) -> None:
    hydrate("acme/tiny")
    corrupt(data_of(commands, WEIGHTS), 5)
    hub.down()
    result = verify("acme/tiny", "--fix")
    assert (result.code, result.outcomes) == (5, [("model.safetensors", "blocks", False)])
    assert "cannot reach" in result.findings[0]["remedy"]
    hub.up()
    assert verify("acme/tiny", "--require", "model.safetensors", "--fix").code == 0


@pytest.mark.allow_warnings("what was wrong")
def test_a_fetched_mismatch_is_reported_until_the_content_is_right(hub: Hub, run: Run, verify: Verify) -> None:
    hub.faults.add(Match(kind="cdn"), faults.flip_bit(1000))
    assert run("hydrate", "acme/tiny", "--include", "model.safetensors")[0] == 6
    result = verify("acme/tiny")
    assert (result.code, result.outcomes) == (6, [("model.safetensors", "hash", False)])
    assert result.findings[0]["expected"] == hashlib.sha256(WEIGHTS).hexdigest()
    assert result.findings[0]["got"] not in ("", result.findings[0]["expected"])
    assert verify("acme/tiny", "--fix").code == 6
    hub.faults.clear()
    result = verify("acme/tiny", "--fix")
    assert (result.code, result.outcomes) == (0, [("model.safetensors", "hash", True)])
    assert verify("acme/tiny").findings == []


def test_missing_required_files_are_damage_and_fix_fetches_them(
    hub: Hub, verify: Verify, hydrate: Hydrate, run: Run
) -> None:
    hydrate("acme/tiny", "--include", "*.json")
    result = verify("acme/tiny", "--require", "config.json", "--require", "*.safetensors", "--require", "*.gguf")
    assert result.code == 6
    assert result.outcomes == [("model.safetensors", "missing", False), ("*.gguf", "missing", False)]
    _, text, _ = run("verify", "acme/tiny", "--require", "*.gguf")
    assert text.splitlines()[0] == "*.gguf: no file of acme/tiny matches this required pattern"
    before = hub.journal.bytes_sent("cdn")
    result = verify("acme/tiny", "--require", "*.safetensors", "--fix")
    assert (result.code, result.outcomes) == (0, [("model.safetensors", "missing", True)])
    assert hub.journal.bytes_sent("cdn") - before == len(WEIGHTS)
    assert verify("acme/tiny", "--require", "*.safetensors", "--require", "config.json").code == 0


def test_an_lfs_pointer_in_the_repo_itself_is_a_warning(hub: Hub, verify: Verify, hydrate: Hydrate) -> None:
    hub.add_repo("acme/stub", files={"model.bin": STUB, "config.json": b"{"})
    hydrate("acme/stub")
    result = verify("acme/stub")
    assert result.code == 0
    assert {each["severity"] for each in result.findings} == {"warning"}
    assert result.outcomes == [("config.json", "structure", False), ("model.bin", "pointer", False)]
    assert result.findings[1]["what"].endswith("; the repo has the same content")


def test_all_checks_every_repo_and_blobs_that_no_listing_names(
    hub: Hub, commands: Commands, verify: Verify, hydrate: Hydrate
) -> None:
    hub.add_repo("acme/two", files={"a.bin": Synthetic(BLOCK, seed=92)}, type="dataset")
    hydrate("acme/tiny")
    hydrate("datasets/acme/two")
    corrupt(data_of(commands, Synthetic(BLOCK, seed=92).read(0, BLOCK)), 5)
    result = verify("--all")
    assert (result.code, result.outcomes) == (6, [("datasets/acme/two/a.bin", "blocks", False)])
    assert result.checked["right"] == 5
    for path in (commands.cache / "index").iterdir():
        path.unlink()
    result = verify("--all", "--fix")  # its origin is unknown: it is dropped, and fetched when it is read
    assert result.code == 0
    assert [(kind, mended) for _, kind, mended in result.outcomes] == [("blocks", True)]
    assert verify("--all").findings == []


def test_unknown_targets_exit_3_and_contradictory_ones_2(commands: Commands, verify: Verify) -> None:
    assert verify("acme/never").code == 3
    assert verify(commands.home / "nowhere").code == 3
    assert verify("acme/tiny", "--all").code == 2
    assert verify().code == 2


def test_python_returns_the_same_result_as_a_value(commands: Commands, hydrate: Hydrate) -> None:
    hydrate("acme/tiny")
    seen = []
    result = hffs.verify("acme/tiny", require="*.json", progress=seen.append)
    assert (result.ok, result.right, result.bytes_checked) == (True, 5, len(WEIGHTS) + 8 + BLOCK + 7)
    assert seen[-1].file == ""
    assert {each.file for each in seen} >= {"model.safetensors", "sub/other.bin"}
    corrupt(data_of(commands, WEIGHTS), 5)
    bad = hffs.verify("acme/tiny")
    assert not bad.ok
    assert [(each.path, each.kind, each.severity) for each in bad.findings] == [
        ("model.safetensors", "blocks", "damage")
    ]
    assert hffs.verify("acme/tiny", fix=True).ok
    assert hffs.verify(None).ok
    with pytest.raises(NotFound):
        hffs.verify("acme/never")
    with pytest.raises(UsageError):
        hffs.verify("acme/tiny", repo="acme/tiny")


def test_an_interrupted_fix_loses_nothing(hub: Hub, commands: Commands, verify: Verify, hydrate: Hydrate) -> None:
    hydrate("acme/tiny")
    corrupt(data_of(commands, WEIGHTS), 5)
    hub.faults.add(Match(kind="cdn"), faults.stall(after=100))
    since = len(hub.journal.requests(kind="cdn"))
    with running(*hffs_command(commands, "verify", "acme/tiny", "--fix"), env=commands.environment) as process:
        assert eventually(lambda: len(hub.journal.requests(kind="cdn")) > since, SOON), "it never began to mend"
        process.send_signal(signal.SIGINT)
        _, wrong = process.communicate(timeout=SOON)
    assert process.returncode == 130
    assert wrong == "hffs: interrupted: repairs are kept; run the same command to check the rest\n"
    hub.faults.clear()
    hydrate("acme/tiny")
    assert verify("acme/tiny").findings == []


# Folders.


@pytest.fixture
def snapshot(hub: Hub, tmp_path: Path) -> Path:
    cache = tmp_path / "elsewhere"
    return Path(huggingface_hub.snapshot_download("acme/tiny", cache_dir=cache, endpoint=hub.endpoint))


@pytest.fixture
def local_dir(hub: Hub, tmp_path: Path) -> Path:
    to = tmp_path / "local"
    huggingface_hub.snapshot_download("acme/tiny", local_dir=to, endpoint=hub.endpoint)
    return to


@pytest.fixture
def clone(hub: Hub, tmp_path: Path) -> Path:
    """As ``git clone`` without git-lfs leaves it."""
    root = tmp_path / "clone"
    (root / ".git").mkdir(parents=True)
    (root / ".git/HEAD").write_text("ref: refs/heads/main\n")
    (root / ".git/packed-refs").write_text(f"# pack-refs\n{hub.repo('acme/tiny').commit_of('main')} refs/heads/main\n")
    (root / ".git/config").write_text(f'[remote "origin"]\n\turl = {hub.endpoint}/acme/tiny\n')
    (root / "sub").mkdir()
    for name, made in FILES.items():
        content = made if isinstance(made, bytes) else made.read(0, made.size)  # type: ignore[union-attr]
        lfs = name.endswith((".safetensors", ".bin"))
        digest = hashlib.sha256(content).hexdigest().encode()
        (root / name).write_bytes(POINTER % (digest, len(content)) if lfs else content)
    return root


def test_a_snapshot_is_verified_and_its_blobs_are_mended(snapshot: Path, verify: Verify) -> None:
    result = verify(snapshot)
    assert (result.code, result.findings, result.checked["right"]) == (0, [], 5)
    blob = (snapshot / "model.safetensors").resolve()
    corrupt(blob, 5)
    (snapshot / "sub/other.bin").resolve().unlink()
    result = verify(snapshot)
    assert result.code == 6
    assert result.outcomes == [
        ("model.safetensors", "hash", False),
        ("same.safetensors", "hash", False),
        ("sub/other.bin", "missing", False),
    ]
    result = verify(snapshot.parents[1], "--fix")
    assert (result.code, {mended for _, _, mended in result.outcomes}) == (0, {True})
    assert (snapshot / "model.safetensors").is_symlink()
    assert (snapshot / "model.safetensors").read_bytes() == WEIGHTS
    assert (snapshot / "sub/other.bin").stat().st_size == BLOCK + 7
    assert verify(snapshot.parents[2]).findings == []


def test_without_the_hub_a_snapshot_is_verified_by_its_blob_names(hub: Hub, snapshot: Path, verify: Verify) -> None:
    hub.down()
    assert verify(snapshot).checked["right"] == 5
    corrupt((snapshot / "model.safetensors").resolve(), 5)
    result = verify(snapshot)
    assert result.code == 6
    assert "nothing was compared with the Hub" in result.stderr
    assert result.outcomes[0] == ("model.safetensors", "hash", False)


@pytest.mark.allow_warnings("what was not replaced")
def test_a_download_folder_is_mended_except_modified_files(local_dir: Path, verify: Verify) -> None:
    (local_dir / "mine.json").write_text("not JSON, and not the Hub's")
    result = verify(local_dir)
    assert (result.code, result.findings, result.checked["right"]) == (0, [], 5)
    assert "name it with --repo" in result.stderr
    times = (local_dir / "model.safetensors").stat()
    corrupt(local_dir / "model.safetensors", 5)
    os.utime(local_dir / "model.safetensors", ns=(times.st_atime_ns, times.st_mtime_ns))  # as a disk damages it
    (local_dir / "config.json").write_text('{"a": 2}')  # as a user edits it, later
    later = time.time() + 60
    os.utime(local_dir / "config.json", (later, later))
    assert verify(local_dir).code == 6
    result = verify(local_dir, "--repo", "acme/tiny", "--fix")
    assert result.code == 6
    assert result.outcomes == [("config.json", "hash", False), ("model.safetensors", "hash", True)]
    assert "may be your own change" in result.findings[0]["remedy"]
    assert (local_dir / "config.json").read_text() == '{"a": 2}'
    assert (local_dir / "mine.json").read_text() == "not JSON, and not the Hub's"
    assert (local_dir / "model.safetensors").read_bytes() == WEIGHTS
    assert result.checked["others"] == 1


def test_in_a_clone_only_pointers_are_replaced(clone: Path, verify: Verify) -> None:
    pointers = ["model.safetensors", "same.safetensors", "sub/other.bin"]
    (clone / "config.json").write_text('{"a": 2}')
    result = verify(clone)
    assert result.code == 6
    assert result.outcomes == [("config.json", "hash", False), *((path, "pointer", False) for path in pointers)]
    assert result.findings[1]["remedy"] == "git lfs pull, or run it again with --fix"
    (clone / "same.safetensors").write_bytes(STUB)  # to something else than the commit has
    result = verify(clone, "--fix")
    assert result.outcomes == [
        ("config.json", "hash", False),
        ("model.safetensors", "pointer", True),
        ("same.safetensors", "pointer", False),
        ("sub/other.bin", "pointer", True),
    ]
    assert result.code == 6
    assert (clone / "model.safetensors").read_bytes() == WEIGHTS
    assert (clone / "model.safetensors").stat().st_nlink == 1
    assert (clone / "same.safetensors").read_bytes() == STUB
    assert (clone / "config.json").read_text() == '{"a": 2}'
    assert {path.name for path in clone.rglob("*") if path.name.startswith(".") and path.is_file()} == set()


def test_a_plain_folder_is_checked_by_format_and_truncated_files_completed(
    hub: Hub, tmp_path: Path, verify: Verify
) -> None:
    folder = tmp_path / "plain"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(WEIGHTS[:-1])
    (folder / "tiny.bin").write_bytes(b"Entry not found")
    (folder / "config.json").write_bytes(b'{"a": 1}')
    (folder / "stub.gguf").write_bytes(STUB)
    hub.down()
    result = verify(folder)
    assert result.code == 6
    assert result.outcomes == [
        ("model.safetensors", "structure", False),
        ("stub.gguf", "pointer", False),
        ("tiny.bin", "tiny", False),
    ]
    assert result.checked["plausible"] == 1
    assert verify(folder, "--repo", "acme/tiny").code == 5
    hub.up()
    result = verify(folder, "--repo", "acme/tiny", "--fix", "--require", "sub/*")
    assert result.outcomes == [("model.safetensors", "size", True), ("sub/other.bin", "missing", True)]
    assert (result.code, result.checked["others"]) == (0, 2)
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert (folder / "sub/other.bin").stat().st_size == BLOCK + 7
    assert verify(folder, "--repo", "acme/never").code == 3


def test_a_single_file_is_verified_and_links_are_not_replaced(tmp_path: Path, verify: Verify) -> None:
    folder, other = tmp_path / "linked", tmp_path / "other"
    folder.mkdir()
    other.write_bytes(WEIGHTS[:1000])
    (folder / "model.safetensors").symlink_to(other)
    (folder / "config.json").write_bytes(b'{"a": 1}')
    assert verify(folder / "config.json", "--repo", "acme/tiny").checked["right"] == 1
    result = verify(folder, "--repo", "acme/tiny", "--fix")
    assert (result.code, result.outcomes) == (6, [("model.safetensors", "size", False)])
    assert other.read_bytes() == WEIGHTS[:1000]
    assert (folder / "model.safetensors").is_symlink()


def test_a_repo_only_in_huggingface_hubs_cache_is_verified_there(hub: Hub, commands: Commands, verify: Verify) -> None:
    cache = commands.environment["HF_HOME"] + "/hub"
    huggingface_hub.snapshot_download("acme/tiny", cache_dir=cache, endpoint=hub.endpoint)
    result = verify("acme/tiny")
    assert (result.code, result.checked["right"]) == (0, 5)


def test_patterns_select_the_files_to_verify(
    commands: Commands, local_dir: Path, verify: Verify, hydrate: Hydrate
) -> None:
    hydrate("acme/tiny")
    corrupt(data_of(commands, WEIGHTS), 5)
    assert verify("acme/tiny", "--include", "*.json").checked["right"] == 1
    assert verify("acme/tiny", "--exclude", "*.safetensors").code == 0
    assert verify("acme/tiny/sub").checked["right"] == 1
    corrupt(local_dir / "model.safetensors", 5)
    assert verify(local_dir, "--include", "sub/*").checked["right"] == 1
    assert verify(local_dir / "sub").checked["right"] == 1
