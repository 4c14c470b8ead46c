from __future__ import annotations

from collections.abc import Collection

import pytest

from hffs.policy import BlockQueue, Fetch, Priority

DEMAND, AHEAD, BACKGROUND, BULK = Priority


def a_queue(**options: int) -> BlockQueue[str]:
    return BlockQueue[str](**options)


def taken(queue: BlockQueue[str], now: float = 0.0, among: Collection[Priority] = tuple(Priority)) -> Fetch:
    fetch = queue.next(now, among)
    assert fetch is not None
    return fetch


def test_all_tickets_for_a_block_share_one_fetch() -> None:
    queue = a_queue()
    for ticket in (1, 2):
        queue.want("a", range(3, 5), DEMAND, 0.0)
        assert queue.wait(ticket, "a", [3, 4], 0.0) is None
    fetch = taken(queue)
    assert fetch.blocks == range(3, 5)
    assert queue.next(0.0) is None
    assert queue.landed(fetch, 3) == []
    assert queue.landed(fetch, 4) == [1, 2]
    assert queue.settle(fetch, None, 0.0) == []


def test_a_want_of_a_running_block_waits_for_its_fetch() -> None:
    queue = a_queue()
    assert queue.want("a", range(2), BACKGROUND, 0.0)
    fetch = taken(queue)
    assert not queue.want("a", range(2), DEMAND, 0.0), "no worker needs waking"
    assert queue.wait(1, "a", [1], 0.0) is None
    assert queue.next(0.0) is None
    assert queue.landed(fetch, 1) == [1]


def test_demand_precedes_read_ahead_and_read_ahead_precedes_hydration() -> None:
    queue = a_queue()
    queue.want("hydrated", range(4), BACKGROUND, 0.0)
    queue.want("ahead", range(4), AHEAD, 0.0)
    queue.want("demanded", range(1), DEMAND, 0.0)
    assert [taken(queue).key for _ in range(3)] == ["demanded", "ahead", "hydrated"]


def test_the_oldest_demand_is_fetched_first() -> None:
    queue = a_queue()
    for block in (40, 20, 60):
        queue.want("a", range(block, block + 1), DEMAND, 0.0)
    assert [taken(queue).blocks.start for _ in range(3)] == [40, 20, 60]


def test_a_demanded_block_of_a_hydrated_file_is_fetched_next_with_its_successors() -> None:
    queue = a_queue(demand_blocks=16)
    queue.want("a", range(400_000), BACKGROUND, 0.0)
    queue.want("a", range(1000, 1001), DEMAND, 0.0)
    fetch = taken(queue, among=[Priority.DEMAND])
    assert (fetch.blocks, fetch.priority) == (range(1000, 1016), DEMAND)
    assert queue.next(0.0, [Priority.DEMAND]) is None
    assert queue.queued() == {DEMAND: 0, AHEAD: 0, BACKGROUND: 400_000 - 16, BULK: 0}


def test_a_demand_is_joined_by_preceding_blocks_only_if_demanded_and_few() -> None:
    queue = a_queue(demand_blocks=16)
    queue.want("a", range(10, 11), DEMAND, 0.0)
    queue.want("a", range(4, 10), DEMAND, 0.0)
    queue.want("b", range(20, 21), DEMAND, 0.0)
    queue.want("b", range(10, 20), AHEAD, 0.0)
    assert taken(queue).blocks == range(6, 11)
    assert taken(queue).blocks == range(4, 6)
    assert taken(queue).blocks == range(20, 21)


def test_a_fetch_limited_to_one_block_starts_at_the_urgent_block() -> None:
    queue = a_queue(demand_blocks=1)
    queue.want("a", range(1, 2), DEMAND, 0.0)
    queue.want("a", range(1), DEMAND, 0.0)
    assert [taken(queue).blocks for _ in range(2)] == [range(1, 2), range(1)]


