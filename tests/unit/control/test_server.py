from __future__ import annotations

import ctypes
import json
import os
import platform
import socket
import stat
import struct
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hffs.control.http import LARGEST, HttpError, parse
from hffs.control.server import ControlServer, Request
from hffs.errors import AccessDenied, HffsError, NoSpace, NotFound, Offline, UsageError
from tests.support.clock import Clock

Routes = dict[tuple[str, str], Callable[[Request], Any]]


@contextmanager
def serving(runtime: str, routes: Routes, clock: Clock | None = None) -> Iterator[str]:
    path = f"{runtime}/0123456789abcdef.sock"
    server = ControlServer(path, routes, clock or Clock())
    server.start()
    try:
        yield path
    finally:
        server.stop()


def connect(path: str) -> socket.socket:
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    client.settimeout(20)
    client.connect(path)
    return client


def answer(client: socket.socket) -> tuple[int, dict[str, str], Any]:
    with client, client.makefile("rb") as stream:
        head, _, body = stream.read().partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines)
    assert int(headers["Content-Length"]) == len(body)
    return int(first.split()[1]), headers, json.loads(body) if "json" in headers["Content-Type"] else body.decode()


def ask(path: str, request: bytes) -> tuple[int, dict[str, str], Any]:
    client = connect(path)
    with suppress(BrokenPipeError):  # refused before it was read; the answer arrives nevertheless
        client.sendall(request)
    return answer(client)


def get(path: str, target: str) -> tuple[int, Any]:
    status, _, body = ask(path, f"GET {target} HTTP/1.1\r\nHost: hffs\r\n\r\n".encode())
    return status, body


def test_a_route_answers_json_or_text(runtime: str) -> None:
    routes: Routes = {("GET", "/v1/status"): lambda _: {"state": "serving"}, ("GET", "/metrics"): lambda _: "up 1\n"}
    with serving(runtime, routes) as path:
        assert get(path, "/v1/status") == (200, {"state": "serving"})
        assert get(path, "/metrics") == (200, "up 1\n")


def test_a_route_receives_method_query_and_body(runtime: str) -> None:
    def echo(request: Request) -> Any:
        return [request.method, request.path, dict(request.query), request.json()]

    with serving(runtime, {("GET", "/a b"): echo, ("POST", "/v1/unmount"): echo}) as path:
        assert get(path, "/a%20b?path=x%2Fy+z&empty=") == (200, ["GET", "/a b", {"path": "x/y z", "empty": ""}, {}])
        body = b'{"lazy": true}'
        request = b"POST /v1/unmount HTTP/1.1\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
        assert ask(path, request)[2] == ["POST", "/v1/unmount", {}, {"lazy": True}]


def test_a_route_may_contain_a_wildcard(runtime: str) -> None:
    def name(request: Request) -> Any:
        return request.name

    routes: Routes = {
        ("GET", "/jobs/*"): name,
        ("GET", "/jobs/all"): lambda _: "all",
        ("GET", "/files/*/blocks"): name,
        ("DELETE", "/jobs/*"): lambda _: "gone",
    }
    with serving(runtime, routes) as path:
        assert get(path, "/jobs/12") == (200, "12")
        assert get(path, "/jobs/all") == (200, "all")
        assert get(path, "/files/a/blocks/b%20%3F/blocks") == (200, "a/blocks/b ?")
        assert [get(path, target)[0] for target in ("/jobs/", "/files/blocks", "/files//blocks", "/files/a")] == [
            404
        ] * 4
        status, headers, _ = ask(path, b"POST /jobs/12 HTTP/1.1\r\n\r\n")
        assert (status, headers["Allow"]) == (405, "DELETE, GET")


