"""The ``hffs`` command: parses its arguments, runs one command, prints an error in one line, returns the exit code.

Main thread only. Imports little, so that ``hffs --help`` and ``hffs status`` answer at once (``commands``).
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence

from ..errors import HffsError
from ..names import shown
from . import parser

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line (default: this process's) and returns its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in words
    for stream in (sys.stdout, sys.stderr):  # a character that the terminal lacks is escaped instead of raising
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        code = _run(words)
        sys.stdout.flush()
        return code
    except HffsError as wrong:
        _print_error(str(wrong), debug)
        return wrong.exit_code
    except KeyboardInterrupt:
        _print_error("interrupted", debug)
        return 130
    except BrokenPipeError:  # the reader of the output has closed it, as `head` does
        _discard_output()
        return 1
    except OSError as wrong:
        _discard_output()
        path = f" {wrong.filename}" if wrong.filename is not None else ""
        _print_error(f"{wrong.strerror or wrong}{path}", debug)
        return 1
    except Exception as wrong:  # noqa: BLE001 - the last resort: a bug is printed in one line like any other error
        what = f"internal error ({type(wrong).__name__}: {wrong})"
        _print_error(f"{what}: run it again with --debug and report the output", debug)
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
    return int(args.run(args))


def _print_error(text: str, debug: bool) -> None:
    if debug:
        import traceback

        print(shown(traceback.format_exc(), "\n"), end="", file=sys.stderr)
    print(f"hffs: {shown(text)}", file=sys.stderr)


def _discard_output() -> None:
    """Redirects stdout to /dev/null, so that the interpreter's last flush does not fail again with a traceback."""
    null = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, sys.stdout.fileno())
    finally:
        os.close(null)
