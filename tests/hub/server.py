"""The HTTP/1.1 server of one origin: a listening socket and a thread per connection.

Handles connections, bytes and pace, not the meaning of requests; `Hub` makes one for the API and one for the CDN, with
the same `answer`. A connection is touched by its own thread, and from outside only by shutdown(2), which wakes
that thread from any wait. A client that disconnects is no error.
"""

from __future__ import annotations

import itertools
import os
import socket
import struct
import time
from collections.abc import Callable
from pathlib import Path
from threading import Event, Lock, Thread, current_thread

from .journal import Journal
from .script import Faults
from .shaping import Pace, Shape
from .wire import HEAD_LIMIT, Answer, BadRequest, FilePart, Part, Request, cut_parts, encode_head, parse_head, plain

IDLE_SECONDS = 120  # an idle or unread connection ends after this
STOP_SECONDS = 5.0
BODY_LIMIT = 64 << 20
BACKLOG = 1024

_numbers = itertools.count(1)


class Origin:
    """`127.0.0.1:port`, up from construction; `down` refuses and cuts connections, `up` accepts them again."""

    def __init__(
        self,
        name: str,
        port: int,
        *,
        classify: Callable[[Request], Request],
        answer: Callable[[Request], Answer],
        journal: Journal,
        faults: Faults,
        shape: Shape,
    ) -> None:
        self.name = name
        self.classify = classify
        self.answer = answer
        self.journal = journal
        self.faults = faults
        self.shape = shape
        self._lock = Lock()
        # Guarded by _lock:
        self._listening: socket.socket | None = None
        self._connections: dict[Connection, Thread] = {}
        self._accepting: Thread | None = None
        self.port = port
        self.up()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def up(self) -> None:
        with self._lock:
            if self._listening is not None:
                return
            listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listening.bind(("127.0.0.1", self.port))
                listening.listen(BACKLOG)
            except OSError:
                listening.close()
                raise
            self.port = listening.getsockname()[1]
            self._listening = listening
            name = f"hub-{self.name}-accept"
            self._accepting = Thread(target=self._accept, args=(listening,), name=name, daemon=True)
            self._accepting.start()

    def down(self) -> None:
        """Refuses and cuts connections. Returns when no answer is sent any more."""
        with self._lock:
            listening, self._listening = self._listening, None
            accepting = self._accepting
        if listening is not None and accepting is not None:
            listening.shutdown(socket.SHUT_RDWR)  # wakes accept(2)
            accepting.join(STOP_SECONDS)
            listening.close()
        self.cut()

    def cut(self) -> None:
        """Ends every existing connection, and accepts new ones."""
        with self._lock:
            connections = dict(self._connections)
        for connection in connections:
            connection.end()
        deadline = time.monotonic() + STOP_SECONDS
        for thread in connections.values():
            if thread is current_thread():
                continue  # a fault takes the hub down from within an answer
            thread.join(max(deadline - time.monotonic(), 0.0))

    @property
    def connections(self) -> int:
        with self._lock:
            return len(self._connections)

    def _accept(self, listening: socket.socket) -> None:
        while True:
            try:
                client, _ = listening.accept()
            except OSError:  # shut down
                return
            connection = Connection(client, self)
            thread = Thread(target=self._converse, args=(connection,), name=f"hub-{self.name}", daemon=True)
            with self._lock:
                if self._listening is not listening:
                    client.close()
                    return
                self._connections[connection] = thread
            thread.start()

    def _converse(self, connection: Connection) -> None:
        try:
            connection.converse()
        finally:
            connection.close()
            with self._lock:
                if self._connections.get(connection) is current_thread():
                    del self._connections[connection]


