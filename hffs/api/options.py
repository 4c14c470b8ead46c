"""Settings from the options of a Python call. Used by every function of ``hffs.api``; no state."""

from __future__ import annotations

from typing import Any

from .. import config
from ..config import SETTINGS, Settings


def settings_from(options: dict[str, Any]) -> Settings:
    """Settings from options as Python gives them: values of their own type, or text as on the command line.

    Raises UsageError.
    """
    return config.load(parsed(options))


def parsed(options: dict[str, Any]) -> dict[str, Any]:
    """``options`` with text values parsed as on the command line and lists as tuples. Raises UsageError."""
    decided = {
        name: SETTINGS[name].kind.parse(value) if isinstance(value, str) and name in SETTINGS else value
        for name, value in options.items()
    }
    lists = {name: tuple(value) for name, value in decided.items() if isinstance(value, list)}
    return {**decided, **lists}
