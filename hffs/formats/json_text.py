"""JSON and JSON lines."""

from __future__ import annotations

import json
from typing import Any, Final

from .format import LONGEST, Format, Read

INVALID: Final = object()


def parsed(data: bytes) -> Any:
    """Returns the JSON value in ``data``, or ``INVALID``."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError):  # ValueError: no JSON, no UTF-8, or a number of too many digits
        return INVALID


def _check(size: int, read: Read) -> str:
    if size > LONGEST:
        return ""
    data = read(0, size)
    if parsed(data) is not INVALID:
        return ""
    lines = [line for line in data.splitlines() if line.strip()]  # many data sets name JSON lines .json, too
    if len(lines) > 1 and all(parsed(line) is not INVALID for line in lines):
        return ""
    return "is not JSON"


JSON: Final = Format("json", _check, smallest=1, has_layout=False)
