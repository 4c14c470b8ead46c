"""Programs that read: ``python -m benchmarks.readers WAY FILE …`` reads and prints what it cost as one JSON object.

Processes of their own, so that starting Python is in no figure and a fault in a mapped page ends one of them only. They
do not know whether FILE is in a mount.
"""

from __future__ import annotations

import json
import mmap
import multiprocessing
import os
import random
import sys
import time
from multiprocessing.queues import SimpleQueue
from multiprocessing.synchronize import Barrier
from typing import Any

import numpy

CHUNK = 1 << 20  # dd bs=1M
PIECE = 4 << 20  # one read of the parallel mmap workload
START_SECONDS = 30.0  # for all processes to stand at the line


def sequential(path: str) -> dict[str, Any]:
    """The whole file by read(2), 1 MiB at a time."""
    buffer = bytearray(CHUNK)
    started, total = time.perf_counter(), 0
    with open(path, "rb", buffering=0) as file:
        while count := file.readinto(buffer):
            total += count
    return {"seconds": time.perf_counter() - started, "bytes": total}


def mapped(path: str) -> dict[str, Any]:
    """The whole file by page faults, summed 1 MiB at a time."""
    started = time.perf_counter()
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as pages:
        size = len(pages)
        for offset in range(0, size, CHUNK):
            total(pages, offset, min(CHUNK, size - offset))
    return {"seconds": time.perf_counter() - started, "bytes": size}


def total(pages: mmap.mmap, offset: int, length: int) -> int:
    """Touches every byte in ascending order. No memcpy: glibc may copy big pieces from their end, or pages in turns."""
    return int(numpy.add.reduce(numpy.frombuffer(pages, numpy.uint64, length // 8, offset)))


def scattered(path: str, count: str, seed: str) -> dict[str, Any]:
    """``count`` reads of 4 KiB at random places, one after the other."""
    file = os.open(path, os.O_RDONLY)
    size, dice, waits = os.fstat(file).st_size, random.Random(int(seed)), []
    begun = time.perf_counter()
    for _ in range(int(count)):
        offset = dice.randrange(size // 4096) * 4096
        started = time.perf_counter()
        os.pread(file, 4096, offset)
        waits.append(time.perf_counter() - started)
    found = {"seconds": time.perf_counter() - begun, "waits": waits}
    os.close(file)
    return found


def faulted(path: str, processes: str, pieces: str, seed: str, order: str) -> dict[str, Any]:
    """Some processes map the file; each sums its pieces of 4 MiB, at random places that no other process reads.
    ``order``: upwards, or downwards page by page, as memcpy sometimes does."""
    count = int(processes) * int(pieces)
    size, dice = os.path.getsize(path), random.Random(int(seed))
    zone = size // count // 4096 * 4096
    if zone < PIECE:
        raise SystemExit(f"{path} is too small for {count} pieces")
    places = [number * zone + dice.randrange((zone - PIECE) // 4096 + 1) * 4096 for number in range(count)]
    dice.shuffle(places)
    context = multiprocessing.get_context("fork")
    line, answers = context.Barrier(int(processes) + 1), context.SimpleQueue()
    workers = [
        context.Process(target=_fault, args=(path, places[number :: int(processes)], order, line, answers))
        for number in range(int(processes))
    ]
    for worker in workers:
        worker.start()
    line.wait(START_SECONDS)
    started = time.perf_counter()
    waits = [wait for _ in workers for wait in answers.get()]
    found = {"seconds": time.perf_counter() - started, "bytes": count * PIECE, "waits": waits}
    for worker in workers:
        worker.join(START_SECONDS)
    if len(waits) != count:
        raise SystemExit("a process did not read all of its pieces")
    return found


def _fault(path: str, places: list[int], order: str, line: Barrier, answers: SimpleQueue[list[float]]) -> None:
    waits = []
    try:
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as pages:
            line.wait(START_SECONDS)
            for offset in places:
                started = time.perf_counter()
                if order == "upwards":
                    total(pages, offset, PIECE)
                else:
                    for page in range(offset + PIECE - mmap.PAGESIZE, offset - 1, -mmap.PAGESIZE):
                        total(pages, page, mmap.PAGESIZE)
                waits.append(time.perf_counter() - started)
    finally:
        answers.put(waits)


def few(path: str, offset: str, length: str) -> dict[str, Any]:
    """Some bytes at one place, from open to the last of them."""
    started = time.perf_counter()
    file = os.open(path, os.O_RDONLY)
    data = os.pread(file, int(length), int(offset))
    seconds = time.perf_counter() - started
    os.close(file)
    return {"seconds": seconds, "bytes": len(data)}


def tensor(path: str, name: str) -> dict[str, Any]:
    """One tensor of a safetensors file."""
    from safetensors import safe_open

    started = time.perf_counter()
    with safe_open(path, framework="numpy") as file:
        found = file.get_tensor(name)
    return {"seconds": time.perf_counter() - started, "bytes": int(found.nbytes)}


def model(folder: str, other: str) -> dict[str, Any]:
    """Loads a sentence model with transformers and runs it once. First from ``other``: transformers imports while it
    loads, and from a cold disk that takes longer than the model."""
    _load(other)
    started = time.perf_counter()
    total = _load(folder)
    return {"seconds": time.perf_counter() - started, "sum": total}


def _load(folder: str) -> float:
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    network: Any = AutoModel.from_pretrained(folder)
    with torch.no_grad():
        return float(network(**tokenizer(["The cat sits outside."], return_tensors="pt")).last_hidden_state.sum())


WAYS = {one.__name__: one for one in (sequential, mapped, scattered, faulted, few, tensor, model)}

if __name__ == "__main__":
    print(json.dumps(WAYS[sys.argv[1]](*sys.argv[2:])))
