"""Files of hffs changed by a disk error, a crash or another program."""

from __future__ import annotations

import json
import math
import os
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from hffs.cache import Index, Layout, revisions
from hffs.cache.budget import ledger
from hffs.cache.hf_cache.hub_cache import HubCache
from hffs.cache.integrity import mismatches
from hffs.cache.store import state_file
from hffs.cache.store.layout import file_system_of
from hffs.control import mount_records
from hffs.control.messages import record_path
from hffs.daemon.job_requests import JobRequest
from hffs.daemon.jobs import Jobs
from hffs.daemon.supervisor_link import Handover
from hffs.errors import HffsError
from hffs.fuse.connection import Connection
from hffs.fuse.kernel.journal import encode, replay
from hffs.model import Blob, Commit, Digest, RemoteFile, RepoType
from hffs.names import check_name
from hffs.system import mount_table
from hffs.transfer import listings
from tests.support.mismatch_records import recorded

from .mutations import broken, broken_text, fuzzed, misfits

SHA, SHA256 = "0" * 40, "1" * 64
HUB = "https://hub.example"
COMMIT = Commit(RepoType.MODEL, "acme/tiny", "main", "c" * 40, 1_700_000_000.0, HUB)


# State files.


def _state() -> bytes:
    size = 700_000
    digest = Digest("sha256", SHA256)
    with tempfile.TemporaryDirectory() as folder:
        made = state_file.StateFile.create(f"{folder}/x.state", Blob(SHA256, size, HUB, digest), "boot")
        verified = state_file.VerificationRecord(digest, 5, state_file.FileMark(1, 2, size, 3, 4))
        made.write_header(state_file.StateHeader(SHA256, HUB, size, "boot", True, verified))
        made.set_present(0, b"\1\2\3")
        raw = os.pread(made.fd, 1 << 20, 0)
        made.close()
    return raw


STATE = _state()


def sealed(raw: bytes) -> bytes:
    """Returns the file with a matching header checksum, as a forger would write it."""
    body = raw[state_file._PREFIX.size : state_file.PRESENCE]
    crc = state_file.crc32(body, state_file.crc32(state_file._PREFIX.pack(state_file._MAGIC, state_file.VERSION, 0)))
    return state_file._PREFIX.pack(state_file._MAGIC, state_file.VERSION, crc) + raw[state_file._PREFIX.size :]


def test_state_files(tmp_path: Path) -> None:
    path = tmp_path / "x.state"

    @fuzzed(broken([STATE, STATE[: state_file._TEXTS + 200]]), st.booleans())
    def run(raw: bytes, seal: bool) -> None:
        path.write_bytes(sealed(raw) if seal else raw)
        try:
            found, header = state_file.StateFile.open(str(path), writing=False)
        except (state_file.Damaged, HffsError):
            return
        try:
            assert found.missing(range(found.blocks)) is not None
            assert 0 <= found.local_bytes() <= header.size
            found.crcs(0, found.blocks)
            found.last_uses()
            assert header.encode()
        finally:
            found.close()

    run()


@fuzzed(broken([state_file.StateHeader(SHA, HUB, 5, "boot").encode()]))
def test_state_headers(raw: bytes) -> None:
    for each in (raw, sealed(raw.ljust(state_file.PRESENCE, b"\0"))):
        try:
            header = state_file.StateHeader.decode(each, "x.state")
        except (state_file.Damaged, HffsError):
            continue
        assert header.encode()


# The ledger, the index.


@fuzzed(broken([ledger._Table(b"").packed()]), st.booleans())
def test_ledgers(raw: bytes, seal: bool) -> None:
    if seal:
        numbers = ledger._TABLE.unpack(raw[: ledger._TABLE.size].ljust(ledger._TABLE.size))[3:]
        raw = ledger._TABLE.pack(ledger._MAGIC, ledger._VERSION, 0, *numbers)
        raw = raw[:12] + ledger.crc32(raw[16:]).to_bytes(4, "little") + raw[16:]
    table = ledger._Table(raw)
    table.account()
    table.held += 1 << 50
    assert len(table.packed()) == ledger._TABLE.size


