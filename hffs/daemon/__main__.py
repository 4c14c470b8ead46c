"""The processes of one mount, started by ``background`` and by themselves, and by nobody else.

``python -m hffs.daemon`` reads what to mount from its standard input, leaves its starter behind and becomes the
supervisor of the mount, or its only process where the binding cannot be taken over. ``--supervise N`` goes on from the
file N: in the foreground, or in place of an older version. ``--worker N`` is a supervisor's child. ``--rehearse`` only
tells whether a worker of this version would come up. Imports nothing that the supervisor does not need, since what is
imported here stays in its memory.
"""

from __future__ import annotations

import json
import os
import sys

from .supervisor import Supervisor, from_file


def main(words: list[str]) -> int:
    if words[:1] == ["--worker"]:
        from . import worker

        return worker.supervised(int(words[1]))
    if words[:1] == ["--supervise"]:
        return Supervisor(from_file(int(words[1]))).run()
    told = json.load(sys.stdin)
    if words[:1] == ["--rehearse"]:
        from . import worker

        return worker.rehearse(told)
    # Another file in its place: a descriptor opened later must not be taken for the standard input of a child.
    with open(os.devnull, encoding="ascii") as nothing:
        os.dup2(nothing.fileno(), 0)
    # The starter may live for days: as its child we would be its zombie at the end, and a surprise to its os.wait().
    if os.fork():
        os._exit(0)
    if told["supervised"]:
        # Whoever gives up the start ends this process, which ends the worker.
        os.write(told["report_fd"], json.dumps({"pid": os.getpid()}).encode("ascii") + b"\n")
        return Supervisor(told).run()
    from . import worker

    report = worker.Report(told["report_fd"])
    report({"pid": os.getpid()})
    return worker.serve(told, report)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