def test_unknown_paths_and_methods_are_json_errors(runtime: str) -> None:
    with serving(runtime, {("GET", "/v1/status"): lambda _: 1, ("POST", "/v1/unmount"): lambda _: 1}) as path:
        assert get(path, "/v2/status") == (404, {"error": "there is no /v2/status"})
        status, headers, body = ask(path, b"DELETE /v1/status HTTP/1.1\r\n\r\n")
        assert (status, headers["Allow"], body) == (405, "GET", {"error": "/v1/status takes GET"})


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"\r\n\r\n", 400),
        (b"GET\r\n\r\n", 400),
        (b"GET / HTTP/2\r\n\r\n", 400),
        (b"GET http://elsewhere/ HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nno colon\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: " + "²".encode("latin-1") + b"\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", 411),
        (b"POST / HTTP/1.1\r\nContent-Length: 65537\r\n\r\n", 413),
        (b"POST / HTTP/1.1\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n", 413),
        (b"GET / HTTP/1.1\r\nX: " + b"x" * LARGEST + b"\r\n\r\n", 431),
        (b"GET /?" + b"a=1&" * 200 + b" HTTP/1.1\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nnot", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: 2\r\n\r\n[]", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: 60000\r\n\r\n" + b"[" * 60000, 400),
    ],
)
def test_malformed_and_oversized_requests_are_refused(runtime: str, request_: bytes, status: int) -> None:
    with serving(runtime, {("POST", "/"): lambda request: request.json()}) as path:
        found, _, body = ask(path, request_)
        assert found == status
        assert body["error"]
        assert set(body) <= {"error", "remedy", "exit_code"}


def test_hffs_errors_are_answered_with_remedy_and_exit_code(runtime: str) -> None:
    def fail(error: HffsError) -> Callable[[Request], Any]:
        def route(_: Request) -> Any:
            raise error

        return route

    routes: Routes = {
        ("GET", "/missing"): fail(NotFound("no such file", "see hffs ls")),
        ("GET", "/usage"): fail(UsageError("no path")),
        ("GET", "/other"): fail(HffsError("busy")),
        ("GET", "/away"): fail(Offline("the Hub is away")),
        ("GET", "/denied"): fail(AccessDenied("it is gated")),
        ("GET", "/full"): fail(NoSpace("the disk is full")),
    }
    with serving(runtime, routes) as path:
        assert get(path, "/missing") == (404, {"error": "no such file", "remedy": "see hffs ls", "exit_code": 3})
        assert get(path, "/usage") == (400, {"error": "no path", "remedy": "", "exit_code": 2})
        assert get(path, "/other") == (500, {"error": "busy", "remedy": "", "exit_code": 1})
        assert [get(path, target)[0] for target in ("/away", "/denied", "/full")] == [503, 403, 507]


@pytest.mark.allow_warnings
@pytest.mark.parametrize("broken", [lambda _: 1 / 0, lambda _: object()])
def test_an_exception_in_a_route_is_logged_and_the_server_continues(
    runtime: str, caplog: pytest.LogCaptureFixture, broken: Callable[[Request], Any]
) -> None:
    with serving(runtime, {("GET", "/broken"): broken, ("GET", "/fine"): lambda _: "fine"}) as path:
        assert get(path, "/broken")[0] == 500
        assert [record.levelname for record in caplog.records] == ["ERROR"]
        assert get(path, "/fine") == (200, "fine")


def test_socket_and_directory_are_private(runtime: str) -> None:
    before = os.umask(0)
    try:
        with serving(runtime, {}) as path:
            assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
            assert stat.S_IMODE(os.stat(runtime).st_mode) == 0o700
    finally:
        os.umask(before)
    assert os.listdir(runtime) == []


_SETRESUID = {"x86_64": 117, "aarch64": 147}.get(platform.machine())


