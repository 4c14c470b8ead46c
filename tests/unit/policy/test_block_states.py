from __future__ import annotations

import itertools

import pytest

from hffs.policy.blocks import AFTER, BlockMap, Event, Priority, Run, State, after


@pytest.mark.parametrize(("state", "event"), list(itertools.product(State, Event)))
def test_an_event_outside_the_table_is_refused_with_state_and_event_named(state: State, event: Event) -> None:
    if (state, event) in AFTER:
        assert after(state, event) is AFTER[state, event]
    else:
        with pytest.raises(AssertionError, match=f"{state.name} cannot meet {event.name}"):
            after(state, event)


def test_every_state_is_entered_and_left() -> None:
    for state in State:
        assert any(to is state and of is not state for (of, _), to in AFTER.items())
        assert any(of is state and to is not state for (of, _), to in AFTER.items())


def test_a_block_in_the_store_is_absent_from_the_queue_whatever_it_was() -> None:
    assert {after(state, Event.PRESENT) for state in State} == {State.ABSENT}


def test_a_cut_leaves_both_parts_with_all_that_is_known() -> None:
    table: BlockMap[str] = BlockMap()
    whole = Run("a", 2, 10, State.QUEUED, Priority.AHEAD, 7, attempt=3, until=5.0, entry=9, fetch=4, error="x")
    table.insert(whole)
    right = table.cut(6)
    assert right is not None
    assert (whole.start, whole.stop, right.start, right.stop) == (2, 6, 6, 10)
    assert (right.key, right.state, right.priority, right.since) == ("a", State.QUEUED, Priority.AHEAD, 7)
    assert (right.attempt, right.until, right.fetch, right.error) == (3, 5.0, 4, "x")
    assert right.entry == 0, "an entry on the agenda belongs to one run"


@pytest.mark.parametrize("edge", [0, 2, 10, 12])
def test_a_cut_where_no_run_lies_across_changes_nothing(edge: int) -> None:
    table: BlockMap[str] = BlockMap()
    table.insert(Run("a", 2, 10, State.QUEUED, Priority.AHEAD, 1))
    assert table.cut(edge) is None
    assert [(run.start, run.stop) for run in table] == [(2, 10)]


def test_a_look_tells_the_run_or_where_the_gap_ends() -> None:
    table: BlockMap[str] = BlockMap()
    run: Run[str] = Run("a", 2, 4, State.QUEUED, Priority.AHEAD, 1)
    table.insert(run)
    assert table.look(0) == (None, 2)
    assert table.look(3) == (run, 4)
    assert table.look(4)[0] is None
    assert table.look(4)[1] > 2**60
