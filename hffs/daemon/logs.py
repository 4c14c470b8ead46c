"""Where a daemon's log lines go, and which. Called once, before the app runs, by whoever runs it."""

from __future__ import annotations

import logging
import sys
from typing import Any

from ..config import Settings
from ..names import shown

FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


class Harmless(logging.Formatter):
    """Names and hosts come from servers: what a terminal might obey is escaped, and no record forges a second one."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's
        return shown(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:  # noqa: N802 - logging's
        return shown(super().formatException(ei), "\n")


def start(settings: Settings, *, to_stderr: bool = True) -> None:
    """Logs of hffs at the level set (debug with ``--debug``); of other people's libraries, only what is wrong.

    Those would write signed URLs into a debug log. Without ``to_stderr`` lines go to the log file of the settings.
    """
    to_file = settings.log_file if not to_stderr else None
    handler = logging.FileHandler(to_file) if to_file else logging.StreamHandler(sys.stderr)
    handler.setFormatter(Harmless(FORMAT))
    logging.basicConfig(handlers=[handler], level=logging.ERROR, force=True)
    logging.getLogger("hffs").setLevel(logging.DEBUG if settings.debug else settings.log_level.upper())
