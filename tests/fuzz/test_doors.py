"""Input from the control socket, from daemons and from the kernel."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from types import SimpleNamespace

import pytest
from hypothesis import strategies as st

from hffs.control.client import _PendingRequest
from hffs.control.http import LARGEST, HttpError, Request, parse
from hffs.errors import HffsError, NotFound
from hffs.fuse.kernel import abi
from hffs.fuse.kernel.operations import Operations
from hffs.fuse.kernel.passthrough import Passthrough
from hffs.transfer import Pending
from hffs.vfs import Filesystem

from .mutations import broken, fuzzed, misfits
from .test_files_of_ours import CHECK, WISH, Quiet, proper

REQUESTS = [
    b"GET /v1/status HTTP/1.1\r\nHost: hffs\r\n\r\n",
    b'POST /v1/hydrate HTTP/1.1\r\nContent-Length: 53\r\n\r\n{"path": "onnx", "include": ["*.bin"], "force": true} ',
    b"GET /v1/files?path=a%20b&x=%ff HTTP/1.1\r\nA: b\r\n\r\n",
    b'POST /v1/verify HTTP/1.1\r\nContent-Length: 25\r\n\r\n{"fix": 0, "require": []} ',
    b"DELETE /v1/jobs/a1 HTTP/1.0\r\nContent-Length: 0\r\n\r\n",
]


@fuzzed(broken(REQUESTS))
def test_requests_to_the_control_socket(raw: bytes) -> None:
    try:
        request = parse(raw)
        if request is None:
            return
        assert len(request.body) <= LARGEST
        jobs = Quiet("/nowhere")
        for ask in (jobs.get, jobs.cancel):
            with pytest.raises(NotFound):
                ask(request)
        (jobs.verify if "verify" in request.path else jobs.hydrate)(request)
        proper(jobs.started)
    except HttpError as refused:
        assert 400 <= refused.status < 500
    except HffsError as error:
        assert error.exit_code == 2


WISHES = [
    {key: WISH[key] for key in ("path", "include", "exclude", "force")},
    {key: CHECK[key] for key in ("path", "fix", "require")},
]


@fuzzed(
    broken([json.dumps(wish).encode() for wish in WISHES]) | misfits(WISHES), st.sampled_from(["hydrate", "verify"])
)
def test_requests_for_jobs(raw: bytes, kind: str) -> None:
    jobs = Quiet("/nowhere")
    try:
        getattr(jobs, kind)(Request("POST", f"/v1/{kind}", {}, raw))
        assert jobs.started[0].kind == kind
        proper(jobs.started)
    except HttpError as refused:
        assert refused.status == 400
    except HffsError as error:
        assert error.exit_code == 2


ANSWERS = [
    b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 16\r\n\r\n{"mounts": [{}]}',
    b'HTTP/1.1 404 No\r\nContent-Type: application/json\r\nContent-Length: 31\r\n\r\n{"error": "no", "exit_code": 3}',
]


@fuzzed(broken(ANSWERS))
def test_answers_of_daemons(raw: bytes) -> None:
    try:
        _PendingRequest._decode(SimpleNamespace(_path="/x.sock"), raw)  # type: ignore[arg-type]
    except HffsError as error:
        assert isinstance(error.exit_code, int)


def requests_of_the_kernel() -> list[bytes]:
    read = abi.read_in.pack
    bodies = [
        (abi.Op.LOOKUP, b"README.md\0"),
        (abi.Op.GETATTR, bytes(16)),
        (abi.Op.OPEN, abi.open_in.pack(0, 0)),
        (abi.Op.READ, read(5, 0, 4096, 0, 0, 0, 0)),
        (abi.Op.RELEASE, abi.release_in.pack(5, 0, 0, 0)),
        (abi.Op.OPENDIR, abi.open_in.pack(0, 0)),
        (abi.Op.READDIR, read(7, 0, 4096, 0, 0, 0, 0)),
        (abi.Op.READDIRPLUS, read(7, 2, 4096, 0, 0, 0, 0)),
        (abi.Op.RELEASEDIR, abi.release_in.pack(7, 0, 0, 0)),
        (abi.Op.STATFS, b""),
        (abi.Op.INTERRUPT, abi.interrupt_in.pack(5)),
        (abi.Op.GETXATTR, abi.getxattr_in.pack(64, 0) + b"user.hffs.commit\0"),
        (abi.Op.LISTXATTR, abi.getxattr_in.pack(0, 0)),
    ]
    return [
        abi.in_header.pack(abi.in_header.size + len(body), opcode, 5, 1, 0, 0, 0, 0, 0) + body
        for opcode, body in bodies
    ]


def test_kernel_requests(filesystem_of: Callable[..., Filesystem]) -> None:
    filesystem = filesystem_of()
    operations = Operations(filesystem, Passthrough(None, "not here"))  # type: ignore[arg-type]
    nodes = [1, *(node.id for node in filesystem.view.children(filesystem.view.root)), 2, 2**63]
    answered = 0

    @fuzzed(broken(requests_of_the_kernel()), st.sampled_from(nodes), st.booleans())
    def run(message: bytes, node: int, honest: bool) -> None:
        nonlocal answered
        if honest:  # as long as it says, and of a node that there is
            if len(message) < abi.in_header.size:
                return
            message = struct.pack("=I", len(message)) + message[4:16] + struct.pack("=Q", node) + message[24:]
        view = memoryview(message)
        try:
            header = abi.parse_header(view)
            body = view[abi.in_header.size :]
            if not operations.knows(header.opcode):
                return
            operations.may_wait(header, body)
            answer = operations.answer(header, body)
        except (HffsError, ValueError, struct.error):
            return
        answered += 1
        if isinstance(answer, Pending):
            answer.cancel()
        elif header.opcode in (abi.Op.OPEN, abi.Op.OPENDIR):
            operations.undo(header)

    run()
    assert answered, "some are right"
