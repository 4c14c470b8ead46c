"""Adopted blobs of huggingface_hub's cache: hashed first, read in place, never changed."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from hffs.cache import BlobStore, HubCache, HubRepo, Layout, StoredBlob, export_file
from hffs.cache.store import adopt
from hffs.cache.store import blob_store as blobs_module
from hffs.cache.store.blob_files import allocated
from hffs.errors import BlockAbsent, CacheUnusable
from hffs.model import Blob, Digest, RepoType
from hffs.ranges import BLOCK_SIZE
from tests.support.blobs import verify_blob
from tests.unit.cache.content import HUB, ROOT, blob_of, publish, publish_all, some_bytes
from tests.unit.cache.exported import data_file, no_reflink

CONTENT = some_bytes(3 * BLOCK_SIZE + 1000)
BLOB = blob_of(CONTENT)
ALL = range(4)


@pytest.fixture(autouse=True)
def _as_on_ext4(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "ioctl", no_reflink)


@pytest.fixture
def repo(tmp_path: Path) -> HubRepo:
    """A repo in the other cache that holds CONTENT."""
    made = HubCache(tmp_path / "hub").repo(RepoType.MODEL, "acme/tiny")
    put(made, CONTENT)
    return made


@pytest.fixture
def store(layout: Layout, repo: HubRepo) -> Iterator[BlobStore]:
    made = BlobStore(layout, boot_id="this boot", hf_repo=repo)
    yield made
    made.close()


def put(repo: HubRepo, content: bytes, name: str = "", mode: int = 0o644) -> Path:
    path = Path(repo.folder, "blobs", name or hashlib.sha256(content).hexdigest())
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    path.chmod(mode)
    os.utime(path, ns=(0, 10**18))  # a while ago: a write of now shows, however coarse the clock
    return path


def theirs(repo: HubRepo) -> Path:
    return Path(repo.folder, "blobs", BLOB.etag)


def tree(root: Path | str) -> dict[str, tuple[object, ...]]:
    """Everything below a folder, to be compared before and after."""
    found: dict[str, tuple[object, ...]] = {}
    for path in sorted(Path(root).rglob("*")):
        seen = path.lstat()
        content: object = os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else None
        found[str(path)] = (content, seen.st_mode, seen.st_ino, seen.st_nlink, seen.st_size, seen.st_mtime_ns)
    return found


# Adopting


def test_a_blob_of_the_other_cache_is_adopted_when_opened(store: BlobStore, repo: HubRepo, layout: Layout) -> None:
    before = tree(repo.root)
    stored = store.open(BLOB)
    assert stored.verified
    assert stored.read(0, len(CONTENT)) == CONTENT
    assert data_file(layout).is_symlink()
    assert allocated(str(store.layout.blobs)) < BLOCK_SIZE  # no second copy
    stored.close()
    assert store.state(BLOB) == "verified"
    assert tree(repo.root) == before


def test_an_adopted_blob_can_be_read_by_passthrough(store: BlobStore, repo: HubRepo) -> None:
    stored = store.open(BLOB)
    lent = stored.dup_fd()
    assert lent is not None
    assert os.path.samestat(os.fstat(lent), theirs(repo).stat())
    os.close(lent)
    stored.close()


def test_an_adopted_blob_is_not_hashed_again_when_reopened(
    layout: Layout, repo: HubRepo, store: BlobStore, monkeypatch
) -> None:
    store.open(BLOB).close()
    monkeypatch.setattr(os, "preadv", None)
    stored = store.open(BLOB)
    assert stored.verified
    stored.close()


@pytest.mark.allow_warnings("one line about the blob that is wrong")
def test_a_blob_with_a_wrong_byte_is_refused_and_logged_once(
    store: BlobStore, repo: HubRepo, caplog: pytest.LogCaptureFixture
) -> None:
    put(repo, CONTENT[:-1] + b"!", name=BLOB.etag)
    for _ in range(3):
        stored = store.open(BLOB)
        assert stored.missing(ALL) == [ALL]
        stored.close()
    assert [record.getMessage() for record in caplog.records if "not-adopted" in record.getMessage()] == [
        f"event=not-adopted path={theirs(repo)} why=its content does not match its name"
    ]


@pytest.mark.parametrize("content", [CONTENT[:-1], CONTENT + b"!", b""])
def test_a_blob_of_another_size_is_not_hashed(store: BlobStore, repo: HubRepo, content: bytes) -> None:
    put(repo, content, name=BLOB.etag)
    assert store.adopt(BLOB) == "absent"


def test_partial_downloads_and_names_with_slashes_are_not_adopted(store: BlobStore, repo: HubRepo) -> None:
    os.rename(theirs(repo), f"{theirs(repo)}.0a1b2c3d.incomplete")
    assert store.adopt(BLOB) == "absent"
    for name in ("../blobs/x", "..", ".hidden", "a/b", ""):
        assert repo.open(name, 0) is None
    assert [blob.etag for blob in repo.hashed_blobs(HUB)] == []


def test_a_link_out_of_the_cache_is_not_followed(store: BlobStore, repo: HubRepo, tmp_path: Path) -> None:
    os.rename(theirs(repo), tmp_path / "outside")
    theirs(repo).symlink_to(tmp_path / "outside")
    assert store.adopt(BLOB) == "absent"
    theirs(repo).unlink()
    os.mkfifo(theirs(repo))
    assert store.adopt(BLOB) == "absent"


def test_a_link_into_the_shared_store_is_followed(store: BlobStore, repo: HubRepo, tmp_path: Path) -> None:
    xet = "ab" + 62 * "0"
    shared = tmp_path / "hub" / "blobs" / "ab" / xet
    shared.parent.mkdir(parents=True)
    os.rename(theirs(repo), shared)
    shared.chmod(0o444)
    theirs(repo).symlink_to(f"../../blobs/ab/{xet}")
    before = tree(repo.root)
    assert store.adopt(BLOB) == "in place"
    stored = store.open(BLOB)
    assert stored.read(0, len(CONTENT)) == CONTENT
    stored.discard(ALL)
    stored.close()
    assert tree(repo.root) == before
    theirs(repo).unlink()
    theirs(repo).symlink_to(f"../../blobs/ac/{xet}")  # not as huggingface_hub names it
    assert store.adopt(BLOB) == "absent"


def test_git_files_are_checked_by_gits_hash(store: BlobStore, repo: HubRepo) -> None:
    oid = hashlib.sha1(b"blob %d\0" % len(CONTENT) + CONTENT).hexdigest()
    put(repo, CONTENT, name=oid)
    assert store.adopt(Blob(oid, len(CONTENT), HUB, Digest("git-sha1", oid))) == "in place"


def test_a_blob_without_a_hash_is_not_adopted(store: BlobStore) -> None:
    stored = store.open(Blob(BLOB.etag, BLOB.size, HUB))
    assert stored.missing(ALL) == [ALL]
    stored.close()


def test_a_big_blob_is_reported_as_adoptable_when_opened(
    store: BlobStore, repo: HubRepo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blobs_module, "ADOPT_INLINE_MAX", len(CONTENT) - 1)
    reported: list[Blob] = []
    store.on_adoptable = reported.append
    stored = store.open(BLOB)
    assert reported == [BLOB]
    assert stored.missing(ALL) == [ALL]
    publish(stored, CONTENT, range(1))
    # A store that has it open continues with the other file.
    assert store.adopt(BLOB) == "in place"
    assert stored.missing(ALL) == []
    assert stored.verified
    assert stored.read(0, len(CONTENT)) == CONTENT
    assert store.adopt(BLOB) == "held"
    stored.close()


def test_a_blob_opened_while_it_is_adopted_continues_with_that_file(
    store: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blobs_module, "ADOPT_INLINE_MAX", 0)
    opened: list[StoredBlob] = []

    def meanwhile() -> bool:
        if not opened:
            opened.append(store.open(BLOB))
        return False

    assert store.adopt(BLOB, cancelled=meanwhile) == "in place"
    assert opened[0].verified
    assert opened[0].read(0, len(CONTENT)) == CONTENT
    opened[0].close()


def test_a_blob_being_fetched_is_not_adopted(store: BlobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blobs_module, "ADOPT_INLINE_MAX", 0)
    stored = store.open(BLOB)
    with stored.lease(range(1, 2)) as lease:
        assert store.adopt(BLOB, patience=0) == "busy"
        with stored.lease(ALL) as rest:  # free blocks are released
            assert (rest.blocks, rest.busy) == ([range(1), range(2, 4)], [range(1, 2)])
        stored.publish(lease, 1, memoryview(CONTENT)[BLOCK_SIZE : 2 * BLOCK_SIZE])
    assert stored.missing(ALL) == [range(1), range(2, 4)]
    assert store.adopt(BLOB) == "in place"
    assert stored.read(0, len(CONTENT)) == CONTENT
    stored.close()


def test_adopting_waits_for_fetches_and_blocks_new_ones(store: BlobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blobs_module, "ADOPT_INLINE_MAX", 0)
    stored = store.open(BLOB)
    under_way = stored.lease(range(1, 2))
    others: list[range] = []

    def meanwhile(_: float) -> None:
        with stored.lease(ALL) as more:
            others.extend(more.blocks)
        under_way.release()

    monkeypatch.setattr(adopt.time, "sleep", meanwhile)
    assert store.adopt(BLOB, patience=60) == "in place"
    assert others == []
    assert stored.verified
    with stored.lease(ALL) as lease:  # no lock is left, and no block is missing
        assert (lease.blocks, lease.busy) == ([], [])
    stored.close()


def test_a_cancelled_adoption_leaves_nothing(store: BlobStore, layout: Layout) -> None:
    assert store.adopt(BLOB, cancelled=lambda: True) == "stopped"
    assert not data_file(layout).is_symlink()
    assert store.local_bytes(BLOB) == 0


@pytest.mark.parametrize("how", ["written", "replaced", "deleted"])
def test_a_blob_changed_while_it_is_hashed_is_not_adopted(
    store: BlobStore, repo: HubRepo, layout: Layout, how: str
) -> None:
    new = put(repo, CONTENT, name="new")

    def meanwhile() -> bool:
        if how == "written":
            with theirs(repo).open("r+b") as file:
                file.write(CONTENT[:1])
        elif how == "replaced" and new.exists():
            os.replace(new, theirs(repo))
        else:
            theirs(repo).unlink(missing_ok=True)
        return False

    assert store.adopt(BLOB, cancelled=meanwhile) == "busy"
    assert not data_file(layout).exists()


KILLED = """
import fcntl, os, signal, sys
from hffs.cache import BlobStore, HubCache, Layout
from hffs.model import RepoType
from tests.unit.cache.content import blob_of, some_bytes
from tests.unit.cache.exported import no_reflink