ENTRIES = [["a/b", "file", 5, SHA, False], ["a", "directory", None, None, False], ["c", "file", None, None, True]]
ROWS = json.dumps(ENTRIES)
KNOWN = [["acme/tiny", "c" * 40, 1.0, 2.0, 3.0]]


@fuzzed(broken_text([ROWS, "[]"]) | misfits([ENTRIES]).map(bytes.decode))
def test_index_rows_of_listings(text: str) -> None:
    for entry in listings.decode(text) or ():
        assert check_name(entry.path) == entry.path
        assert entry.kind in ("file", "directory")
        assert entry.digest() is None or entry.etag


@fuzzed(broken_text([json.dumps(KNOWN), "[]"]) | misfits([KNOWN]).map(bytes.decode))
def test_index_rows_of_revisions(text: str) -> None:
    for name, sha, date, _, _ in revisions._decode(text):
        assert ".." not in name
        assert len(sha) == 40
        assert 0 <= date < 1e12


def test_index_texts_and_keys(tmp_path: Path) -> None:
    index = Index(tmp_path / "index")

    @fuzzed(broken_text(["revision/1/https://hub|model|a/b|main", "listing/1/all"]), broken_text([ROWS]))
    def run(key: str, text: str) -> None:
        index.delete(key)
        index.set(key, text)
        assert index.get(key) in (text, None)
        assert isinstance(index.keys(key[:5]), list)

    try:
        run()
    finally:
        index.close()


FOUND = {"what": "wrong", "at": 1.5, "path": "a.bin", "repo": "acme/tiny", "commit": "c" * 40, "etag": SHA256,
         "size": 5, "origin": HUB, "expected": SHA256, "got": "2" * 64, "copies": 2}  # fmt: skip
SETTLED = {"what": "right", "at": 2.5, "etag": SHA256, "origin": HUB}
LINES = [
    b"".join(json.dumps(each).encode() + b"\n" for each in (FOUND, {**FOUND, "etag": SHA})),
    b"".join(json.dumps(each).encode() + b"\n" for each in (FOUND, SETTLED, FOUND)),
]


