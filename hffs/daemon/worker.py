"""The process that serves one mount: under a supervisor, or alone where the binding cannot be taken over.

Started through ``__main__``. Runs the app and turns what it raises into one line and an exit code for the process that
waits for the start. Its standard error is the log. Single-threaded until the app starts.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from ..config import keep_secrets
from ..errors import HffsError
from ..names import shown
from .mount_spec import MountSpec
from .supervisor import LEFT, from_file


class ReportPipe:
    """The pipe to the process that started the mount: lines of JSON, closed after the one that settles the start."""

    def __init__(self, descriptor: int | None) -> None:
        self._descriptor = descriptor
        if descriptor is not None:
            os.set_inheritable(descriptor, False)

    def __call__(self, message: Mapping[str, Any]) -> None:
        """Writes a line; does nothing once the start is settled, or when the starter has ended."""
        if self._descriptor is None:
            return
        with suppress(BrokenPipeError):
            os.write(self._descriptor, json.dumps(dict(message)).encode("ascii") + b"\n")
        if "ready" in message or "error" in message:
            os.close(self._descriptor)
            self._descriptor = None


def serve_supervised(start: int) -> int:
    """Serves with the parameters that the supervisor wrote to the file ``start``; the exit code is for it."""
    parameters = from_file(start)
    code = serve(parameters, ReportPipe(parameters["report_fd"]), linked=True)
    if code == LEFT:
        # Threads still wait on the device, which stays open: an orderly end of the interpreter would wait for them.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


def preflight(parameters: Mapping[str, Any]) -> int:
    """Checks that a worker of this version would start with these parameters: imports all that it needs and parses
    what it would be given. Returns the exit code; the last line on standard error is the reason."""
    from ..system import log_setup  # noqa: F401 - that they can be imported is what is checked
    from .supervisor_link import Handover

    try:
        MountSpec.from_json(parameters["spec"])
        if parameters["handover"] is not None:
            Handover.from_json(parameters["handover"], -1)
    except HffsError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def serve(parameters: Mapping[str, Any], report: ReportPipe, *, linked: bool = False) -> int:
    """Serves the mount that ``parameters`` describe until it is gone. Returns the exit code."""
    debug = False
    try:
        keep_secrets(parameters.get("secrets", {}))  # before huggingface_hub is loaded
        spec = MountSpec.from_json(parameters["spec"])
        debug = spec.settings.debug
        from ..system import log_setup
        from .app import run
        from .supervisor_link import SupervisorLink

        to_stderr = not (parameters.get("foreground") and spec.settings.log_file)
        log_setup.start(spec.settings, to_stderr=to_stderr, journal=bool(parameters.get("journal")))
        link = SupervisorLink(parameters) if linked else None
        return run(spec, report, link, link if link is not None and link.managed else None)
    except HffsError as error:
        if debug:
            print(shown(traceback.format_exc(), "\n"), end="", file=sys.stderr)
        print(f"hffs: {shown(str(error))}", file=sys.stderr)
        report({"error": error.what, "remedy": error.remedy, "exit_code": error.exit_code})
        return error.exit_code
    except Exception as bug:  # noqa: BLE001 - last resort of the process; the starter waits for a report
        print(shown(traceback.format_exc(), "\n"), end="", file=sys.stderr)
        report({"error": f"internal error ({type(bug).__name__}: {bug})", "remedy": "see the log", "exit_code": 1})
        return 1
