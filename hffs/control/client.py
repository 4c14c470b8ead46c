"""Client of the control sockets.

Used by the Python API, and public as ``hffs.client``. It has its own minimal HTTP/1.1, because importing
``http.client`` takes 25 ms and ``hffs status`` must feel instant. Starts no thread; safe from any thread. Every call
ends within its timeout.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Generator, Sequence
from typing import Any, Final, cast

from ..errors import DeadlineExceeded, HffsError, MountNotFound
from .messages import API, FileBlockMap, FileList, Status
from .unix_socket import peer_uid

_LARGEST: Final = 256 * 1024 * 1024  # bytes of an answer; the list of a million files takes half of it


class Refused(HffsError):
    """The daemon answered with an error: its message, remedy and exit code."""

    def __init__(self, what: str, remedy: str = "", exit_code: int = 1) -> None:
        super().__init__(what, remedy)
        self.exit_code = exit_code


def statuses(sockets: Sequence[str], timeout: float = 2.0) -> list[Status | HffsError]:
    """Returns the status from each socket, or the error instead; ``timeout`` in seconds covers all of them."""
    end = time.monotonic() + timeout
    requests: list[_PendingRequest | HffsError] = []
    for path in sockets:  # all requests are sent before the first answer is awaited
        try:
            requests.append(_PendingRequest(path, "GET", f"{API}/status", end))
        except HffsError as wrong:
            requests.append(wrong)
    return [_status(request) for request in requests]


def _status(request: _PendingRequest | HffsError) -> Status | HffsError:
    if isinstance(request, HffsError):
        return request
    try:
        return cast(Status, request.answer())
    except HffsError as wrong:
        return wrong


def files(path: str, folder: str = "", timeout: float = 10.0) -> FileList:
    """Returns every file known to the daemon at or below ``folder`` of its mount."""
    from urllib.parse import quote  # 5 ms, not needed for a status

    return cast(FileList, ask(path, "GET", f"{API}/files?path={quote(folder, errors='surrogateescape')}", timeout))


def blocks(path: str, file: str, timeout: float = 10.0) -> FileBlockMap:
    """Returns the state of each block of a file of the mount."""
    from urllib.parse import quote

    quoted = quote(file, errors="surrogateescape")
    return cast(FileBlockMap, ask(path, "GET", f"{API}/files/{quoted}/blocks", timeout))


def unmount(path: str, lazy: bool = False, timeout: float = 10.0) -> None:
    """Asks the daemon to unmount and end. Raises Refused when the mount is busy."""
    ask(path, "POST", f"{API}/unmount", timeout, {"lazy": lazy})


def restart(path: str, timeout: float = 10.0) -> None:
    """Asks for a new daemon to take over the mount. Raises Refused when there is no supervisor."""
    ask(path, "POST", f"{API}/restart", timeout)


def events(path: str, kinds: Sequence[str] = (), silence: float = 30.0) -> Generator[dict[str, Any]]:
    """Returns the mount's events of these ``kinds``, or all, as they occur, until its daemon ends. The stream has
    started when this returns; ``close`` ends it.

    Raises as ``ask``, here or while iterating; DeadlineExceeded when not even the daemon's heartbeat (every ten
    seconds) arrives for ``silence`` seconds."""
    request = _PendingRequest(path, "GET", f"{API}/events?kinds={','.join(kinds)}", time.monotonic() + silence)
    stream = request.stream(silence)
    next(stream)
    return (json.loads(line) for line in stream)


def ask(path: str, method: str, target: str, timeout: float, body: Any = None) -> Any:
    """Sends one request to the daemon at the socket ``path`` and returns the decoded answer.

    Raises MountNotFound (no daemon listens), DeadlineExceeded, Refused (the daemon answered with an error).
    """
    return _PendingRequest(path, method, target, time.monotonic() + timeout, body).answer()


class _PendingRequest:
    """A request that was sent; ``answer`` or ``stream`` is called once."""

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
            if peer_uid(self._socket) not in (0, os.geteuid()):
                raise MountNotFound(f"another user listens at {path}", "check the permissions of that directory")
            self._socket.sendall(head.encode("ascii") + payload)
        except (BrokenPipeError, ConnectionResetError):
            pass  # the daemon answered before reading the whole request; the answer says why
        except BaseException as wrong:
            self._socket.close()
            raise self._translated(wrong) from wrong

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
                pass  # closed with unread request bytes; its answer arrived before
            except OSError as wrong:
                raise self._translated(wrong) from wrong
        return self._decode(bytes(received))

    def stream(self, silence: float) -> Generator[bytes]:
        """Yields b"" once the answer has started, then each line of it."""
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
                raise self._translated(wrong) from wrong

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
            what = f"incomplete answer from the daemon at {self._path}"
            raise MountNotFound(what, "it may be ending; try again") from wrong
        if status != 200:
            reply = value if isinstance(value, dict) else {"error": str(value)}
            code = reply.get("exit_code", 1)
            raise Refused(str(reply.get("error")), str(reply.get("remedy", "")), code if isinstance(code, int) else 1)
        return value

    def _left(self) -> float:
        """Returns the seconds until the deadline; never 0, which would make the socket non-blocking."""
        return max(0.001, self._end - time.monotonic())

    def _translated(self, wrong: BaseException) -> BaseException:
        """Returns the HffsError for an error of the socket."""
        if isinstance(wrong, TimeoutError):
            return DeadlineExceeded(f"the daemon at {self._path} did not answer in time")
        if isinstance(wrong, OSError):
            return MountNotFound(f"no daemon listens at {self._path} ({wrong.strerror or wrong})")
        return wrong
