"""State notifications to the service manager: sd_notify(3), without libsystemd.

Used by the supervisor, which is the service's main process, and by a worker without one. Each word is one datagram to
the socket named by systemd; no answer is expected, and a missing listener is no error. Imports little, since the
supervisor keeps it in memory. Any thread.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping
from typing import Any, Final, Protocol

_SECONDS: Final = 1.0  # systemd reads at once; if not, the mount must not wait
_WORDS: Final = {"ready": "READY=1", "alive": "WATCHDOG=1", "stopping": "STOPPING=1"}


class ServiceManager(Protocol):
    """The receiver of notifications: systemd, or the supervisor, which forwards them. ``alive`` is due every
    ``watchdog_s`` seconds; None: never."""

    @property
    def watchdog_s(self) -> float | None: ...

    def send(self, word: str) -> None:
        """``ready``, ``alive``, ``stopping``, ``reloading``, or ``status`` and a text for people."""


class SdNotify:
    """The systemd instance found by ``config.service_manager``; with None there is none and nothing is sent."""

    def __init__(self, manager: Mapping[str, Any] | None) -> None:
        self._address: str | None = manager["address"] if manager else None
        self.watchdog_s: float | None = manager["watchdog_s"] if manager else None

    @property
    def is_present(self) -> bool:
        return self._address is not None

    def send(self, word: str) -> None:
        line = _line(word)
        if self._address is None or line is None:
            return
        address = f"\0{self._address[1:]}" if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
                sock.settimeout(_SECONDS)
                sock.sendto(line.encode("utf-8", "replace"), address)
        except OSError:  # systemd is restarting or shutting down; its watchdog decides
            return


def _line(word: str) -> str | None:
    """Returns the datagram for a word; None for an unknown word, which another version may send."""
    if word == "reloading":
        return f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}"
    if word.startswith("status "):
        return "STATUS=" + " ".join(word.removeprefix("status ").split())
    return _WORDS.get(word)
