"""The ``hffs`` command: parses, runs one command, tells what went wrong in one line, returns the exit code.

Every command is imported when it is run, so that ``hffs --help`` and ``hffs status`` feel instant. Main thread only.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence

from ..errors import HffsError
from . import output, parser

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line (default: this process's); the exit code of the interface's table."""
    words = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in words
    for stream in (sys.stdout, sys.stderr):  # a terminal that cannot show a letter gets its escape, not a traceback
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        code = _run(words)
        sys.stdout.flush()
        return code
    except HffsError as wrong:
        _tell(str(wrong), debug)
        return wrong.exit_code
    except KeyboardInterrupt:
        _tell("interrupted", debug)
        return 130
    except BrokenPipeError:  # whoever read the output has had enough, as `head` does
        _drop_output()
        return 1
    except OSError as wrong:
        _drop_output()
        about = f" {wrong.filename}" if wrong.filename is not None else ""
        _tell(f"{wrong.strerror or wrong}{about}", debug)
        return 1
    except Exception as wrong:  # noqa: BLE001 - the door of the process: a fault of ours is told like any other
        _tell(f"internal error ({type(wrong).__name__}: {wrong}): run it with --debug and report what it shows", debug)
        return 1


def _run(words: list[str]) -> int:
    grammar = parser.build()
    try:
        args = grammar.parse_args(words)
    except SystemExit as done:  # --help and --version have printed
        return int(done.code or 0)
    if args.command is None:
        grammar.print_help(sys.stderr)
        return 2
    if "module" in args:
        from importlib import import_module

        run = getattr(import_module(f".{args.module}", __name__), args.call)
    elif args.command in ("mount", "unmount", "umount", "restart", "status", "bandwidth"):
        from . import running

        run = {
            "mount": running.mount,
            "restart": running.restart,
            "status": running.status,
            "bandwidth": running.bandwidth,
        }.get(args.command, running.unmount)
    elif args.command == "hydrate":
        from . import hydrating

        run = hydrating.hydrate
    else:
        from . import looking

        run = {"ls": looking.ls, "info": looking.info, "du": looking.du}[args.command]
    return int(run(args))


def _tell(text: str, debug: bool) -> None:
    if debug:
        import traceback

        traceback.print_exc()
    print(f"hffs: {output.shown(text)}", file=sys.stderr)


def _drop_output() -> None:
    """Lets the interpreter's last flush go nowhere: it would fail again, and loudly."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, sys.stdout.fileno())
    finally:
        os.close(nowhere)
