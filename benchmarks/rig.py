"""The rig: a place to measure in, trials that alternate, and tables of medians.

Every benchmark is a module with a function that takes a ``Rig``; ``run`` gives it one. Owns the working directory, the
namespaces and the clock of the whole run. Knows no program that is measured. One thread.

The outer process makes the directory and waits; the inner one measures, in mount and pid namespaces of its own. So
whatever happens, a mount or a process of a run cannot outlive it, and no other program sees its mounts.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

CHECKOUT = Path(__file__).resolve().parents[1]
MIB = 1 << 20
GIB = 1 << 30
END_SECONDS = 10.0  # for the namespace to be torn down

Sample = dict[str, float]
Way = Callable[[Path], Sample]


class RunFailed(Exception):
    """A program that is measured did not do its work: the trial does not count, and the table says so."""


@dataclass(frozen=True)
class Column:
    """A figure of the samples: its key, what stands above it, how it is written."""

    key: str
    title: str
    form: str = "{:.1f}"


@dataclass
class Rig:
    """What a benchmark works with. ``work`` is on the disk, ``served`` in memory, so that dropping the page cache does
    not make the server slow."""

    work: Path
    served: Path
    options: argparse.Namespace
    tables: list[dict[str, Any]] = field(default_factory=list)

    def fresh(self, name: str = "") -> Path:
        """A new directory on the disk, below ``work``."""
        return Path(tempfile.mkdtemp(prefix=name, dir=self.work))

    def compare(
        self,
        title: str,
        ways: Mapping[str, Way],
        columns: Sequence[Column],
        *,
        against: str = "",
        trials: int = 0,
        drop: bool = True,
    ) -> dict[str, list[Sample]]:
        """Runs all ways in turn, in alternating order, and prints and keeps the table.

        ``drop``: without the page cache, and each way finds none of the other's dirty pages.

        Ratios are of the first column, trial by trial, to the way called ``against``. A way may fail; the others go on.
        """
        trials = trials or self.options.trials
        samples: dict[str, dict[int, Sample]] = {name: {} for name in ways}
        failures: dict[str, str] = {}
        for trial in range(trials):
            for name in list(ways)[:: 1 if trial % 2 == 0 else -1]:
                place = self.fresh()
                if drop:
                    drop_caches()
                try:
                    samples[name][trial] = ways[name](place)
                except (RunFailed, subprocess.SubprocessError, OSError, AssertionError) as wrong:
                    failures[name] = f"{type(wrong).__name__}: {wrong}"[:400]
                    print(f"# {name}, trial {trial + 1}: {failures[name]}", file=sys.stderr, flush=True)
                finally:
                    shutil.rmtree(place, ignore_errors=True)
        self.tables.append({"title": title, "against": against, "samples": samples, "failures": failures})
        show(title, samples, columns, against, trials)
        return {name: list(found.values()) for name, found in samples.items()}

    def say(self, title: str, figures: Sample, note: str = "") -> None:
        """Figures without a peer."""
        self.tables.append({"title": title, "figures": figures})
        print(f"\n{title}: " + ", ".join(f"{name} {value:.4g}" for name, value in figures.items()) + note, flush=True)


def drop_caches() -> None:
    """Dirty pages first: the kernel drops clean ones only, and write-back of other processes must not count."""
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3\n")


def show(
    title: str, samples: Mapping[str, Mapping[int, Sample]], columns: Sequence[Column], against: str, trials: int
) -> None:
    """A Markdown table: medians, the first column with its smallest and largest value."""
    head = ["", *(column.title for column in columns), *([f"ratio to {against}"] if against else [])]
    rows = [head, ["---"] * len(head)]
    for name, found in samples.items():
        cells = [name if len(found) == trials else f"{name} ({len(found)} of {trials} trials)"]
        for number, column in enumerate(columns):
            values = [sample[column.key] for sample in found.values() if column.key in sample]
            cells.append(written(values, column.form, spread=number == 0))
        if against:
            key = columns[0].key
            ratios = [
                sample[key] / samples[against][trial][key]
                for trial, sample in found.items()
                if trial in samples[against] and samples[against][trial][key]
            ]
            cells.append(written(ratios, "{:.2f}", spread=False))
        rows.append(cells)
    print(f"\n{title} (median of {trials})\n")
    print("\n".join("| " + " | ".join(row) + " |" for row in rows), flush=True)


def written(values: Sequence[float], form: str, *, spread: bool) -> str:
    if not values:
        return "-"
    middle = form.format(statistics.median(values))
    return f"{middle} ({form.format(min(values))}–{form.format(max(values))})" if spread and len(values) > 1 else middle


def quantile(values: Iterable[float], share: float) -> float:
    """The value that ``share`` of all do not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, -(-int(share * 1000 * len(ordered)) // 1000) - 1))]


def conditions() -> dict[str, Any]:
    """What a reader needs to judge the figures; nothing that names the machine."""
    info = Path("/proc/cpuinfo").read_text()
    model = next((line.partition(":")[2].strip() for line in info.splitlines() if line.startswith("model name")), "?")
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=CHECKOUT, capture_output=True, text=True, timeout=20
    ).stdout.strip()
    kernel = platform.release().partition("-")[0]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "date": time.strftime("%Y-%m-%d %H:%M", time.gmtime()), "commit": commit, "cpu": model, "cpus": os.cpu_count(),
        "memory_gib": round(memory / GIB), "kernel": kernel, "python": platform.python_version(),
        "load_before": os.getloadavg()[0],
    }  # fmt: skip


def run(name: str, measure: Callable[[Rig], None], parser: argparse.ArgumentParser, *, seconds: int) -> int:
    """The main program of a benchmark; the exit code. ``seconds`` bounds the whole run."""
    parser.add_argument("--trials", type=int, default=5, help="of each way (default 5)")
    parser.add_argument("--json", type=Path, default=CHECKOUT / f"benchmarks/results/{name}.json", help="all samples")
    parser.add_argument("--seconds", type=int, default=seconds, help=f"the run ends then (default {seconds})")
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        return inside(measure, options)
    if os.geteuid() != 0:
        print("benchmarks mount and drop the page cache: run them as root", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, _ended)
    work = Path(tempfile.mkdtemp(prefix="hffs-bench-"))
    command = ["unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "--mount-proc"]
    command += [sys.executable, "-m", f"benchmarks.{name}", *sys.argv[1:], "--inside", str(work)]
    process = subprocess.Popen(command, cwd=CHECKOUT, stdin=subprocess.DEVNULL)
    try:
        return process.wait(options.seconds)
    except subprocess.TimeoutExpired:
        print(f"not done after {options.seconds} s", file=sys.stderr)
        return 1
    finally:
        process.kill()  # the kernel ends the namespace's first process with it, and with that one all others
        process.wait(END_SECONDS)
        shutil.rmtree(work, ignore_errors=True)


def inside(measure: Callable[[Rig], None], options: argparse.Namespace) -> int:
    served = options.inside / "served"
    served.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=80%", "benchmark", str(served)], check=True, timeout=20)
    rig = Rig(options.inside, served, options)
    found: dict[str, Any] = {"conditions": conditions()}
    print("# " + ", ".join(f"{key} {value}" for key, value in found["conditions"].items()), flush=True)
    try:
        measure(rig)
    finally:
        found |= {"load_after": os.getloadavg()[0], "tables": rig.tables}
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0


def _ended(_number: int, _frame: FrameType | None) -> None:
    raise SystemExit(143)
