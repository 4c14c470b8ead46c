"""The store against plain bytes: two processes' worth of stores on one blob, in any order of work, drops and damage.

Every read gives the blob's own bytes or BlockAbsent, and bytes whenever all its blocks are present and undamaged.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from hffs.cache import BlobStore, BlockLease, Layout, StoredBlob
from hffs.cache.store.state_file import PRESENCE
from hffs.errors import BlockAbsent
from hffs.ranges import BLOCK_SIZE, block_count, block_length, runs
from tests.support.blobs import verify_blob
from tests.support.profile import examples
from tests.unit.cache.content import blob_of, pieces, some_bytes

CONTENT = some_bytes(4 * BLOCK_SIZE + 4321)
BLOB = blob_of(CONTENT)
COUNT = block_count(len(CONTENT))
process_numbers = st.integers(0, 1)
blocks = st.integers(0, COUNT - 1)
spans = st.tuples(blocks, blocks).map(lambda ends: range(min(ends), max(ends) + 1))
# Around block edges as often as anywhere.
offsets = st.one_of(
    st.integers(0, len(CONTENT) + 10),
    st.builds(lambda block, shift: max(block * BLOCK_SIZE + shift, 0), st.integers(0, COUNT), st.integers(-2, 2)),
)
lengths = st.one_of(st.integers(0, 8192), st.integers(0, len(CONTENT)), st.just(BLOCK_SIZE))


class StoreMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.resources = contextlib.ExitStack()
        self.folder = Path(self.resources.enter_context(tempfile.TemporaryDirectory()))
        self.layout = Layout(self.folder)
        self.stores: list[BlobStore] = []
        self.blobs: list[StoredBlob] = []
        self.claims: list[BlockLease | None] = [None, None]
        self.held: list[set[int]] = [set(), set()]
        self.present: set[int] = set()
        self.damaged: set[int] = set()  # present, but these bytes are never returned
        self.verified = False

    @initialize()
    def begin(self) -> None:
        self.layout.prepare()
        self.open_all("first boot")

    def teardown(self) -> None:
        self.close_all()
        self.resources.close()

    def open_all(self, boot: str) -> None:
        self.stores = [BlobStore(self.layout, clock=lambda: 1e9, boot_id=boot) for _ in range(2)]
        self.blobs = [store.open(BLOB) for store in self.stores]

    def close_all(self) -> None:
        for claim in self.claims:
            if claim:
                claim.release()
        for blob, store in zip(self.blobs, self.stores, strict=True):
            blob.close()
            store.close()
        self.claims, self.held = [None, None], [set(), set()]

    @rule(one=process_numbers, span=spans)
    def claim(self, one: int, span: range) -> None:
        self.release(one)
        claim = self.claims[one] = self.blobs[one].lease(span)
        wanted = set(span) - self.present
        assert claim.busy == runs(sorted(wanted & self.held[1 - one]))
        assert claim.blocks == runs(sorted(wanted - self.held[1 - one]))
        self.held[one] = wanted - self.held[1 - one]

    @rule(one=process_numbers)
    def release(self, one: int) -> None:
        claim = self.claims[one]
        if claim:
            claim.release()
        self.claims[one], self.held[one] = None, set()

    @precondition(lambda self: any(self.held))
    @rule(one=process_numbers, data=st.data())
    def publish(self, one: int, data: Any) -> None:
        one = one if self.held[one] else 1 - one
        span = data.draw(st.sampled_from(runs(sorted(self.held[one]))))
        run = data.draw(spans.map(lambda some: range(max(some.start, span.start), min(some.stop, span.stop))))
        self.publish_run(one, run or span)

    @rule(one=process_numbers, span=spans)
    def publish_span(self, one: int, span: range) -> None:
        self.claim(one, span)
        for run in runs(sorted(self.held[one])):
            self.publish_run(one, run)
        self.release(one)

    def publish_run(self, one: int, run: range) -> None:
        claim = self.claims[one]
        assert claim
        self.blobs[one].publish(claim, run.start, pieces(CONTENT, run))
        self.held[one].difference_update(run)
        self.present.update(run)

    @rule(one=process_numbers, span=spans)
    def discard(self, one: int, span: range) -> None:
        dropped = set(span) - self.held[0] - self.held[1]
        freed = self.blobs[one].discard(span)
        assert freed == sum(block_length(block, len(CONTENT)) for block in dropped & self.present)
        if dropped:
            self.verified = False
        self.present -= dropped
        self.damaged -= dropped

    @rule(one=process_numbers, span=spans, needed=st.integers(1, 4 * BLOCK_SIZE))
    def evict(self, one: int, span: range, needed: int) -> None:
        """From the first on, whole pages of disk, until enough is freed."""
        dropped: set[int] = set()
        given = 0
        for block in sorted(set(span) & self.present):
            if given < needed:
                dropped.add(block)
                given += -(-block_length(block, len(CONTENT)) // 4096) * 4096
        assert self.blobs[one].evict(span, needed) == given
        if dropped:
            self.verified = False
        self.present -= dropped
        self.damaged -= dropped

    @rule(one=process_numbers, offset=offsets, length=lengths)
    def read(self, one: int, offset: int, length: int) -> None:
        stop = min(offset + length, len(CONTENT))
        span = set(range(offset // BLOCK_SIZE, -(-stop // BLOCK_SIZE))) if offset < stop else set()
        readable = span <= self.present - self.damaged
        try:
            data = self.blobs[one].read(offset, length)
        except BlockAbsent:
            assert not readable
            if span <= self.present:  # all present, some damaged: now it is known
                self.present -= span & self.damaged
                self.damaged -= span
                self.verified = False
        else:
            assert readable
            assert data == CONTENT[offset:stop]

    @rule(one=process_numbers)
    def verify(self, one: int) -> None:
        complete = len(self.present) == COUNT
        done = verify_blob(self.blobs[one], 2e9)
        if self.verified:
            assert done
        elif complete and self.damaged:
            assert not done
            # Hashing stops at the first read of 1 MiB with damage in it, and drops all that is damaged in that.
            found = {block for block in self.damaged if block // 4 == min(self.damaged) // 4}
            self.present -= found
            self.damaged -= found
        else:
            assert done == complete
            self.verified = done

    @rule(boot=st.sampled_from(["first boot", "another boot"]))
    def reopen(self, boot: str) -> None:
        self.close_all()
        self.open_all(boot)

    @rule(block=blocks, shift=st.integers(0, BLOCK_SIZE - 1), bit=st.integers(0, 7))
    def flip_a_bit_on_disk(self, block: int, shift: int, bit: int) -> None:
        """While no process has the blob open: a process does not check again what it has checked."""
        at = min(block * BLOCK_SIZE + shift, len(CONTENT) - 1)
        if block not in self.present or block in self.damaged:
            return
        self.close_all()
        with open(self.layout.paths(BLOB.etag, BLOB.origin).data, "r+b") as file:
            file.seek(at)
            (byte,) = file.read(1)
            file.seek(at)
            file.write(bytes([byte ^ 1 << bit]))
        self.damaged.add(block)
        self.verified = False
        self.open_all("first boot")

    @rule(keep=st.integers(0, 1100), tail=st.binary(max_size=40))
    def tear_the_state_file(self, keep: int, tail: bytes) -> None:
        path = self.layout.paths(BLOB.etag, BLOB.origin).state
        whole = Path(path).read_bytes()
        assume(keep < PRESENCE or keep + len(tail) != len(whole))  # CRCs exchanged for as many others: as flipped bits
        self.close_all()
        os.truncate(path, keep)
        with open(path, "ab") as file:
            file.write(tail)
        if Path(path).read_bytes() != whole:
            self.present.clear()
            self.damaged.clear()
            self.verified = False
        self.open_all("first boot")

    @rule()
    def lose_the_data_file(self) -> None:
        self.close_all()
        os.unlink(self.layout.paths(BLOB.etag, BLOB.origin).data)
        self.present.clear()
        self.damaged.clear()
        self.verified = False
        self.open_all("first boot")

    @invariant()
    def all_agree_on_what_is_here(self) -> None:
        for blob, store in zip(self.blobs, self.stores, strict=True):
            assert blob.missing(range(COUNT)) == runs(sorted(set(range(COUNT)) - self.present))
            held = sum(block_length(block, len(CONTENT)) for block in self.present)
            assert blob.local_bytes == store.local_bytes(BLOB) == held
            assert blob.complete == (len(self.present) == COUNT)
            assert blob.verified == self.verified


TestStore = pytest.mark.allow_warnings("begins anew, is damaged: both are made to happen")(StoreMachine.TestCase)
TestStore.settings = settings(
    max_examples=examples(60), stateful_step_count=30, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