cache, hub, at, count = sys.argv[1:]
before, left = getattr(os, at), [int(count)]

def killing(*words, **more):
    left[0] -= 1
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)
    return before(*words, **more)

store = BlobStore(Layout(cache), hf_repo=HubCache(hub).repo(RepoType.MODEL, "acme/tiny"))
fcntl.ioctl = no_reflink
setattr(os, at, killing)
store.adopt(blob_of(some_bytes(3 * 256 * 1024 + 1000)))
print("adopted")
"""


@pytest.mark.parametrize(
    ("at", "count"), [("symlink", 1), ("rename", 1), *(("pwrite", count) for count in range(1, 7)), ("fdatasync", 2)]
)
def test_a_killed_adoption_leaves_nothing_or_a_right_blob(layout: Layout, repo: HubRepo, at: str, count: int) -> None:
    before = tree(repo.root)
    words = [sys.executable, "-c", KILLED, layout.root, repo.root, at, str(count)]
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(words, cwd=ROOT, env=environ, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (-9, ""), done.stderr
    alone = BlobStore(layout)  # without the other cache: nothing repairs it
    stored = alone.open(BLOB)
    assert stored.missing(ALL) in ([], [ALL])
    publish_all(stored, CONTENT)
    assert stored.read(0, len(CONTENT)) == CONTENT
    stored.close()
    alone.close()
    assert tree(repo.root) == before


def test_an_adopted_blob_replaces_a_partial_one_for_every_process(
    store: BlobStore, layout: Layout, repo: HubRepo
) -> None:
    other = BlobStore(layout, boot_id="this boot")
    fetching = other.open(BLOB)
    publish(fetching, CONTENT, range(2))
    assert store.adopt(BLOB) == "in place"
    publish(fetching, CONTENT, range(2, 4))  # it continues with its open files
    assert fetching.read(0, len(CONTENT)) == CONTENT
    fetching.close()
    again = other.open(BLOB)
    assert again.verified
    again.close()
    other.close()
    assert theirs(repo).read_bytes() == CONTENT


# Changes of the other file


def test_a_removed_adopted_blob_is_fetched_again(store: BlobStore, repo: HubRepo, layout: Layout) -> None:
    stored = store.open(BLOB)
    shutil.rmtree(repo.folder)
    assert stored.read(0, len(CONTENT)) == CONTENT  # a process that has it open keeps it
    stored.close()
    assert store.local_bytes(BLOB) == 0
    assert store.state(BLOB) == "remote"
    stored = store.open(BLOB)
    assert stored.missing(ALL) == [ALL]
    publish_all(stored, CONTENT)
    assert verify_blob(stored, 0)
    assert not data_file(layout).is_symlink()
    stored.close()


def test_an_adopted_blob_replaced_by_a_copy_is_hashed_again(store: BlobStore, repo: HubRepo) -> None:
    store.open(BLOB).close()
    os.replace(put(repo, CONTENT, name="new"), theirs(repo))
    assert store.local_bytes(BLOB) == 0
    stored = store.open(BLOB)
    assert stored.verified
    stored.close()


@pytest.mark.allow_warnings("one line about the blob that is wrong")
def test_an_adopted_blob_that_was_written_to_is_not_trusted(store: BlobStore, repo: HubRepo) -> None:
    store.open(BLOB).close()
    with theirs(repo).open("r+b") as file:
        file.write(b"!" if CONTENT[:1] != b"!" else b"?")
    stored = store.open(BLOB)
    assert stored.missing(ALL) == [ALL]
    publish_all(stored, CONTENT)
    assert stored.read(0, len(CONTENT)) == CONTENT
    stored.close()


@pytest.mark.allow_warnings("a block is damaged, the blob is wrong")
def test_a_truncated_adopted_blob_is_absent_not_zeros(store: BlobStore, repo: HubRepo) -> None:
    stored = store.open(BLOB)
    os.truncate(theirs(repo), BLOCK_SIZE)
    assert stored.read(0, BLOCK_SIZE) == CONTENT[:BLOCK_SIZE]
    with pytest.raises(Exception, match="not in the cache"):
        stored.read(BLOCK_SIZE, 10)
    with pytest.raises(CacheUnusable, match="must not be changed"):
        publish(stored, CONTENT, range(1, 2))
    stored.close()
    stored = store.open(BLOB)
    publish_all(stored, CONTENT)
    assert stored.read(0, len(CONTENT)) == CONTENT
    stored.close()
    assert theirs(repo).read_bytes() == CONTENT[:BLOCK_SIZE]


# The other file is not changed


@pytest.mark.parametrize("mode", [0o644, 0o444])
def test_dropping_an_adopted_blob_leaves_the_other_cache_unchanged(
    store: BlobStore, repo: HubRepo, layout: Layout, mode: int
) -> None:
    theirs(repo).chmod(mode)
    before = tree(repo.root)
    for blocks in (range(1, 2), ALL):
        stored = store.open(BLOB)
        assert stored.verified
        assert stored.discard(blocks) == 0
        stored.close()
        assert tree(repo.root) == before
    assert not data_file(layout).exists()
    assert store.local_bytes(BLOB) == 0


def test_dropping_a_removed_adopted_blob_leaves_no_files(store: BlobStore, repo: HubRepo, layout: Layout) -> None:
    stored = store.open(BLOB)
    shutil.rmtree(repo.folder)
    stored.discard(ALL)
    stored.close()
    assert [name for name in os.listdir(layout.folder(BLOB.etag)) if not name.endswith(".lock")] == []


def test_dropping_in_one_store_keeps_a_newly_adopted_blob_of_another(
    store: BlobStore, repo: HubRepo, layout: Layout
) -> None:
    other = BlobStore(layout, boot_id="this boot", hf_repo=repo)
    first, second = store.open(BLOB), other.open(BLOB)
    assert first.discard(ALL) == 0
    again = BlobStore(layout, boot_id="this boot", hf_repo=repo)
    third = again.open(BLOB)
    second.discard(ALL)  # of the files that the first store has dropped
    assert third.verified
    assert data_file(layout).is_symlink()
    third.close()
    fourth = again.open(BLOB)
    assert fourth.verified
    for stored in (first, second, fourth):
        stored.close()
    for each in (other, again):
        each.close()


def test_exporting_an_adopted_blob_copies_it_and_keeps_its_mode(
    store: BlobStore, repo: HubRepo, tmp_path: Path
) -> None:
    before = tree(repo.root)
    stored = store.open(BLOB)
    assert export_file(stored, str(tmp_path / "to" / "model"), copy_below=1) == "copy"
    stored.close()
    assert tree(repo.root) == before


def test_a_reflinked_blob_survives_the_removal_of_its_source(
    store: BlobStore, repo: HubRepo, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    def clone(file: int, _request: int, data: int) -> int:
        os.sendfile(file, data, 0, os.fstat(data).st_size)
        return 0

    monkeypatch.setattr(fcntl, "ioctl", clone)
    before = tree(repo.root)
    assert store.adopt(BLOB) == "reflink"
    stored = store.open(BLOB)
    assert stored.verified
    assert not data_file(layout).is_symlink()
    assert tree(repo.root) == before
    shutil.rmtree(repo.folder)
    assert stored.read(0, len(CONTENT)) == CONTENT
    assert stored.discard(range(1, 2)) == BLOCK_SIZE
    publish(stored, CONTENT, range(1, 2))
    assert stored.read(0, len(CONTENT)) == CONTENT
    stored.close()


def test_concurrent_adopts_reads_and_drops_show_only_right_bytes(layout: Layout, repo: HubRepo) -> None:
    """Two stores exclude one another like two processes: their locks belong to different open files."""
    before = tree(repo.root)
    wrong: list[object] = []

    def use(store: BlobStore, turns: int) -> None:
        try:
            for turn in range(turns):
                stored = store.open(BLOB)
                try:
                    missing = stored.missing(ALL)  # one call: it may be adopted between two
                    if missing and not any(2 in run for run in missing):
                        wrong.append("a part of it")
                    with contextlib.suppress(BlockAbsent):
                        if stored.read(BLOCK_SIZE, 1000) != CONTENT[BLOCK_SIZE : BLOCK_SIZE + 1000]:
                            wrong.append("other bytes")
                    if turn % 3 == 2:
                        stored.discard(ALL)
                finally:
                    stored.close()
        except Exception as error:
            wrong.append(error)

    stores = [BlobStore(layout, boot_id="this boot", hf_repo=repo) for _ in range(2)]
    threads = [threading.Thread(target=use, args=(store, 60)) for store in stores for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for store in stores:
        store.close()
    assert wrong == []
    assert tree(repo.root) == before


REFLINKS = """
import os, sys
from pathlib import Path
from hffs.cache import BlobStore, HubCache, Layout
from hffs.model import RepoType
from tests.unit.cache.content import blob_of, publish_all, some_bytes