def test_32_mib_are_split_over_all_workers_and_big_files_use_long_fetches() -> None:
    queue = a_queue(workers=8, demand_blocks=16, max_blocks=64)
    queue.want("window", range(128), AHEAD, 0.0)
    assert [len(taken(queue).blocks) for _ in range(8)] == [16] * 8
    queue.want("file", range(400_000), BACKGROUND, 0.0)
    assert len(taken(queue).blocks) == 64


def test_a_long_demand_is_split() -> None:
    queue = a_queue(demand_blocks=16)
    queue.want("a", range(40), DEMAND, 0.0)
    assert [taken(queue).blocks for _ in range(3)] == [range(16), range(16, 32), range(32, 40)]


def test_a_usual_length_above_the_maximum_is_clamped() -> None:
    queue = a_queue(demand_blocks=128, max_blocks=64)
    queue.want("a", range(128), DEMAND, 0.0)
    assert len(taken(queue).blocks) == 64


def test_adjacent_windows_are_fetched_as_one_run() -> None:
    queue = a_queue(workers=1)
    queue.want("a", range(8), AHEAD, 0.0)
    queue.want("a", range(4, 24), AHEAD, 0.0)
    assert taken(queue).blocks == range(24)


def test_a_failure_ends_all_waiting_tickets_and_those_of_the_next_seconds() -> None:
    queue = a_queue(failure_seconds=5)
    queue.want("a", range(2), DEMAND, 10.0)
    queue.wait(1, "a", [0, 1], 10.0)
    queue.wait(2, "a", [1], 10.0)
    fetch = taken(queue, 10.0)
    assert queue.landed(fetch, 0) == []
    assert queue.settle(fetch, "refused", 10.0) == [1, 2]
    assert queue.waiting() == []
    assert not queue.want("a", range(2, 2), DEMAND, 14.9)
    queue.want("a", range(1, 2), DEMAND, 14.9)
    assert queue.wait(3, "a", [1], 14.9) == "refused"
    assert queue.next(14.9) is None


def test_an_expired_failure_allows_a_new_attempt() -> None:
    queue = a_queue(failure_seconds=5)
    queue.want("a", range(1), DEMAND, 10.0)
    queue.settle(taken(queue, 10.0), "refused", 10.0)
    assert queue.want("a", range(1), DEMAND, 15.0)
    assert queue.wait(1, "a", [0], 15.0) is None
    assert taken(queue, 15.0).attempt == 0


def test_a_newer_failure_survives_the_expiry_of_an_older_one() -> None:
    queue = a_queue(failure_seconds=5)
    queue.want("a", range(1), DEMAND, 10.0)
    queue.settle(taken(queue, 10.0), "first", 10.0)
    queue.found("a", [0])  # another process published it; then it was evicted
    queue.want("a", range(1), DEMAND, 12.0)
    queue.settle(taken(queue, 12.0), "second", 12.0)
    queue.want("a", range(1), DEMAND, 16.0)
    assert queue.wait(1, "a", [0], 16.0) == "second"


def test_abandoning_a_ticket_lowers_the_priority_of_its_blocks() -> None:
    queue = a_queue()
    queue.want("a", range(2), DEMAND, 0.0)
    queue.wait(1, "a", [0, 1], 0.0)
    queue.wait(2, "a", [1], 0.0)
    queue.abandon(1)
    assert queue.queued() == {DEMAND: 1, AHEAD: 1, BACKGROUND: 0, BULK: 0}
    queue.abandon(2)
    queue.abandon(2)
    assert queue.queued() == {DEMAND: 0, AHEAD: 2, BACKGROUND: 0, BULK: 0}
    assert queue.waiting() == []


def test_an_abandoned_fetch_continues_and_is_retried_at_lower_priority() -> None:
    queue = a_queue()
    queue.want("a", range(1), DEMAND, 0.0)
    queue.wait(1, "a", [0], 0.0)
    fetch = taken(queue)
    queue.abandon(1)
    assert queue.running() == [fetch]
    queue.retry(fetch, 0.0)
    assert taken(queue).priority is AHEAD


