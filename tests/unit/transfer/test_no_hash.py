"""A file without a hash is compared by size and etag; whole, it is ``local`` and never ``verified``."""

from __future__ import annotations

from dataclasses import replace

from hffs.cache import BlobStore
from hffs.model import Blob, Commit, Entry, RepoType
from hffs.transfer import BlobReader
from hffs.transfer.listings import decode, encode
from tests.unit.memory import COMMIT, MemorySource


def test_a_file_without_a_hash_is_local_and_never_verified(fetcher_of, source: MemorySource, store: BlobStore) -> None:
    file = source.file("a.bin", 300_000)
    file = replace(file, blob=replace(file.blob, digest=None))
    fetcher = fetcher_of()
    reader = BlobReader(fetcher, file)
    answer = reader.read(0, 300_000)
    assert (answer if isinstance(answer, bytes) else answer.result(10.0)) == source.contents["a.bin"]
    reader.close()
    assert store.state(file.blob) == "local"
    assert not fetcher.hash_worker._queued


def test_the_same_etag_of_two_files_is_two_contents() -> None:
    entry = Entry("a.json", "file", 5, "v1", etag_from="server")
    other = Commit(RepoType.DATASET, COMMIT.id, "main", COMMIT.sha, 0.0, COMMIT.source)
    blobs = [
        entry.blob(COMMIT), replace(entry, path="b.json").blob(COMMIT), entry.blob(other),
        entry.blob(replace(COMMIT, sha="d" * 40)),
    ]  # fmt: skip
    assert len(set(blobs)) == 4
    assert all(blob is not None and blob.digest is None for blob in blobs)


def test_a_hash_is_one_content_in_any_file_of_the_source() -> None:
    entry = Entry("a.bin", "file", 5, "e" * 64, lfs=True)
    assert entry.blob(COMMIT) == replace(entry, path="b.bin", etag_from="server").blob(COMMIT)
    assert isinstance(entry.blob(COMMIT), Blob)
    assert replace(entry, size=None).blob(COMMIT) is None


def test_the_origin_of_an_etag_is_stored_with_the_listing() -> None:
    entries = [
        Entry("a", "file", 1, "e" * 40),
        Entry("b", "file", 2, "v1", etag_from="server"),
        Entry("c", "directory"),
    ]
    assert decode(encode(entries)) == entries
