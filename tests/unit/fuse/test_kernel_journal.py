"""The journal of open handles, as left by a worker that died at any point."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hffs.fuse.kernel import journal as module
from hffs.fuse.kernel.journal import RECORD_SIZE, Journal, OpenNode, encode, replay
from tests.support.profile import examples

Operation = tuple[bool, int, int, int | None]  # opened or released, handle, node, backing id


def model(operations: list[Operation]) -> dict[int, OpenNode]:
    nodes: dict[int, OpenNode] = {}
    for opened, handle, node, backing in operations:
        if opened:
            nodes.setdefault(node, OpenNode(backing)).handles.add(handle)
        elif node in nodes:
            nodes[node].handles.discard(handle)
            if not nodes[node].handles:
                del nodes[node]
    return nodes


@st.composite
def histories(draw: st.DrawFn) -> list[Operation]:
    """Generates histories: handles are numbered once, released once, and share their node's backing id."""
    done: list[Operation] = []
    open_handles: list[Operation] = []
    for handle in range(1, draw(st.integers(0, 30)) + 1):
        if open_handles and draw(st.booleans()):
            _, old, node, _ = open_handles.pop(draw(st.integers(0, len(open_handles) - 1)))
            done.append((False, old, node, None))
        node = draw(st.integers(2, 5)) | 1 << 62
        held = [each for each in open_handles if each[2] == node]
        backing = held[0][3] if held else draw(st.none() | st.integers(1, 9))
        done.append((True, handle * 2, node, backing))
        open_handles.append(done[-1])
    return done


def bytes_of(operations: list[Operation]) -> bytes:
    return b"".join(encode(opened, handle, node, backing) for opened, handle, node, backing in operations)


@given(histories(), st.data())
def test_any_prefix_of_the_file_replays_its_whole_records(done: list[Operation], data: st.DataObject) -> None:
    written = bytes_of(done)
    cut = data.draw(st.integers(0, len(written)))
    assert replay(written[:cut]).nodes == model(done[: cut // RECORD_SIZE])


@given(histories(), st.data())
def test_a_damaged_record_ends_the_replay(done: list[Operation], data: st.DataObject) -> None:
    if not done:
        return
    written = bytearray(bytes_of(done))
    at = data.draw(st.integers(0, len(done) - 1))
    written[at * RECORD_SIZE + data.draw(st.integers(0, 27))] ^= data.draw(st.integers(1, 255))
    assert replay(bytes(written)).nodes == model(done[:at])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=examples(50))
@given(histories(), st.booleans())
def test_open_handles_survive_any_number_of_restarts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, done: list[Operation], often: bool
) -> None:
    monkeypatch.setattr(module, "COMPACT_AFTER", 3 if often else 1000)
    path = str(tmp_path / "handles")
    journal = Journal(path)
    nodes = journal.nodes
    for number, (opened, handle, node, backing) in enumerate(done):
        nodes.clear()
        nodes.update(model(done[: number + 1]))
        if opened:
            journal.opened(handle, node, backing)
        else:
            journal.released(handle)
    journal.close()
    for _ in range(2):
        journal = Journal(path, resume=True)
        journal.close()
        assert journal.nodes == model(done)
        assert not journal.lost
        assert os.stat(path).st_size == RECORD_SIZE * sum(len(each.handles) for each in journal.nodes.values())


def test_unused_backing_ids_are_reported_once() -> None:
    """Their worker may have died after the record and before closing the id."""
    done = [(True, 2, 7, 4), (True, 4, 8, 5), (False, 2, 7, None), (True, 6, 9, None)]
    assert replay(bytes_of(done)).orphans == {4}


def test_a_journal_does_not_grow_with_the_number_of_opens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "COMPACT_AFTER", 100)
    path = str(tmp_path / "handles")
    journal = Journal(path)
    for handle in range(5000):
        journal.opened(handle, 7, None)
        journal.released(handle)
    journal.close()
    assert os.stat(path).st_size <= 102 * RECORD_SIZE


def test_a_new_mount_starts_with_an_empty_journal(tmp_path: Path) -> None:
    path = tmp_path / "handles"
    path.write_bytes(encode(True, 2, 7, None))
    journal = Journal(str(path))
    journal.close()
    assert (journal.nodes, path.read_bytes()) == ({}, b"")


@pytest.mark.allow_warnings("journal-lost")
def test_a_missing_journal_is_lost(tmp_path: Path) -> None:
    journal = Journal(str(tmp_path / "handles"), resume=True)
    assert journal.lost
    assert journal.nodes == {}


@pytest.mark.allow_warnings("journal-unusable")
def test_a_journal_that_cannot_be_written_is_deleted(tmp_path: Path) -> None:
    path = tmp_path / "handles"
    journal = Journal(str(path))
    full = os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, journal._fd)
    os.close(full)
    journal.opened(2, 7, None)
    assert not journal.working
    assert not path.exists()
    journal.opened(4, 7, None)  # raises nothing
