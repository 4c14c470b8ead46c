"""Parsers of setting values, the same for an option, a variable and a file. Pure functions; each raises UsageError."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import Any, Final

from ..errors import UsageError

# At most eighteen digits: more than any disk or clock counts to, and far below the length at which int() refuses.
_NUMBER: Final = r"^\s*([0-9]{1,18}(?:\.[0-9]{1,18})?)\s*"
_SIZE: Final = re.compile(_NUMBER + r"([kmgtp]?)(i?b?)\s*$", re.IGNORECASE)
_TIME: Final = re.compile(_NUMBER + r"(s|m|h|d|)\s*$", re.IGNORECASE)
_COUNT: Final = re.compile(r"\s*[0-9]{1,9}\s*")
_MOST_BYTES: Final = 1 << 63  # off_t
_MOST_SECONDS: Final = 10 * 365 * 86400  # below the longest wait of threading (292 years in nanoseconds)
_SECONDS: Final = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
TRUE: Final = frozenset({"1", "on", "yes", "true"})  # as huggingface_hub reads its switches
_FALSE: Final = frozenset({"0", "off", "no", "false", ""})


def parse_size(text: str) -> int:
    """Bytes from ``200M``, ``1.5G`` or ``4MiB``. Units are powers of 1024, as in ``df -h``."""
    match = _SIZE.match(text)
    if not match:
        raise UsageError(f"{literal(text)} is not a size", "write it like 4M, 200M or 1.5G")
    number, unit, _ = match.groups()
    size = int(float(number) * 1024 ** " kmgtp".index(unit.lower() or " "))
    if size >= _MOST_BYTES:
        raise UsageError(f"{literal(text)} is larger than any disk", "write it like 4M, 200M or 1.5G")
    return size


def parse_seconds(text: str) -> float:
    """Seconds from ``120``, ``30s``, ``5m``, ``1h`` or ``2d``."""
    match = _TIME.match(text)
    if not match:
        raise UsageError(f"{literal(text)} is not a length of time", "write it like 120, 30s or 5m")
    seconds = float(match[1]) * _SECONDS[match[2].lower()]
    if seconds > _MOST_SECONDS:
        raise UsageError(f"{literal(text)} is longer than ten years", "write it like 120, 30s or 5m")
    return seconds


def above_zero(parse: Callable[[str], float]) -> Callable[[str], Any]:
    """A parser that refuses zero: with a size or time of 0 no read could succeed."""

    def parsed(text: str) -> float:
        value = parse(text)
        if not value:
            raise UsageError(f"{literal(text)} is zero", "it must be more than 0")
        return value

    return parsed


def parse_switch(text: str) -> bool:
    word = text.strip().lower()
    if word not in TRUE | _FALSE:
        raise UsageError(f"{literal(text)} is neither yes nor no", "write 1 or 0")
    return word in TRUE


def parse_count(text: str) -> int:
    if not _COUNT.fullmatch(text) or int(text) < 1:
        raise UsageError(f"{literal(text)} is not a number of at least 1")
    return int(text)


def parse_patterns(text: str) -> tuple[str, ...]:
    return tuple(part for part in re.split(r"[\s,]+", text) if part)


def parse_hf_cache(text: str) -> str:
    """An absolute path, expanded as huggingface_hub expands its own; empty for ``none``."""
    if text.strip().lower() in ("", "none"):
        return ""
    refuse_nul(text)
    return os.path.abspath(os.path.expanduser(os.path.expandvars(text)))


def one_of(*words: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in words:
            raise UsageError(f"{literal(text)} is not one of {', '.join(words)}")
        return text

    return parse


def refuse_nul(value: Any) -> None:
    """Raises UsageError for a NUL, which no path may contain; only files and Python calls can pass one."""
    items = value if isinstance(value, list | tuple) else (value,)
    if any(isinstance(item, str) and "\0" in item for item in items):
        raise UsageError(f"{literal(value)} contains a NUL character")


def literal(value: Any) -> str:
    """The value as it is written in a file, cut to 200 characters."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "a section"
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # thousands of digits, which TOML accepts in base 16; deeply nested lists
        text = "the value"
    return text if len(text) < 200 else f"{text[:200]}…"
