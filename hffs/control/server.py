"""The control socket's server: HTTP/1.1 with JSON over a unix socket, for ``hffs status``, curl and systemd units.

Owns the listening socket, its connections and their bounds. Routes are given by the app and must answer without the
network. Serves this user and root only.

Threads: one I/O thread moves all bytes without blocking, a few handlers run the routes. So a client that sends slowly,
reads slowly or died holds a descriptor until its deadline and nothing else, and a slow route delays no other client. A
route may also answer with a Stream, which continues until its client or this process ends.
"""

from __future__ import annotations

import logging
import os
import queue
import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final, Protocol, runtime_checkable

from ..errors import AccessDenied, HffsError, HubUnreachable, NoSpace, NotFound, RateLimited, UsageError
from .http import LARGEST, HttpError, Request, head, parse, response
from .mount_records import runtime_dir
from .unix_socket import SocketInUse, listen, peer_uid

__all__ = ["ControlServer", "Request", "Route", "SocketInUse", "Stream"]

log = logging.getLogger(__name__)

Route = Callable[[Request], Any]

_STATUS: Final[dict[type[HffsError], int]] = {
    NotFound: 404,
    UsageError: 400,
    AccessDenied: 403,
    RateLimited: 503,
    HubUnreachable: 503,
    NoSpace: 507,
}

_CONNECTIONS: Final = 64  # a handful of `hffs status --watch` and a scraper; the next ones wait in the backlog
_HANDLERS: Final = 4  # routes answer from memory; four leave room while one counts a large cache
_NEVER: Final = float("inf")
_REQUEST_SECONDS: Final = 5.0  # to send a request, and again to take the answer
_ROUTE_SECONDS: Final = 30.0  # a route that takes longer is taken for hung
_STUCK_SECONDS: Final = 60.0  # for the client of a stream to take any of the pending bytes
_GRACE_SECONDS: Final = 2.0  # at stop, for the answer to the request that caused it


@runtime_checkable
class Stream(Protocol):
    """An answer that continues. ``take`` returns the bytes to send, without waiting; the stream calls ``on_data``, on
    any thread, when there are some; the server calls ``close`` when the client is gone."""

    content_type: str
    on_data: Callable[[], None]

    def take(self) -> bytes: ...
    def close(self) -> None: ...


class _Connection:
    """One client. Used by the I/O thread only."""

    def __init__(self, sock: socket.socket, deadline: float) -> None:
        self.sock = sock
        self.deadline = deadline
        self.received = bytearray()
        self.to_send = memoryview(b"")
        self.routing = False  # its request is with a handler
        self.stream: Stream | None = None


