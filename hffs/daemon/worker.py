"""The process that serves one mount: under a supervisor, or alone where the binding cannot be taken over.

Started through ``__main__``. Runs the app and turns what it raises into one line and an exit code for whoever waits for
the start. Its standard error is the log. Single-threaded until the app starts.
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


class Report:
    """The pipe to whoever started the mount: lines of JSON, closed after the one that settles the start."""

    def __init__(self, descriptor: int | None) -> None:
        self._descriptor = descriptor
        if descriptor is not None:
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


def supervised(start: int) -> int:
    """A worker, told by its supervisor in the file ``start``; the exit code is for the supervisor."""
    told = from_file(start)
    code = serve(told, Report(told["report_fd"]), linked=True)
    if code == LEFT:
        # Threads still wait on the device, which stays open: an orderly end of the interpreter would wait for them.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


def rehearse(told: Mapping[str, Any]) -> int:
    """Whether a worker of this version would come up with what one is told: everything it is made of is imported, and
    what it would be handed is read. The exit code; what is wrong is said on standard error, last line last."""
    from ..system import log_setup  # noqa: F401 - that they can be imported is what is asked
    from .supervisor_link import Handover

    try:
        MountSpec.from_json(told["spec"])
        if told["handover"] is not None:
            Handover.from_json(told["handover"], -1)
    except HffsError as wrong:
        print(wrong, file=sys.stderr)
        return 1
    return 0


def serve(told: Mapping[str, Any], report: Report, *, linked: bool = False) -> int:
    """Serves the mount that ``told`` describes until it is gone; the exit code."""
    debug = False
    try:
        keep_secrets(told.get("secrets", {}))  # before huggingface_hub is loaded
        spec = MountSpec.from_json(told["spec"])
        debug = spec.settings.debug
        from ..system import log_setup
        from .app import run
        from .supervisor_link import SupervisorLink

        to_stderr = not (told.get("foreground") and spec.settings.log_file)
        log_setup.start(spec.settings, to_stderr=to_stderr, journal=bool(told.get("journal")))
        link = SupervisorLink(told) if linked else None
        return run(spec, report, link, link if link is not None and link.managed else None)
    except HffsError as wrong:
        if debug:
            print(shown(traceback.format_exc(), "\n"), end="", file=sys.stderr)
        print(f"hffs: {shown(str(wrong))}", file=sys.stderr)
        report({"error": wrong.what, "remedy": wrong.remedy, "exit_code": wrong.exit_code})
        return wrong.exit_code
    except Exception as wrong:  # noqa: BLE001 - the door of the process; the starter waits for a word
        print(shown(traceback.format_exc(), "\n"), end="", file=sys.stderr)
        report({"error": f"internal error ({type(wrong).__name__}: {wrong})", "remedy": "see the log", "exit_code": 1})
        return 1
