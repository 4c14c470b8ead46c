"""The command line of the hub, `scripts/hub serve`: serves folders as repos until it is stopped.

Owns the process it runs in: signals, standard output, and its end when the parent process ends.
"""

from __future__ import annotations

import argparse
import os
import select
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from .hub import Hub
from .repos import TYPES

UNITS = {"": 1, "k": 1000, "m": 1000**2, "g": 1000**3, "ki": 1 << 10, "mi": 1 << 20, "gi": 1 << 30}
LONGEST_RUN = 6 * 3600  # seconds; a forgotten hub ends the same day


def parse_size(text: str) -> float:
    """Parses `40M`, `1.5G`, `512Ki` or a plain number. Returns bytes (a second)."""
    lower = text.strip().lower().removesuffix("/s").removesuffix("b")
    digits = lower.rstrip("kmgi")
    if (unit := lower[len(digits) :]) not in UNITS:
        raise argparse.ArgumentTypeError(f"not a size: {text}")
    try:
        return float(digits) * UNITS[unit]
    except ValueError:
        raise argparse.ArgumentTypeError(f"not a size: {text}") from None


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="hub", description="A local Hugging Face Hub for tests and benchmarks.")
    serve = parser.add_subparsers(dest="command", required=True).add_parser("serve", help="serve folders as repos")
    serve.add_argument("folders", nargs="+", metavar="[ORG/NAME=]DIR", help="a folder, served as one repo")
    serve.add_argument("--repo", help="the repo id when there is one folder (default local/FOLDER)")
    serve.add_argument("--type", choices=TYPES, default="model", help="what the repos are")
    serve.add_argument("--private", action="store_true", help="only with --token")
    serve.add_argument("--token", action="append", default=[], metavar="TOKEN", help="accepted; may be repeated")
    serve.add_argument("--port", type=int, default=0, help="of the API origin (default: any free one)")
    serve.add_argument("--cdn-port", type=int, default=0, help="of the CDN origin (default: any free one)")
    serve.add_argument("--latency", type=float, default=0.0, help="seconds before the first byte of each answer")
    serve.add_argument("--connect-latency", type=float, default=0.0, help="seconds a new connection costs")
    serve.add_argument("--per-connection", type=parse_size, help="bytes a second of one connection, as 40M")
    serve.add_argument("--total", type=parse_size, help="bytes a second of all together")
    serve.add_argument("--page-size", type=int, default=1000, help="entries on a page of a listing")
    serve.add_argument("--url-lifetime", type=float, default=3600, help="seconds a signed URL is good for")
    serve.add_argument("--port-file", type=Path, help="write the endpoint here, as soon as it answers")
    serve.add_argument("--journal", type=Path, help="write each request here, one JSON object a line")
    serve.add_argument("--control", action="store_true", help="answer GET /-/journal and POST /-/journal/clear")
    serve.add_argument("--parent-pid", type=int, help="end when this process does")
    serve.add_argument("--max-seconds", type=float, default=LONGEST_RUN, help="end after this long, whatever happens")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    options = make_parser().parse_args(arguments)
    if options.repo and len(options.folders) != 1:
        sys.stderr.write("hub: --repo names one folder; write ORG/NAME=DIR for each of several\n")
        return 2
    stop = _Stop(options.parent_pid, options.max_seconds)
    hub = Hub(
        latency=options.latency,
        connect_latency=options.connect_latency,
        per_connection=options.per_connection,
        total=options.total,
        page_size=options.page_size,
        url_lifetime=options.url_lifetime,
        tokens=dict.fromkeys(options.token or ["hf_good"], "user"),
        port=options.port,
        cdn_port=options.cdn_port,
        journal_file=options.journal,
        control=options.control,
    )
    try:
        for text in options.folders:
            name, _, folder = text.rpartition("=")
            path = Path(folder).resolve()
            if not path.is_dir():
                sys.stderr.write(f"hub: no such folder: {folder}\n")
                return 2
            hub.add_repo(
                options.repo or name or f"local/{path.name}", type=options.type, files=path, private=options.private
            )
        try:
            hub.start()
        except OSError as error:
            sys.stderr.write(f"hub: cannot listen at these ports: {error}\n")
            return 1
        if options.port_file:
            _write_whole(options.port_file, hub.endpoint + "\n")
        # A reader may be gone already; that is no reason to stop serving.
        try:
            print(hub.endpoint, flush=True)
        except BrokenPipeError:
            sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
        stop.wait()
    finally:
        hub.stop()
        if options.port_file:
            options.port_file.unlink(missing_ok=True)
    return 0


def _write_whole(path: Path, text: str) -> None:
    """Writes a file atomically: readers see nothing or the whole content."""
    new = path.with_name(path.name + ".new")
    new.write_text(text, encoding="utf-8")
    new.replace(path)


class _Stop:
    """Waits for SIGTERM or SIGINT, the parent's end, or the time limit, whichever comes first."""

    def __init__(self, parent: int | None, seconds: float) -> None:
        self._until = time.monotonic() + seconds
        self._read, self._write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda *_: None)
        signal.set_wakeup_fd(self._write)
        self._parent = None
        self._orphan = False
        if parent is not None:
            try:
                self._parent = os.pidfd_open(parent)
            except ProcessLookupError:
                self._orphan = True

    def wait(self) -> None:
        poll = select.poll()
        poll.register(self._read, select.POLLIN)
        if self._parent is not None:
            poll.register(self._parent, select.POLLIN)
        if not self._orphan:
            poll.poll(max(self._until - time.monotonic(), 0.0) * 1000)