@pytest.mark.skipif(os.geteuid() != 0 or _SETRESUID is None, reason="needs to become another user")
def test_another_user_is_refused_even_if_the_directory_permits_access() -> None:
    said: list[Any] = []

    def as_nobody(path: str) -> None:
        libc = ctypes.CDLL(None, use_errno=True)  # the raw system call changes this thread only
        assert libc.syscall(_SETRESUID, -1, 65534, -1) == 0
        said.append(ask(path, b"GET /v1/status HTTP/1.1\r\n\r\n"))

    with (
        tempfile.TemporaryDirectory(dir="/tmp") as directory,
        serving(f"{directory}/run", {("GET", "/v1/status"): lambda _: "secret"}) as path,
    ):
        for each, mode in ((directory, 0o711), (f"{directory}/run", 0o711), (path, 0o666)):
            os.chmod(each, mode)
        thread = threading.Thread(target=as_nobody, args=(path,))
        thread.start()
        thread.join()
    assert said[0][0] == 403
    assert "secret" not in str(said)


def test_clients_that_send_nothing_delay_no_other_client(runtime: str) -> None:
    with serving(runtime, {("GET", "/healthz"): lambda _: "ok"}) as path, ExitStack() as idle:
        for number in range(50):
            client = idle.enter_context(connect(path))
            client.sendall(b"GET /healthz HT"[:number])
        assert get(path, "/healthz") == (200, "ok")


def test_a_request_that_does_not_arrive_in_time_is_refused(runtime: str) -> None:
    clock = Clock()
    with serving(runtime, {("GET", "/healthz"): lambda _: "ok"}, clock) as path:
        slow = connect(path)
        slow.sendall(b"GET /healthz")
        assert get(path, "/healthz") == (200, "ok")  # the slow client was accepted before this one
        clock.now += 5
        assert answer(slow)[0] == 408


def test_a_blocked_route_delays_no_other_and_times_out(runtime: str) -> None:
    clock, entered, release = Clock(), threading.Event(), threading.Event()

    def block(_: Request) -> Any:
        entered.set()
        assert release.wait(20)
        return "late"

    with serving(runtime, {("GET", "/block"): block, ("GET", "/healthz"): lambda _: "ok"}, clock) as path:
        blocked = connect(path)
        blocked.sendall(b"GET /block HTTP/1.1\r\n\r\n")
        assert entered.wait(20)
        assert get(path, "/healthz") == (200, "ok")
        clock.now += 30
        assert answer(blocked)[0] == 503
        release.set()
        assert get(path, "/healthz") == (200, "ok")


def test_a_client_that_does_not_read_its_answer_delays_no_other_client(runtime: str) -> None:
    clock = Clock()
    big = "x" * 32 * 1024 * 1024
    routes: Routes = {("GET", "/big"): lambda _: big, ("GET", "/healthz"): lambda _: "ok"}
    with serving(runtime, routes, clock) as path, connect(path) as deaf:
        deaf.sendall(b"GET /big HTTP/1.1\r\n\r\n")
        assert deaf.recv(1) == b"H"
        assert get(path, "/healthz") == (200, "ok")
        assert get(path, "/big") == (200, big)
        clock.now += 5
        assert get(path, "/healthz") == (200, "ok")
        with deaf.makefile("rb") as rest:  # truncated to the bytes in the kernel's buffer
            assert len(rest.read()) < len(big)


def test_a_client_that_disconnects_during_its_route_affects_no_other_client(runtime: str) -> None:
    entered, release = threading.Event(), threading.Event()

    def block(_: Request) -> Any:
        entered.set()
        assert release.wait(20)
        return "late"

    with serving(runtime, {("GET", "/block"): block, ("GET", "/healthz"): lambda _: "ok"}) as path:
        with connect(path) as client:
            client.sendall(b"GET /block HTTP/1.1\r\n\r\n")
            assert entered.wait(20)
        release.set()
        assert get(path, "/healthz") == (200, "ok")


def test_clients_above_the_limit_wait_in_the_backlog(runtime: str) -> None:
    with serving(runtime, {("GET", "/healthz"): lambda _: "ok"}) as path:
        with ExitStack() as full:
            for _ in range(64):
                full.enter_context(connect(path))
            late = connect(path)
            late.sendall(b"GET /healthz HTTP/1.1\r\n\r\n")
        assert answer(late)[0] == 200


