"""Telling the service manager how a mount fares: sd_notify(3), by hand.

Used by the supervisor, which is the service's main process, and by a worker that has none. One datagram for each word
to the socket that systemd named; nothing is ever expected back, and nobody listening is no error of the mount. Imports
next to nothing, since the supervisor keeps it in memory. Any thread.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping
from typing import Any, Final, Protocol

_SECONDS: Final = 1.0  # systemd reads at once; where it does not, a mount must not wait for it
_WORDS: Final = {"ready": "READY=1", "alive": "WATCHDOG=1", "stopping": "STOPPING=1"}


class ServiceManager(Protocol):
    """Whoever is told: systemd itself, or the supervisor, which passes it on. ``watchdog_s``: within so many seconds
    it wants to hear ``alive`` again; None: never."""

    @property
    def watchdog_s(self) -> float | None: ...

    def say(self, word: str) -> None:
        """``ready``, ``alive``, ``stopping``, ``reloading``, or ``status`` and a text for people."""


class SdNotify:
    """The service manager. ``told`` is what ``config.service_manager`` found; None: there is none, and nothing is
    sent."""

    def __init__(self, told: Mapping[str, Any] | None) -> None:
        self._address: str | None = told["address"] if told else None
        self.watchdog_s: float | None = told["watchdog_s"] if told else None

    @property
    def listens(self) -> bool:
        return self._address is not None

    def say(self, word: str) -> None:
        line = _line(word)
        if self._address is None or line is None:
            return
        address = f"\0{self._address[1:]}" if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as to:
                to.settimeout(_SECONDS)
                to.sendto(line.encode("utf-8", "replace"), address)
        except OSError:  # it is being replaced itself, or ends; it asks by its own means whether we live
            return


def _line(word: str) -> str | None:
    """What systemd is told; None for a word of another version, which is no reason to fail."""
    if word == "reloading":
        return f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}"
    if word.startswith("status "):
        return "STATUS=" + " ".join(word.removeprefix("status ").split())
    return _WORDS.get(word)
