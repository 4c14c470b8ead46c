"""A Llama of 15 GiB loaded by transformers: by several threads, in natural order, from a file sorted by name."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from hffs.formats import ReadPlan
from hffs.formats.load_order import name_order
from hffs.policy import ReadCursors

MIB = 1024**2
LAYERS = 32
LAYER = {
    "input_layernorm": 8192, "mlp.down_proj": 112 * MIB, "mlp.gate_proj": 112 * MIB, "mlp.up_proj": 112 * MIB,
    "post_attention_layernorm": 8192, "self_attn.k_proj": 8 * MIB, "self_attn.o_proj": 32 * MIB,
    "self_attn.q_proj": 32 * MIB, "self_attn.v_proj": 8 * MIB,
}  # fmt: skip
WEIGHTS = {f"model.layers.{layer}.{name}": weight for layer in range(LAYERS) for name, weight in LAYER.items()}
WEIGHTS |= {"lm_head": 1000 * MIB, "model.embed_tokens": 1000 * MIB, "model.norm": 8192}
NAMES = sorted(WEIGHTS)
HEADER = 30_000


def plan_of_file() -> ReadPlan:
    starts, at = [], HEADER
    for name in NAMES:
        starts.append(at)
        at += WEIGHTS[name]
    return ReadPlan(at, starts, sorted(range(len(NAMES)), key=lambda piece: name_order(NAMES[piece])))


def requests(plan: ReadPlan, piece: int) -> Iterator[int]:
    """Returns the kernel's requests of 1 MiB each, from before the first touched page to past the last one."""
    start = max(plan.start_of(piece) // 4096 * 4096 - MIB, 4096)
    behind = 2 * MIB if WEIGHTS[NAMES[piece]] > MIB else MIB
    return iter(range(start, min(plan.end_of(piece) + behind, plan.size), MIB))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("threads", "learnt_by"), [(1, 3), (2, 0), (4, 0)])
def test_the_window_precedes_the_reader_where_the_load_order_jumps(threads: int, learnt_by: int, seed: int) -> None:
    """From layer 1 to 2 across 10 to 19, and five more times. With one thread only these jumps show the order."""
    rng = random.Random(seed)
    plan = plan_of_file()
    cursors = ReadCursors(plan.size)
    cursors.plan = plan
    waiting = sorted(range(len(NAMES)), key=plan.rank_of)
    readers: list[Iterator[int]] = []
    wanted: set[int] = set()  # by MiB
    times = 0
    predicted: list[bool] = []
    while waiting or readers:
        while waiting and len(readers) < threads:
            piece = waiting.pop(0)
            readers.append(requests(plan, piece))
            if "down_proj" in NAMES[piece]:
                layer = int(NAMES[piece].split(".")[2])
                follows = layer == 0 or NAMES[piece - 2] == f"model.layers.{layer - 1}.self_attn.v_proj"
                if not follows:
                    predicted.append(plan.start_of(piece) // MIB + 2 in wanted)
        reader = rng.choice(readers)
        at = next(reader, None)
        if at is None:
            readers.remove(reader)
            continue
        ahead = cursors.observe(at, min(MIB, plan.size - at))
        assert ahead.length <= 256 * MIB
        times += ahead.length
        wanted.update(range(ahead.start // MIB, -(-ahead.stop // MIB)))
    assert len(predicted) == 6
    assert all(predicted[learnt_by:]), predicted
    assert times <= 3 * plan.size, "each thread may want bytes that other threads wanted"
