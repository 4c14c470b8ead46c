"""Sizes, rates, shares, durations and counts as short text. Pure functions."""

from __future__ import annotations

import time


def size(count: int | None) -> str:
    """Bytes as ``571B`` or ``90.9M``; "?" for None. Units are powers of 1024, as the options parse them."""
    if count is None:
        return "?"
    if count < 1024:
        return f"{count}B"
    amount = float(count)
    for unit in "KMGTP":
        amount /= 1024
        if amount < 1023.95 or unit == "P":
            return f"{amount:.1f}{unit}"
    raise AssertionError("unreachable")


def rate(bytes_per_s: float) -> str:
    """``2.9M/s``."""
    return f"{size(int(bytes_per_s))}/s"


def share(part: int, whole: int | None) -> str:
    """``1.0M of 522.7M (<1 %)``; ``1.0M of ?`` where the whole is unknown."""
    return f"{size(part)} of ?" if whole is None else f"{size(part)} of {size(whole)} ({percent(part, whole)})"


def percent(part: int, whole: int) -> str:
    """``38 %``, rounded down: 100 % only for the whole, 0 % only for nothing."""
    number = 100 * part // whole if whole else 100
    return f"{'<1' if part and not number else number} %"


def duration(seconds: float | None) -> str:
    """``12 s``, ``4 min``, ``3 h 20 min``, ``2 d 5 h``; "?" for None."""
    if seconds is None:
        return "?"
    minutes, whole = int(seconds) // 60, int(seconds)
    if whole < 120:
        return f"{whole} s"
    if minutes < 120:
        return f"{minutes} min"
    hours = minutes // 60
    return f"{hours} h {minutes % 60} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"


def timestamp(seconds: float) -> str:
    """Seconds since the epoch in UTC, as in logs: ``2026-05-01 12:00:00Z``."""
    return time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(seconds))


def count(number: int | None, noun: str) -> str:
    """``1 file``, ``12 files``, ``? files``."""
    return f"{'?' if number is None else number} {noun}{'' if number == 1 else 's'}"