def test_a_background_fetch_with_a_new_ticket_is_retried_as_demand() -> None:
    queue = a_queue()
    queue.want("a", range(4), BACKGROUND, 0.0)
    fetch = taken(queue)
    queue.want("a", range(1, 2), DEMAND, 0.0)
    queue.defer(fetch, 0.0)
    assert queue.queued() == {DEMAND: 1, AHEAD: 0, BACKGROUND: 3, BULK: 0}
    again = taken(queue)
    assert (again.priority, again.blocks) == (DEMAND, range(1, 4))


def test_deferred_blocks_become_due_later_with_the_same_attempt() -> None:
    queue = a_queue()
    queue.want("a", range(4), DEMAND, 0.0)
    fetch = taken(queue)
    queue.landed(fetch, 2)
    queue.defer(fetch, 2.5)
    assert queue.next(2.4) is None
    assert queue.due(0.0) == 2.5
    again = taken(queue, 2.5)
    assert (again.blocks, again.attempt) == (range(2), 0)
    assert queue.due(2.5) is None
    assert taken(queue, 2.5).blocks == range(3, 4)


def test_a_demand_for_a_deferred_block_makes_it_due_at_once() -> None:
    queue = a_queue()
    queue.want("a", range(4), BACKGROUND, 0.0)
    queue.defer(taken(queue), 300.0)
    queue.want("a", range(1, 2), AHEAD, 1.0)
    assert queue.next(1.0) is None
    queue.want("a", range(1, 2), DEMAND, 1.0)
    assert taken(queue, 1.0).blocks == range(1, 2)
    assert queue.next(1.0) is None
    assert queue.due(1.0) == 300.0


def test_a_demand_does_not_shorten_the_wait_before_a_retry() -> None:
    queue = a_queue()
    queue.want("a", range(1), BACKGROUND, 0.0)
    queue.retry(taken(queue), 9.0)
    queue.want("a", range(1), DEMAND, 1.0)
    assert queue.next(1.0) is None
    assert taken(queue, 9.0).priority is DEMAND


def test_an_unremembered_failure_ends_waiting_tickets_and_no_later_ones() -> None:
    queue = a_queue()
    queue.want("a", range(2), DEMAND, 0.0)
    queue.wait(1, "a", [0], 0.0)
    assert queue.settle(taken(queue), "refused", 0.0, remember=False) == [1]
    assert not queue.busy("a")
    assert queue.want("a", range(2), DEMAND, 0.0)
    assert queue.wait(2, "a", [0], 0.0) is None
    assert taken(queue).blocks == range(2)


def test_due_is_never_in_the_past() -> None:
    queue = a_queue()
    queue.want("a", range(1), DEMAND, 0.0)
    queue.defer(taken(queue), 2.5)
    assert queue.due(9.0) == 9.0


def test_a_deferred_block_found_in_the_store_is_no_longer_due() -> None:
    queue = a_queue()
    queue.want("a", range(1), DEMAND, 0.0)
    queue.wait(1, "a", [0], 0.0)
    queue.defer(taken(queue), 2.5)
    assert queue.found("a", [0]) == [1]
    assert queue.due(0.0) is None


def test_attempts_are_counted_per_block_and_not_shared_with_neighbours() -> None:
    queue = a_queue()
    queue.want("a", range(2), DEMAND, 0.0)
    queue.retry(taken(queue), 1.0)
    queue.want("a", range(2, 4), DEMAND, 1.0)
    first, second = taken(queue, 1.0), taken(queue, 1.0)
    assert (first.blocks, first.attempt) == (range(2), 1)
    assert (second.blocks, second.attempt) == (range(2, 4), 0)


