"""The processes of one mount, started by ``launcher`` and by each other.

``python -m hffs.daemon`` reads its parameters from standard input, detaches from its starter and becomes the
supervisor of the mount, or its only process where the binding cannot be taken over. ``--supervise N`` continues from
the file N: in the foreground, or in place of an older version. ``--worker N`` is a supervisor's child. ``--preflight``
(``--rehearse`` of daemons of 0.1.0) only checks that a worker of this version would start. Imports nothing that the
supervisor does not need, since it stays in its memory.
"""

from __future__ import annotations

import json
import os
import sys

from .supervisor import Supervisor, from_file


def main(arguments: list[str]) -> int:
    if arguments[:1] == ["--worker"]:
        from . import worker

        return worker.serve_supervised(int(arguments[1]))
    if arguments[:1] == ["--supervise"]:
        return Supervisor(from_file(int(arguments[1]))).run()
    parameters = json.load(sys.stdin)
    if arguments[:1] in (["--preflight"], ["--rehearse"]):
        from . import worker

        return worker.preflight(parameters)
    # Another file in its place: a descriptor opened later must not be taken for the standard input of a child.
    with open(os.devnull, encoding="ascii") as nothing:
        os.dup2(nothing.fileno(), 0)
    # The starter may run for days: as its child this process would become its zombie, and disturb its os.wait().
    if os.fork():
        os._exit(0)
    if parameters["supervised"]:
        # A starter that gives up ends this process, which ends the worker.
        os.write(parameters["report_fd"], json.dumps({"pid": os.getpid()}).encode("ascii") + b"\n")
        return Supervisor(parameters).run()
    from . import worker

    report = worker.ReportPipe(parameters["report_fd"])
    report({"pid": os.getpid()})
    return worker.serve(parameters, report)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
