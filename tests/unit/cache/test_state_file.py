"""The state file: what is written is read back, damage is detected."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hffs.cache.store.state_file import (
    PRESENCE,
    Damaged,
    FileMark,
    StateFile,
    StateHeader,
    VerificationRecord,
    current_boot_id,
)
from hffs.errors import CacheUnusable
from hffs.model import Blob, Digest
from hffs.names import MOST_SIZE
from hffs.ranges import BLOCK_SIZE
from tests.unit.cache.content import HUB

BOOT = "01234567-89ab-cdef-0123-456789abcdef"
u64, i64 = st.integers(0, 2**64 - 1), st.integers(-(2**63), 2**63 - 1)
digests = st.one_of(
    st.builds(lambda raw: Digest("sha256", raw.hex()), st.binary(min_size=32, max_size=32)),
    st.builds(lambda raw: Digest("git-sha1", raw.hex()), st.binary(min_size=20, max_size=20)),
)
marks = st.builds(FileMark, dev=u64, inode=u64, size=u64, mtime_ns=i64, ctime_ns=i64)
headers = st.builds(
    StateHeader,
    etag=st.text(max_size=100),
    origin=st.text(max_size=100),
    size=st.integers(0, MOST_SIZE),
    boot_id=st.sampled_from([BOOT, ""]),
    pinned=st.booleans(),
    verification=st.none() | st.builds(VerificationRecord, digest=digests, at=u64, mark=marks),
)


@pytest.fixture
def state(tmp_path: Path) -> Iterator[StateFile]:
    made = StateFile.create(str(tmp_path / "x.state"), Blob("etag", 100 * BLOCK_SIZE + 5, HUB), BOOT)
    yield made
    made.close()


@given(headers)
def test_a_header_is_read_as_it_was_written(header: StateHeader) -> None:
    raw = header.encode()
    assert len(raw) == PRESENCE
    assert StateHeader.decode(raw, "path") == header


@given(headers, st.integers(0, PRESENCE - 1), st.integers(0, 7))
def test_any_flipped_bit_of_a_header_is_detected(header: StateHeader, byte: int, bit: int) -> None:
    raw = bytearray(header.encode())
    raw[byte] ^= 1 << bit
    with pytest.raises(Damaged):
        StateHeader.decode(bytes(raw), "path")


def test_a_newer_header_is_refused_not_damaged(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as future:
        future.setattr("hffs.cache.store.state_file.VERSION", 2)
        raw = StateHeader("etag", HUB, 1, BOOT).encode()
    with pytest.raises(CacheUnusable, match=r"newer hffs \(format 2\): upgrade hffs"):
        StateHeader.decode(raw, "path")


def test_a_header_with_another_block_size_is_damaged(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as other:
        other.setattr("hffs.cache.store.state_file.BLOCK_SIZE", 4096)
        raw = StateHeader("etag", HUB, 1, BOOT).encode()
    with pytest.raises(Damaged, match="blocks of 4096 bytes"):
        StateHeader.decode(raw, "path")


@pytest.mark.parametrize("etag", ["x" * 5000, "\ud800", "ü" * 300])
def test_an_etag_too_long_for_the_header_still_matches(tmp_path: Path, etag: str) -> None:
    blob = Blob(etag, 5, "https://" + "h" * 500)
    StateFile.create(str(tmp_path / "x.state"), blob, BOOT).close()
    state, header = StateFile.open(str(tmp_path / "x.state"))
    state.close()
    assert header.matches(blob)
    assert not header.matches(Blob(etag + "x", 5, blob.origin))
    assert not header.matches(Blob(etag, 6, blob.origin))


def test_a_new_file_is_allocated_private_and_empty(state: StateFile) -> None:
    found = os.fstat(state.fd)
    assert found.st_size == state.length
    assert found.st_blocks * 512 >= state.length
    assert found.st_mode & 0o777 == 0o600
    assert state.local_bytes() == 0
    assert state.missing(range(101)) == [range(101)]
    assert sorted(os.listdir(Path(state.path).parent)) == ["home", "x.state"]


def test_the_state_of_140_mib_fits_in_a_page(tmp_path: Path) -> None:
    state = StateFile.create(str(tmp_path / "x.state"), Blob("etag", 120 * 1024 * 1024, HUB), BOOT)
    assert state.length <= 4096
    state.close()


def test_a_file_of_wrong_length_is_damaged(state: StateFile) -> None:
    os.truncate(state.path, state.length - 1)
    with pytest.raises(Damaged, match="bytes instead of"):
        StateFile.open(state.path)
    os.truncate(state.path, 7)
    with pytest.raises(Damaged, match="too short"):
        StateFile.open(state.path)


def test_blocks_past_the_end_of_a_truncated_file_are_absent(state: StateFile) -> None:
    state.set_present(3, b"\1")
    state.set_present(90, b"\1")
    os.truncate(state.path, PRESENCE + 50)
    assert state.missing(range(101)) == [range(3), range(4, 101)]


def test_counts_run_from_1_to_250_and_wrap(state: StateFile) -> None:
    assert [*b"".join(state.next_counts(range(7, 8)) for _ in range(252))] == [*range(1, 251), 1, 2]
    assert state.next_counts(range(5, 9)) == bytes((1, 1, 3, 1))
    assert state.counts(4, 6) == bytes((0, 1, 1, 3, 1, 0))


def test_arrays_do_not_overlap(state: StateFile) -> None:
    before = state.header()
    state.set_present(0, state.next_counts(range(state.blocks)))
    state.set_crcs(0, [0xFFFF_FFFF] * state.blocks)
    for group in range(2):
        state.record_use(group, 0xFFFF_FFFF, again=True)
    assert state.header() == before
    assert state.presence(0, 101) == state.counts(0, 101) == b"\1" * 101
    assert state.crcs(0, 101) == (0xFFFF_FFFF,) * 101
    assert state.last_uses() == [0xFFFF_FFFF] * 2
    assert os.fstat(state.fd).st_size == state.length
    state.set_absent(range(1, 100))
    assert state.missing(range(101)) == [range(1, 100)]
    assert state.counts(0, 101) == b"\1" * 101


def test_the_short_last_block_counts_its_own_length(state: StateFile) -> None:
    state.set_present(100, b"\1")
    assert state.local_bytes() == 5
    state.set_present(0, b"\1")
    assert state.local_bytes() == BLOCK_SIZE + 5


def test_creation_that_fails_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space"):
        StateFile.create(str(tmp_path / "x.state"), Blob("etag", 5, HUB), BOOT)
    assert os.listdir(tmp_path) == ["home"]


def test_this_machine_has_a_boot_id() -> None:
    assert len(current_boot_id()) in {0, 36}
    assert current_boot_id() == current_boot_id()