def test_mismatch_records(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    blob = Blob(SHA256, 5, HUB, Digest("sha256", SHA256))
    file = RemoteFile(COMMIT, "a.bin", blob)

    @fuzzed(broken(LINES) | misfits([FOUND, SETTLED]))
    def run(raw: bytes) -> None:
        (tmp_path / "mismatches").write_bytes(raw)
        for each in recorded(layout):
            assert math.isfinite(each.at)
            assert isinstance(each.size, int)
        record = mismatches.Mismatches(layout)
        before = record.find(blob)
        assert record.current() == mismatches.current(layout)
        now = record.record(file, SHA256, "3" * 64, began=1e12, now=1e12)
        assert now.copies == (before.copies + 1 if before else 1)
        assert mismatches.current(layout).count(now) == 1, "a torn line takes nothing with it"
        assert record.clear(blob, right=True, now=1e12)
        assert blob.etag not in [each.etag for each in mismatches.current(layout) if each.origin == HUB]

    run()


# Another program's cache.

TREE = {"files": {"config.json": {"size": 2}, "a/b": {"size": 5}}}


def test_trees_of_the_huggingface_hub_cache(tmp_path: Path) -> None:
    repo = HubCache(tmp_path).repo(RepoType.MODEL, "acme/tiny")
    for folder in ("trees", "refs", "snapshots/" + "c" * 40):
        os.makedirs(f"{repo.folder}/{folder}")

    @fuzzed(broken([json.dumps(TREE).encode()]) | misfits([TREE]), broken([b"c" * 40]))
    def run(tree: bytes, ref: bytes) -> None:
        Path(repo.folder, "trees", "c" * 40 + ".json").write_bytes(tree)
        Path(repo.folder, "refs", "main").write_bytes(ref)
        for path in repo.snapshot("main") or ():
            assert check_name(path) == path

    run()


# Jobs, records, handovers, journals, mountinfo.


class Quiet(Jobs):
    """Starts nothing."""

    def __init__(self, path: str) -> None:
        super().__init__(path, "/mnt/model", *[None] * 3, 1)  # type: ignore[arg-type]
        self.started: list[JobRequest] = []

    def _start(self, request: JobRequest) -> Any:
        self.started.append(request)

    def _report(self, job: Any, since: int) -> Any:
        return {}


WISH = {"id": "a1", "target": "/mnt/model", "path": "onnx", "include": ["*.bin"], "exclude": [], "force": True}
CHECK = {"id": "c", "target": "/mnt/model", "kind": "verify", "path": "", "fix": True, "require": ["*.json"]}
JOBS = [{"wish": WISH, "ended_at": None}, {"wish": CHECK, "ended_at": 1e18}]


def proper(wishes: list[JobRequest]) -> None:
    for wish in wishes:
        texts = (wish.path, wish.id, wish.target, *wish.include, *wish.exclude, *wish.require)
        assert all(isinstance(each, str) for each in texts)
        assert isinstance(wish.force, bool)
        assert isinstance(wish.fix, bool)
        assert wish.kind in ("hydrate", "verify")


def test_jobs_of_an_earlier_worker(tmp_path: Path) -> None:
    path = tmp_path / "jobs"

    @fuzzed(broken([json.dumps(JOBS).encode(), b"[]"]) | misfits([JOBS]))
    def run(raw: bytes) -> None:
        path.write_bytes(raw)
        jobs = Quiet(str(path))
        jobs.resume()
        proper(jobs.started)

    run()


RECORD = {
    "mountpoint": "/mnt/model", "repo": "acme/tiny", "type": "model", "revision": "main", "commit": "c" * 40, "pid": 1,
    "started_at": 1.5, "pid_start": 7, "supervisor": {"pid": 1, "restarts": 0}, "supervisor_start": 7,
}  # fmt: skip


def test_mount_records(tmp_path: Path) -> None:
    directory = str(tmp_path / "run")
    mount_records.runtime_dir(directory)

    @fuzzed(broken([json.dumps(RECORD).encode()]) | misfits([RECORD]))
    def run(raw: bytes) -> None:
        Path(record_path(directory, "/mnt/model")).write_bytes(raw)
        for found in mount_records.every(directory):
            assert found["mountpoint"] == "/mnt/model"
            assert mount_records.alive(found) in (True, False)

    run()


HANDOVER = Handover(Connection(3, 1 << 39, 41), COMMIT, "", 1.0, 2.0).to_json()


def test_a_handover_keeps_the_keys_of_0_1_0() -> None:
    keys = ["date", "endpoint", "id", "revision", "sha", "type"]
    assert sorted(json.loads(HANDOVER)["commit"]) == keys
    assert Handover.from_json(HANDOVER, 5).commit == COMMIT


@fuzzed(broken_text([HANDOVER, "{}"]) | misfits([json.loads(HANDOVER)]).map(bytes.decode))
def test_handovers(text: str) -> None:
    try:
        found = Handover.from_json(text, 5)
    except HffsError:
        return
    assert found.connection.fd == 5


JOURNAL = b"".join([encode(True, 1, 5), encode(True, 2, 5, 3), encode(False, 1), encode(True, 4, 6, 9)])


@fuzzed(broken([JOURNAL]), st.lists(st.tuples(st.booleans(), *[st.integers(0, 4)] * 3), max_size=12))
def test_handle_journals(raw: bytes, history: list[tuple[bool, int, int, int]]) -> None:
    for data in (raw, b"".join(encode(*each) for each in history)):
        found = replay(data)
        assert all(opened.handles for opened in found.nodes.values())


MOUNTINFO = (
    b"36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue\n"
    b"41 22 0:50 / /mnt/a\\040b rw,nosuid,nodev - fuse.hffs acme/tiny rw,user_id=0\n"
    b"42 22 0:51 / / rw - tmpfs  rw\n"
)


def test_mount_tables(tmp_path: Path) -> None:
    path = tmp_path / "mountinfo"

    @fuzzed(broken([MOUNTINFO]))
    def run(raw: bytes) -> None:
        path.write_bytes(raw)
        for where, mounted in mount_table.table(str(path)).items():
            assert where == mounted.mountpoint
        mount_table.locate("/mnt/a b/c", mount_table.table(str(path)))
        assert isinstance(file_system_of("/mnt/a b", raw.decode("utf-8", "surrogateescape")), str)

    run()
