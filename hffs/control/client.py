"""Talking to running daemons over their control sockets.

Used by the Python API. Speaks the little of HTTP/1.1 that the sockets need by itself, because ``http.client`` costs
25 ms of imports and ``hffs status`` must feel instant. Knows no mount that it was not given the socket of, starts no
thread; safe from any thread. Every call ends within its timeout.
"""

from __future__ import annotations

import json
import os
import socket
import struct
import time
from collections.abc import Generator, Sequence
from typing import Any, Final, cast

from ..errors import DeadlineExceeded, HffsError, MountNotFound
from .messages import API, FileBlockMap, FileList, Status

_LARGEST: Final = 256 * 1024 * 1024  # bytes of an answer; a million files of du are half of it


class Refused(HffsError):
    """The daemon answered with an error; its words, its exit code."""

    def __init__(self, what: str, remedy: str = "", exit_code: int = 1) -> None:
        super().__init__(what, remedy)
        self.exit_code = exit_code


def statuses(sockets: Sequence[str], timeout: float = 2.0) -> list[Status | HffsError]:
    """The status of the daemon behind each socket, or why there is none; ``timeout`` seconds for all of them."""
    end = time.monotonic() + timeout
    asked: list[_Question | HffsError] = []
    for path in sockets:  # all are asked before the first is waited for
        try:
            asked.append(_Question(path, "GET", f"{API}/status", end))
        except HffsError as wrong:
            asked.append(wrong)
    return [_status(question) for question in asked]


def _status(question: _Question | HffsError) -> Status | HffsError:
    if isinstance(question, HffsError):
        return question
    try:
        return cast(Status, question.answer())
    except HffsError as wrong:
        return wrong


def files(path: str, folder: str = "", timeout: float = 10.0) -> FileList:
    """Every file that the daemon knows at or below ``folder`` of its mount."""
    from urllib.parse import quote  # 5 ms, not needed for a status

    return cast(FileList, ask(path, "GET", f"{API}/files?path={quote(folder, errors='surrogateescape')}", timeout))


def blocks(path: str, file: str, timeout: float = 10.0) -> FileBlockMap:
    """What is here and under way of a file of the mount, block by block."""
    from urllib.parse import quote

    asked = quote(file, errors="surrogateescape")
    return cast(FileBlockMap, ask(path, "GET", f"{API}/files/{asked}/blocks", timeout))


def unmount(path: str, lazy: bool = False, timeout: float = 10.0) -> None:
    """Asks the daemon to take its mount off and end. Raises Refused when the mount is busy."""
    ask(path, "POST", f"{API}/unmount", timeout, {"lazy": lazy})


def restart(path: str, timeout: float = 10.0) -> None:
    """Asks the daemon to be replaced by a new one. Raises Refused when it has no supervisor."""
    ask(path, "POST", f"{API}/restart", timeout)


def events(path: str, kinds: Sequence[str] = (), silence: float = 30.0) -> Generator[dict[str, Any]]:
    """What happens on the mount, as it happens, until its daemon ends; of these ``kinds``, or all. It has begun once
    this returns. ``close`` it to end it before.

    Raises as ``ask``, here or later; DeadlineExceeded when not even the daemon's heartbeat (every ten seconds) came for
    ``silence`` seconds."""
    question = _Question(path, "GET", f"{API}/events?kinds={','.join(kinds)}", time.monotonic() + silence)
    stream = question.stream(silence)
    next(stream)
    return (json.loads(line) for line in stream)


def ask(path: str, method: str, target: str, timeout: float, body: Any = None) -> Any:
    """One request to the daemon behind the socket ``path``; its answer, decoded.

    Raises MountNotFound (nobody listens), DeadlineExceeded, Refused (the daemon says no).
    """
    return _Question(path, method, target, time.monotonic() + timeout, body).answer()


class _Question:
    """A request under way; ``answer`` is called once."""

    def __init__(self, path: str, method: str, target: str, end: float, body: Any = None) -> None:
        self._path = path
        self._end = end
        payload = b"" if body is None else json.dumps(body).encode("ascii")
        head = (
            f"{method} {target} HTTP/1.1\r\nHost: hffs\r\nContent-Length: {len(payload)}\r\nConnection: close\r\n\r\n"
        )
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._socket.settimeout(self._left())
            self._socket.connect(path)
            if _owner(self._socket) not in (0, os.geteuid()):
                raise MountNotFound(f"another user listens at {path}", "see who may write to that directory")
            self._socket.sendall(head.encode("ascii") + payload)
        except (BrokenPipeError, ConnectionResetError):
            pass  # it answered without reading all of it; the answer says why
        except BaseException as wrong:
            self._socket.close()
            raise self._ours(wrong) from wrong

    def answer(self) -> Any:
        received = bytearray()
        with self._socket:
            try:
                while len(received) <= _LARGEST:
                    self._socket.settimeout(self._left())
                    piece = self._socket.recv(1024 * 1024)
                    if not piece:
                        break
                    received += piece
            except ConnectionResetError:
                pass  # closed over a request it did not care to read; its answer came before
            except OSError as wrong:
                raise self._ours(wrong) from wrong
        return self._decode(bytes(received))

    def stream(self, silence: float) -> Generator[bytes]:
        """First nothing, when the daemon has begun to answer; then each line of what it says."""
        received = b""
        with self._socket:
            self._socket.settimeout(silence)
            try:
                while b"\r\n\r\n" not in received:
                    piece = self._socket.recv(65536)
                    received += piece
                    if not piece or len(received) > _LARGEST:
                        break
                head, _, received = received.partition(b"\r\n\r\n")
                if head.split(b" ")[1:2] != [b"200"]:
                    while piece := self._socket.recv(65536):
                        received += piece
                    self._decode(head + b"\r\n\r\n" + received)
                    raise MountNotFound(f"no stream from the daemon at {self._path}")
                yield b""
                while True:
                    *lines, received = received.split(b"\n")
                    yield from lines
                    piece = self._socket.recv(65536)
                    if not piece:
                        return
                    received += piece
            except ConnectionResetError:  # it was killed
                return
            except OSError as wrong:
                raise self._ours(wrong) from wrong

    def _decode(self, received: bytes) -> Any:
        head, _, payload = received.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        try:
            status = int(first.split(" ")[1])
            if len(payload) != int(headers["content-length"]):
                raise ValueError("cut short")
            value = json.loads(payload) if "json" in headers.get("content-type", "") else payload.decode()
        except (ValueError, IndexError, KeyError, RecursionError) as wrong:
            raise MountNotFound(f"no whole answer from the daemon at {self._path}", "it may just be ending") from wrong
        if status != 200:
            said = value if isinstance(value, dict) else {"error": str(value)}
            code = said.get("exit_code", 1)
            raise Refused(str(said.get("error")), str(said.get("remedy", "")), code if isinstance(code, int) else 1)
        return value

    def _left(self) -> float:
        """Seconds until the deadline; never 0, which would mean not to wait at all."""
        return max(0.001, self._end - time.monotonic())

    def _ours(self, wrong: BaseException) -> BaseException:
        """What it is in our words."""
        if isinstance(wrong, TimeoutError):
            return DeadlineExceeded(f"the daemon at {self._path} did not answer in time")
        if isinstance(wrong, OSError):
            return MountNotFound(f"no daemon listens at {self._path} ({wrong.strerror or wrong})")
        return wrong


def _owner(connected: socket.socket) -> int:
    """Whose process listens at the other end."""
    _pid, uid, _gid = struct.unpack("iII", connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return int(uid)
