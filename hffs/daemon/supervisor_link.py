"""The worker's end of its supervisor: what it was given at its start, what it hands over, and what it is told.

Used by ``app`` and ``status``. Owns the socket to the supervisor and, until they are taken, the descriptors that came
from it. One thread listens; it only calls back. A worker whose supervisor is gone serves on.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import Any

from ..control import messages
from ..errors import HffsError, MountFailed
from ..fuse import Connection, Resumption
from ..model import Commit, RepoType

log = logging.getLogger(__name__)

ALONE = "the supervisor is gone: this mount would not survive the end of its daemon as well"


@dataclass(frozen=True, slots=True)
class Handover:
    """All that another worker needs to go on where this one stops, without asking any server: the connection to the
    kernel, the commit and folder it shows, and since when (monotonic seconds, and seconds since the epoch)."""

    connection: Connection
    commit: Commit
    subfolder: str
    started: float
    started_at: float

    def to_json(self) -> str:
        value = asdict(self)
        value["commit"]["endpoint"] = value["commit"].pop("source")  # its name since 0.1.0
        return json.dumps(value)

    @classmethod
    def from_json(cls, text: str, fd: int) -> Handover:
        """What ``to_json`` wrote, perhaps of an older version; ``fd`` is the descriptor as it is now. Raises
        HffsError."""
        try:
            value = json.loads(text)
            connection = replace(Connection(**value.pop("connection")), fd=fd)
            commit = value.pop("commit")
            made = Commit(type=RepoType(commit.pop("type")), source=commit.pop("endpoint"), **commit)
            return cls(connection, made, **value)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as wrong:
            raise HffsError(f"not what a worker hands over ({wrong})") from wrong


class SupervisorLink:
    """The supervisor as the worker sees it. ``handover`` is what a worker before this one left, None for the first."""

    def __init__(self, told: Mapping[str, Any]) -> None:
        self._socket = socket.socket(fileno=told["link_fd"])
        for name in ("link_fd", "device_fd", "listener_fd"):
            if told[name] is not None:
                os.set_inheritable(told[name], False)
        self._supervisor: messages.SupervisorStatus = told["supervisor"]
        self._refuse_resent = bool(told["refuse_resent"])
        manager = told.get("manager")  # an older supervisor knows of none
        self.managed = manager is not None
        self.watchdog_s: float | None = manager["watchdog_s"] if manager else None
        self.handover: Handover | None = None
        self.handed: str | None = told["handover"]
        self.listener: socket.socket | None = None
        if told["handover"] is not None:
            self.handover = Handover.from_json(told["handover"], told["device_fd"])
            self.listener = socket.socket(fileno=told["listener_fd"])
        self._thread: threading.Thread | None = None
        self._told_to_leave: Callable[[], None] = lambda: None
        # Set once, read by any thread.
        self._closing = False
        self.left = False
        self.may_be_resumed = self.handover is not None
        self.lost_at: float | None = None

    def resumption(self) -> Resumption | None:
        """What the binding goes on with."""
        return None if self.handover is None else Resumption(self.handover.connection, self._refuse_resent)

    def supervisor(self) -> messages.SupervisorStatus | None:
        """Who starts the next worker; None when nobody would."""
        return self._supervisor if self.may_be_resumed and self.lost_at is None else None

    def hand_over(self, handover: Handover, listener: int) -> None:
        """Give the supervisor what must outlive this process. Without it this worker's end is the mount's."""
        try:
            self.handed = handover.to_json()
            socket.send_fds(self._socket, [self.handed.encode("ascii")], [handover.connection.fd, listener])
            self.may_be_resumed = True
        except OSError as wrong:
            log.error("event=not-handed-over error=%s", wrong)

    def send(self, word: str) -> None:
        """A word for the service manager, which hears its main process only: the supervisor passes it on."""
        with suppress(OSError):  # it is gone, and this worker serves on
            self._socket.send(word.encode("utf-8", "replace"))

    def listen(self, told_to_leave: Callable[[], None]) -> None:
        """``told_to_leave`` is called, on another thread, when another worker is to take over."""
        self._told_to_leave = told_to_leave
        self._thread = threading.Thread(target=self._listen, name="hffs-supervised", daemon=True)
        self._thread.start()

    def ask_restart(self) -> None:
        """Have this worker replaced. Raises MountFailed when nobody would do it."""
        try:
            if self.supervisor() is None:
                raise MountFailed("this mount cannot be restarted: it has no supervisor", "unmount it and mount again")
            self._socket.send(b"restart")
        except OSError as wrong:
            raise MountFailed("the supervisor does not listen", "unmount it and mount again") from wrong

    def close(self) -> None:
        self._closing = True
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        if self._thread is not None:
            self._thread.join(5)
        self._socket.close()

    def _listen(self) -> None:
        while True:
            try:
                said = self._socket.recv(4096)
            except OSError:
                said = b""
            if said == b"leave":
                self.left = True
                self._told_to_leave()
            elif not said:
                break
        if self.may_be_resumed and not self._closing:
            self.lost_at = time.time()
            log.warning("event=unsupervised why=%s", ALONE)