home = Path(sys.argv[1])
layout = Layout(home / "cache")
layout.prepare()
repo = HubCache(home / "hub").repo(RepoType.MODEL, "acme/tiny")
content = some_bytes(8 << 20)
blob = blob_of(content)
theirs = Path(repo.folder, "blobs", blob.etag)
theirs.parent.mkdir(parents=True)
theirs.write_bytes(content)
os.sync()
store = BlobStore(layout, hf_repo=repo)
before = store.disk_free()
stored = store.open(blob)
assert stored.verified
os.sync()
assert before - store.disk_free() < len(content) // 2, (before, store.disk_free())
assert not os.path.islink(layout.paths(blob.etag, blob.origin).data)
assert stored.discard(range(32)) == len(content)
assert theirs.read_bytes() == content
publish_all(stored, content)
os.truncate(theirs, 0)
assert stored.read(0, len(content)) == content
stored.close()
print("passed")
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a disk")
@pytest.mark.parametrize("kind", ["btrfs", "xfs"])
def test_a_real_reflink_takes_no_disk_until_the_first_write(tmp_path: Path, kind: str) -> None:
    if not shutil.which(f"mkfs.{kind}"):
        pytest.skip(f"mkfs.{kind} is not installed")
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = f'truncate -s 320M "$IMAGE" && mkfs.{kind} -q "$IMAGE" >&2 && mount -t {kind} -o loop "$IMAGE" "$1"'
    script = f'{mount} && exec "$2" -W ignore -c "$3" "$1"'
    run = subprocess.run(
        ["timeout", "-k5", "110", "unshare", "-m", "sh", "-ec", script, "sh", disk, sys.executable, REFLINKS],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "IMAGE": str(tmp_path / "image")},
    )
    if any(word in run.stderr for word in ("ermission denied", "not permitted", "unknown filesystem", "loop device")):
        pytest.skip(f"this machine cannot mount that: {run.stderr.strip()}")
    assert run.stdout == "passed\n", run.stderr