class Connection:
    def __init__(self, client: socket.socket, origin: Origin) -> None:
        self.number = next(_numbers)
        self._client = client
        self._origin = origin
        self._pace = Pace(origin.shape)
        self._ended = Event()
        self._buffer = bytearray()  # read, not yet parsed
        self._files: dict[Path, int] = {}  # open during one answer
        self._sent = 0  # body bytes of the current answer
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # Kernel timeouts leave the socket blocking, which sendfile wants.
        limit = struct.pack("ll", IDLE_SECONDS, 0)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)

    def end(self) -> None:
        """Called from other threads."""
        self._ended.set()
        try:
            self._client.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # already gone

    def close(self) -> None:
        self._client.close()

    def converse(self) -> None:
        try:
            self._ended.wait(self._origin.shape.connect_latency)
            while not self._ended.is_set():
                request = self._read()
                if request is None or not self._serve(request):
                    return
        except BadRequest as error:
            self._try_send(encode_head(plain(400, "")) + str(error).encode())
        except OSError:
            pass  # the client left, or was idle for too long

    # Reading.

    def _read(self) -> Request | None:
        head = self._read_until(b"\r\n\r\n")
        if head is None:
            return None
        method, target, headers = parse_head(head)
        if headers.get("expect", "").lower() == "100-continue":
            self._client.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        if headers.get("transfer-encoding", "").lower() == "chunked":
            body = self._read_chunks()
        else:
            body = self._read_exactly(int(headers.get("content-length") or 0))
        return Request(self._origin.name, method, target, headers, body, self.number)

    def _more(self) -> bool:
        data = self._client.recv(64 << 10)
        self._buffer += data
        return bool(data)

    def _read_until(self, mark: bytes) -> bytes | None:
        while (at := self._buffer.find(mark)) < 0:
            if len(self._buffer) > HEAD_LIMIT:
                raise BadRequest("head too long")
            if not self._more():
                return None
        found = bytes(self._buffer[:at])
        del self._buffer[: at + len(mark)]
        return found

    def _read_exactly(self, count: int) -> bytes:
        if count > BODY_LIMIT:
            raise BadRequest("body too long")
        while len(self._buffer) < count:
            if not self._more():
                raise BadRequest("body cut off")
        found = bytes(self._buffer[:count])
        del self._buffer[:count]
        return found

    def _read_chunks(self) -> bytes:
        body = b""
        while True:
            line = self._read_until(b"\r\n")
            size = int((line or b"0").partition(b";")[0], 16)
            body += self._read_exactly(size)
            self._read_until(b"\r\n")
            if not size:
                return body

    # Answering.

    def _serve(self, request: Request) -> bool:
        """Serves one request. Returns whether the connection stays open."""
        routed = self._origin.classify(request)
        number = self._origin.journal.arrived(routed)
        self._sent = 0
        try:
            return self._send(routed, self._origin.answer(routed), number)
        finally:
            self._origin.journal.finished(number, self._sent)
            for descriptor in self._files.values():
                os.close(descriptor)
            self._files.clear()

    def _send(self, request: Request, answer: Answer, number: int) -> bool:
        delivery, journal = answer.delivery, self._origin.journal
        if (delay := self._origin.shape.latency + delivery.delay) and self._ended.wait(delay):
            return False
        if delivery.hold and not self._origin.faults.hold(self._client):
            return False
        journal.started(number, answer.status)
        if delivery.raw is not None:
            journal.ending(number)
            self._client.sendall(delivery.raw)
            self._sent = len(delivery.raw)
            return self._finish()

        bodiless = request.method == "HEAD" or answer.status in (204, 304)
        endless = not bodiless and not answer.chunked and answer.header("Content-Length") is None
        last = endless or request.headers.get("connection", "").lower() == "close"
        if last:
            answer.put("Connection", "close")
        if bodiless:
            answer.parts, answer.chunked = [], False
        out = self._send_body(answer, number)
        if out is None:
            return False
        cut_short = delivery.close_after is not None or delivery.reset_after is not None
        if answer.chunked and not cut_short:
            out += b"0\r\n\r\n"
        if out:
            self._client.sendall(out)
        if delivery.reset_after is not None:
            self._client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return False
        if cut_short or last:
            return self._finish()
        return True

    def _send_body(self, answer: Answer, number: int) -> bytes | None:
        """Sends head and body as far as the delivery allows. Returns the rest to send, or None at the end."""
        delivery, shape = answer.delivery, self._origin.shape
        end = answer.length
        for early in (delivery.close_after, delivery.reset_after):
            end = end if early is None else min(end, early)
        stall = None if delivery.stall_after is None else min(delivery.stall_after, end)
        out = encode_head(answer)  # waits for the first body bytes, to leave with them
        at = 0
        while True:
            if stall == at:
                self._client.sendall(out)
                out, stall = b"", None
                if not self._origin.faults.hold(self._client):
                    return None
            if at == end:
                break
            stop = min(end, at + (1 if delivery.trickle else shape.slice), end if stall is None else stall)
            if (wait := delivery.trickle or self._pace.wait_for(stop - at)) and self._ended.wait(wait):
                return None
            if stop == end and stall is None:
                self._origin.journal.ending(number)
            for part in cut_parts(answer.parts, at, stop):
                self._send_part(out, part, answer.chunked)
                out = b""
            at = stop
        if not end:
            self._origin.journal.ending(number)
        return out

    def _send_part(self, before: bytes, part: Part, chunked: bool) -> None:
        after = b"\r\n" if chunked else b""
        if chunked:
            before += f"{len(part):x}\r\n".encode()
        if isinstance(part, bytes):
            self._client.sendall(before + part + after if len(part) < 64 << 10 else before)
            if len(part) >= 64 << 10:
                self._client.sendall(part)
                self._client.sendall(after)
            self._sent += len(part)
            return
        if before:
            self._client.sendall(before, socket.MSG_MORE)
        self._send_file(part)
        if after:
            self._client.sendall(after)

    def _send_file(self, part: FilePart) -> None:
        if part.path not in self._files:
            self._files[part.path] = os.open(part.path, os.O_RDONLY | os.O_CLOEXEC)
        at, stop = part.offset, part.offset + part.length
        while at < stop:
            count = os.sendfile(self._client.fileno(), self._files[part.path], at, stop - at)
            if not count:
                raise OSError(f"{part.path} is shorter than it was")
            at += count
            self._sent += count

    def _finish(self) -> bool:
        """Closes in order: everything sent arrives, then end of file."""
        self._client.shutdown(socket.SHUT_WR)
        return False

    def _try_send(self, data: bytes) -> None:
        try:
            self._client.sendall(data)
        except OSError:
            pass  # the client has closed the connection: no answer reaches it