def test_stop_sends_pending_answers(runtime: str) -> None:
    entered, release = threading.Event(), threading.Event()

    def unmount(_: Request) -> Any:
        entered.set()
        assert release.wait(20)
        return {"unmounted": True}

    path = f"{runtime}/x.sock"
    server = ControlServer(path, {("POST", "/v1/unmount"): unmount})
    server.start()
    client = connect(path)
    client.sendall(b"POST /v1/unmount HTTP/1.1\r\nContent-Length: 0\r\n\r\n")
    assert entered.wait(20)
    stopper = threading.Thread(target=server.stop)
    stopper.start()
    release.set()
    assert answer(client)[2] == {"unmounted": True}
    stopper.join(20)
    server.stop()
    assert not os.path.exists(path)


def test_stop_does_not_wait_for_idle_clients(runtime: str) -> None:
    with serving(runtime, {}) as path:
        idle = connect(path)
        assert get(path, "/")[0] == 404  # the idle client was accepted before this one
    with idle:
        assert idle.recv(1) == b""


def test_a_socket_left_by_a_dead_daemon_is_replaced(runtime: str) -> None:
    os.mkdir(runtime)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as old:
        old.bind(f"{runtime}/0123456789abcdef.sock")
    with serving(runtime, {("GET", "/healthz"): lambda _: "ok"}) as path:
        assert get(path, "/healthz") == (200, "ok")


def test_a_socket_with_a_listening_daemon_is_not_replaced(runtime: str) -> None:
    with serving(runtime, {("GET", "/healthz"): lambda _: "first"}) as path:
        with pytest.raises(HffsError, match="another daemon listens"):
            ControlServer(path, {}).start()
        assert get(path, "/healthz") == (200, "first")


def test_a_socket_path_that_is_too_long_has_a_remedy(runtime: str) -> None:
    with pytest.raises(HffsError, match="HFFS_RUNTIME_DIR"):
        ControlServer(f"{runtime}/{'x' * 100}.sock", {}).start()


@given(st.binary(max_size=200))
@example(b"GET / HTTP/1.1\r\n: \r\n\r\n")
def test_any_bytes_are_a_request_or_incomplete_or_refused(received: bytes) -> None:
    with suppress(HttpError):
        found = parse(received)
        assert found is None or isinstance(found, Request)


@given(st.data(), st.binary(max_size=300))
def test_a_request_is_incomplete_until_its_last_byte(data: st.DataObject, body: bytes) -> None:
    whole = b"POST /v1/unmount?a=b HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    cut = data.draw(st.integers(0, len(whole) - 1))
    assert parse(whole[:cut]) is None
    found = parse(whole)
    assert found is not None
    assert (found.method, found.path, found.query, found.body) == ("POST", "/v1/unmount", {"a": "b"}, body)


def test_the_peers_uid_is_that_of_the_kernel() -> None:
    left, right = socket.socketpair()
    with left, right:
        credentials = left.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        assert struct.unpack("iII", credentials) == (os.getpid(), os.geteuid(), os.getegid())


def test_the_last_bytes_of_a_stream_are_sent_at_stop(runtime: str) -> None:
    class Late:
        content_type = "text/plain"

        def __init__(self) -> None:
            self.on_data: Callable[[], None] = lambda: None
            self.left = [b"last\n"]

        def take(self) -> bytes:
            return self.left.pop() if server._stopping.is_set() and self.left else b""

        def close(self) -> None:
            closed.set()

    closed = threading.Event()
    path = f"{runtime}/x.sock"
    server = ControlServer(path, {("GET", "/late"): lambda _: Late()}, Clock())
    server.start()
    client = connect(path)
    client.sendall(b"GET /late HTTP/1.1\r\n\r\n")
    with client, client.makefile("rb") as stream:
        assert stream.readline() == b"HTTP/1.1 200 OK\r\n"
        server.stop()
        assert stream.read().endswith(b"\r\n\r\nlast\n")
    assert closed.is_set()
