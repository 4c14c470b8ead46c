"""The background process of one mount: ``python -m hffs.daemon``, started by ``background`` and by nobody else.

Reads what to mount from its standard input, leaves its starter behind, runs the app, and reports on the pipe it was
given. Its standard error is the log. Single-threaded until the app starts.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from ..errors import HffsError
from .spec import MountSpec


class Report:
    """The pipe to whoever started us: lines of JSON, closed after the one that settles the start."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor: int | None = descriptor
        os.set_inheritable(descriptor, False)

    def __call__(self, message: Mapping[str, Any]) -> None:
        """Tells the starter; does nothing once it was told how the start went, or when it is gone."""
        if self._descriptor is None:
            return
        with suppress(BrokenPipeError):
            os.write(self._descriptor, json.dumps(dict(message)).encode("ascii") + b"\n")
        if "ready" in message or "error" in message:
            os.close(self._descriptor)
            self._descriptor = None


def main() -> int:
    told = json.load(sys.stdin)
    sys.stdin.close()
    report = Report(told["report_fd"])
    # The starter may live for days: as its child we would be its zombie at the end, and a surprise to its os.wait().
    if os.fork():
        os._exit(0)
    report({"pid": os.getpid()})
    try:
        spec = MountSpec.from_json(told["spec"])
        from . import logs
        from .app import run

        logs.start(spec.settings)
        return run(spec, report)
    except HffsError as wrong:
        print(f"hffs: {wrong}", file=sys.stderr)
        report({"error": wrong.what, "remedy": wrong.remedy, "exit_code": wrong.exit_code})
        return wrong.exit_code
    except Exception as wrong:  # noqa: BLE001 - the door of the process; the starter waits for a word
        traceback.print_exc()
        report({"error": f"internal error ({type(wrong).__name__}: {wrong})", "remedy": "see the log", "exit_code": 1})
        return 1


if __name__ == "__main__":
    sys.exit(main())
