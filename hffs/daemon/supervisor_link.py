"""The worker's end of the connection to its supervisor: parameters of its start, hand-over, requests to leave.

Used by ``app`` and ``status``. Owns the socket to the supervisor and, until they are taken, the descriptors received
from it. One thread receives; it only calls back. A worker without its supervisor continues to serve.
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
from typing import Any, Final

from ..control import messages
from ..errors import HffsError, MountFailed
from ..fuse import Connection, Resumption
from ..model import Commit, RepoType

log = logging.getLogger(__name__)

NO_SUPERVISOR: Final = "the supervisor has ended: this mount ends with its daemon, which nothing restarts"


@dataclass(frozen=True, slots=True)
class Handover:
    """All that the next worker needs to take over the mount without a request to a server: the connection to the
    kernel, the commit and folder shown, and the mount's start (monotonic seconds, and seconds since the epoch)."""

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
        """Parses what ``to_json`` of this or an older version wrote; ``fd`` is the descriptor's present number. Raises
        HffsError."""
        try:
            value = json.loads(text)
            connection = replace(Connection(**value.pop("connection")), fd=fd)
            commit = value.pop("commit")
            made = Commit(type=RepoType(commit.pop("type")), source=commit.pop("endpoint"), **commit)
            return cls(connection, made, **value)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise HffsError(f"not a worker's hand-over ({error})") from error


class SupervisorLink:
    """``parameters`` are what the supervisor wrote. ``handover`` is the earlier worker's; None: there was none."""

    def __init__(self, parameters: Mapping[str, Any]) -> None:
        self._socket = socket.socket(fileno=parameters["link_fd"])
        for name in ("link_fd", "device_fd", "listener_fd"):
            if parameters[name] is not None:
                os.set_inheritable(parameters[name], False)
        self._supervisor: messages.SupervisorStatus = parameters["supervisor"]
        self._refuse_resent = bool(parameters["refuse_resent"])
        manager = parameters.get("manager")  # an older supervisor sends none
        self.managed = manager is not None
        self.watchdog_s: float | None = manager["watchdog_s"] if manager else None
        self.handover: Handover | None = None
        self.handover_json: str | None = parameters["handover"]
        self.listener: socket.socket | None = None
        if parameters["handover"] is not None:
            self.handover = Handover.from_json(parameters["handover"], parameters["device_fd"])
            self.listener = socket.socket(fileno=parameters["listener_fd"])
        self._thread: threading.Thread | None = None
        self._on_leave: Callable[[], None] = lambda: None
        # Set once, read by any thread.
        self._closing = False
        self.left = False
        self.may_be_resumed = self.handover is not None
        self.lost_at: float | None = None

    def resumption(self) -> Resumption | None:
        """The connection that the binding resumes."""
        return None if self.handover is None else Resumption(self.handover.connection, self._refuse_resent)

    def supervisor(self) -> messages.SupervisorStatus | None:
        """The process that would start the next worker; None: there is none."""
        return self._supervisor if self.may_be_resumed and self.lost_at is None else None

    def hand_over(self, handover: Handover, listener: int) -> None:
        """Sends the supervisor what must outlive this process. Until then the mount ends with this worker."""
        try:
            self.handover_json = handover.to_json()
            socket.send_fds(self._socket, [self.handover_json.encode("ascii")], [handover.connection.fd, listener])
            self.may_be_resumed = True
        except OSError as error:
            log.error("event=not-handed-over error=%s", error)

    def send(self, message: str) -> None:
        """Sends a notification for the service manager, which accepts those of its main process only: the supervisor
        forwards it."""
        with suppress(OSError):  # there is no supervisor any more
            self._socket.send(message.encode("utf-8", "replace"))

    def listen(self, on_leave: Callable[[], None]) -> None:
        """``on_leave`` is called, on another thread, when another worker is to take over."""
        self._on_leave = on_leave
        self._thread = threading.Thread(target=self._receive, name="hffs-supervisor-link", daemon=True)
        self._thread.start()

    def request_restart(self) -> None:
        """Asks the supervisor to replace this worker. Raises MountFailed when there is none."""
        try:
            if self.supervisor() is None:
                raise MountFailed("this mount cannot be restarted: it has no supervisor", "unmount it and mount again")
            self._socket.send(b"restart")
        except OSError as error:
            raise MountFailed("the supervisor has ended", "unmount it and mount again") from error

    def close(self) -> None:
        self._closing = True
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        if self._thread is not None:
            self._thread.join(5)
        self._socket.close()

    def _receive(self) -> None:
        while True:
            try:
                message = self._socket.recv(4096)
            except OSError:
                message = b""
            if message == b"leave":
                self.left = True
                self._on_leave()
            elif not message:
                break
        if self.may_be_resumed and not self._closing:
            self.lost_at = time.time()
            log.warning("event=unsupervised why=%s", NO_SUPERVISOR)
