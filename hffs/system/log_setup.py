"""Set-up of a daemon's log: destination, level, format. Called once, before the app runs."""

from __future__ import annotations

import logging
import os
import stat
import sys
from typing import Any

from ..config import Settings
from . import log_format


class LogFormatter(logging.Formatter):
    """Formats a record as one line (``log_format``); a traceback is one of its values."""

    def __init__(self, form: log_format.Format = "logfmt", *, journal: bool = False) -> None:
        super().__init__()
        self._form = form
        self._journal = journal

    def format(self, record: logging.LogRecord) -> str:
        fields = {**fields_of(record), "logger": record.name}
        if record.exc_info:
            fields["traceback"] = log_format.clean(self.formatException(record.exc_info))
        return log_format.line(
            record.levelname.lower(), fields, form=self._form, journal=self._journal, now=record.created
        )


def where() -> str:
    """Returns the log file; "" if the log goes to a terminal, a pipe or the journal."""
    for handler in logging.root.handlers:
        if isinstance(handler, logging.FileHandler):
            return handler.baseFilename
    try:
        return os.readlink("/proc/self/fd/2") if stat.S_ISREG(os.fstat(2).st_mode) else ""
    except OSError:  # closed, or no /proc
        return ""


def fields_of(record: logging.LogRecord) -> dict[str, Any]:
    """Returns the event of a record, its values by key, and the message of its exception."""
    values = record.args if isinstance(record.args, tuple) else () if record.args is None else (record.args,)
    fields = log_format.event_fields(str(record.msg), values)
    error = record.exc_info[1] if record.exc_info else None
    if error is not None:
        fields.setdefault("error", log_format.clean(f"{type(error).__name__}: {error}"))
    return fields


def start(settings: Settings, *, to_stderr: bool = True, journal: bool = False) -> None:
    """Logs hffs at the configured level (debug with ``--debug``), and libraries, which would write signed URLs into a
    debug log, at ERROR.

    Without ``to_stderr`` lines are appended to the log file of the settings, which logrotate may truncate
    (copytruncate). With ``journal`` stderr is the journal.
    """
    to_file = settings.log_file if not to_stderr else None
    handler = logging.FileHandler(to_file, encoding="utf-8") if to_file else logging.StreamHandler(sys.stderr)
    handler.setFormatter(LogFormatter(settings.log_format, journal=journal and not to_file))
    level = logging.DEBUG if settings.debug else logging.getLevelNamesMapping()[settings.log_level.upper()]
    handler.setLevel(level)
    logging.basicConfig(handlers=[handler], level=logging.ERROR, force=True)
    # INFO records below the log level are still sent to followers of the control socket.
    logging.getLogger("hffs").setLevel(min(level, logging.INFO))
