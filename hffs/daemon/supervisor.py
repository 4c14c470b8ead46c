"""The supervisor of one mount: a process that keeps the mount's descriptors open, so that a worker may die.

Owns the /dev/fuse descriptor, the control socket's listening descriptor and the worker process; ``__main__`` runs it.
When the worker dies it starts another with both descriptors and with the text that the first one handed over, which it
does not parse. It serves nothing and parses nothing from kernel or network, imports the standard library only and stays
small, so that it does not die itself. One thread; signals arrive as bytes on a pipe and are handled in the loop.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, NoReturn

from ..system import log_format
from ..system.sd_notify import SdNotify

# Deaths are counted over a minute: a worker needs one to two seconds to come up, so that ten deaths in it mean that
# hardly anything was served in between, while one that dies of a rare cause, even hourly, is always restarted.
WINDOW_SECONDS: Final = 60.0
# Two deaths may be unrelated (a kill by hand, memory that runs out while two workers overlap); from the third on the
# requests that a dying worker had in progress are suspected, and the next worker refuses them.
SUSPICIOUS_DEATHS: Final = 3
HOPELESS_DEATHS: Final = 10
# The first restarts are immediate, since readers wait; then the pause doubles up to a few seconds, to limit the load.
# The nine pauses before the tenth death are 10 s together, which fits into the window above.
FIRST_PAUSE: Final = 0.1
LONGEST_PAUSE: Final = 3.0
# For a worker that is being replaced to end by itself; it waits for nothing, and readers wait meanwhile.
LEAVE_SECONDS: Final = 10.0
LEFT: Final = 75  # the exit status of a worker that left its mount to the next one (EX_TEMPFAIL of sysexits.h)

_LARGEST: Final = 65536  # bytes of a hand-over; a commit and names have a few hundred
_SIGNALS: Final = (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
MODULE: Final = ("-P", "-m", "hffs.daemon")


def pause_before(deaths: int) -> float:
    """Seconds to wait before the next start of a worker, after so many deaths within the window."""
    return 0.0 if deaths < SUSPICIOUS_DEATHS else min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** (deaths - SUSPICIOUS_DEATHS))


class Supervisor:
    """``parameters``, from ``launcher``: ``spec`` and ``secrets`` (passed to the worker unparsed), ``mountpoint``,
    ``leftovers`` (files to remove when it gives up), ``report_fd`` (the starter's pipe, for the first worker);
    optionally ``worker`` (its command), ``foreground`` and ``manager`` (for ``SdNotify``). A supervisor that replaced
    its program adds ``kept``. These keys cross versions. ``clock`` returns monotonic seconds.
    """

    def __init__(self, parameters: dict[str, Any], clock: Callable[[], float] = time.monotonic) -> None:
        self._parameters = parameters
        self._clock = clock
        kept = parameters.pop("kept", None) or {}
        self._device: int | None = kept.get("device")
        self._listener: int | None = kept.get("listener")
        self._handover: str | None = kept.get("handover")
        self._worker: int | None = kept.get("worker")
        self._link = None if kept.get("link") is None else socket.socket(fileno=kept["link"])
        self._restarts: int = kept.get("restarts", 0)
        self._deaths: list[float] = kept.get("deaths", [])
        self._ending: bool = kept.get("ending", False)
        self._replacing = bool(kept)  # a new program supervises: it replaces the worker too
        self._start_at: float | None = None if self._worker else self._clock()
        self._kill_at: float | None = None
        self._manager = SdNotify(parameters.get("manager"))
        self._hung_at: float | None = None
        self._terminal = bool(parameters.get("foreground")) and _has_terminal()
        for fd in (self._device, self._listener, kept.get("link"), parameters.get("report_fd")):
            if fd is not None:
                os.set_inheritable(fd, False)

    def run(self) -> int:
        """Supervises until the mount is gone; returns the exit code. Main thread only: it handles signals."""
        woken, waker = self._woken, self._waker = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
        for number in _SIGNALS:
            signal.signal(number, lambda *_: None)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)  # blocked while the program was replaced
        if self._replacing:
            self._replace()
        os.write(waker, bytes([signal.SIGCHLD]))  # the worker may have died before the handlers were set
        try:
            while True:
                code = self._step()
                if code is not None:
                    return code
        finally:
            signal.set_wakeup_fd(-1)
            for number in _SIGNALS:
                signal.signal(number, signal.SIG_DFL)
            os.close(woken)
            os.close(waker)
            self._close_link()
            for fd in (self._device, self._listener):
                if fd is not None:
                    os.close(fd)

    def _step(self) -> int | None:
        now = self._clock()
        if self._start_at is not None and now >= self._start_at:
            self._start()
        if self._kill_at is not None and now >= self._kill_at and self._worker is not None:
            self._kill_at = None
            os.kill(self._worker, signal.SIGKILL)
        if self._hung_at is not None and now >= self._hung_at and self._worker is not None:
            self._hung_at = None
            self._log("warning", "worker-hung", {"then": "it is killed, and the next worker takes over"})
            os.kill(self._worker, signal.SIGKILL)
        poll = select.poll()
        poll.register(self._woken, select.POLLIN)
        if self._link is not None:
            poll.register(self._link, select.POLLIN)
        due = [at - self._clock() for at in (self._start_at, self._kill_at, self._hung_at) if at is not None]
        poll.poll(max(0.0, min(due)) * 1000 if due else None)
        signals = self._signals()
        self._receive()
        if signals & {signal.SIGTERM, signal.SIGINT}:
            self._end()
        if signal.SIGHUP in signals:
            self._on_hangup()
        return self._reap() if signal.SIGCHLD in signals else None

    def _signals(self) -> set[int]:
        """The signals that arrived since the last call."""
        with suppress(BlockingIOError):
            return set(os.read(self._woken, 4096))
        return set()

    # --- the worker -------------------------------------------------------------------------------------------------

    def _start(self) -> None:
        """Starts a worker, with its parameters in a memory file: a command line may be too short for them."""
        self._start_at = self._hung_at = None
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        report, self._parameters["report_fd"] = self._parameters.get("report_fd"), None
        start = _memory_file({
            "spec": self._parameters["spec"],
            "secrets": self._parameters.get("secrets", {}),
            "foreground": bool(self._parameters.get("foreground")),
            "journal": bool(self._parameters.get("journal")),
            "report_fd": report,
            "link_fd": theirs.fileno(),
            "device_fd": self._device,
            "listener_fd": self._listener,
            "handover": self._handover,
            "supervisor": {"pid": os.getpid(), "restarts": self._restarts},
            "manager": {"watchdog_s": self._manager.watchdog_s} if self._manager.is_present else None,
            "refuse_resent": len(self._recent()) >= SUSPICIOUS_DEATHS,
        })  # fmt: skip
        command = [*(self._parameters.get("worker") or [sys.executable, *MODULE, "--worker"]), str(start)]
        inherited = [fd for fd in (start, report, theirs.fileno(), self._device, self._listener) if fd is not None]
        pid = os.fork()
        if not pid:
            _exec_worker(command, inherited)
        self._worker = pid
        self._link = ours
        ours.setblocking(False)
        theirs.close()
        os.close(start)
        if report is not None:
            os.close(report)

    def _receive(self) -> None:
        """Handles the worker's messages: a hand-over, a request to replace it, notifications to forward."""
        while self._link is not None:
            try:
                message, descriptors, _, _ = socket.recv_fds(self._link, _LARGEST, 2)
            except BlockingIOError:
                return
            except OSError:
                message, descriptors = b"", []
            if not message:
                self._close_link()
            elif descriptors:
                self._device, self._listener = descriptors
                for fd in descriptors:
                    os.set_inheritable(fd, False)
                self._handover = message.decode("ascii")
            elif message == b"restart":
                self._replace_program()
            else:
                self._manager.send(message.decode("utf-8", "replace"))
                if message == b"alive" and self._manager.watchdog_s:
                    # Half of the manager's timeout: readers survive the worker's end, not the manager's kill of both.
                    self._hung_at = self._clock() + self._manager.watchdog_s / 2

    def _reap(self) -> int | None:
        """Collects children that ended; returns the exit code of this process when there is nothing left to do."""
        ended: int | None = None
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if not pid:
                break
            if pid == self._worker:
                ended = os.waitstatus_to_exitcode(status)
        if ended is None:
            return None
        self._receive()  # its last messages
        self._close_link()
        self._worker = self._kill_at = self._hung_at = None
        if ended == 0:  # it was unmounted
            return 0
        if self._device is None:  # it never served, or cannot be taken over
            self._unmount_dead()
            return ended if ended > 0 else 1
        if self._replacing:
            self._replacing = False
            self._restarts += 1
            self._start_at = self._clock()
            if self._ending:  # it may have left before it could unmount
                self._detach()
            return None
        return self._on_death(ended)

    def _on_death(self, ended: int) -> int | None:
        self._deaths = [*self._recent(), self._clock()]
        how, number = ("signal", -ended) if ended < 0 else ("exit_code", ended)
        if len(self._deaths) >= HOPELESS_DEATHS:
            return self._give_up(how, number)
        self._restarts += 1
        pause = pause_before(len(self._deaths))
        self._start_at = self._clock() + pause
        self._manager.send(f"status restarting: the daemon died ({how}={number})")
        self._log("warning", "worker-died", {how: number, "restarts": self._restarts, "pause_s": f"{pause:g}"})
        if self._ending:  # it may have died before it could unmount
            self._detach()
        return None

    def _recent(self) -> list[float]:
        return [at for at in self._deaths if self._clock() - at < WINDOW_SECONDS]

    # --- endings ----------------------------------------------------------------------------------------------------

    def _end(self) -> None:
        """Has the worker unmount, even when the mount is busy; it ends with the last user of the mount."""
        self._ending = True
        self._manager.send("stopping")
        if self._worker is None:
            self._detach()
        else:
            os.kill(self._worker, signal.SIGTERM)

    def _on_hangup(self) -> None:
        """SIGHUP means restart, as for any daemon; unless it came from the terminal being closed."""
        if self._terminal and not _has_terminal():
            self._end()
        else:
            self._replace_program()

    def _give_up(self, how: str, number: int) -> int:
        self._log("error", "gave-up", {"deaths": len(self._deaths), "window_s": f"{WINDOW_SECONDS:g}", how: number})
        self._clean_up()
        return 1

    def _detach(self) -> None:
        from ..errors import HffsError
        from ..system import mount_table

        with suppress(HffsError):
            mount_table.detach(self._parameters["mountpoint"], lazy=True)

    def _unmount_dead(self) -> None:
        """Unmounts what a worker that died before its hand-over left behind. Only a dead mount: one that answers
        belongs to another process."""
        from errno import ENOTCONN

        from ..system import mount_table

        found = mount_table.table().get(self._parameters["mountpoint"])
        if found is not None and found.is_hffs and mount_table.probe(found.mountpoint) == ENOTCONN:
            self._clean_up()

    def _clean_up(self) -> None:
        """Unmounts and removes the mount's files; its users get ENOTCONN once the device is closed."""
        self._detach()
        for path in self._parameters["leftovers"]:
            with suppress(OSError):
                os.unlink(path)

    # --- replacing --------------------------------------------------------------------------------------------------

    def _replace(self) -> None:
        """Asks the worker to leave its mount to the next one; it is killed if it does not, which readers survive."""
        if self._worker is None:
            self._replacing = False
            return
        self._replacing = True
        self._kill_at = self._clock() + LEAVE_SECONDS
        if self._link is not None:
            with suppress(OSError):  # it is dying already
                self._link.send(b"leave")

    def _replace_program(self) -> None:
        """Executes the installed program in this process, with what it keeps; that one replaces the worker. Does
        nothing while the mount is ending."""
        if self._ending:
            return
        if self._device is None:
            why = "the mount is not up yet, or the kernel cannot resume it"
            self._log("warning", "not-restarted", {"why": why})
            return
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)  # until the new program has its handlers
        pending = self._signals()  # they would be lost with this program
        if pending & {signal.SIGTERM, signal.SIGINT}:
            os.write(self._waker, bytes(pending))
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
            return
        self._manager.send("reloading")
        kept = {
            "device": self._device,
            "listener": self._listener,
            "handover": self._handover,
            "worker": self._worker,
            "link": None if self._link is None else self._link.fileno(),
            "restarts": self._restarts,
            "deaths": self._deaths,
            "ending": self._ending,
        }
        state = _memory_file({**self._parameters, "kept": kept})
        passed = [fd for fd in (state, self._device, self._listener, kept["link"]) if isinstance(fd, int)]
        try:
            for fd in passed:
                os.set_inheritable(fd, True)
            command = [sys.executable, *MODULE, "--supervise", str(state)]
            os.execv(command[0], command)  # noqa: S606 - no shell is meant
        except OSError as error:
            self._log("error", "not-replaced", {"error": error.strerror, "instead": "only the worker is"})
            for fd in passed:
                os.set_inheritable(fd, False)
            os.close(state)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
            self._replace()

    def _log(self, level: str, event: str, values: dict[str, Any]) -> None:
        """Writes a line in the format of the worker's log, without the 2 MiB of the logging package."""
        fields = {"event": event, **values, "logger": "hffs.daemon.supervisor"}
        form, journal = self._parameters.get("log_format", "logfmt"), bool(self._parameters.get("journal"))
        print(log_format.line(level, fields, form=form, journal=journal, now=time.time()), file=sys.stderr, flush=True)

    def _close_link(self) -> None:
        if self._link is not None:
            self._link.close()
            self._link = None


def from_file(fd: int) -> dict[str, Any]:
    """Returns what ``_memory_file`` wrote; closes it."""
    with open(fd, encoding="utf-8") as file:
        value = json.load(file)
    assert isinstance(value, dict)
    return value


def _memory_file(value: dict[str, Any]) -> int:
    fd = os.memfd_create("hffs", os.MFD_CLOEXEC)
    data = memoryview(json.dumps(value).encode("ascii"))
    while data:
        data = data[os.write(fd, data) :]
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def _exec_worker(command: list[str], inherited: list[int]) -> NoReturn:
    """In the child: a session of its own, so that a terminal's signals reach the supervisor only."""
    try:
        os.setsid()
        signal.set_wakeup_fd(-1)
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        for fd in inherited:
            os.set_inheritable(fd, True)
        os.execv(command[0], command)  # noqa: S606 - no shell is meant
    finally:
        os._exit(127)


def _has_terminal() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_CLOEXEC | os.O_NOCTTY))
    except OSError:
        return False
    return True