class ControlServer:
    """Serves ``routes`` ((method, path) -> answer: a JSON value, text, or a Stream) on a unix socket. A ``*`` in a path
    matches any text, slashes included; the Request has it as ``name``.

    A route gets a Request. HffsError becomes a JSON error (NotFound 404, UsageError 400, else 500), and so does any
    other exception. ``clock`` is monotonic seconds. A route must not call ``stop``, which would wait for the route: it
    signals the main thread instead.
    """

    def __init__(
        self, path: str, routes: Mapping[tuple[str, str], Route], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.path = path
        self._routes = dict(routes)
        self._clock = clock
        self._work: queue.SimpleQueue[tuple[_Connection, Request] | None] = queue.SimpleQueue()
        self._done: deque[tuple[_Connection, bytes | Stream]] = deque()  # appended by handlers, taken by the I/O thread
        self._threads: list[threading.Thread] = []
        self._stopping = threading.Event()
        self._identity: tuple[int, int] | None = None
        # used by the I/O thread only
        self._connections: set[_Connection] = set()
        self._accept_from = 0.0
        self._draining = False  # stopping: pending bytes are still sent
        self._selector: selectors.BaseSelector
        self._listener: socket.socket
        self._woken: socket.socket
        self._waker: socket.socket

    def start(self, listener: socket.socket | None = None) -> None:
        """Listens, or serves the ``listener`` of an earlier process. Raises HffsError: the directory belongs to another
        user, the path is too long, another daemon listens there."""
        runtime_dir(os.path.dirname(self.path))
        self._listener = listener or listen(self.path, _CONNECTIONS)
        with suppress(FileNotFoundError):  # its file was removed since an earlier process bound it
            found = os.lstat(self.path)
            self._identity = (found.st_dev, found.st_ino)
        self._woken, self._waker = socket.socketpair()
        self._woken.setblocking(False)
        self._waker.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._threads = [threading.Thread(target=self._serve, name="hffs-control", daemon=True)]
        self._threads += [
            threading.Thread(target=self._handle, name=f"hffs-control-{number}", daemon=True)
            for number in range(_HANDLERS)
        ]
        for thread in self._threads:
            thread.start()

    def fileno(self) -> int:
        """Returns the listening descriptor, for the next process."""
        return self._listener.fileno()

    def stop(self, keep: bool = False) -> None:
        """Accepts no more requests, sends pending answers, joins the threads, and removes the socket unless the next
        process serves it (``keep``). Idempotent."""
        if not self._threads:
            return
        self._stopping.set()
        self._wake()
        deadline = time.monotonic() + _GRACE_SECONDS + 1
        io, *handlers = self._threads
        io.join(deadline - time.monotonic())
        for _ in handlers:
            self._work.put(None)
        for thread in handlers:
            thread.join(max(0.0, deadline - time.monotonic()))
        if any(thread.is_alive() for thread in self._threads):
            log.warning("event=control-not-ended why=%s", "a request on the control socket did not end in time")
        self._threads = []
        self._waker.close()
        if keep:
            return
        with suppress(OSError):
            found = os.lstat(self.path)
            if (found.st_dev, found.st_ino) == self._identity:  # another daemon may have taken the name since
                os.unlink(self.path)

    # Handlers: run routes, use no socket.

    def _handle(self) -> None:
        while (job := self._work.get()) is not None:
            connection, request = job
            self._done.append((connection, self._answer(request)))
            self._wake()

    def _answer(self, request: Request) -> bytes | Stream:
        try:
            route, name = self._route(request)
            answer = route(replace(request, name=name))
            return answer if isinstance(answer, Stream) else response(200, answer)
        except HttpError as refusal:
            return response(refusal.status, {"error": refusal.why}, refusal.headers)
        except HffsError as wrong:
            status = next((status for kind, status in _STATUS.items() if isinstance(wrong, kind)), 500)
            body = {"error": wrong.what, "remedy": wrong.remedy, "exit_code": wrong.exit_code}
            return response(status, body)
        except Exception as wrong:
            log.error("event=route-bug method=%s path=%s", request.method, request.path, exc_info=wrong)
            return response(500, {"error": f"internal error ({type(wrong).__name__})"})

    def _route(self, request: Request) -> tuple[Route, str]:
        """Returns the route of a request and the text matched by its ``*``; paths without ``*`` take precedence."""
        allowed = []
        for (method, path), route in sorted(self._routes.items(), key=lambda each: "*" in each[0][1]):
            before, star, after = path.partition("*")
            name = request.path[len(before) : len(request.path) - len(after)]
            if request.path == path if not star else name and request.path == f"{before}{name}{after}":
                if method == request.method:
                    return route, name if star else ""
                allowed.append(method)
        if allowed:
            allowed.sort()
            raise HttpError(405, f"{request.path} takes {' or '.join(allowed)}", {"Allow": ", ".join(allowed)})
        raise HttpError(404, f"there is no {request.path}")

    def _wake(self) -> None:
        with suppress(OSError):  # full: the thread is awake already; closed: it has ended
            self._waker.send(b"\0")

    # The I/O thread: moves bytes, blocks in select only, runs no route.

    def _serve(self) -> None:
        try:
            while not self._stopping.is_set():
                self._poll()
            self._unwatch(self._listener)
            self._listener.close()
            self._draining = True
            for connection in [each for each in self._connections if each.stream]:
                self._send_stream(connection)
            for connection in [each for each in self._connections if not each.routing and not each.to_send]:
                self._close(connection)
            grace = time.monotonic() + _GRACE_SECONDS
            while self._connections and time.monotonic() < grace:
                self._poll(accepting=False)
        finally:
            for connection in list(self._connections):
                self._close(connection)
            self._listener.close()
            self._selector.close()
            self._woken.close()

    def _poll(self, accepting: bool = True) -> None:
        for key, events in self._selector.select(self._poll_timeout()):
            if key.fileobj is self._listener:
                self._accept()
            elif key.fileobj is self._woken:
                with suppress(BlockingIOError):
                    self._woken.recv(4096)
            elif events & selectors.EVENT_READ:
                self._receive(key.data)
            else:
                self._send(key.data)
        while self._done:
            connection, answer = self._done.popleft()
            if isinstance(answer, Stream):
                self._start_stream(connection, answer)
            elif connection.routing:  # else the client got the time-out answer, or has closed
                self._reply(connection, answer)
        for connection in [each for each in self._connections if each.stream and not each.to_send]:
            self._send_stream(connection)
        now = self._clock()
        for connection in [each for each in self._connections if each.deadline <= now]:
            self._expire(connection)
        if accepting and self._request_count() < _CONNECTIONS and now >= self._accept_from:
            self._watch(self._listener, selectors.EVENT_READ)

    def _poll_timeout(self) -> float | None:
        """Returns the seconds to wait for events: at most one, so that an injected clock is honoured; None: no
        deadline."""
        now = self._clock()
        ends = min((each.deadline for each in self._connections), default=_NEVER)
        if ends == _NEVER and now >= self._accept_from:
            return None
        return max(0.0, min(1.0, ends - now))

    def _request_count(self) -> int:
        """Returns the number of connections without streams, which have their own limit."""
        return sum(connection.stream is None for connection in self._connections)

    def _accept(self) -> None:
        try:
            sock, _ = self._listener.accept()
        except OSError:  # the client left, or descriptors ran out: retry later instead of spinning
            self._unwatch(self._listener)
            self._accept_from = self._clock() + 1
            return
        sock.setblocking(False)
        connection = _Connection(sock, self._clock() + _REQUEST_SECONDS)
        self._connections.add(connection)
        if self._request_count() >= _CONNECTIONS:
            self._unwatch(self._listener)
        uid = peer_uid(sock)
        if uid not in (0, os.geteuid()):
            log.info("event=peer-refused uid=%d", uid)
            self._reply(connection, response(403, {"error": "this socket answers its own user only"}))
            return
        self._watch(sock, selectors.EVENT_READ, connection)

    def _receive(self, connection: _Connection) -> None:
        try:
            piece = connection.sock.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            piece = b""
        if not piece:  # closed, or shut down with an incomplete request
            self._close(connection)
            return
        if connection.stream is not None:  # further input is ignored
            return
        connection.received += piece
        try:
            request = parse(bytes(connection.received))
        except HttpError as refusal:
            self._reply(connection, response(refusal.status, {"error": refusal.why}, refusal.headers))
            return
        if request is None:
            return
        self._unwatch(connection.sock)
        connection.routing = True
        connection.deadline = self._clock() + _ROUTE_SECONDS
        self._work.put((connection, request))

    def _reply(self, connection: _Connection, answer: bytes) -> None:
        connection.routing = False
        connection.deadline = self._clock() + _REQUEST_SECONDS
        connection.to_send = memoryview(answer)
        self._send(connection)

    def _start_stream(self, connection: _Connection, stream: Stream) -> None:
        if not connection.routing or self._draining:
            stream.close()
            self._close(connection)
            return
        connection.stream = stream
        stream.on_data = self._wake
        self._reply(connection, head(200, {"Content-Type": stream.content_type}))

    def _send_stream(self, connection: _Connection) -> None:
        """Sends the available bytes of a stream."""
        assert connection.stream is not None
        while connection in self._connections and not connection.to_send:
            connection.to_send = memoryview(connection.stream.take())
            if not connection.to_send:
                break
            connection.deadline = self._clock() + _STUCK_SECONDS
            self._send(connection)

    def _send(self, connection: _Connection) -> None:
        try:
            sent = connection.sock.send(connection.to_send)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._close(connection)
            return
        connection.to_send = connection.to_send[sent:]
        if connection.to_send:
            self._watch(connection.sock, selectors.EVENT_WRITE, connection)
        elif connection.stream is not None and not self._draining:
            connection.deadline = _NEVER
            self._watch(connection.sock, selectors.EVENT_READ, connection)  # to notice when the client closes
        else:
            with suppress(OSError):  # closing with unread bytes would reset the connection behind the answer
                connection.sock.recv(LARGEST)
            self._close(connection)

    def _expire(self, connection: _Connection) -> None:
        if connection.routing:
            self._reply(connection, response(503, {"error": f"no answer within {_ROUTE_SECONDS:.0f} s"}))
        elif not connection.to_send:
            late = {"error": f"the request did not arrive within {_REQUEST_SECONDS:.0f} s"}
            self._reply(connection, response(408, late))
        else:
            self._close(connection)

    def _close(self, connection: _Connection) -> None:
        self._connections.discard(connection)
        connection.routing = False
        if connection.stream is not None:
            connection.stream.close()
        self._unwatch(connection.sock)
        connection.sock.close()

    def _watch(self, sock: socket.socket, events: int, data: _Connection | None = None) -> None:
        try:
            self._selector.modify(sock, events, data)
        except KeyError:
            self._selector.register(sock, events, data)

    def _unwatch(self, sock: socket.socket) -> None:
        with suppress(KeyError, ValueError):
            self._selector.unregister(sock)
