"""Log records as values and as lines: logfmt, or JSON.

A message is a format such as ``event=name key=%s other=%d`` and its arguments are the values, so that one record
becomes a log line and an object on the control socket. Used by ``log_setup``, ``events`` and ``supervisor``; the last
is kept small, so this module imports little of the standard library, and not logging.
"""

from __future__ import annotations

import functools
import json
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

Format = Literal["logfmt", "json"]

# A message of hffs, and the format of each key in it.
MESSAGE: Final = re.compile(r"event=([a-z][a-z0-9-]*)((?: [a-z][a-z0-9_]*=%(?:s|r|d|#x|\.\d+f))*)")
_PAIR: Final = re.compile(r" ([a-z][a-z0-9_]*)=(%\S+)")
# Priorities of sd-daemon(3); the journal strips the number from the line.
_PRIORITY: Final = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}
# hffs logs none of these itself; but a message may quote a server, and a traceback any argument.
_SECRETS: Final = (
    (re.compile(r"\bhf_[A-Za-z0-9]{16,}"), "hf_***"),
    (re.compile(r"(?i)\b(bearer|basic) [A-Za-z0-9+/._~=-]{8,}"), r"\1 ***"),
    (re.compile(r"(https?://[^\s?#\"'<>]*)\?[^\s\"'<>]*"), r"\1?***"),  # signatures are in the query
    (re.compile(r"(\w://)[^/\s@\"']+@"), r"\1***@"),
)


@functools.lru_cache(maxsize=512)  # there are about a hundred; those of other libraries may be any text
def _shape(message: str) -> tuple[str, tuple[tuple[str, str], ...]] | None:
    found = MESSAGE.fullmatch(message)
    return None if found is None else (found[1], tuple(_PAIR.findall(found[2])))


def event_fields(message: str, values: Sequence[object]) -> dict[str, Any]:
    """Returns the event of a record and its values by key, ready for JSON. Text in another format becomes the
    ``message`` of an event ``message``."""
    shape = _shape(message)
    if shape is None or len(shape[1]) != len(values):
        try:
            text = message % tuple(values) if values else message
        except (TypeError, ValueError):
            text = message
        return {"event": "message", "message": clean(text)}
    event, keys = shape
    return {"event": event} | {key: _value(how, value) for (key, how), value in zip(keys, values, strict=True)}


def _value(how: str, value: object) -> Any:
    if how.endswith("f") and isinstance(value, int | float):
        return round(float(value), int(how[2:-1]))
    if how in ("%s", "%d") and (value is None or isinstance(value, bool | int | float)):
        return value
    return clean(how % (value,))


def clean(text: str) -> str:
    """Returns ``text`` with tokens, passwords and signatures in URLs masked."""
    for pattern, instead in _SECRETS:
        text = pattern.sub(instead, text)
    return text


def line(level: str, fields: Mapping[str, Any], *, form: Format, journal: bool, now: float) -> str:
    """Returns one line without its end. ``level`` is lower case, ``now`` seconds since the epoch. For the ``journal``
    the line starts with its priority and has no time, which the journal adds."""
    whole = {} if journal else {"time": stamp(now)}
    whole |= {"level": level, **fields}
    text = json.dumps(whole) if form == "json" else " ".join(f"{key}={_shown(value)}" for key, value in whole.items())
    return f"<{_PRIORITY.get(level, 6)}>{text}" if journal else text


def stamp(now: float) -> str:
    """Returns a time as in RFC 3339, in UTC, to the millisecond."""
    thousandths = round(now * 1000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(thousandths // 1000))}.{thousandths % 1000:03d}Z"


def _shown(value: object) -> str:
    text = {None: "null", True: "true", False: "false"}.get(value) if isinstance(value, bool | None) else None
    text = str(value) if text is None else text
    if text and text.isprintable() and not set(text) & set(' "=\\'):
        return text
    # Characters that are not printable (cursor control, direction marks, lone surrogates) are escaped.
    return json.dumps(text, ensure_ascii=not text.isprintable()).replace("\x7f", "\\u007f")