def test_a_fetch_that_ends_early_requeues_only_awaited_blocks() -> None:
    queue = a_queue()
    queue.want("a", range(6), DEMAND, 0.0)
    queue.wait(1, "a", [2, 4], 0.0)
    assert queue.settle(taken(queue), None, 0.0) == []
    assert [taken(queue).blocks for _ in range(2)] == [range(2, 3), range(4, 5)]


def test_a_block_evicted_and_wanted_again_belongs_to_the_new_fetch() -> None:
    queue = a_queue()
    queue.want("a", range(3), DEMAND, 0.0)
    old = taken(queue)
    queue.landed(old, 1)
    queue.want("a", range(1, 2), DEMAND, 0.0)
    queue.wait(1, "a", [1], 0.0)
    new = taken(queue)
    assert new.blocks == range(1, 2)
    queue.defer(old, 5.0)
    assert queue.running() == [new]
    assert queue.queued()[DEMAND] == 2
    assert queue.landed(new, 1) == [1]


def test_drop_ends_tickets_of_queued_blocks_and_leaves_fetches_running() -> None:
    queue = a_queue(demand_blocks=2)
    queue.want("a", range(4), DEMAND, 0.0)
    queue.want("b", range(1), DEMAND, 0.0)
    queue.wait(1, "a", [1], 0.0)
    queue.wait(2, "a", [1, 3], 0.0)
    queue.wait(3, "b", [0], 0.0)
    fetch = taken(queue)
    assert queue.drop("a") == [2]
    assert queue.drop("nothing") == []
    assert queue.landed(fetch, 1) == [1]
    assert taken(queue).key == "b"


def test_drop_forgets_failures() -> None:
    queue = a_queue()
    queue.want("a", range(1), DEMAND, 0.0)
    queue.settle(taken(queue), "refused", 0.0)
    assert queue.drop("a") == []
    assert queue.want("a", range(1), DEMAND, 0.0)


def test_drop_keeps_queued_hydration() -> None:
    queue = a_queue(demand_blocks=1)
    queue.want("a", range(10), BACKGROUND, 0.0)
    queue.want("a", range(2, 4), AHEAD, 0.0)
    queue.want("a", range(6, 7), DEMAND, 0.0)
    queue.wait(1, "a", [6], 0.0)
    queue.wait(2, "a", [9], 0.0)
    assert queue.drop("a", keep=BACKGROUND) == [1]
    assert queue.queued() == {DEMAND: 0, AHEAD: 0, BACKGROUND: 7, BULK: 0}
    assert [waiting.ticket for waiting in queue.waiting()] == [2]


def test_a_file_is_busy_until_its_last_fetch_ends() -> None:
    queue = a_queue()
    assert not queue.busy("a")
    queue.want("a", range(1), AHEAD, 0.0)
    assert queue.busy("a")
    assert not queue.busy("b")
    fetch = taken(queue)
    queue.landed(fetch, 0)
    assert queue.busy("a")
    queue.settle(fetch, None, 0.0)
    assert not queue.busy("a")


def test_a_file_with_only_failed_blocks_is_not_busy() -> None:
    queue = a_queue()
    queue.want("a", range(1), AHEAD, 0.0)
    queue.settle(taken(queue), "refused", 0.0)
    assert not queue.busy("a")


def test_waiting_lists_tickets_with_blocks_and_start_time() -> None:
    queue = a_queue()
    queue.want("a", range(3), DEMAND, 7.0)
    queue.wait(5, "a", [2, 1], 7.0)
    (waiting,) = queue.waiting()
    assert (waiting.ticket, waiting.key, waiting.blocks, waiting.since) == (5, "a", (1, 2), 7.0)


def test_found_ignores_blocks_that_are_not_queued() -> None:
    assert a_queue().found("a", [1, 2]) == []


