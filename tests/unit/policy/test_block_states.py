from __future__ import annotations

import itertools

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hffs.policy.blocks import TRANSITIONS, BlockMap, Event, Priority, Run, State, after


@pytest.mark.parametrize(("state", "event"), list(itertools.product(State, Event)))
def test_an_impossible_event_raises_with_state_and_event_named(state: State, event: Event) -> None:
    if (state, event) in TRANSITIONS:
        assert after(state, event) is TRANSITIONS[state, event]
    else:
        with pytest.raises(AssertionError, match=f"{event.name} is impossible for a block that is {state.name}"):
            after(state, event)


def test_every_state_can_be_entered_and_left() -> None:
    for state in State:
        assert any(to is state and of is not state for (of, _), to in TRANSITIONS.items())
        assert any(of is state and to is not state for (of, _), to in TRANSITIONS.items())


def test_a_present_block_becomes_absent_from_every_state() -> None:
    assert {after(state, Event.PRESENT) for state in State} == {State.ABSENT}


def test_both_parts_of_a_cut_keep_all_attributes() -> None:
    table: BlockMap[str] = BlockMap()
    whole = Run("a", 2, 10, State.QUEUED, Priority.AHEAD, 7, attempt=3, until=5.0, entry=9, fetch=4, error="x")
    table.insert(whole)
    right = table.cut(6)
    assert right is not None
    assert (whole.start, whole.stop, right.start, right.stop) == (2, 6, 6, 10)
    assert (right.key, right.state, right.priority, right.since) == ("a", State.QUEUED, Priority.AHEAD, 7)
    assert (right.attempt, right.until, right.fetch, right.error) == (3, 5.0, 4, "x")
    assert right.entry == 0, "an entry of the ready queue belongs to one run"


@pytest.mark.parametrize("edge", [0, 2, 10, 12])
def test_a_cut_at_no_straddling_run_changes_nothing(edge: int) -> None:
    table: BlockMap[str] = BlockMap()
    table.insert(Run("a", 2, 10, State.QUEUED, Priority.AHEAD, 1))
    assert table.cut(edge) is None
    assert [(run.start, run.stop) for run in table] == [(2, 10)]


def test_look_returns_the_run_or_the_end_of_the_gap() -> None:
    table: BlockMap[str] = BlockMap()
    run: Run[str] = Run("a", 2, 4, State.QUEUED, Priority.AHEAD, 1)
    table.insert(run)
    assert table.look(0) == (None, 2)
    assert table.look(3) == (run, 4)
    assert table.look(4)[0] is None
    assert table.look(4)[1] > 2**60


@given(st.lists(st.tuples(st.sampled_from(["insert", "cut", "trim", "remove"]), st.integers(0, 60)), max_size=120))
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_runs_stay_in_order_over_any_number_of_chunks(
    monkeypatch: pytest.MonkeyPatch, steps: list[tuple[str, int]]
) -> None:
    monkeypatch.setattr("hffs.policy.blocks._CHUNK", 4)
    table: BlockMap[str] = BlockMap()
    plain: list[Run[str]] = []
    for step, block in steps:
        held = next((run for run in plain if run.start <= block < run.stop), None)
        if step == "insert" and held is None:
            end = min([run.start for run in plain if run.start > block] + [block + 3])
            plain.append(Run("a", block, end, State.QUEUED, Priority.AHEAD, 1))
            table.insert(plain[-1])
        elif step == "cut" and held is not None and held.start < block:
            right = table.cut(block)
            assert right is not None
            plain.append(right)
        elif step == "trim" and held is not None and len(held) > 1:
            held.start += 1
        elif step == "remove" and held is not None:
            table.remove(held)
            plain.remove(held)
        plain.sort(key=lambda run: run.start)
        assert list(table) == plain
        assert bool(table) == bool(plain)
        for at in range(0, 64, 3):
            assert list(table.following(at)) == [run for run in plain if run.stop > at]
            assert list(table.preceding(at)) == [run for run in reversed(plain) if run.start < at]
            assert table.holds(at) == any(run.start <= at < run.stop for run in plain)


def test_empty_chunks_are_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hffs.policy.blocks._CHUNK", 4)
    table: BlockMap[str] = BlockMap()
    for block in range(0, 200, 2):
        table.insert(Run("a", block, block + 1, State.QUEUED, Priority.AHEAD, 1))
    for run in list(table)[:-1]:
        table.remove(run)
    assert len(table._chunks) == 1
    assert table._floors == [0]
    assert [run.start for run in table] == [198]


def test_a_run_that_extends_past_the_next_floor_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hffs.policy.blocks._CHUNK", 4)
    table: BlockMap[str] = BlockMap()
    for block in range(0, 50, 10):
        table.insert(Run("a", block, block + 1, State.QUEUED, Priority.AHEAD, 1))
    table.remove(next(table.following(20)))
    across: Run[str] = Run("a", 15, 28, State.QUEUED, Priority.AHEAD, 1)
    table.insert(across)
    assert table.look(22) == (across, 28)
    across.start = 21
    table.remove(across)
    assert [run.start for run in table] == [0, 10, 30, 40]
