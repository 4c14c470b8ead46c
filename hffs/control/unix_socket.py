"""A unix socket that listens, for its own user: taken over from a daemon that died, left to one that lives.

Used by ``control``. Functions only.
"""

from __future__ import annotations

import os
import socket
import struct
from contextlib import suppress

from ..errors import HffsError


class SocketInUse(HffsError):
    """Another daemon listens on this socket: it has the mountpoint, or is about to."""


def listen(path: str, backlog: int) -> socket.socket:
    """A listening socket at ``path``, 0600 (its directory is 0700, so that nobody reaches it before the chmod)."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if _answers(path):
            raise SocketInUse(f"another daemon listens on {path}", "unmount that mount first")
        with suppress(FileNotFoundError):
            os.unlink(path)
        listener.bind(path)
        os.chmod(path, 0o600)
        listener.listen(backlog)
        listener.setblocking(False)
    except OSError as wrong:
        listener.close()
        remedy = "set HFFS_RUNTIME_DIR to a shorter path you may write to"
        raise HffsError(f"cannot listen on {path} ({wrong.strerror or wrong})", remedy) from wrong
    except HffsError:
        listener.close()
        raise
    return listener


def _answers(path: str) -> bool:
    """Whether a process listens on this socket: one left by a dead daemon refuses."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except BlockingIOError:  # its backlog is full
            return True
        except OSError:
            return False
    return True


def peer_uid(sock: socket.socket) -> int:
    """Of the process at the other end, as it was when it connected (unix(7), SO_PEERCRED)."""
    _pid, uid, _gid = struct.unpack("iII", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return int(uid)