def test_misuse_raises() -> None:
    queue = a_queue()
    with pytest.raises(AssertionError, match="WAIT is impossible for a block that is ABSENT"):
        queue.wait(1, "a", [0], 0.0)
    queue.want("a", range(2), DEMAND, 0.0)
    with pytest.raises(AssertionError, match="waits for nothing"):
        queue.wait(1, "a", [], 0.0)
    queue.wait(1, "a", [0], 0.0)
    with pytest.raises(AssertionError, match="waits already"):
        queue.wait(1, "a", [1], 0.0)
    fetch = taken(queue)
    with pytest.raises(AssertionError, match="is none of fetch"):
        queue.landed(fetch, 2)
    queue.settle(fetch, None, 0.0)
    for ended in (
        lambda: queue.landed(fetch, 0),
        lambda: queue.settle(fetch, None, 0.0),
        lambda: queue.retry(fetch, 0),
    ):
        with pytest.raises(AssertionError, match="is not running"):
            ended()
    with pytest.raises(ValueError, match="not a span"):
        queue.want("a", range(0, 8, 2), DEMAND, 0.0)
    with pytest.raises(ValueError, match="count from 1"):
        BlockQueue[str](workers=0)


def test_ten_thousand_deferrals_of_one_block_leave_no_stale_entries() -> None:
    queue = a_queue()
    queue.want("a", range(1), BACKGROUND, 0.0)
    for second in range(10_000):
        queue.defer(taken(queue, float(second)), second + 1.0)
        queue.want("a", range(1), DEMAND, float(second))
        queue.wait(second, "a", [0], float(second))
        queue.abandon(second)
    ready = queue._ready
    assert sum(map(len, ready._ready)) + len(ready._deferred) < 5_000


def test_a_thousand_abandoned_tickets_leave_no_stale_entries() -> None:
    queue = a_queue()
    for ticket in range(10_000):
        queue.want("a", range(1), DEMAND, 0.0)
        queue.wait(ticket, "a", [0], 0.0)
        queue.abandon(ticket)
    assert sum(map(len, queue._ready._ready)) < 5_000
    assert queue.queued() == {DEMAND: 0, AHEAD: 1, BACKGROUND: 0, BULK: 0}


def test_a_background_want_of_a_huge_file_is_one_run() -> None:
    queue = a_queue()
    queue.want("a", range(400_000), BACKGROUND, 0.0)
    assert len(list(queue._maps["a"])) == 1


def test_big_files_come_last_and_only_if_allowed() -> None:
    queue = a_queue()
    queue.want("big", range(4), BULK, 0.0)
    queue.want("small", range(1), BACKGROUND, 0.0)
    assert taken(queue).key == "small"
    assert queue.next(0.0, [DEMAND, AHEAD, BACKGROUND]) is None
    assert taken(queue).key == "big"


def test_withdraw_keeps_only_awaited_blocks() -> None:
    queue = a_queue()
    queue.want("a", range(10), BULK, 0.0)
    queue.want("a", range(4, 5), DEMAND, 0.0)
    assert queue.wait(1, "a", [4], 0.0) is None
    queue.want("a", range(7, 8), BACKGROUND, 0.0)
    queue.withdraw("a", BACKGROUND)
    fetch = taken(queue)
    assert fetch.blocks == range(4, 5)
    assert queue.awaited(fetch)
    assert queue.landed(fetch, 4) == [1]
    assert not queue.awaited(fetch)
    assert queue.settle(fetch, None, 0.0) == []
    assert queue.next(0.0) is None
    assert not queue.busy("a")


def test_runs_lists_queued_and_running_ranges_in_order() -> None:
    queue = a_queue(max_blocks=2, demand_blocks=2)
    assert queue.runs("a") == []
    queue.want("a", range(4, 8), BACKGROUND, 0.0)
    queue.want("a", range(2), DEMAND, 0.0)
    demanded = taken(queue)
    assert queue.runs("a") == [(range(2), True), (range(4, 8), False)]
    queue.settle(demanded, "failed", 0.0)
    assert queue.runs("a") == [(range(4, 8), False)], "a failure is neither"
